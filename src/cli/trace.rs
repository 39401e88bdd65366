//! A run on record: one JSON object a line, for `--trace`, and back again for `diffucoder report`.
//!
//! A header, one line a step, an end. Each line is written at once, so that a run that is killed
//! leaves whole lines. Positions count from the start of the generated part.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use diffucoder::atomic;
use diffucoder::diffusion::{Canvas, Settings, Step};
use diffucoder::package::Package;
use diffucoder::session::{Job, Observer, Outcome};
use diffucoder::tokenizer::Specials;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::json::{Asked, SettingsReport, Usage};
use crate::cli::usage::UsageError;

/// Version of the format: a reader refuses what it does not know.
const VERSION: u32 = 1;

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Header(Header),
    Step(StepLine),
    End(End),
}

/// What is known before the first step.
#[derive(Serialize, Deserialize)]
pub struct Header {
    version: u32,
    pub model: String,
    pub settings: Value,
    /// The prompt as the model got it, chat template included.
    pub prompt: String,
    pub prompt_tokens: usize,
    /// The most that it can become, from the first mask on.
    canvas_tokens: usize,
    /// Whether it starts with less.
    #[serde(default)]
    grows: bool,
    /// Texts between the masks and behind them.
    #[serde(default)]
    pub given: Vec<GivenText>,
    pub stop_ids: Vec<u32>,
}

/// A text that the canvas holds from the beginning.
#[derive(Serialize, Deserialize)]
pub struct GivenText {
    /// Its first position.
    pub first: usize,
    /// Its tokens.
    pub len: usize,
    pub text: String,
}

/// What a step revealed, surest first: four or five lists of the same length.
#[derive(Serialize, Deserialize)]
pub struct StepLine {
    pub step: usize,
    /// Since the first step began.
    pub elapsed_s: f64,
    pub positions: Vec<usize>,
    pub tokens: Vec<u32>,
    pub texts: Vec<String>,
    pub confidences: Vec<Option<f32>>,
    /// In hexadecimal, where some token is not whole characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<Vec<String>>,
    /// What of it changed the length of its hole, after which everything behind it stands
    /// elsewhere: positions, and the masks that stand there now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    edits: Vec<(usize, usize)>,
}

/// How it ended.
#[derive(Serialize, Deserialize)]
pub struct End {
    pub finish_reason: String,
    pub text: String,
    pub usage: Usage,
    pub generate_s: f64,
}

impl End {
    /// Of a run that made `text`.
    pub fn new(text: String, job: &Job, outcome: &Outcome) -> Self {
        Self {
            finish_reason: outcome.finish().name().into(),
            text,
            usage: Usage::new(job, outcome),
            generate_s: outcome.work.time.as_secs_f64(),
        }
    }
}

impl StepLine {
    /// Leaves out all but some of its tokens.
    fn keep(&mut self, kept: &[bool]) {
        fn retain<T>(list: &mut Vec<T>, kept: &[bool]) {
            let mut kept = kept.iter();
            list.retain(|_| kept.next() == Some(&true));
        }
        retain(&mut self.tokens, kept);
        retain(&mut self.texts, kept);
        retain(&mut self.confidences, kept);
        if let Some(bytes) = &mut self.bytes {
            retain(bytes, kept);
        }
    }

    /// The bytes of each token.
    pub fn token_bytes(&self) -> Vec<Vec<u8>> {
        let from_hex = |hex: &String| {
            let digit = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
            (0..hex.len()).step_by(2).filter_map(digit).collect()
        };
        match &self.bytes {
            Some(bytes) => bytes.iter().map(from_hex).collect(),
            None => self.texts.iter().map(|t| t.clone().into_bytes()).collect(),
        }
    }
}

/// Writes a trace while a run goes on.
pub struct Recorder {
    file: TraceFile,
    package: Arc<Package>,
    asked: Asked,
    started: Instant,
    /// The first failure; a run is not ended for it.
    failure: Option<io::Error>,
}

impl Recorder {
    /// Writes to this file.
    pub fn new(file: TraceFile, package: &Arc<Package>, asked: &Asked) -> Self {
        Self {
            file,
            package: Arc::clone(package),
            asked: asked.clone(),
            started: Instant::now(),
            failure: None,
        }
    }

    /// What is known of a canvas that is to be filled.
    fn header(&self, canvas: &Canvas, settings: &Settings) -> serde_json::Result<Header> {
        let decode = |ids| self.package.tokenizer.decode(ids, Specials::Keep);
        let (ids, start) = (canvas.ids(), canvas.prompt_len());
        let (holes, growth) = (canvas.holes(), canvas.limit() - ids.len());
        let next_starts = holes.iter().skip(1).map(|hole| hole.start);
        let behind = holes.iter().zip(next_starts.chain([ids.len()]));
        let given = behind.filter(|(hole, next)| hole.end < *next);
        let masks = canvas.masked().len() + growth;
        let report = SettingsReport::new(&self.asked, settings, masks);
        Ok(Header {
            version: VERSION,
            model: self.package.name(),
            // Through text, in which a float32 is as short as it was typed.
            settings: serde_json::from_str(&serde_json::to_string(&report)?)?,
            prompt: decode(&ids[..start]),
            prompt_tokens: ids.len() - holes.iter().map(Range::len).sum::<usize>(),
            canvas_tokens: canvas.limit() - start,
            grows: growth > 0,
            given: given
                .map(|(hole, next)| GivenText {
                    first: hole.end - start,
                    len: next - hole.end,
                    text: decode(&ids[hole.end..next]),
                })
                .collect(),
            stop_ids: self.package.stop_ids.clone(),
        })
    }
    pub fn finish(mut self, end: End) -> anyhow::Result<()> {
        self.write(&Line::End(end));
        self.check()
    }

