//! Which modules an adapter's keys name, by patterns and by the ends of their names.
//!
//! Source: `get_pattern_key` in `utils/other.py`, `check_target_module_exists` in
//! `tuners/tuners_utils.py` and `_set_trainable` in `utils/other.py` of huggingface/peft.

use regex::Regex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What modules have of their own, by patterns of their names. The first that matches counts, so
/// they stay in the order of the file.
#[derive(Default, Deserialize)]
#[serde(
    try_from = "Option<Map<String, Value>>",
    bound(deserialize = "T: DeserializeOwned")
)]
pub(super) struct Patterns<T>(Vec<(String, T)>);

impl<T: DeserializeOwned> TryFrom<Option<Map<String, Value>>> for Patterns<T> {
    type Error = serde_json::Error;

    fn try_from(map: Option<Map<String, Value>>) -> Result<Self, Self::Error> {
        let each = map.into_iter().flatten();
        let read = each.map(|(key, value)| Ok((key, serde_json::from_value(value)?)));
        read.collect::<Result<_, _>>().map(Self)
    }
}

impl<T: Copy> Patterns<T> {
    pub fn values(&self) -> impl Iterator<Item = T> {
        self.0.iter().map(|(_, value)| *value)
    }

    /// What a module has: that of the first key that the end of its name is a match of.
    pub fn of(&self, module: &str) -> Option<T> {
        let matches = |key: &str| match Regex::new(&format!(r"^(?:.*\.)?(?:{key})$")) {
            Ok(pattern) => pattern.is_match(module),
            Err(_) => has_end(module, key),
        };
        let mut patterns = self.0.iter();
        let found = patterns.find(|(key, _)| matches(key));
        found.map(|(_, value)| *value)
    }
}

/// The modules that are adapted.
#[derive(Deserialize)]
pub(super) struct Targets {
    target_modules: Option<Names>,
    exclude_modules: Option<Names>,
    layers_to_transform: Option<Layers>,
}

/// Modules, by the ends of their names or by a pattern for the whole of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    Ends(Vec<String>),
    Pattern(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(usize),
    Several(Vec<usize>),
}

impl Targets {
    /// Whether a module is adapted; `None` where this program cannot tell: of all linear layers,
    /// and by patterns of Python's that are none of Rust's.
    pub fn contain(&self, module: &str) -> Option<bool> {
        let is_named = match self.target_modules.as_ref()? {
            Names::Pattern(pattern) if pattern == "all-linear" => return None,
            names => names.contain(module)?,
        };
        let is_excluded = match &self.exclude_modules {
            Some(names) => names.contain(module)?,
            None => false,
        };
        let mut numbers = module.rsplit('.').filter_map(|part| part.parse().ok());
        let layer: Option<usize> = numbers.next();
        let is_of_layer = match &self.layers_to_transform {
            None => true,
            Some(Layers::One(one)) => layer == Some(*one),
            Some(Layers::Several(all)) => layer.is_some_and(|layer| all.contains(&layer)),
        };
        Some(is_named && !is_excluded && is_of_layer)
    }
}

impl Names {
    fn contain(&self, module: &str) -> Option<bool> {
        match self {
            Self::Ends(ends) => Some(ends.iter().any(|end| has_end(module, end))),
            Self::Pattern(pattern) => {
                let pattern = Regex::new(&format!("^(?:{pattern})$")).ok()?;
                Some(pattern.is_match(module))
            }
        }
    }
}

pub(super) fn has_end(module: &str, end: &str) -> bool {
    module
        .strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_pattern_of_the_file_counts() {
        let read = |json: &str| serde_json::from_str::<Patterns<f64>>(json);
        let patterns = read(r#"{"v_proj": 3, "layers.1.self_attn.v_proj": 5, "q_proj": 7}"#);
        let patterns = patterns.unwrap();
        assert_eq!(patterns.of("model.layers.1.self_attn.v_proj"), Some(3.0));
        assert_eq!(patterns.of("model.layers.1.self_attn.q_proj"), Some(7.0));
        assert_eq!(patterns.of("model.layers.1.self_attn.k_proj"), None);
        assert!(read(r#"{"v_proj": "three"}"#).is_err());
    }

    #[test]
    fn targets_are_ends_or_a_pattern_but_for_what_is_left_out() {
        let contain = |targets: Value, module: &str| {
            let targets: Targets = serde_json::from_value(targets).unwrap();
            targets.contain(module)
        };
        let [first, second] = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"];
        for (targets, of_first, of_second) in [
            (json!({"target_modules": ["up_proj"]}), true, true),
            (
                json!({"target_modules": ["p_proj", "down_proj"]}),
                false,
                false,
            ),
            (json!({"target_modules": ".*\\.0\\..*"}), true, false),
            (
                json!({"target_modules": ["mlp.up_proj"], "exclude_modules": ["0.mlp.up_proj"]}),
                false,
                true,
            ),
            (
                json!({"target_modules": ["up_proj"], "exclude_modules": ".*1.*"}),
                true,
                false,
            ),
            (
                json!({"target_modules": ["up_proj"], "layers_to_transform": 1}),
                false,
                true,
            ),
            (
                json!({"target_modules": ["up_proj"], "layers_to_transform": [0, 5]}),
                true,
                false,
            ),
        ] {
            assert_eq!(contain(targets.clone(), first), Some(of_first), "{targets}");
            assert_eq!(
                contain(targets.clone(), second),
                Some(of_second),
                "{targets}"
            );
        }
        let all = json!({"target_modules": ["lm_head"], "layers_to_transform": [0]});
        assert_eq!(contain(all, "lm_head"), Some(false), "it is in no layer");
        for unknown in [json!("all-linear"), json!("(?!x).*"), json!(null)] {
            assert_eq!(contain(json!({"target_modules": unknown}), first), None);
        }
    }
}
