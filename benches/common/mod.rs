//! What the benches that run the built-in model share: its loading, its held-out prompts, and their
//! options.

#![allow(dead_code)] // each bench is a program of its own and uses a part

use std::fs;
use std::path::{Path, PathBuf};

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
    let mut session = Session::new(open("tiny")?, Target::cpu(DType::F32));
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
