//! What is to be solved, and how a solution is tried.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use diffucoder::package::Package;
use diffucoder::session::{Ends, Function};

use crate::cli::form::Form;
use crate::cli::lines::format::LineFormat;
use crate::cli::lines::input::Source;
use crate::cli::lines::line::{Line, Parser, Request};
use crate::cli::usage::UsageError;

/// Problems of our own, in the form of HumanEval.
const BUILT_IN: &str = include_str!("problems.jsonl");

/// Problems by the number of their line, or why a line is none.
pub struct Problems {
    pub name: String,
    pub format: LineFormat,
    pub all: Vec<(usize, Result<Problem, UsageError>)>,
}

/// A problem.
#[derive(Debug)]
pub struct Problem {
    pub line: Line,
    tests: Option<Tests>,
    /// What its author wrote.
    canonical: Option<String>,
}

/// What stands round a solution to try it.
#[derive(Debug)]
struct Tests {
    before: String,
    after: String,
}

/// A solution as Python takes it.
pub struct Programs {
    /// As it was written, up to the last whole line where it was cut off.
    pub written: String,
    /// The part of it that is asked for, with its tests.
    pub tested: Option<String>,
}

impl Problems {
    /// The first `limit` of a file, or of our own.
    ///
    /// # Errors
    /// When the file cannot be read, or has none.
    pub fn read(path: Option<&Path>, limit: usize) -> anyhow::Result<Self> {
        let source = match path {
            Some(path) => Source::open(path)?,
            None => Source::built_in(BUILT_IN, "the built-in problems"),
        };
        let mut lines = source.lines()?;
        let format = lines.peek()?.map_or(LineFormat::Json, LineFormat::of_line);
        let parser = Parser::without_settings(format);
        let (mut all, mut seen) = (Vec::new(), HashMap::new());
        while let Some((number, line)) = lines.next()?
            && all.len() < limit
        {
            let problem = line.and_then(|line| Problem::parse(&parser, &line, number, format));
            let problem = problem.and_then(|problem| {
                match seen.insert(problem.line.id.to_string(), number) {
                    None => Ok(problem),
                    Some(other) => {
                        let message = format!("its id is on line {other} already");
                        Err(UsageError::new(message))
                    }
                }
            });
            all.push((number, problem));
        }
        let name = lines.name().to_string();
        if all.iter().all(|(_, problem)| problem.is_err()) {
            let first = all
                .into_iter()
                .find_map(|(number, problem)| Some((number, problem.err()?)));
            return Err(match first {
                None => UsageError::new(format!("{name} has no problems")),
                Some((number, error)) => UsageError {
                    message: format!("{name}:{number}: {error}"),
                    ..error
                },
            }
            .into());
        }
        Ok(Self { name, format, all })
    }
}

impl Problem {
    fn parse(
        parser: &Parser,
        line: &[u8],
        number: usize,
        format: LineFormat,
    ) -> Result<Self, UsageError> {
        let keys: Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
        let text = |key: &str| keys.get(key).and_then(Value::as_str);
        Ok(Self {
            line: parser.parse(line, number)?,
            tests: Tests::of(&keys, format),
            canonical: text("canonical_solution").map(str::to_string),
        })
    }

    /// Whether it can be tried.
    pub fn has_tests(&self) -> bool {
        self.tests.is_some()
    }

    /// Whether text follows what is to be written.
    pub fn is_hole(&self) -> bool {
        matches!(self.line.request, Request::Fill { is_open: true, .. })
    }

    /// What stood in the hole, where the problem is one.
    pub fn filling(&self) -> Option<&str> {
        match self.line.request {
            Request::Fill { .. } => self.canonical.as_deref().filter(|text| !text.is_empty()),
            Request::Answer { .. } => None,
        }
    }

    /// As the model takes it. A chat model answers with code alone.
    pub fn form(&self, format: LineFormat, package: &Package) -> Form {
        let format = match format {
            LineFormat::Json => LineFormat::HumanEval,
            other => other,
        };
        Form::of(&self.line, (false, format), package)
    }

