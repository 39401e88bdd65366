//! The settings that results were made with, kept beside them: `out.jsonl.settings.json`.
//!
//! A batch goes on where it was. With other settings that would make a file of two kinds of
//! results, or, where all lines are done, do nothing and say nothing.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::Context;
use clap::{Arg, ArgMatches, Command};
use diffucoder::session::Session;
use diffucoder::{Error, atomic};

use super::format::LineFormat;
use crate::cli::args::compute::device_name;
use crate::cli::defaults::layers;
use crate::cli::json;
use crate::cli::usage::UsageError;

/// What the results of all lines depend on, beside the lines: the model, how it is held, and the
/// flags that are not at their built-in values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept(pub BTreeMap<String, String>);

/// Flags of the batch itself: what is written of a line does not depend on them.
const OF_BATCH: [&str; 7] = [
    "parallel",
    "output",
    "shard",
    "format",
    "num-samples",
    "resume-anyway",
    "restart",
];

/// The file beside `output`, or beside what that leads to: a link, /dev/stdout.
pub fn beside(output: &Path) -> PathBuf {
    // What is no link keeps the name that the user gave it: on Windows the other is hard to read.
    let to = output.is_symlink().then(|| output.canonicalize().ok());
    let mut name: OsString = to.flatten().unwrap_or(output.into()).into();
    name.push(".settings.json");
    name.into()
}

impl Kept {
    /// The settings that every line begins with; `matches` are those of `command`. Of the flags
    /// that say which model, where from and where to compute, it has what became of them.
    pub fn of(
        session: &Session,
        format: LineFormat,
        command: &Command,
        matches: &ArgMatches,
    ) -> Self {
        let target = session.target();
        let named = [
            ("format", format.name()),
            ("model", session.package().name()),
            ("device", device_name(target)),
            ("dtype", target.storage.dtype().as_str().to_string()),
            ("quant", json::quant_name(target)),
        ];
        // The other instruction sets give the same text as each other.
        let tiles = target.cpu_isa().filter(|isa| isa.has_tiles());
        let tiles = tiles.map(|isa| ("isa", isa.name().to_string()));
        let named = named.into_iter().chain(tiles);
        let named = named.map(|(name, value)| (name.to_string(), value));
        let flags = command.get_arguments().filter_map(|arg| {
            let name = arg.get_long().filter(|name| !OF_BATCH.contains(name))?;
            if matches!(arg.get_help_heading(), Some("Model" | "Computing")) {
                return None;
            }
            let value = spelled(arg, layers::values_of(arg, matches)?.join(", "));
            let built_in = spelled(arg, layers::built_in(arg).join(", "));
            (value != built_in).then(|| (name.to_string(), value))
        });
        Self(named.chain(flags).collect())
    }

    /// What is kept beside `output`, if anything is. A file that a killed run left empty is none.
    ///
    /// # Errors
    /// When it cannot be read, or is something else.
    pub fn read(output: &Path) -> anyhow::Result<Option<Self>> {
        let path = beside(output);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        if text.is_empty() {
            return Ok(None);
        }
        match serde_json::from_slice(&text) {
            Ok(settings) => Ok(Some(Self(settings))),
            Err(_) => {
                let message = format!("{} holds something else than settings", path.display());
                Err(UsageError::with_hint(message, "move it away, or give another output").into())
            }
        }
    }

    /// Keeps them beside `output`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, output: &Path) -> anyhow::Result<()> {
        let path = beside(output);
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        Ok(atomic::write(&path, true, text.as_bytes()).map_err(Error::from)?)
    }

    /// What is not as it was, for a person.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let names: BTreeMap<_, _> = before.0.iter().chain(&self.0).collect();
        let says = |name: &str, value: Option<&String>| match value {
            None if name == "isa" => "one without tiles".to_string(),
            None => "not given".to_string(),
            Some(text) if text.chars().count() > 60 => {
                format!("{}…", text.chars().take(59).collect::<String>())
            }
            Some(text) => text.clone(),
        };
        let differs = |name: &String| {
            let (was, is) = (before.0.get(name), self.0.get(name));
            let changed = format!("{name} was {} and is {}", says(name, was), says(name, is));
            (was != is).then_some(changed)
        };
        names.into_keys().filter_map(differs).collect()
    }
}

/// A value in one spelling, where it is a number and not a text that looks like one. Whole numbers
/// are not read as fractions, since a seed can have more digits than those keep.
fn spelled(arg: &Arg, value: String) -> String {
    let kind = arg.get_value_parser().type_id();
    if kind == TypeId::of::<String>() || kind == TypeId::of::<PathBuf>() {
        return value;
    }
    let whole = value.parse().map(|number: u64| number.to_string());
    let number = || value.parse().map(|number: f64| number.to_string());
    whole.or_else(|_| number()).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_with_both_values() {
        let kept = |pairs: &[(&str, &str)]| {
            Kept(
                pairs
                    .iter()
                    .map(|(k, v)| (k.to_string(), v.to_string()))
                    .collect(),
            )
        };
        let before = kept(&[("model", "a"), ("seed", "1"), ("temperature", "0.2")]);
        let now = kept(&[("model", "b"), ("temperature", "0.2"), ("top-k", "5")]);
        assert_eq!(
            now.differences(&before),
            [
                "model was a and is b",
                "seed was 1 and is not given",
                "top-k was not given and is 5"
            ]
        );
        assert!(now.differences(&now).is_empty());
        let tiles = kept(&[("isa", "amx")]);
        let none = kept(&[]);
        assert_eq!(
            none.differences(&tiles),
            ["isa was amx and is one without tiles"]
        );
    }

    #[test]
    fn numbers_are_the_same_however_they_are_spelled() {
        let number = Arg::new("seed").value_parser(clap::value_parser!(u64));
        for (one, other, are_same) in [
            (".20", "0.2", true),
            ("2", "2.0", true),
            ("9007199254740993", "9007199254740992", false),
        ] {
            let [one, other] = [one, other].map(|text| spelled(&number, text.into()));
            assert_eq!(one == other, are_same, "{one} {other}");
        }
        let text = Arg::new("system").value_parser(clap::value_parser!(String));
        assert_eq!(spelled(&text, "1e3".into()), "1e3");
    }
}
