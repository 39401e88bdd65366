//! `--check`: does the result parse? And `--retries`: draw again until it does.

use std::borrow::Cow;
use std::path::Path;

use crate::cli::args::values::zero_or_above;
use crate::cli::usage::UsageError;
use diffucoder::diffusion::{Algorithm, Settings};
use diffucoder::text::guess;
use diffucoder::text::place::Place;
use diffucoder::text::syntax::Language;

/// The checking flags, of every command that writes code.
#[derive(clap::Args)]
#[command(next_help_heading = "Code")]
pub struct CheckArgs {
    /// The language of the code [default: that of the file, by its ending or by what is in it, or
    /// else python]
    #[arg(long, value_name = "LANGUAGE", value_parser = fence_word)]
    language: Option<String>,
    /// Parse the result, and exit with 3 and the place if it does not parse (python, rust,
    /// javascript, typescript, tsx, go, java, c, cpp); of builds with the feature `check`, as
    /// releases are
    #[arg(long)]
    check: bool,
    /// Draw again, with the next seed, up to this many times until the result parses
    #[arg(long, value_name = "N", requires = "check", default_value_t = 0,
          value_parser = zero_or_above::<u64>)]
    retries: u64,
}

/// The result is not code: exits with 3.
#[derive(Debug, thiserror::Error)]
#[error("the result does not parse as {language} (line {}, column {})", place.line, place.column)]
pub struct DoesNotParse {
    language: Language,
    place: Place,
    /// What the user can do about it.
    pub hint: Option<&'static str>,
}

/// What is asked of a result.
pub struct Check {
    language: Option<Language>,
    retries: u64,
}

impl CheckArgs {
    /// The language's name, as a fence spells it.
    pub fn language(&self, file: Option<&Path>, text: &str) -> String {
        let guessed = || guess::fence_word(file, text).map(Cow::into_owned);
        let language = self.language.clone().or_else(guessed);
        language.unwrap_or_else(|| Language::Python.to_string())
    }

    /// What to check.
    ///
    /// # Errors
    /// Wrong usage when this program has no parser for it.
    pub fn check(&self, file: Option<&Path>, text: &str) -> Result<Check, UsageError> {
        if !self.check {
            return Ok(Check {
                language: None,
                retries: 0,
            });
        }
        if !cfg!(feature = "check") {
            return Err(UsageError::with_hint(
                "this build of diffucoder has no parsers for --check",
                "build it with `cargo install --locked --path . --features check` (needs a C compiler)",
            )
            .about(&["check"]));
        }
        let name = self.language(file, text);
        let language = Language::named(&name).ok_or_else(|| {
            let names = Language::ALL.map(Language::name).join(", ");
            UsageError::with_hint(
                format!("--check has no parser for {name}"),
                format!("it has some for {names}"),
            )
            .about(&["check", "language"])
        })?;
        Ok(Check {
            language: Some(language),
            retries: self.retries,
        })
    }
}

impl Check {
    /// Whether anything is checked.
    pub fn is_on(&self) -> bool {
        self.language.is_some()
    }

    /// How often to draw again.
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Wrong usage if drawing again would give the same text again.
    ///
    /// # Errors
    /// [`UsageError`] with the flags that bring chance in.
    pub fn check_chance(&self, settings: &Settings) -> Result<(), UsageError> {
        let chance = settings.shaping.temperature > 0.0
            || settings.alg_temp.is_some()
            || settings.algorithm == Algorithm::Origin;
        match self.retries == 0 || chance {
            true => Ok(()),
            false => Err(UsageError::with_hint(
                "--retries would draw the same text again: at temperature 0 there is no chance",
                "raise --temperature or --alg-temp",
            )
            .about(&["retries", "temperature"])),
        }
    }

    /// Draws until the result parses or the retries are used up, with this seed and those that
    /// follow it. `draw` gives a result with the code to check; `seed` becomes that of the result.
    pub fn until_it_parses<T>(
        &self,
        seed: &mut u64,
        mut draw: impl FnMut(u64) -> anyhow::Result<(T, Vec<u8>)>,
        mut note: impl FnMut(&str),
    ) -> anyhow::Result<(T, Option<DoesNotParse>)> {
        let mut left = self.retries;
        loop {
            let (result, code) = draw(*seed)?;
            let problem = match self.problem(&code)? {
                Some(problem) if left > 0 => problem,
                last => return Ok((result, last)),
            };
            left -= 1;
            let next = seed.wrapping_add(1);
            note(&format!("seed {seed}: {problem}; trying seed {next}"));
            *seed = next;
        }
    }

    #[cfg(feature = "check")]
    fn problem(&self, code: &[u8]) -> anyhow::Result<Option<DoesNotParse>> {
        let Some(language) = self.language else {
            return Ok(None);
        };
        let place = language.first_error(code)?;
        let hint = (self.retries == 0)
            .then_some("--retries N draws again, up to N times, until it parses");
        Ok(place.map(|place| DoesNotParse {
            language,
            place,
            hint,
        }))
    }

    #[cfg(not(feature = "check"))]
    fn problem(&self, _: &[u8]) -> anyhow::Result<Option<DoesNotParse>> {
        Ok(None)
    }
}

/// A word that can stand behind a fence.
fn fence_word(text: &str) -> Result<String, String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "+#-_.".contains(c);
    match !text.is_empty() && text.chars().all(ok) {
        true => Ok(text.to_string()),
        false => Err("must be one word, such as python".into()),
    }
}
