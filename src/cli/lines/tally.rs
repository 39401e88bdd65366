//! What became of the lines: failures and notes as they come, each kind once, and a summary at the
//! end.

use std::collections::HashMap;
use std::time::Duration;

use crate::cli::exit;
use crate::cli::terminal::ui::{self, Ui};

/// Numbers of lines that are named beside the first.
const NAMED: usize = 5;

/// Counts of a batch.
pub struct Tally<'a> {
    ui: &'a Ui,
    /// The input's name.
    input: String,
    pub done: usize,
    /// Lines that had their results already.
    pub skipped: usize,
    pub failed: usize,
    tokens: usize,
    time: Duration,
    /// By what was said, without its numbers.
    kinds: HashMap<String, Kind>,
}

/// Lines of which the same is to be said.
struct Kind {
    numbers: Vec<usize>,
    is_failure: bool,
}

impl<'a> Tally<'a> {
    /// Of nothing.
    pub fn new(input: &str, ui: &'a Ui) -> Self {
        Self {
            ui,
            input: input.to_string(),
            done: 0,
            skipped: 0,
            failed: 0,
            tokens: 0,
            time: Duration::ZERO,
            kinds: HashMap::new(),
        }
    }

    /// Lines that were seen.
    pub fn lines(&self) -> usize {
        self.done + self.skipped + self.failed
    }

    /// Adds what was written for a line, and in what time.
    pub fn add(&mut self, tokens: usize, time: Duration) {
        self.tokens += tokens;
        self.time += time;
    }

    /// What was written, and how fast, behind the rest of a text; nothing while nothing was.
    pub fn rate(&self) -> String {
        if self.time.is_zero() {
            return String::new();
        }
        format!(
            " · {} in {} ({:.1} tokens/s)",
            ui::count(self.tokens, "token"),
            ui::human_time(self.time),
            self.tokens as f64 / self.time.as_secs_f64()
        )
    }

    /// Says why a line fails, unless it was said of another.
    pub fn fail(&mut self, number: usize, error: &anyhow::Error) {
        self.failed += 1;
        let reason = format!("{error:#}");
        if self.is_new(number, &reason, true) {
            let (_, hint) = exit::of(error);
            let error = anyhow::anyhow!("{}:{number}: {reason}", self.input);
            ui::print_error(&error, hint.as_deref());
        }
    }

    /// Says something of a line, unless it was said of another.
    pub fn note(&mut self, number: usize, text: &str) {
        if self.is_new(number, text, false) {
            self.ui.note(&format!("{}:{number}: {text}", self.input));
        }
    }

    /// Whether this has not been said yet. "It has 600 tokens" and "it has 601 tokens" are the
    /// same.
    fn is_new(&mut self, number: usize, text: &str, is_failure: bool) -> bool {
        let digits = |c: char| c.is_ascii_digit();
        let kind = text.split(digits).filter(|part| !part.is_empty()).collect();
        let kind = self.kinds.entry(kind).or_insert(Kind {
            numbers: Vec::new(),
            is_failure,
        });
        kind.numbers.push(number);
        kind.numbers.len() == 1
    }

    /// Says of how many others the same is true, and what was done.
    pub fn finish(&self) {
        let mut kinds: Vec<&Kind> = self.kinds.values().collect();
        kinds.retain(|kind| kind.numbers.len() > 1);
        kinds.sort_by_key(|kind| (kind.numbers[0], kind.is_failure));
        for kind in kinds {
            let (first, more) = (kind.numbers[0], &kind.numbers[1..]);
            let named: Vec<String> = more.iter().take(NAMED).map(usize::to_string).collect();
            let rest = if more.len() > NAMED { ", …" } else { "" };
            let text = format!(
                "{}: {} like line {first}: {}{rest}",
                self.input,
                ui::count(more.len(), "more line"),
                named.join(", ")
            );
            match kind.is_failure {
                true => ui::print_error(&anyhow::anyhow!("{text}"), None),
                false => self.ui.note(&text),
            }
        }
        let Self {
            done,
            skipped,
            failed,
            ..
        } = self;
        let there = if *skipped > 0 { " (there already)" } else { "" };
        self.ui.note(&format!(
            "{done} done, {skipped} skipped{there}, {failed} failed{}",
            self.rate()
        ));
    }
}
