//! One line of a batch's input: what to write, and the settings that are its own.

use clap::error::ContextValue;
use clap::{ArgMatches, Args as _, Command, FromArgMatches};
use diffucoder::session::USUAL_HOLE;
use serde_json::{Map, Value};

use super::format::LineFormat;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::defaults::layers::{self, Values};
use crate::cli::usage::UsageError;

/// The length that the model chooses.
const AUTO: &str = "auto";
/// The flag that a hole's length is another word for.
const LONGEST: &str = "max-new-tokens";

/// A line that was understood.
#[derive(Debug)]
pub struct Line {
    /// A text or a whole number; the line's number if it has none.
    pub id: Value,
    pub request: Request,
    /// Of the chat template.
    pub system: Option<String>,
    /// Settings of its own, by the flags' names.
    own: Values,
    /// Copied to the result as it is.
    pub meta: Option<Value>,
}

/// What is asked for.
#[derive(Debug, PartialEq)]
pub enum Request {
    Answer {
        prompt: String,
    },
    Fill {
        prefix: String,
        suffix: String,
        /// Whether the model chooses the hole's length, up to `max_new_tokens`; else it is that.
        is_open: bool,
    },
}

impl Request {
    /// A prompt, or the two texts round a hole, which may be `open`.
    fn of(
        prompt: Option<String>,
        prefix: Option<String>,
        suffix: Option<String>,
        open: bool,
    ) -> Result<Self, UsageError> {
        match (prompt, prefix, suffix) {
            (Some(prompt), None, None) if !prompt.is_empty() => Ok(Self::Answer { prompt }),
            (Some(_), None, None) => Err(wrong("its prompt is empty")),
            (None, Some(prefix), Some(suffix)) => Ok(Self::Fill {
                // Nothing follows: a continuation, which ends where the model ends it.
                is_open: open && !suffix.is_empty(),
                prefix,
                suffix,
            }),
            (None, None, None) => Err(wrong("it has no prompt")),
            (None, _, _) => Err(wrong("prefix and suffix go together")),
            (Some(_), _, _) => Err(wrong("it has a prompt, and prefix or suffix too")),
        }
    }
}

impl Line {
    /// The key that sets a flag here.
    fn key(&self, flag: &str) -> String {
        match (flag, &self.request) {
            (LONGEST, Request::Fill { is_open: false, .. }) => "length".to_string(),
            _ => flag.replace('-', "_"),
        }
    }

    /// Wrong usage of flags that are keys of this line, said of the keys.
    pub fn in_keys(&self, error: anyhow::Error) -> anyhow::Error {
        let mut error = match error.downcast::<UsageError>() {
            Ok(error) => error,
            Err(error) => return error,
        };
        for flag in self.own.keys() {
            let key = format!("`{}`", self.key(flag));
            for text in [&mut error.message].into_iter().chain(&mut error.hint) {
                let short = text.replace(&format!("-n/--{flag}"), &key);
                *text = short.replace(&format!("--{flag}"), &key);
            }
        }
        error.into()
    }
}

/// What makes lines of bytes.
pub struct Parser {
    format: LineFormat,
    /// The flags that a line can set.
    command: Command,
    /// What was typed of them, for lines that say nothing else.
    typed: Values,
    /// What variables and the configuration file say of them.
    defaults: Values,
    usual_hole: usize,
}

impl Parser {
    /// `matches` are those of the command, for which `defaults` were found; an open hole has
    /// `usual_hole` tokens where nobody says how many.
    pub fn new(
        format: LineFormat,
        matches: &ArgMatches,
        defaults: Values,
        usual_hole: usize,
    ) -> Self {
        let command = Command::new("line").no_binary_name(true);
        let command = SamplingArgs::augment_args(command.disable_help_flag(true));
        Self {
            format,
            typed: layers::given(&command, matches, &Values::new()),
            defaults,
            command,
            usual_hole,
        }
    }

    /// For lines that are read for what they ask alone.
    pub fn without_settings(format: LineFormat) -> Self {
        Self {
            format,
            command: Command::new("line"),
            typed: Values::new(),
            defaults: Values::new(),
            usual_hole: USUAL_HOLE,
        }
    }

