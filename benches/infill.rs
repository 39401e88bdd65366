//! How often the length of a hole is found, and by which way, beside always the same length, and
//! how near what then fills it is: on single lines cut out of a folder of Python files that the
//! model has not seen.
//!
//! `cargo bench --bench infill -- FOLDER [HOLES [MODEL]]`

mod common;

use std::io::Write;
use std::path::Path;

use diffucoder::diffusion::{Ending, Settings, Shaping, Steps};
use diffucoder::infill::Template;
use diffucoder::session::{Hole, Outcome, Session, Task};

const LONGEST: usize = 32;
/// About the median: what any way has to beat.
const USUAL: usize = 8;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut out = std::io::stdout().lock();
    let Some(folder) = args.next() else {
        writeln!(out, "give a folder of Python files: nothing measured")?;
        return Ok(());
    };
    let count = args.next().map_or(Ok(100), |text| text.parse())?;
    let lines = common::lines(Path::new(&folder), count)?;

    let mut session = common::session(args.next().as_deref().unwrap_or("tiny"))?;
    let ways = [
        ("confidence", Hole::Chosen { up_to: LONGEST }),
        ("pads", Hole::Exactly(LONGEST)),
        ("always 8", Hole::Exactly(USUAL)),
    ];
    let mut found = [Found::default(), Found::default(), Found::default()];
    for (marked, line) in &lines {
        let template = Template::with_markers(marked.clone())?;
        let right = session.package().tokenizer.encode_plain(line)?.len();
        for ((way, hole), found) in ways.iter().zip(&mut found) {
            let done = fill(&mut session, &template, *hole)?;
            let length = match *way {
                "pads" => done.tokens(),
                _ => done.canvas_tokens(),
            };
            found.count((right, length), (line, &done));
        }
    }
    writeln!(out, "{count} single lines, longest hole {LONGEST} tokens")?;
    writeln!(
        out,
        "way         length  within a quarter  mean |log ratio|  text  edit similarity  forwards    rows"
    )?;
    for ((way, _), found) in ways.iter().zip(&found) {
        let each = |sum: f64| sum / count as f64;
        writeln!(
            out,
            "{way:10} {:7} {:17} {:17.2} {:5} {:16.3} {:9.1} {:7.0}",
            found.exact,
            found.near,
            each(found.log_ratio),
            found.texts,
            each(found.similarity),
            each(found.forwards as f64),
            each(found.rows as f64),
        )?;
    }
    Ok(())
}

/// How often a length was right, and the text.
#[derive(Default)]
struct Found {
    exact: usize,
    near: usize,
    log_ratio: f64,
    texts: usize,
    similarity: f64,
    forwards: usize,
    rows: usize,
}

impl Found {
    fn count(&mut self, (right, length): (usize, usize), (line, done): (&str, &Outcome)) {
        self.exact += usize::from(length == right);
        self.near += usize::from(length.abs_diff(right) <= (right / 4).max(1));
        self.log_ratio += (length.max(1) as f64 / right as f64).ln().abs();
        let (text, line) = (done.text(), line.trim()); // the space before it may be given
        self.texts += usize::from(text.trim() == line);
        self.similarity += strsim::normalized_levenshtein(text.trim(), line);
        self.forwards += done.work.forwards;
        self.rows += done.work.rows;
    }
}

/// Fills the only hole.
fn fill(session: &mut Session, template: &Template, hole: Hole) -> anyhow::Result<Outcome> {
    let settings = Settings {
        shaping: Shaping::nucleus(0.2, 0.95),
        seed: 1,
        ending: Ending::AtStop(session.package().stop_ids.clone()),
        steps: Steps::OfTokens(1),
        ..Settings::reference(1)
    };
    Ok(session.run(&Task::fill(template, hole).with(settings))?)
}
