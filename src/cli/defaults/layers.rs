//! Values of flags that come from elsewhere than the command line, as text and by the flags' names.
//!
//! They become the flags' defaults, so that clap checks them as it checks what was typed. A value
//! steps back for a flag of a higher layer that it cannot be combined with.

use std::collections::BTreeMap;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// Values by the flags' long names: one each, or several where a flag can be repeated.
pub type Values = BTreeMap<String, Vec<String>>;

/// The command with `layer` as defaults; flags of `above` hold already and are not touched.
pub fn with_defaults(mut command: Command, layer: &Values, above: &Values) -> Command {
    for (name, value) in layer {
        let free = find(&command, name).filter(|arg| blocking(&command, arg, above).is_none());
        if let Some(id) = free.map(|arg| arg.get_id().clone()) {
            let value = value.clone();
            command = command.mut_arg(id, |arg| arg.default_values(value));
        }
    }
    command
}

/// The flag with this long name.
pub fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(name))
}

/// Whether it takes no value.
pub fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether it can be given several times.
pub fn is_repeatable(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Which flag of `above` this one yields to: itself, one that it cannot be combined with, or one
/// that says what it says too. A switch that is off excludes nothing.
pub fn blocking<'a>(command: &Command, arg: &Arg, above: &'a Values) -> Option<&'a str> {
    let excludes = |one: &Arg, other: &Arg| {
        let conflicts = command.get_arg_conflicts_with(one);
        conflicts.iter().any(|arg| arg.get_id() == other.get_id())
    };
    let blocks = |(name, value): &(&String, &Vec<String>)| {
        find(command, name).is_some_and(|other| {
            let is_off = is_switch(other) && value.iter().all(|value| value == "false");
            other.get_id() == arg.get_id()
                || !is_off && (excludes(arg, other) || excludes(other, arg) || is_part(arg, other))
        })
    };
    above.iter().find(blocks).map(|(name, _)| name.as_str())
}

/// Whether a flag says a part of what this other one says as a whole: a mode has a value for each
/// of those under its heading.
fn is_part(arg: &Arg, whole: &Arg) -> bool {
    matches!(whole.get_long(), Some("mode" | "exact"))
        && arg.get_help_heading() == Some("Decoding")
        && !matches!(arg.get_long(), Some("mode" | "reuse-context"))
}

/// The values of a flag that the matches hold, wherever they come from.
pub fn values_of(arg: &Arg, matches: &ArgMatches) -> Option<Vec<String>> {
    let id = arg.get_id().as_str();
    if is_switch(arg) {
        return Some(vec![matches.get_flag(id).to_string()]);
    }
    let raw = matches.get_raw(id)?;
    raw.map(|value| Some(value.to_str()?.to_string())).collect()
}

/// The values of a flag that nobody sets; none where that is the absence of one.
pub fn built_in(arg: &Arg) -> Vec<String> {
    let values = arg.get_default_values().iter();
    let mut values: Vec<String> = values.map(|v| v.to_string_lossy().into_owned()).collect();
    if is_switch(arg) && values.is_empty() {
        values.push("false".into());
    }
    values
}

/// What the matches hold that is not built in: typed, or from a layer.
pub fn given(command: &Command, matches: &ArgMatches, of_layers: &Values) -> Values {
    let given = |arg: &Arg| {
        let name = arg.get_long()?;
        let id = arg.get_id().as_str();
        if !is_typed(matches, id) && !of_layers.contains_key(name) {
            return None;
        }
        Some((name.to_string(), values_of(arg, matches)?))
    };
    command.get_arguments().filter_map(given).collect()
}

/// Whether a flag stands on the command line.
pub fn is_typed(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags as those that are added some day: one that can be repeated, and two that exclude each
    /// other.
    fn command() -> Command {
        Command::new("x").no_binary_name(true).args([
            Arg::new("stop").long("stop").action(ArgAction::Append),
            Arg::new("exact").long("exact").action(ArgAction::SetTrue),
            Arg::new("mode")
                .long("mode")
                .conflicts_with("exact")
                .default_value("fast"),
        ])
    }

    fn values(pairs: &[(&str, &[&str])]) -> Values {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        let pairs = pairs
            .iter()
            .map(|(name, all)| (name.to_string(), texts(all)));
        pairs.collect()
    }

    #[test]
    fn a_flag_that_is_repeated_keeps_all_its_values() {
        let layer = values(&[("stop", &["a", "b"])]);
        let layered = with_defaults(command(), &layer, &Values::new());
        let matches = layered.clone().get_matches_from([""; 0]);
        assert_eq!(given(&command(), &matches, &layer), layer);
        let matches = layered.get_matches_from(["--stop=c", "--stop=d"]);
        let typed = values(&[("stop", &["c", "d"])]);
        assert_eq!(given(&command(), &matches, &Values::new()), typed);
    }

    #[test]
    fn a_value_steps_back_for_a_switch_that_is_on() {
        let mode = |exact: &str| {
            let above = values(&[("exact", &[exact])]);
            let layered = with_defaults(command(), &values(&[("mode", &["quality"])]), &above);
            let matches = layered.get_matches_from([""; 0]);
            matches.get_one::<String>("mode").cloned().unwrap()
        };
        assert_eq!([mode("true"), mode("false")], ["fast", "quality"]);
    }
}
