//! Reads a trace, and checks it: it may come from a stranger.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail};

use super::{End, Header, Line, StepLine, VERSION};

/// A trace that was read.
pub struct Trace {
    pub header: Header,
    pub steps: Vec<StepLine>,
    /// `None` if the run did not get to its end.
    pub end: Option<End>,
}

/// More positions than any model has.
const MOST_TOKENS: usize = 1 << 18;

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
            let parsed: Line = match serde_json::from_slice(&line) {
                Err(_) if line.last() != Some(&b'\n') => break, // the end, or what a kill left
                parsed => {
                    parsed.with_context(|| format!("{name} is not a trace: line {number}"))?
                }
            };
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
