//! Which mode to use: the fastest of those that are not worse than the best.

use std::collections::HashMap;

use serde::Serialize;

use super::record::Record;
use super::row::{Row, SHORT, percent};

/// The rule, for a person.
pub const RULE: &str = "\
Which mode to use: the fastest of those that are not worse than the best one; of some that are about
as fast, within a tenth, the one that gets most right. Worse is one that gets fewer problems right,
by more than the square root of the number of problems that only one of the two gets right (one
standard error). What is right: what passes its tests; if nothing is executed or nothing passes, a
hole filled as it was; else a text of more than 8 tokens that parses, and then a mode whose NLL is
more than a tenth above the lowest is worse too.";
/// Problems from which on a difference means anything.
const FEWEST: usize = 10;
/// Rates of which one is at least so much of the other are about the same.
const AS_FAST: f64 = 0.9;
/// What an NLL can be of the lowest.
const NLL_SLACK: f64 = 1.1;

/// What to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    pub model: String,
    pub quant: String,
    pub mode: &'static str,
    pub why: String,
}

/// What is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Passes,
    Filled,
    Parses,
}

impl Measure {
    const ALL: [Self; 3] = [Self::Passes, Self::Filled, Self::Parses];

    fn name(self) -> &'static str {
        match self {
            Self::Passes => "pass their tests",
            Self::Filled => "are filled as they were",
            Self::Parses => "parse and are longer than 8 tokens",
        }
    }

    /// Whether a problem is solved; `None` if that is not known. One without a solution is not.
    fn is_right(self, record: &Record) -> Option<bool> {
        match self {
            _ if record.error.is_some() => Some(false),
            Self::Passes => record.passed,
            Self::Filled => record.exact,
            Self::Parses => record.parses.map(|parses| parses && record.tokens > SHORT),
        }
    }

    /// What is known of a row's problems.
    fn of(self, records: &[Record]) -> HashMap<String, bool> {
        let known = records
            .iter()
            .filter_map(|record| Some((record.id[2].to_string(), self.is_right(record)?)));
        known.collect()
    }
}

/// How one row differs from another: problems that only one of them gets right.
fn differences(one: &HashMap<String, bool>, other: &HashMap<String, bool>) -> [usize; 2] {
    let only = |a: &HashMap<String, bool>, b: &HashMap<String, bool>| {
        let right = a.iter().filter(|(_, right)| **right);
        right.filter(|(id, _)| b.get(*id) == Some(&false)).count()
    };
    [only(one, other), only(other, one)]
}

/// Whether `other` is worse, by [`RULE`].
fn is_worse([one, other]: [usize; 2]) -> bool {
    one > other && (one - other).pow(2) > one + other
}

/// The first measure by which any row gets something right, with what each gets right.
fn telling(rows: &[Row]) -> Option<(Measure, Vec<HashMap<String, bool>>)> {
    let mut measures = Measure::ALL.into_iter().map(|measure| {
        let rights = rows.iter().map(|row| measure.of(&row.records));
        (measure, rights.collect::<Vec<_>>())
    });
    measures.find(|(_, rights)| {
        rights.iter().all(|row| row.len() >= FEWEST)
            && rights.iter().any(|row| row.values().any(|&right| right))
    })
}