    /// Which default makes a line fail: one that it can do without.
    pub fn default_at_fault(
        &self,
        line: &Line,
        error: &anyhow::Error,
        without: &[&'static str],
    ) -> Option<&'static str> {
        let flags = &error.downcast_ref::<UsageError>()?.flags;
        let is_said = |name: &str| self.typed.contains_key(name) || line.own.contains_key(name);
        let mut defaults = flags
            .iter()
            .filter(|name| self.defaults.contains_key(**name));
        defaults
            .find(|name| !is_said(name) && !without.contains(name))
            .copied()
    }

    /// Understands a line, but for its settings.
    ///
    /// # Errors
    /// Why not, for a person.
    pub fn parse(&self, bytes: &[u8], number: usize) -> Result<Line, UsageError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| wrong(format!("not UTF-8 (byte {})", error.valid_up_to())))?;
        let object: Map<String, Value> = serde_json::from_str(text).map_err(not_an_object(text))?;
        let id_key = self.format.id_key();
        let (mut id, mut system, mut meta) = (Value::from(number), None, None);
        let (mut prompt, mut prefix, mut suffix, mut length) = (None, None, None, None);
        let (mut tests, mut own) = (None, Values::new());
        for (key, value) in object {
            match (key.as_str(), self.format) {
                _ if key == id_key => id = check_id(id_key, value)?,
                ("prompt", _) | ("text", LineFormat::Mbpp) => prompt = Some(string(&key, value)?),
                ("prefix", _) => prefix = Some(string(&key, value)?),
                ("suffix", _) => suffix = Some(string(&key, value)?),
                ("test_list", LineFormat::Mbpp) => tests = Some(strings(&key, value)?),
                // A problem set has columns of its own.
                (_, LineFormat::Evalplus | LineFormat::HumanEval | LineFormat::Mbpp) => {}
                ("system", _) => system = Some(string(&key, value)?),
                ("length", _) => length = setting(&key, value)?,
                ("meta", _) => meta = Some(value),
                _ => {
                    let (name, values) = self.setting(&key, value)?;
                    own.extend(values.map(|values| (name, values)));
                }
            }
        }
        if self.format != LineFormat::Json && suffix.is_some() && prefix.is_none() {
            prefix = prompt.take(); // as human-eval-infilling has it
        }
        let prompt = prompt.map(|prompt| match tests {
            Some(tests) => format!(
                "{prompt}\nYour code should pass these tests:\n\n{}\n",
                tests.join("\n")
            ),
            None => prompt,
        });
        let is_open = length.as_ref().is_none_or(|length| length == AUTO);
        let request = Request::of(prompt, prefix, suffix, is_open)?;
        match (&request, length) {
            (_, None) => {}
            (Request::Answer { .. }, Some(_)) => {
                return Err(wrong("its length is a hole's, and it has no suffix"));
            }
            (Request::Fill { .. }, Some(_)) if own.contains_key(LONGEST) => {
                return Err(wrong("it has a length, and max_new_tokens too"));
            }
            (Request::Fill { .. }, Some(length)) => {
                own.insert(LONGEST.into(), vec![length]);
            }
        }
        Ok(Line {
            id,
            request,
            system,
            meta,
            own,
        })
    }

    /// The flag that a key sets, and its values; none for null.
    fn setting(
        &self,
        key: &str,
        value: Value,
    ) -> Result<(String, Option<Vec<String>>), UsageError> {
        let name = key.replace('_', "-");
        let flag = layers::find(&self.command, &name).filter(|_| !key.contains('-'));
        let flag = flag.ok_or_else(|| self.unknown(key))?;
        let values = match value {
            Value::Array(several) if layers::is_repeatable(flag) => {
                let texts = several.into_iter().map(|one| setting(key, one));
                Some(
                    texts
                        .filter_map(Result::transpose)
                        .collect::<Result<_, _>>()?,
                )
            }
            one => setting(key, one)?.map(|text| vec![text]),
        };
        Ok((name, values))
    }

    /// A line's settings over those for all lines, some defaults left out; a hole that is open is
    /// shorter than what is written at an end, where nobody says how long.
    ///
    /// # Errors
    /// When a value is none, or does not go with another.
    pub fn sampling(
        &self,
        line: &Line,
        without: &[&'static str],
    ) -> Result<SamplingArgs, UsageError> {
        let own = &line.own;
        let mut defaults = self.defaults.clone();
        defaults.retain(|name, _| !without.contains(&name.as_str()));
        if matches!(line.request, Request::Fill { is_open: true, .. }) {
            let usual = || vec![self.usual_hole.to_string()];
            defaults.entry(LONGEST.into()).or_insert_with(usual);
        }
        let mut above = own.clone();
        let command = layers::with_defaults(self.command.clone(), &self.typed, &above);
        let typed = self.typed.clone().into_iter();
        above.extend(typed.filter(|(name, _)| !own.contains_key(name)));
        let command = layers::with_defaults(command, &defaults, &above);
        let flags = own.iter().flat_map(|(name, values)| {
            let is_switch = layers::find(&self.command, name).is_some_and(layers::is_switch);
            values
                .iter()
                .filter_map(move |value| match (is_switch, value.as_str()) {
                    (true, "true") => Some(format!("--{name}")),
                    (true, "false") => None,
                    _ => Some(format!("--{name}={value}")),
                })
        });
        let said = |error: clap::Error| wrong(of_keys(&error, line));
        let matches = command.try_get_matches_from(flags).map_err(said)?;
        let sampling = SamplingArgs::from_arg_matches(&matches).map_err(said)?;
        // Only the model knows how many steps a hole can have.
        if matches!(line.request, Request::Answer { .. }) {
            sampling.check()?;
        }
        Ok(sampling)
    }

    fn unknown(&self, key: &str) -> UsageError {
        let settings = self
            .command
            .get_arguments()
            .filter_map(|arg| arg.get_long());
        let settings: Vec<String> = settings.map(|name| name.replace('-', "_")).collect();
        let message = format!(
            "`{key}` is no key that is known here: it can have id, prompt, prefix and suffix, length, system, \
             meta (copied to the result), {}",
            settings.join(", ")
        );
        match key {
            // Of one with this and a prompt alone nobody knows which it is.
            "task_id" => {
                UsageError::with_hint(message, "--format names the problem set that it is of")
            }
            _ => wrong(message),
        }
    }
}

