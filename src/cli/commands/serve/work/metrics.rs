//! Counters in the text format of Prometheus.

use std::collections::BTreeMap;
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
        let Counts {
            requests,
            seconds,
            prompt_tokens,
            tokens,
            forwards,
            rows,
            run_seconds,
        } = &*counts;
        let requests = requests.iter().map(|((path, status), count)| {
            format!("diffucoder_requests_total{{path=\"{path}\",status=\"{status}\"}} {count}\n")
        });
        let requests: String = requests.collect();
        format!(
            "\
# HELP diffucoder_requests_total Requests answered.
# TYPE diffucoder_requests_total counter
{requests}# HELP diffucoder_request_seconds_total Time to the first byte of the answers.
# TYPE diffucoder_request_seconds_total counter
diffucoder_request_seconds_total {seconds}
# HELP diffucoder_prompt_tokens_total Tokens given.
# TYPE diffucoder_prompt_tokens_total counter
diffucoder_prompt_tokens_total {prompt_tokens}
# HELP diffucoder_tokens_total Tokens written.
# TYPE diffucoder_tokens_total counter
diffucoder_tokens_total {tokens}
# HELP diffucoder_forwards_total Forward passes.
# TYPE diffucoder_forwards_total counter
diffucoder_forwards_total {forwards}
# HELP diffucoder_rows_total Positions computed in them.
# TYPE diffucoder_rows_total counter
diffucoder_rows_total {rows}
# HELP diffucoder_run_seconds_total Time spent denoising.
# TYPE diffucoder_run_seconds_total counter
diffucoder_run_seconds_total {run_seconds}
# HELP diffucoder_requests_waiting Requests that wait.
# TYPE diffucoder_requests_waiting gauge
diffucoder_requests_waiting {waiting}
# HELP diffucoder_requests_running Requests that are denoised.
# TYPE diffucoder_requests_running gauge
diffucoder_requests_running {running}
"
        )
    }
}