    fn check(mut self) -> anyhow::Result<()> {
        match self.failure.take() {
            Some(error) => Err(error)
                .with_context(|| format!("cannot write the trace {}", self.file.path.display())),
            None => Ok(()),
        }
    }

    /// One line in one write.
    fn write(&mut self, line: &Line) {
        if self.failure.is_some() {
            return;
        }
        let written = serde_json::to_vec(line)
            .map_err(io::Error::from)
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                if matches!(line, Line::Header(_)) && !self.file.is_stream {
                    self.file.file.set_len(0)?;
                }
                self.file.file.write_all(&bytes)
            });
        self.failure = written.err();
    }
}

impl Observer for Recorder {
    fn on_start(&mut self, canvas: &Canvas, settings: &Settings) {
        self.started = Instant::now();
        match self.header(canvas, settings) {
            Ok(header) => self.write(&Line::Header(header)),
            Err(error) => self.failure = Some(error.into()),
        }
    }

    fn on_step(&mut self, step: &Step<'_>) {
        let prompt_len = step.canvas.prompt_len();
        let (revealed, edits) = (step.revealed, step.edits.iter());
        let bytes: Vec<Vec<u8>> = revealed
            .iter()
            .map(|candidate| self.package.tokenizer.token_bytes(candidate.token))
            .collect();
        let is_text = bytes.iter().all(|bytes| std::str::from_utf8(bytes).is_ok());
        let hex = |bytes: &Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect();
        let line = Line::Step(StepLine {
            step: step.index,
            elapsed_s: self.started.elapsed().as_secs_f64(),
            positions: revealed.iter().map(|c| c.position - prompt_len).collect(),
            tokens: revealed.iter().map(|c| c.token).collect(),
            texts: bytes
                .iter()
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
                .collect(),
            confidences: revealed
                .iter()
                .map(|c| Some(c.confidence).filter(|c| c.is_finite()))
                .collect(),
            bytes: (!is_text).then(|| bytes.iter().map(hex).collect()),
            edits: edits
                .map(|edit| (edit.at - prompt_len, edit.masks))
                .collect(),
        });
        self.write(&line);
    }
}

/// The file of a trace, opened before the model is loaded: a name that cannot be written fails
/// early. It is emptied with the first line, so that a run that never begins costs no older trace.
pub struct TraceFile {
    file: File,
    path: PathBuf,
    is_stream: bool,
}

impl TraceFile {
    /// Makes the file where there is none. What is there and no trace is not overwritten.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write the trace {}", path.display());
        let stream = atomic::open_stream(path).with_context(cannot)?;
        let is_stream = stream.is_some();
        let mut file = match stream {
            Some(stream) => stream,
            None => {
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(false);
                options.open(path).with_context(cannot)?
            }
        };
        if !is_stream && !may_be_replaced(&mut file).with_context(cannot)? {
            let message = format!("{} holds something else than a trace", path.display());
            return Err(UsageError::new(message).about(&["trace"]).into());
        }
        Ok(Self {
            file,
            path: path.to_path_buf(),
            is_stream,
        })
    }
}

/// Whether a file is empty or a trace.
fn may_be_replaced(file: &mut File) -> io::Result<bool> {
    let mut beginning = Vec::new();
    file.take(BEGINNING.len() as u64)
        .read_to_end(&mut beginning)?;
    file.rewind()?;
    Ok(beginning.is_empty() || beginning == BEGINNING)
}

/// What each trace begins with.
const BEGINNING: &[u8] = b"{\"type\":\"header\"";

/// A trace that was read.
pub struct Trace {
    pub header: Header,
    pub steps: Vec<StepLine>,
    /// `None` if the run did not get to its end.
    pub end: Option<End>,
}

/// More positions than any model has.
const MOST_TOKENS: usize = 1 << 24;

impl Trace {
    /// Length of the canvas: at the end, or as far as it is known to have come.
    pub fn canvas_tokens(&self) -> usize {
        if !self.header.grows {
            return self.header.canvas_tokens;
        }
        let given = &self.header.given;
        let positions = self.steps.iter().flat_map(|step| &step.positions);
        let filled = positions.max().map_or(0, |last| last + 1);
        let filled = filled.max(given.last().map_or(0, |text| text.first + text.len));
        let given: usize = given.iter().map(|text| text.len).sum();
        let end = self.end.as_ref();
        end.map_or(0, |end| end.usage.canvas_tokens + given)
            .max(filled)
    }

