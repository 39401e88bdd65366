//! What the benches that run the built-in model share: its loading, its held-out prompts, and their
//! options.

#![allow(dead_code)] // each bench is a program of its own and uses a part

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use candle_core::DType;
use diffucoder::diffusion::Settings;
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::model::{Model, Target};
use diffucoder::package::{Package, Prompt};
use diffucoder::session::{Conditions, Hole, Observer, Outcome, Session, Task};

/// The command line behind `--`.
pub struct Options(Vec<String>);

impl Options {
    pub fn read() -> Self {
        Self(std::env::args().collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|arg| arg == name)
    }

    /// What follows an option.
    pub fn value(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|arg| arg == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// What follows each time that an option is given.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let pairs = self.0.windows(2).filter(|pair| pair[0] == name);
        pairs.map(|pair| pair[1].as_str()).collect()
    }

    pub fn number(&self, name: &str, default: usize) -> anyhow::Result<usize> {
        self.value(name)
            .map_or(Ok(default), |text| Ok(text.parse()?))
    }
}

/// A model by its name, without its weights.
pub fn open(name: &str) -> anyhow::Result<Package> {
    let (spec, options) = (ModelSpec::parse(name)?, HubOptions::new("no-cache"));
    Ok(Package::open(&spec, &options, &mut ())?)
}

pub fn load(package: &Package, target: &Target) -> anyhow::Result<Model> {
    let weights = package.fetch_weights(&mut ())?;
    Ok(package.load(weights, target, &mut |_, _| ())?)
}

/// The built-in model in float32.
pub fn tiny() -> anyhow::Result<Session> {
    session("tiny")
}

/// A model by its name, in float32.
pub fn session(name: &str) -> anyhow::Result<Session> {
    let mut session = Session::new(open(name)?, Target::cpu(DType::F32));
    session.load(&mut (), &mut |_, _| ())?;
    Ok(session)
}

/// The continuation of a text by `session`, watched.
pub fn complete(
    session: &mut Session,
    text: &str,
    new_tokens: usize,
    settings: &Settings,
    observer: &mut dyn Observer,
) -> anyhow::Result<Outcome> {
    let task = Task::answer(Prompt::Raw(text), Hole::Exactly(new_tokens));
    let mut job = session.prepare(&task.with(settings.clone()))?;
    Ok(session.run_job(&mut job, &mut Conditions::watched(observer))?)
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// Up to `count` prompts: signature and docstring of functions from projects that the model was not
/// trained on.
pub fn held_out_prompts(count: usize) -> anyhow::Result<Vec<String>> {
    let file = root().join("tests/fixtures/held-out/prompts.json");
    let mut prompts: Vec<String> = serde_json::from_slice(&fs::read(file)?)?;
    prompts.truncate(count);
    Ok(prompts)
}

/// Lines on either side of a hole.
const CONTEXT_LINES: usize = 12;

/// So many excerpts of the Python files of a folder, with a hole in place of one line of code, its
/// indentation left, and that line as the model is to write it.
pub fn lines(folder: &Path, count: usize) -> anyhow::Result<Vec<(Vec<u8>, String)>> {
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
    ensure!(
        found.len() >= count,
        "{} has {} lines that will do",
        folder.display(),
        found.len()
    );
    let evenly = |i: usize| found[i * found.len() / count].clone();
    Ok((0..count).map(evenly).collect())
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
