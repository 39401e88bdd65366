//! What came of the problems, by model and mode, and what to use: the table and its JSON.

use serde::Serialize;

use super::choice::Choice;
use super::row::{Row, percent};
use crate::cli::terminal::table::{Align, table};

/// The object that `--json` prints.
#[derive(Serialize)]
pub struct Report {
    pub problems: String,
    pub executed: bool,
    /// Where the tests ran: `None` if none did.
    pub without_network: Option<bool>,
    pub parser: Option<String>,
    pub rows: Vec<Row>,
    pub choice: Option<Choice>,
    /// Why there is none.
    pub no_choice: Option<String>,
}

impl Report {
    /// A table for each model, and what to use.
    pub fn text(&self) -> String {
        const HEADER: [&str; 13] = [
            "MODE",
            "PASS@1",
            "PARSE",
            "LONGER",
            "ENDED",
            "TOKENS",
            "EXACT",
            "EDIT",
            "NLL",
            "TOKENS/FW",
            "ROWS/TOKEN",
            "TOKENS/S",
            "FAILED",
        ];
        let mut columns = [Align::Right; 13];
        columns[0] = Align::Left;
        let mut text = String::new();
        for of_model in self
            .rows
            .chunk_by(|a, b| (&a.model, &a.quant) == (&b.model, &b.quant))
        {
            let first = &of_model[0]; // no chunk is empty
            let quant = match &*first.quant {
                "none" => String::new(),
                quant => format!(", {quant}"),
            };
            text += &format!(
                "{}{quant}: {} of {}\n",
                first.model, first.problems, self.problems
            );
            let rows = of_model.iter().map(cells);
            text += &table(
                columns,
                std::iter::once(HEADER.map(str::to_string)).chain(rows),
            );
            text += "\n";
        }
        match (&self.choice, &self.no_choice) {
            (Some(choice), _) => {
                let several = self.rows.iter().any(|row| row.model != choice.model);
                let model = match several {
                    true => format!("--model {} ", choice.model),
                    false => String::new(),
                };
                text += &format!("use {model}--mode {}: {}\n", choice.mode, choice.why);
            }
            (None, Some(why)) => text += &format!("{why}\n"),
            (None, None) => {}
        }
        text
    }
}

/// A row of the table.
fn cells(row: &Row) -> [String; 13] {
    let share = |share: Option<f64>| share.map_or("-".into(), percent);
    let number = |number: Option<f64>| number.map_or("-".into(), |x| format!("{x:.3}"));
    [
        row.mode.to_string(),
        share(row.pass_at_1),
        share(row.parses),
        share(row.parses_longer),
        share(row.ended),
        format!("{:.1}", row.mean_tokens),
        share(row.exact_match),
        number(row.edit_similarity),
        number(row.nll_per_token),
        format!("{:.2}", row.tokens_per_forward),
        format!("{:.1}", row.rows_per_token),
        format!("{:.1}", row.tokens_per_s),
        row.failed.to_string(),
    ]
}