    /// Reads and checks a trace. A last line that is not whole is left out.
    ///
    /// # Errors
    /// When the file cannot be read or is no trace, with the line at fault.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let cannot = || format!("cannot read {name}");
        let file: Box<dyn Read> = match path == Path::new("-") {
            true => Box::new(io::stdin()),
            false => Box::new(File::open(path).with_context(cannot)?),
        };
        let mut reader = BufReader::new(file);
        let (mut header, mut steps, mut end) = (None, Vec::new(), None);
        let (mut line, mut is_moved) = (Vec::new(), false);
        for number in 1.. {
            line.clear();
            reader.read_until(b'\n', &mut line).with_context(cannot)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let parsed: Line = serde_json::from_slice(&line)
                .with_context(|| format!("{name} is not a trace: line {number}"))?;
            match (parsed, &header) {
                (Line::Header(new), None) if new.version != VERSION => {
                    bail!("{name} has version {} of the format", new.version)
                }
                (Line::Header(new), None) if new.canvas_tokens > MOST_TOKENS => {
                    bail!(
                        "{name} is damaged: a canvas of {} tokens",
                        new.canvas_tokens
                    )
                }
                (Line::Header(new), None) => {
                    check_given(&new)
                        .with_context(|| format!("{name} is damaged: line {number}"))?;
                    header = Some(new);
                }
                (Line::Step(step), Some(header)) if end.is_none() => {
                    is_moved |= !step.edits.is_empty();
                    check(&step, header, is_moved)
                        .with_context(|| format!("{name} is damaged: line {number}"))?;
                    steps.push(step);
                }
                (Line::End(new), Some(header)) if end.is_none() => {
                    if new.usage.canvas_tokens > header.canvas_tokens {
                        bail!("{name} is damaged: line {number} has too long a canvas");
                    }
                    end = Some(new);
                }
                _ => bail!("{name} is damaged: line {number} is out of place"),
            }
        }
        match header {
            Some(header) if is_moved => Self { header, steps, end }
                .settled()
                .with_context(|| format!("{name} is damaged: its edits do not fit together")),
            Some(header) => Ok(Self { header, steps, end }),
            None => bail!("{name} is not a trace: it has no header line"),
        }
    }
}

impl Trace {
    /// The same with every position where it is in the end. A token that changed the length of its
    /// hole is not there any more.
    fn settled(mut self) -> anyhow::Result<Self> {
        let edits: Vec<(usize, &[(usize, usize)])> = self
            .steps
            .iter()
            .enumerate()
            .filter(|(_, step)| !step.edits.is_empty())
            .map(|(at, step)| (at, &*step.edits))
            .collect();
        let settle = |step: usize, position: usize| {
            let later = &edits[edits.partition_point(|(at, _)| *at < step)..];
            later.iter().try_fold(position, |position, (_, edits)| {
                let mut moved = position;
                for &(at, masks) in *edits {
                    match at.cmp(&position) {
                        Ordering::Less => moved = moved.saturating_add(masks).saturating_sub(1),
                        Ordering::Equal => return None,
                        Ordering::Greater => {}
                    }
                }
                Some(moved)
            })
        };
        let settled: Vec<Vec<Option<usize>>> = self
            .steps
            .iter()
            .enumerate()
            .map(|(at, step)| step.positions.iter().map(|&p| settle(at, p)).collect())
            .collect();
        for text in &mut self.header.given {
            text.first = settle(0, text.first).unwrap_or(text.first);
        }
        for (step, settled) in self.steps.iter_mut().zip(settled) {
            step.keep(&settled.iter().map(Option::is_some).collect::<Vec<_>>());
            step.positions = settled.into_iter().flatten().collect();
        }
        check_given(&self.header)?;
        let mut steps = self.steps.iter();
        steps.try_for_each(|step| check(step, &self.header, false))?;
        Ok(self)
    }
}

/// Texts must be in order, apart, and on the canvas.
fn check_given(header: &Header) -> anyhow::Result<()> {
    let mut at = 0;
    for text in &header.given {
        let end = text.first.saturating_add(text.len);
        if text.first < at || text.len == 0 || end > header.canvas_tokens {
            bail!("a given text is out of place");
        }
        at = end;
    }
    Ok(())
}

/// Once texts have moved, only that they are on the canvas can be said of positions.
fn check(step: &StepLine, header: &Header, is_moved: bool) -> anyhow::Result<()> {
    let n = step.positions.len();
    let lists = [
        step.tokens.len(),
        step.texts.len(),
        step.confidences.len(),
        step.bytes.as_ref().map_or(n, Vec::len),
    ];
    if lists.iter().any(|&len| len != n) {
        bail!("its lists differ in length");
    }
    let is_given = |p: &usize| {
        let before = header.given.partition_point(|text| text.first <= *p);
        header.given[..before]
            .last()
            .is_some_and(|text| *p < text.first + text.len)
    };
    if step
        .positions
        .iter()
        .any(|p| *p >= header.canvas_tokens || !is_moved && is_given(p))
    {
        bail!("a position is outside the canvas");
    }
    Ok(())
}
