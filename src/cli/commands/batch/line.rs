//! One line of a batch's input: what to write, and the settings that are its own.

use clap::{Args as _, Command, FromArgMatches};
use diffucoder::session::USUAL_HOLE;
use serde_json::{Map, Value};

use super::format::LineFormat;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::defaults::layers::{self, Values};

/// A line that was understood.
#[derive(Debug)]
pub struct Line {
    /// A text or a whole number; the line's number if it has none.
    pub id: Value,
    pub request: Request,
    /// Of the chat template.
    pub system: Option<String>,
    pub sampling: SamplingArgs,
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
    ) -> Result<Self, String> {
        match (prompt, prefix, suffix) {
            (Some(prompt), None, None) if !prompt.is_empty() => Ok(Self::Answer { prompt }),
            (Some(_), None, None) => Err("its prompt is empty".into()),
            (None, Some(prefix), Some(suffix)) => Ok(Self::Fill {
                // Nothing follows: a continuation, which ends where the model ends it.
                is_open: open && !suffix.is_empty(),
                prefix,
                suffix,
            }),
            (None, None, None) => Err("it has no prompt".into()),
            (None, _, _) => Err("prefix and suffix go together".into()),
            (Some(_), _, _) => Err("it has a prompt, and prefix or suffix too".into()),
        }
    }
}
pub struct Parser {
    format: LineFormat,
    /// The sampling flags, and what is given of them for all lines.
    command: Command,
    given: Values,
}

impl Parser {
    /// `given` holds the sampling flags for the lines that say nothing else.
    pub fn new(format: LineFormat, given: Values) -> Self {
        let command = Command::new("line").no_binary_name(true);
        let command = command.disable_help_flag(true);
        Self {
            format,
            command: SamplingArgs::augment_args(command),
            given,
        }
    }

    /// Understands a line; the error says why not, for a person.
    pub fn parse(&self, bytes: &[u8], number: usize) -> Result<Line, String> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| format!("not UTF-8 (byte {})", error.valid_up_to()))?;
        let object: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
        let id_key = self.format.id_key();
        let (mut id, mut system, mut meta) = (Value::from(number), None, None);
        let (mut prompt, mut prefix, mut suffix, mut length) = (None, None, None, None);
        let mut settings = Vec::new();
        for (key, value) in object {
            match key.as_str() {
                _ if key == id_key => id = check_id(id_key, value)?,
                "prompt" => prompt = Some(string(&key, value)?),
                "prefix" => prefix = Some(string(&key, value)?),
                "suffix" => suffix = Some(string(&key, value)?),
                // A problem set has columns of its own.
                _ if self.format != LineFormat::Json => {}
                "system" => system = Some(string(&key, value)?),
                "length" => length = setting(&key, value)?,
                "meta" => meta = Some(value),
                _ => {
                    let name = key.replace('_', "-");
                    if key.contains('-') || layers::find(&self.command, &name).is_none() {
                        return Err(self.unknown(&key));
                    }
                    if let Some(text) = setting(&key, value)? {
                        settings.push((name, text));
                    }
                }
            }
        }
        let request = Request::of(prompt, prefix, suffix, length.is_none())?;
        let longest = "max-new-tokens";
        match (&request, length) {
            (_, None) => {}
            (Request::Answer { .. }, Some(_)) => {
                return Err("its length is a hole's, and it has no suffix".into());
            }
            (Request::Fill { .. }, Some(_)) if settings.iter().any(|(name, _)| name == longest) => {
                return Err("it has a length, and max_new_tokens too".into());
            }
            (Request::Fill { .. }, Some(length)) => settings.push((longest.into(), length)),
        }
        let mut given = self.given.clone();
        if let Request::Fill { is_open: true, .. } = request {
            let default = || USUAL_HOLE.to_string();
            given.entry(longest.into()).or_insert_with(default);
        }
        Ok(Line {
            id,
            request,
            system,
            meta,
            sampling: self.sampling(&given, &settings)?,
        })
    }

    fn sampling(
        &self,
        given: &Values,
        settings: &[(String, String)],
    ) -> Result<SamplingArgs, String> {
        let names: Vec<String> = settings.iter().map(|(name, _)| name.clone()).collect();
        let command = layers::with_defaults(self.command.clone(), given, &names);
        let flags = settings.iter().filter_map(|(name, value)| {
            let is_switch = layers::find(&self.command, name).is_some_and(layers::is_switch);
            match (is_switch, value.as_str()) {
                (true, "true") => Some(format!("--{name}")),
                (true, "false") => None,
                _ => Some(format!("--{name}={value}")),
            }
        });
        let said = |error: clap::Error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_string()
        };
        let matches = command.try_get_matches_from(flags).map_err(said)?;
        let sampling = SamplingArgs::from_arg_matches(&matches).map_err(said)?;
        sampling.check().map_err(|error| error.to_string())?;
        Ok(sampling)
    }

    fn unknown(&self, key: &str) -> String {
        let settings = self
            .command
            .get_arguments()
            .filter_map(|arg| arg.get_long());
        let settings: Vec<String> = settings.map(|name| name.replace('-', "_")).collect();
        format!(
            "`{key}` is no key that is known here: it can have id, prompt, prefix and suffix, length, system, \
             meta (copied to the result), {}",
            settings.join(", ")
        )
    }
}

