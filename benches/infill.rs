//! How often the length of a hole is found, and by which way, beside always the same length: on
//! single lines cut out of a folder of Python files that the model has not seen.
//!
//! `cargo bench --bench infill -- FOLDER [HOLES]`, on the built-in model.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use diffucoder::diffusion::{Ending, Settings, Shaping, Steps};
use diffucoder::infill::Template;
use diffucoder::session::{Hole, Outcome, Session, Task};

/// Lines on either side of a hole.
const CONTEXT_LINES: usize = 12;
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
    let lines = lines(Path::new(&folder))?;
    ensure!(
        lines.len() >= count,
        "{folder} has {} lines that will do",
        lines.len()
    );

    let mut session = common::tiny()?;

    let mut found = [Found::default(), Found::default(), Found::default()];
    for i in 0..count {
        let (marked, line) = &lines[i * lines.len() / count];
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

/// Excerpts with a hole in place of one line of code, its indentation left, and that line as the
/// model is to write it.
fn lines(folder: &Path) -> anyhow::Result<Vec<(Vec<u8>, String)>> {
    let mut found = Vec::new();
    for file in python_files(folder)? {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.trim();
            let is_code = code.contains(['=', '(', '.', ':']) && !code.starts_with('#');
            if !is_code || !(4..=60).contains(&code.len()) || text.contains("<FILL") {
                continue;
            }
            let (from, to) = (
                i.saturating_sub(CONTEXT_LINES),
                lines.len().min(i + 1 + CONTEXT_LINES),
            );
            let indentation = &line[..line.len() - line.trim_start().len()];
            let mut excerpt = lines[from..i].join("\n");
            excerpt += &format!("\n{indentation}<FILL>\n{}\n", lines[i + 1..to].join("\n"));
            let space = if indentation.ends_with(' ') { " " } else { "" };
            found.push((excerpt.into_bytes(), format!("{space}{code}")));
        }
    }
    Ok(found)
}

fn python_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|ending| ending == "py") => files.push(path),
                false => {}
            }
        }
    }
    files.sort();
    Ok(files)
}
