//! Counters in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use diffucoder::session::Work;

/// What was done since the start.
#[derive(Default)]
pub struct Metrics(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// Answers, by path and status.
    requests: BTreeMap<(&'static str, u16), u64>,
    seconds: f64, // until their first byte
    prompt_tokens: u64,
    tokens: u64,
    forwards: u64,
    rows: u64,
    run_seconds: f64,
}

impl Metrics {
    /// An answer began after so much time; `path` is one of those that there are.
    pub fn count(&self, path: &'static str, status: u16, time: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.requests.entry((path, status)).or_default() += 1;
        counts.seconds += time.as_secs_f64();
    }

    /// A text was written.
    pub fn add(&self, given: usize, tokens: usize, work: Work) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.prompt_tokens += given as u64;
        counts.tokens += tokens as u64;
        counts.forwards += work.forwards as u64;
        counts.rows += work.rows as u64;
        counts.run_seconds += work.time.as_secs_f64();
    }

    /// All of them, with how many requests wait and run.
    pub fn text(&self, (waiting, running): (usize, usize)) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        let mut head = |name: &str, kind: &str, help: &str| {
            let name = format!("diffucoder_{name}");
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n"); // a String takes all
            name
        };
        let name = head("requests_total", "counter", "Requests answered.");
        for ((path, status), count) in &counts.requests {
            let _ = writeln!(
                text,
                "{name}{{path=\"{path}\",status=\"{status}\"}} {count}"
            );
        }
        for (name, kind, help, value) in [
            (
                "request_seconds_total",
                "counter",
                "Time to the first byte of the answers.",
                counts.seconds,
            ),
            (
                "prompt_tokens_total",
                "counter",
                "Tokens given.",
                counts.prompt_tokens as f64,
            ),
            (
                "tokens_total",
                "counter",
                "Tokens written.",
                counts.tokens as f64,
            ),
            (
                "forwards_total",
                "counter",
                "Forward passes.",
                counts.forwards as f64,
            ),
            (
                "rows_total",
                "counter",
                "Positions computed in them.",
                counts.rows as f64,
            ),
            (
                "run_seconds_total",
                "counter",
                "Time spent denoising.",
                counts.run_seconds,
            ),
            (
                "requests_waiting",
                "gauge",
                "Requests that wait.",
                waiting as f64,
            ),
            (
                "requests_running",
                "gauge",
                "Requests that are denoised.",
                running as f64,
            ),
        ] {
            let _ = write!(
                text,
                "# HELP diffucoder_{name} {help}\n# TYPE diffucoder_{name} {kind}\n\
                 diffucoder_{name} {value}\n"
            );
        }
        text
    }
}
