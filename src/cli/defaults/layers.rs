//! Values of flags that come from elsewhere than the command line, as text and by the flags' names.
//!
//! They become the flags' defaults, so that clap checks them as it checks what was typed. A value
//! steps back for a flag of a higher layer that it cannot be combined with.

use std::collections::BTreeMap;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// Values by the flags' long names.
pub type Values = BTreeMap<String, String>;

/// The command with `layer` as defaults; flags of `above` hold already and are not touched.
pub fn with_defaults(mut command: Command, layer: &Values, above: &[String]) -> Command {
    for (name, value) in layer {
        let is_blocked = above.contains(name)
            || find(&command, name).is_none_or(|arg| conflicts(&command, arg, above));
        if !is_blocked && let Some(id) = find(&command, name).map(|arg| arg.get_id().clone()) {
            let value = value.clone();
            command = command.mut_arg(id, |arg| arg.default_value(value));
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

/// Whether a flag, or one that excludes it, is among `names`.
fn conflicts(command: &Command, arg: &Arg, names: &[String]) -> bool {
    let excludes = |one: &Arg, other: &Arg| {
        let conflicts = command.get_arg_conflicts_with(one);
        conflicts.iter().any(|arg| arg.get_id() == other.get_id())
    };
    let named = names.iter().filter_map(|name| find(command, name));
    let mut others = named.filter(|other| other.get_id() != arg.get_id());
    others.any(|other| excludes(arg, other) || excludes(other, arg))
}

/// What the matches hold that is not built in: typed, or from a layer.
pub fn given(command: &Command, matches: &ArgMatches, of_layers: &Values) -> Values {
    let text = |arg: &Arg| {
        let name = arg.get_long()?;
        let id = arg.get_id().as_str();
        let is_typed = matches.value_source(id) == Some(ValueSource::CommandLine);
        if !is_typed && !of_layers.contains_key(name) {
            return None;
        }
        let value = match is_switch(arg) {
            true => matches.get_flag(id).to_string(),
            false => {
                let mut raw = matches.get_raw(id)?;
                raw.next()?.to_str()?.to_string()
            }
        };
        Some((name.to_string(), value))
    };
    command.get_arguments().filter_map(text).collect()
}
