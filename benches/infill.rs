//! How often the length of a hole is found, and by which way, beside always the same length: on
//! single lines cut out of a folder of Python files that the model has not seen.
//!
//! `cargo bench --bench infill -- FOLDER [HOLES]`, on the built-in model.

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

    let mut session = common::tiny()?;

    let mut found = [Found::default(), Found::default(), Found::default()];
    for (marked, line) in &lines {
        let template = Template::with_markers(marked.clone())?;
        let right = session.package().tokenizer.encode_plain(line)?.len();
        let chosen = fill(&mut session, &template, Hole::Chosen { up_to: LONGEST })?;
        found[0].count(right, chosen.canvas_tokens());
        let long = fill(&mut session, &template, Hole::Exactly(LONGEST))?;
        found[1].count(right, long.tokens());
        found[2].count(right, USUAL);
    }
    writeln!(out, "{count} single lines, longest hole {LONGEST} tokens")?;
    writeln!(out, "way         exact  within a quarter  mean |log ratio|")?;
    let constant = format!("always {USUAL}");
    for (way, found) in ["confidence", "pads", &constant].iter().zip(&found) {
        let log_ratio = found.log_ratio / count as f64;
        writeln!(
            out,
            "{way:10} {:6} {:17} {log_ratio:17.2}",
            found.exact, found.near
        )?;
    }
    Ok(())
}

/// How often a length was right.
#[derive(Default)]
struct Found {
    exact: usize,
    near: usize,
    log_ratio: f64,
}

impl Found {
    fn count(&mut self, right: usize, found: usize) {
        self.exact += usize::from(found == right);
        self.near += usize::from(found.abs_diff(right) <= (right / 4).max(1));
        self.log_ratio += (found.max(1) as f64 / right as f64).ln().abs();
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
