//! What came of the problems with one model in one mode.

use serde::Serialize;

use super::record::Record;

/// Texts of at most so many tokens are short: they parse easily.
pub const SHORT: usize = 8;

/// A model in a mode. Shares are of 1, and `None` where nothing is known.
#[derive(Serialize, Default)]
pub struct Row {
    pub model: String,
    pub quant: String,
    pub mode: &'static str,
    /// Those that failed too.
    pub problems: usize,
    /// Problems without a solution.
    pub failed: usize,
    pub pass_at_1: Option<f64>,
    pub parses: Option<f64>,
    /// Of texts longer than 8 tokens.
    pub parses_longer: Option<f64>,
    pub ended: Option<f64>,
    pub mean_tokens: f64,
    pub exact_match: Option<f64>,
    pub edit_similarity: Option<f64>,
    pub nll_per_token: Option<f64>,
    pub tokens_per_forward: f64,
    pub rows_per_token: f64,
    pub tokens_per_s: f64,
    #[serde(skip)]
    pub records: Vec<Record>,
}

impl Row {
    pub fn new(model: &str, quant: &str, mode: &'static str, records: Vec<Record>) -> Self {
        let written = || records.iter().filter(|record| record.error.is_none());
        let share = |known: fn(&Record) -> Option<bool>| {
            mean(
                written()
                    .filter_map(known)
                    .map(|is| f64::from(u8::from(is))),
            )
        };
        let sum = |of: fn(&Record) -> usize| written().map(of).sum::<usize>() as f64;
        let (tokens, seconds) = (
            sum(|record| record.tokens),
            written().map(|record| record.seconds).sum::<f64>(),
        );
        let nll: Vec<_> = written().filter_map(|record| record.nll).collect();
        let scored: usize = nll.iter().map(|(_, tokens)| tokens).sum();
        let failed = records.len() - written().count();
        // A problem without a solution has not passed; where nothing is executed nothing is known.
        let tried = written().filter(|record| record.passed.is_some()).count();
        let passed = written()
            .filter(|record| record.passed == Some(true))
            .count();
        Self {
            model: model.into(),
            quant: quant.into(),
            mode,
            problems: records.len(),
            failed,
            pass_at_1: (tried > 0).then(|| passed as f64 / (tried + failed) as f64),
            parses: share(|record| record.parses),
            parses_longer: share(|record| record.parses.filter(|_| record.tokens > SHORT)),
            ended: share(|record| record.ended),
            mean_tokens: tokens / written().count().max(1) as f64,
            exact_match: share(|record| record.exact),
            edit_similarity: mean(written().filter_map(|record| record.similarity)),
            nll_per_token: (scored > 0)
                .then(|| nll.iter().map(|(nll, _)| nll).sum::<f64>() / scored as f64),
            tokens_per_forward: tokens / sum(|record| record.forwards).max(1.0),
            rows_per_token: sum(|record| record.rows) / tokens.max(1.0),
            tokens_per_s: if seconds > 0.0 { tokens / seconds } else { 0.0 },
            records,
        }
    }

    /// What it is called beside other rows.
    pub fn name(&self, rows: &[Self]) -> String {
        match rows.iter().all(|row| row.model == self.model) {
            true => self.mode.to_string(),
            false => format!("{} in {}", self.model, self.mode),
        }
    }
}

/// `12.3 %`
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), x| (count + 1, sum + x));
    (count > 0).then(|| sum / f64::from(count))
}