    /// What Python gets of a result, which is whole or was cut off at the end of the canvas.
    pub fn programs(
        &self,
        (form, format): (&Form, LineFormat),
        text: &str,
        is_whole: bool,
    ) -> Programs {
        let Request::Answer { prompt } = &self.line.request else {
            let written = form.whole(text);
            return Programs {
                tested: self.tested(&written),
                written,
            };
        };
        let end = match is_whole {
            true => text.len(),
            false => text.rfind('\n').map_or(0, |at| at + 1),
        };
        let text = &text[..end];
        let continues = matches!(format, LineFormat::HumanEval | LineFormat::Evalplus);
        let whole = |text: &str| match continues {
            true => format!("{prompt}{}", form.completion(text)),
            false => form.whole(text),
        };
        // A model that continues goes on behind the function, with whatever comes to its mind.
        let end = match form {
            Form::Answer(asking) if continues && !asking.is_chat() => Ends {
                function: Function::of_language("python", prompt),
                ..Ends::default()
            }
            .cut(text),
            Form::Answer(_) | Form::Fill(_) => None,
        };
        Programs {
            written: whole(text),
            tested: self.tested(&whole(&text[..end.unwrap_or(text.len())])),
        }
    }

    fn tested(&self, solution: &str) -> Option<String> {
        let Tests { before, after } = self.tests.as_ref()?;
        Some(format!("{before}{solution}\n{after}"))
    }
}

impl Tests {
    fn of(keys: &Map<String, Value>, format: LineFormat) -> Option<Self> {
        let text = |key: &str| keys.get(key).and_then(Value::as_str).unwrap_or_default();
        let lines = |key: &str| match keys.get(key) {
            Some(Value::Array(lines)) => lines
                .iter()
                .filter_map(|line| Some(format!("{}\n", line.as_str()?)))
                .collect(),
            _ => String::new(),
        };
        let (test, name) = (text("test"), text("entry_point"));
        match format {
            LineFormat::Mbpp => Some(Self {
                before: format!("{}{}\n", lines("test_imports"), text("test_setup_code")),
                after: lines("test_list"),
            })
            .filter(|tests| !tests.after.is_empty()),
            _ if test.is_empty() || name.is_empty() => None,
            _ => Some(Self {
                before: String::new(),
                after: format!("{test}\ncheck({name})\n"),
            }),
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::time::Duration;

    use super::super::execution::Python;
    use super::*;

    #[test]
    fn our_own_problems_can_be_solved_and_their_tests_tell() {
        let Some(python) = Python::of_tests() else {
            return;
        };
        let time = Duration::from_secs(10);
        let problems = Problems::read(None, usize::MAX).unwrap();
        assert_eq!(problems.all.len(), 24);
        for (_, problem) in problems.all {
            let problem = problem.unwrap();
            let Request::Answer { prompt } = &problem.line.request else {
                panic!("no hole is among them");
            };
            let passes = |solution: &str| {
                let program = problem.tested(&format!("{prompt}{solution}")).unwrap();
                python.run(&program, time).unwrap().is_passed()
            };
            assert!(passes(problem.canonical.as_ref().unwrap()), "{prompt}");
            assert!(!passes("    return None\n"), "{prompt}");
        }
    }

    #[test]
    fn tests_of_mbpp_stand_behind_what_they_import() {
        let keys = r#"{"test_imports": ["import math"], "test_list": ["assert f() == math.pi"]}"#;
        let keys = serde_json::from_str(keys).unwrap();
        let tests = Tests::of(&keys, LineFormat::Mbpp).unwrap();
        assert_eq!(tests.before, "import math\n\n");
        assert_eq!(tests.after, "assert f() == math.pi\n");
        assert!(Tests::of(&Map::new(), LineFormat::Mbpp).is_none());
        assert!(Tests::of(&keys, LineFormat::HumanEval).is_none());
    }
}