/// What a line has wrong.
fn wrong(message: impl Into<String>) -> UsageError {
    UsageError::new(message)
}

fn not_an_object(text: &str) -> impl Fn(serde_json::Error) -> UsageError {
    let is_array = text.starts_with('[');
    move |error| {
        let wrong = wrong(format!("not a JSON object: {error}"));
        let hint = "`jq -c '.[]'` makes lines of an array";
        UsageError {
            hint: is_array.then(|| hint.into()),
            ..wrong
        }
    }
}

fn strings(key: &str, value: Value) -> Result<Vec<String>, UsageError> {
    match value {
        Value::Array(texts) => texts.into_iter().map(|text| string(key, text)).collect(),
        _ => Err(wrong(format!("its {key} is no array"))),
    }
}

fn check_id(key: &str, value: Value) -> Result<Value, UsageError> {
    match value {
        Value::String(_) => Ok(value),
        Value::Number(ref number) if number.is_u64() || number.is_i64() => Ok(value),
        _ => Err(wrong(format!(
            "its {key} is neither a text nor a whole number"
        ))),
    }
}

fn string(key: &str, value: Value) -> Result<String, UsageError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong(format!("its {key} is not a text"))),
    }
}

/// The text of a setting; `None` for null.
fn setting(key: &str, value: Value) -> Result<Option<String>, UsageError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(bool) => Ok(Some(bool.to_string())),
        Value::Array(_) | Value::Object(_) => Err(wrong(format!("its {key} is not one value"))),
    }
}