/// What to use, of these rows.
///
/// # Errors
/// Why nothing can be said, for a person.
pub fn choose(rows: &[Row]) -> Result<Choice, String> {
    let fewest = rows.iter().map(|row| row.records.len()).min().unwrap_or(0);
    if fewest < FEWEST {
        return Err(format!(
            "{fewest} problems are too few to say which mode to use: it takes {FEWEST}"
        ));
    }
    let Some((measure, rights)) = telling(rows) else {
        return Err("no mode gets anything right, so that none is better than another".into());
    };
    let right = |i: usize| rights[i].values().filter(|&&right| right).count();
    let faster = |&a: &usize, &b: &usize| rows[a].tokens_per_s.total_cmp(&rows[b].tokens_per_s);
    let lowest = rows.iter().filter_map(|row| row.nll_per_token);
    let lowest = lowest.reduce(f64::min);
    let is_likely = |row: &Row| match (measure, row.nll_per_token, lowest) {
        (Measure::Parses, Some(nll), Some(lowest)) => nll <= NLL_SLACK * lowest,
        _ => true,
    };
    let likely = (0..rows.len()).filter(|&i| is_likely(&rows[i]));
    let most_right = |a: &usize, b: &usize| right(*a).cmp(&right(*b)).then(faster(a, b));
    let Some(best) = likely.clone().max_by(most_right) else {
        return Err("there are no modes to choose from".into());
    };
    let good = likely.filter(|&i| !is_worse(differences(&rights[best], &rights[i])));
    let good: Vec<usize> = good.collect();
    let fastest = good
        .iter()
        .map(|&i| rows[i].tokens_per_s)
        .fold(0.0, f64::max);
    let fast = good
        .iter()
        .copied()
        .filter(|&i| rows[i].tokens_per_s >= AS_FAST * fastest);
    let chosen = fast.max_by(most_right).unwrap_or(best);
    let row = &rows[chosen];
    let of = |i: usize| percent(right(i) as f64 / rights[i].len() as f64);
    let beside = match chosen == best {
        _ if rows.len() == 1 => "and no other mode was tried".to_string(),
        true if (0..rows.len()).any(|i| right(i) > right(best)) => {
            "and in no other mode more whose text is as likely".to_string()
        }
        true => "and in no other mode more".to_string(),
        false => format!(
            "not worse than the {} of {}",
            of(best),
            rows[best].name(rows)
        ),
    };
    let place = match good.len() {
        _ if rows.len() == 1 => String::new(),
        1 => ", and every other mode is worse".into(),
        count if row.tokens_per_s == fastest => format!(", the fastest of {count} such modes"),
        count => format!(", about as fast as any of {count} such modes"),
    };
    Ok(Choice {
        model: row.model.clone(),
        quant: row.quant.clone(),
        mode: row.mode,
        why: format!(
            "{} {}, {beside}; {:.1} tokens/s{place}",
            of(chosen),
            measure.name(),
            row.tokens_per_s,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A row in which the first `right` of 30 problems pass.
    fn row(mode: &'static str, tokens_per_s: f64, right: usize) -> Row {
        let records = (0..30).map(|i| Record {
            id: [json!("m"), json!(mode), json!(i)],
            passed: Some(i < right),
            parses: Some(true),
            tokens: 9,
            ..Record::default()
        });
        Row {
            tokens_per_s,
            ..Row::new("m", "none", mode, records.collect())
        }
    }

    #[test]
    fn the_fastest_is_chosen_that_is_not_worse() {
        let mode = |rows: &[Row]| choose(rows).unwrap().mode;
        let exact = || row("exact", 1.0, 20);
        assert_eq!(mode(&[exact(), row("fast", 9.0, 20)]), "fast");
        assert_eq!(mode(&[exact(), row("fast", 9.0, 19)]), "fast", "chance");
        assert_eq!(mode(&[exact(), row("fast", 9.0, 18)]), "exact");
        assert_eq!(
            mode(&[exact(), row("fast", 9.0, 18), row("balanced", 4.0, 19)]),
            "balanced"
        );
        assert_eq!(
            mode(&[row("balanced", 8.5, 20), row("fast", 9.0, 19)]),
            "balanced",
            "about as fast"
        );
        assert_eq!(
            mode(&[exact(), row("fast", 0.5, 21)]),
            "exact",
            "it is faster, and as good"
        );
    }

    #[test]
    fn what_differs_on_both_sides_may_be_chance() {
        assert!(is_worse([10, 2]));
        assert!(!is_worse([10, 6]));
        assert!(!is_worse([2, 10]));
        assert!(!is_worse([0, 0]));
    }

    #[test]
    fn where_nothing_passes_texts_are_judged_that_are_not_short() {
        let rows = [row("exact", 1.0, 0), row("fast", 9.0, 0)];
        assert_eq!(choose(&rows).unwrap().mode, "fast");
        let [exact, mut fast] = rows;
        fast.records
            .iter_mut()
            .take(5)
            .for_each(|record| record.tokens = 8);
        assert_eq!(choose(&[exact, fast]).unwrap().mode, "exact");
        let nll = |row: Row, nll| Row {
            nll_per_token: Some(nll),
            ..row
        };
        let rows = |of_fast| {
            [
                nll(row("exact", 1.0, 0), 1.0),
                nll(row("fast", 9.0, 0), of_fast),
            ]
        };
        assert_eq!(choose(&rows(1.09)).unwrap().mode, "fast");
        assert_eq!(choose(&rows(1.11)).unwrap().mode, "exact");
    }

    #[test]
    fn too_few_problems_and_none_right_say_nothing() {
        let mut few = row("fast", 9.0, 5);
        few.records.truncate(9);
        assert!(choose(&[few]).unwrap_err().starts_with("9 problems"));
        let mut none = row("fast", 9.0, 0);
        none.records
            .iter_mut()
            .for_each(|record| record.parses = Some(false));
        assert!(choose(&[none]).unwrap_err().contains("right"));
    }
}
