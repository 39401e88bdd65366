//! Writes a trace while a run goes on.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use diffucoder::atomic;
use diffucoder::diffusion::{Canvas, Settings, Step};
use diffucoder::package::Package;
use diffucoder::session::Observer;
use diffucoder::tokenizer::Specials;

use crate::cli::json::{Asked, SettingsReport};
use crate::cli::usage::UsageError;

use super::{End, GivenText, Header, Line, StepLine, VERSION};

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

    /// Writes how it ended, and says whether all could be written.
    ///
    /// # Errors
    /// The first failure.
    pub fn finish(mut self, end: End) -> anyhow::Result<()> {
        self.write(&Line::End(end));
        let path = self.file.path.display();
        let written = self.failure.map_or(Ok(()), Err);
        written.with_context(|| format!("cannot write the trace {path}"))
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
                .map(|c| Some(c.confidence as f32).filter(|c| c.is_finite()))
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
        let opened = |file, is_stream| Self {
            file,
            path: path.to_path_buf(),
            is_stream,
        };
        if let Some(stream) = atomic::open_stream(path).with_context(cannot)? {
            return Ok(opened(stream, true));
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).with_context(cannot)?;
        if !may_be_replaced(&mut file).with_context(cannot)? {
            let message = format!("{} holds something else than a trace", path.display());
            return Err(UsageError::new(message).about(&["trace"]).into());
        }
        Ok(opened(file, false))
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