fn check_id(key: &str, value: Value) -> Result<Value, String> {
    match value {
        Value::String(_) => Ok(value),
        Value::Number(ref number) if number.is_u64() || number.is_i64() => Ok(value),
        _ => Err(format!("its {key} is neither a text nor a whole number")),
    }
}

fn string(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(format!("its {key} is not a text")),
    }
}

/// The text of a setting; `None` for null.
fn setting(key: &str, value: Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(bool) => Ok(Some(bool.to_string())),
        Value::Array(_) | Value::Object(_) => Err(format!("its {key} is not one value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::sampling::NewTokens;
    use diffucoder::diffusion::Steps;

    fn parser(given: &[(&str, &str)]) -> Parser {
        let given = given.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Parser::new(LineFormat::Json, given.collect())
    }

    fn refusal(line: &str) -> String {
        parser(&[]).parse(line.as_bytes(), 1).unwrap_err()
    }

    #[test]
    fn settings_of_a_line_win_over_those_for_all() {
        let parser = parser(&[("max-new-tokens", "32"), ("steps", "8"), ("exact", "true")]);
        let parse = |line: &str| parser.parse(line.as_bytes(), 7).unwrap();
        let line = parse(r#"{"prompt": "x"}"#);
        assert_eq!(line.id, 7);
        assert_eq!(
            (line.sampling.max_new_tokens, line.sampling.exact),
            (NewTokens::Most(32), true)
        );
        assert_eq!(line.sampling.steps(32).unwrap(), Steps::Count(8));
        let line = parse(r#"{"id": "a", "prompt": "x", "max_new_tokens": 64, "exact": false}"#);
        assert_eq!(
            (line.sampling.max_new_tokens, line.sampling.exact),
            (NewTokens::Most(64), false)
        );
        // What cannot be combined with a line's own setting steps back.
        let line = parse(r#"{"prompt": "x", "tokens_per_step": 2}"#);
        assert_eq!(line.sampling.steps(32).unwrap(), Steps::OfTokens(2));
    }

    #[test]
    fn a_hole_is_as_long_as_said_or_open() {
        let parse = |given: &[_], line: &str| parser(given).parse(line.as_bytes(), 1).unwrap();
        let hole = |line: &Line| match line.request {
            Request::Fill { is_open, .. } => (is_open, line.sampling.most_new_tokens().unwrap()),
            Request::Answer { .. } => panic!("no hole"),
        };
        let open = r#"{"prefix": "a", "suffix": "b"}"#;
        assert_eq!(hole(&parse(&[], open)), (true, 32));
        assert_eq!(hole(&parse(&[("max-new-tokens", "9")], open)), (true, 9));
        let own = r#"{"prefix": "a", "suffix": "b", "max_new_tokens": 5}"#;
        assert_eq!(hole(&parse(&[("max-new-tokens", "9")], own)), (true, 5));
        let said = r#"{"prefix": "a", "suffix": "b", "length": 3, "steps": 3}"#;
        assert_eq!(hole(&parse(&[("max-new-tokens", "9")], said)), (false, 3));
        let nothing_follows = r#"{"prefix": "a", "suffix": ""}"#;
        assert_eq!(hole(&parse(&[], nothing_follows)), (false, 256));
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
                "cannot be used with",
            ),
            (r#"{"prefix": "x"}"#, "go together"),
            (r#"{"prompt": "x", "suffix": "y"}"#, "suffix too"),
            (r#"{"prompt": "x", "length": 3}"#, "a hole's"),
            (
                r#"{"prefix": "x", "suffix": "y", "length": 0}"#,
                "at least 1",
            ),
            (
                r#"{"prefix": "x", "suffix": "y", "length": 3, "max_new_tokens": 9}"#,
                "max_new_tokens too",
            ),
        ] {
            assert!(refusal(line).contains(says), "{line}: {}", refusal(line));
        }
        let error = parser(&[]).parse(b"{\"prompt\": \"\xff\"}", 1).unwrap_err();
        assert_eq!(error, "not UTF-8 (byte 12)");
    }
}