/// What clap says of flags, of the keys of a line.
fn of_keys(error: &clap::Error, line: &Line) -> String {
    let text = error.to_string();
    let about = text.lines().take_while(|line| !line.is_empty());
    let about: Vec<&str> = about.map(str::trim).collect();
    let mut said = about.join(" ").trim_start_matches("error: ").to_string();
    for (_, value) in error.context() {
        let flags = match value {
            ContextValue::String(flag) => std::slice::from_ref(flag),
            ContextValue::Strings(flags) => flags,
            _ => continue,
        };
        for flag in flags.iter().filter(|flag| flag.starts_with("--")) {
            let name = flag.split([' ', '=']).next().unwrap_or_default();
            let key = line.key(name.trim_start_matches('-'));
            said = said.replace(&format!("'{flag}'"), &format!("`{key}`"));
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::sampling::NewTokens::{Auto, Most};
    use diffucoder::diffusion::Steps;

    fn parser(given: &[(&str, &str)]) -> Parser {
        let flags = given.iter().map(|(name, value)| match *value {
            "true" => format!("--{name}"),
            _ => format!("--{name}={value}"),
        });
        let command = SamplingArgs::augment_args(Command::new("batch").no_binary_name(true));
        let matches = command.get_matches_from(flags);
        Parser::new(LineFormat::Json, &matches, Values::new(), USUAL_HOLE)
    }

    fn understood(parser: &Parser, line: &str) -> (Line, SamplingArgs) {
        let line = parser.parse(line.as_bytes(), 7).unwrap();
        let sampling = parser.sampling(&line, &[]).unwrap();
        (line, sampling)
    }

    fn refusal(line: &str) -> String {
        let parser = parser(&[]);
        let line = parser.parse(line.as_bytes(), 1);
        let sampling = line.and_then(|line| parser.sampling(&line, &[]));
        sampling.unwrap_err().to_string()
    }

    #[test]
    fn settings_of_a_line_win_over_those_for_all() {
        let parser = parser(&[("max-new-tokens", "32"), ("steps", "8"), ("exact", "true")]);
        let parse = |line: &str| understood(&parser, line);
        let (line, sampling) = parse(r#"{"prompt": "x"}"#);
        assert_eq!(line.id, 7);
        assert_eq!((sampling.max_new_tokens, sampling.exact), (Most(32), true));
        assert_eq!(sampling.steps(), Some(Steps::Count(8)));
        let (_, sampling) =
            parse(r#"{"id": "a", "prompt": "x", "max_new_tokens": 64, "exact": false}"#);
        assert_eq!((sampling.max_new_tokens, sampling.exact), (Most(64), false));
        // What cannot be combined with a line's own setting steps back.
        let (_, sampling) = parse(r#"{"prompt": "x", "tokens_per_step": 2}"#);
        assert_eq!(sampling.steps(), Some(Steps::OfTokens(2)));
    }

    #[test]
    fn a_hole_is_as_long_as_said_or_open() {
        let hole = |given: &[_], line: &str| {
            let (line, sampling) = understood(&parser(given), line);
            match line.request {
                Request::Fill { is_open, .. } => (is_open, sampling.max_new_tokens),
                Request::Answer { .. } => panic!("no hole"),
            }
        };
        let open = r#"{"prefix": "a", "suffix": "b"}"#;
        assert_eq!(hole(&[], open), (true, Most(32)));
        assert_eq!(hole(&[("max-new-tokens", "9")], open), (true, Most(9)));
        assert_eq!(hole(&[("max-new-tokens", "auto")], open), (true, Auto));
        let own = r#"{"prefix": "a", "suffix": "b", "max_new_tokens": 5}"#;
        assert_eq!(hole(&[("max-new-tokens", "9")], own), (true, Most(5)));
        let chosen = r#"{"prefix": "a", "suffix": "b", "length": "auto"}"#;
        assert_eq!(hole(&[("max-new-tokens", "9")], chosen), (true, Auto));
        let said = r#"{"prefix": "a", "suffix": "b", "length": 3, "steps": 3}"#;
        assert_eq!(hole(&[("max-new-tokens", "9")], said), (false, Most(3)));
        let nothing_follows = r#"{"prefix": "a", "suffix": ""}"#;
        assert_eq!(hole(&[], nothing_follows), (false, Most(256)));
    }

    #[test]
    fn a_default_is_at_fault_but_no_setting_that_somebody_gave() {
        let with = |typed: &[(&str, &str)], line: &str| {
            let mut parser = parser(typed);
            let defaults = [("steps", "9"), ("max-new-tokens", "4")];
            let defaults =
                defaults.map(|(name, value)| (name.to_string(), vec![value.to_string()]));
            parser.defaults = defaults.into();
            let line = parser.parse(line.as_bytes(), 1).unwrap();
            let error = parser.sampling(&line, &[]).unwrap_err().into();
            let first = parser.default_at_fault(&line, &error, &[]);
            let second = parser.default_at_fault(&line, &error, &["steps"]);
            (first, second)
        };
        let (steps, length) = (Some("steps"), Some("max-new-tokens"));
        assert_eq!(with(&[], r#"{"prompt": "x"}"#), (steps, length));
        assert_eq!(
            with(&[("steps", "8")], r#"{"prompt": "x"}"#),
            (length, length)
        );
        let own = r#"{"prompt": "x", "max_new_tokens": 3}"#;
        assert_eq!(with(&[], own), (steps, None));
        assert_eq!(with(&[("steps", "8")], own), (None, None));
    }

    #[test]
    fn problems_are_asked_with_their_tests_and_filled_between_prompt_and_suffix() {
        let request = |format, line: &str| {
            let parser = Parser {
                format,
                ..parser(&[])
            };
            parser.parse(line.as_bytes(), 1).unwrap().request
        };
        let problem =
            r#"{"task_id": 2, "prompt": "Add.", "test_list": ["assert f(1)", "assert f(2)"]}"#;
        let prompt = "Add.\nYour code should pass these tests:\n\nassert f(1)\nassert f(2)\n";
        let prompt = prompt.to_string();
        assert_eq!(
            request(LineFormat::Mbpp, problem),
            Request::Answer { prompt }
        );
        let problem =
            r#"{"task_id": "a", "prompt": "x", "suffix": "y", "test": "", "length": "ours"}"#;
        let fill = Request::Fill {
            prefix: "x".into(),
            suffix: "y".into(),
            is_open: true,
        };
        assert_eq!(request(LineFormat::HumanEval, problem), fill);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, says) in [
            ("[]", "not a JSON object"),
            ("{", "not a JSON object"),
            ("{}", "no prompt"),
            (r#"{"prompt": ""}"#, "prompt is empty"),
            (r#"{"prompt": 3}"#, "its prompt is not a text"),
            (r#"{"prompt": "x", "id": null}"#, "its id is neither"),
            (
                r#"{"prompt": "x", "temprature": 1}"#,
                "`temprature` is no key",
            ),
            (
                r#"{"prompt": "x", "max-new-tokens": 1}"#,
                "`max-new-tokens` is no key",
            ),
            (r#"{"prompt": "x", "top_p": 2}"#, "at most 1"),
            (
                r#"{"prompt": "x", "seed": [1]}"#,
                "its seed is not one value",
            ),
            (
                r#"{"prompt": "x", "max_new_tokens": 4, "steps": 9}"#,
                "must be from 1 to 4",
            ),
            (
                r#"{"prompt": "x", "steps": 1, "tokens_per_step": 1}"#,
                "`steps` cannot be used with `tokens_per_step`",
            ),
            (r#"{"prefix": "x"}"#, "go together"),
            (r#"{"prompt": "x", "suffix": "y"}"#, "suffix too"),
            (r#"{"prompt": "x", "length": 3}"#, "a hole's"),
            (
                r#"{"prefix": "x", "suffix": "y", "length": 0}"#,
                "value '0' for `length`: must be at least 1",
            ),
            (
                r#"{"prompt": "x", "mode": "foo"}"#,
                "value 'foo' for `mode` [possible values: ",
            ),
            (
                r#"{"prefix": "x", "suffix": "y", "length": 3, "max_new_tokens": 9}"#,
                "max_new_tokens too",
            ),
        ] {
            assert!(refusal(line).contains(says), "{line}: {}", refusal(line));
        }
        let error = parser(&[]).parse(b"{\"prompt\": \"\xff\"}", 1).unwrap_err();
        assert_eq!(error.to_string(), "not UTF-8 (byte 12)");
        let parser = parser(&[]);
        let error = |line: &str| {
            let line = parser.parse(line.as_bytes(), 1);
            let sampling = line.and_then(|line| parser.sampling(&line, &[]));
            sampling.unwrap_err().hint.unwrap_or_default()
        };
        assert!(error(r#"{"task_id": "a/0", "prompt": "x"}"#).starts_with("--format "));
        assert_eq!(error(r#"{"tasks": "a/0", "prompt": "x"}"#), "");
    }
}
