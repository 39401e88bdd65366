//! Defaults of flags from the environment and from a configuration file.
//!
//! Precedence: flag, `DIFFUCODER_*` variable, file, built in. The file is TOML, with the flags'
//! long names as keys. Which flags: those that say how to compute, not what to do (the ones under a
//! heading in the help, and a few more).
//!
//! A default is a wish for every command and model, and so must not break those that it does not
//! suit: where it cannot apply it steps back, and a note says so. What is typed is an order, and
//! wrong usage there. The model itself never steps back: another one is not what was asked for.

pub mod layers;
mod save;

use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command};
use etcetera::BaseStrategy;
use toml::de::{DeTable, DeValue};

use self::layers::{Values, find, is_switch};
use crate::cli::habits;
use crate::cli::hints::hint;
use crate::cli::usage::UsageError;
use diffucoder::atomic;
use diffucoder::hub::ModelSpec;

/// Flags outside the headings that can have defaults too.
const ALSO: [&str; 3] = ["quiet", "raw", "system"];
const PREFIX: &str = "DIFFUCODER_";
/// The variable that is no flag.
const OF_FILE: &str = "DIFFUCODER_CONFIG";

/// Every default that was found.
#[derive(Debug, Default)]
pub struct Defaults {
    pub file: Option<PathBuf>,
    /// Those of variables first, which win over the file's.
    entries: Vec<Entry>,
    /// What `config` says of variables with our prefix that mean nothing.
    pub unknown: Vec<String>,
    /// What is to be told, once: why the file that nobody named is not read, and variables that are
    /// written nearly as one that there is.
    pub notes: Vec<String>,
}

/// One default.
#[derive(Debug)]
pub struct Entry {
    name: String,
    values: Vec<String>,
    /// For a person: `config.toml:3` or the variable.
    pub source: String,
    is_variable: bool,
}

impl Entry {
    /// For a person, as one text.
    pub fn value(&self) -> String {
        self.values.join(", ")
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.name, self.value(), self.source)
    }
}

impl Defaults {
    /// Reads environment and file, and checks every value against the flags of `cli`. None are
    /// read for a command that was typed and has no use for them.
    ///
    /// # Errors
    /// Wrong usage with variable or file and line, or a file that cannot be read.
    pub fn load(cli: &Command, typed: &ArgMatches) -> anyhow::Result<Self> {
        let mut defaults = Self::default();
        let name = typed.subcommand_name().unwrap_or_default();
        let has_settable = |command: &Command| command.get_arguments().any(can_have_default);
        if name != "config" && !cli.find_subcommand(name).is_some_and(has_settable) {
            return Ok(defaults);
        }
        defaults.read_environment(cli)?;
        let named = typed.get_one::<PathBuf>("config").cloned().or_else(|| {
            env::var_os(OF_FILE)
                .filter(|v| !v.is_empty())
                .map(Into::into)
        });
        let Some(path) = named.clone().or_else(usual_file) else {
            return Ok(defaults);
        };
        match (fs::read(&path), &named) {
            (Ok(bytes), _) => {
                let text = String::from_utf8(bytes).map_err(|error| {
                    let at = error.utf8_error().valid_up_to();
                    UsageError::new(format!("{} is not UTF-8 (byte {at})", path.display()))
                })?;
                defaults.read_file(cli, &path, &text)?;
            }
            (Err(error), Some(_)) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
            // Nobody asked for this one. Under sudo, su and in containers HOME can be anybody's.
            (Err(error), None) => {
                let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
                if !absent.contains(&error.kind()) {
                    let reason = format!("going on without {}: {error}", path.display());
                    defaults.notes.push(reason);
                }
            }
        }
        defaults.file = Some(path);
        Ok(defaults)
    }

    fn read_environment(&mut self, cli: &Command) -> Result<(), UsageError> {
        for (variable, value) in env::vars_os() {
            let Some(variable) = variable.to_str().filter(|v| v.starts_with(PREFIX)) else {
                continue;
            };
            let name = variable[PREFIX.len()..].to_lowercase().replace('_', "-");
            if variable == OF_FILE || value.is_empty() {
                continue;
            }
            if settable(cli, &name).is_none() {
                let mut names = all_settable(cli)
                    .into_iter()
                    .filter_map(|arg| arg.get_long());
                let meant = names.find(|other| habits::is_near(&name, other));
                let said = format!("{variable} is set, but there is no such setting");
                match meant.map(|name| name.to_uppercase().replace('-', "_")) {
                    Some(name) => self
                        .notes
                        .push(format!("{said}: did you mean {PREFIX}{name}?")),
                    None => self.unknown.push(said),
                }
                continue;
            }
            let value = value
                .to_str()
                .ok_or_else(|| UsageError::new(format!("{variable} is not UTF-8")))?;
            let value = check(cli, &name, value, variable)?;
            self.entries.push(Entry {
                name,
                values: vec![value],
                source: variable.to_string(),
                is_variable: true,
            });
        }
        Ok(())
    }

    fn read_file(&mut self, cli: &Command, path: &Path, toml: &str) -> Result<(), UsageError> {
        let place = |at: usize| {
            let line = toml.get(..at).unwrap_or(toml).matches('\n').count() + 1;
            format!("{}:{line}", path.display())
        };
        let table = DeTable::parse(toml).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let message = format!("{}: {}", place(at), error.message());
            let before = toml.get(..at).unwrap_or_default();
            let line = before.rfind('\n').map_or(0, |end| end + 1);
            let line = toml.get(line..).and_then(|rest| rest.lines().next());
            let value = line.and_then(|line| line.split_once('='));
            match value.map(|(key, value)| (key.trim(), value.trim())) {
                Some((key, value))
                    if value.starts_with(|c: char| c.is_alphabetic() || c == '/') =>
                {
                    let hint = format!("a text needs quotes: {key} = \"{value}\"");
                    UsageError::with_hint(message, hint)
                }
                _ => UsageError::new(message),
            }
        })?;
        for (key, value) in table.get_ref() {
            let (name, source) = (key.get_ref().to_string(), place(key.span().start));
            let Some(flag) = settable(cli, &name) else {
                return Err(unknown_key(cli, &name, &source));
            };
            let texts = match value.get_ref() {
                DeValue::Array(several) if layers::is_repeatable(flag) => {
                    several.iter().map(|one| text(one.get_ref())).collect()
                }
                one => text(one).map(|text| vec![text]),
            };
            let texts: Vec<String> = texts
                .ok_or_else(|| UsageError::new(format!("{source}: {name} is not one value")))?;
            let checked = texts.iter().map(|text| check(cli, &name, text, &source));
            self.entries.push(Entry {
                values: checked.collect::<Result<_, _>>()?,
                name,
                source,
                is_variable: false,
            });
        }
        Ok(())
    }

    /// Writes these into the configuration file, of which the rest stays as it is, and gives its
    /// name. A mode takes the place of `exact`, which says the same in another way.
    ///
    /// # Errors
    /// When there is no such file and no place for one, or it cannot be written.
    pub fn save(&self, values: &[(&str, &str)]) -> anyhow::Result<&Path> {
        let path = self
            .file
            .as_deref()
            .context("there is no folder for configuration here")?;
        let cannot = || format!("cannot write {}", path.display());
        let mut text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        for (name, value) in values {
            if *name == "mode" {
                text = save::without_switch(&text, "exact")?;
            }
            text = save::with_value(&text, name, value)?;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(cannot)?;
        }
        atomic::write(path, true, text.as_bytes()).with_context(cannot)?;
        Ok(path)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The command line with these as its defaults, for the arguments that `matches` holds.
    pub fn apply(&self, cli: Command, matches: &ArgMatches) -> Command {
        let command = self.apply_to(cli, matches);
        match matches.subcommand() {
            Some((name, matches)) => {
                command.mut_subcommand(name, |command| self.apply_to(command, matches))
            }
            None => command,
        }
    }

    fn apply_to(&self, command: Command, matches: &ArgMatches) -> Command {
        let mut above = layers::given(&command, matches, &Values::new());
        let environment = self.layer(true);
        let command = layers::with_defaults(command, &environment, &above);
        above.extend(environment);
        layers::with_defaults(command, &self.layer(false), &above)
    }

    /// Takes out the default that makes this wrong usage, and says which. `None` if all that it is
    /// about was typed, or is the model.
    pub fn step_back(
        &mut self,
        error: &UsageError,
        cli: &Command,
        matches: &ArgMatches,
    ) -> Option<Entry> {
        let typed = typed(cli, matches);
        let may = |name: &&&str| **name != "model" && !typed.contains_key(**name);
        let place = |name: &&str| self.entries.iter().position(|entry| entry.name == **name);
        let at = error.flags.iter().filter(may).find_map(place)?;
        Some(self.entries.remove(at))
    }

    /// Wrong usage, with where the flags that it is about came from if they were not typed.
    pub fn blame(&self, mut error: UsageError, cli: &Command, matches: &ArgMatches) -> UsageError {
        let typed = typed(cli, matches);
        let untyped = error
            .flags
            .iter()
            .filter(|name| !typed.contains_key(**name));
        let sources = untyped
            .filter_map(|name| Some(format!("--{name} comes from {}", self.of(name)?.source)));
        let hints = sources.chain(error.hint.take());
        error.hint = Some(hints.collect::<Vec<_>>().join("; ")).filter(|hint| !hint.is_empty());
        error
    }

    /// All values by flag: the environment's over the file's.
    pub fn values(&self) -> Values {
        let mut all = self.layer(false);
        all.extend(self.layer(true));
        all
    }

    /// Those of the variables, or those of the file.
    fn layer(&self, is_variable: bool) -> Values {
        let entries = self.entries.iter();
        let entries = entries.filter(|entry| entry.is_variable == is_variable);
        let pairs = entries.map(|entry| (entry.name.clone(), entry.values.clone()));
        pairs.collect()
    }

    /// What a flag that is not typed gets, and from where.
    pub fn of(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The variable that a value of the file yields to, for another flag.
    pub fn yields_to(&self, cli: &Command, name: &str) -> Option<&Entry> {
        let mut commands = cli.get_subcommands();
        let (command, arg) = commands.find_map(|command| Some((command, find(command, name)?)))?;
        let environment = self.layer(true);
        let other = layers::blocking(command, arg, &environment)?;
        self.of(other).filter(|entry| entry.name != name)
    }
}

/// The flags of the command that were typed.
fn typed(cli: &Command, matches: &ArgMatches) -> Values {
    let (name, matches) = matches.subcommand().unwrap_or(("", matches));
    let command = cli.find_subcommand(name).unwrap_or(cli);
    layers::given(command, matches, &Values::new())
}

/// What a value of the file says; `None` if it is not one value.
fn text(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .ok()?
            .to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(switch) => switch.to_string(),
        _ => return None,
    })
}

/// Every flag that can have a default, once, in the order of the help.
pub fn all_settable(cli: &Command) -> Vec<&Arg> {
    let mut flags: Vec<&Arg> = Vec::new();
    for command in std::iter::once(cli).chain(cli.get_subcommands()) {
        for arg in command.get_arguments().filter(|arg| can_have_default(arg)) {
            if flags.iter().all(|flag| flag.get_long() != arg.get_long()) {
                flags.push(arg);
            }
        }
    }
    flags
}

fn can_have_default(arg: &Arg) -> bool {
    let is_shared = arg.get_help_heading().is_some();
    let is_also = arg.get_long().is_some_and(|name| ALSO.contains(&name));
    (is_shared || is_also) && !arg.is_required_set() && arg.get_long().is_some()
}

fn settable<'a>(cli: &'a Command, name: &str) -> Option<&'a Arg> {
    all_settable(cli)
        .into_iter()
        .find(|arg| arg.get_long() == Some(name))
}

/// The value as the flag takes it.
fn check(cli: &Command, name: &str, value: &str, source: &str) -> Result<String, UsageError> {
    let refuse = |reason: String| Err(UsageError::new(format!("{source}: {reason}")));
    if settable(cli, name).is_some_and(is_switch) {
        return match value.to_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok("true".into()),
            "false" | "0" | "no" | "off" => Ok("false".into()),
            _ => refuse(format!("{name} is true or false, not `{value}`")),
        };
    }
    if name == "model"
        && let Err(error) = ModelSpec::parse(value)
    {
        let refused = UsageError::new(format!("{source}: {error}"));
        return Err(UsageError {
            hint: hint(&error.into()),
            ..refused
        });
    }
    let mut commands = cli.get_subcommands();
    let Some(command) = commands.find(|command| find(command, name).is_some()) else {
        return Ok(value.into());
    };
    let probe = command.clone().no_binary_name(true);
    match probe.try_get_matches_from([format!("--{name}={value}")]) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidValue | ErrorKind::ValueValidation
            ) =>
        {
            let text = error.to_string();
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            let end = lines.iter().position(|line| line.is_empty()).unwrap_or(1);
            let reason = lines[..end].join(" ");
            refuse(reason.trim_start_matches("error: ").to_string())
        }
        _ => Ok(value.into()),
    }
}

fn unknown_key(cli: &Command, name: &str, source: &str) -> UsageError {
    let message = format!("{source}: there is no setting `{name}`");
    let dashed = name.replace('_', "-");
    if settable(cli, &dashed).is_some() {
        return UsageError::with_hint(message, format!("did you mean `{dashed}`?"));
    }
    let names: Vec<&str> = all_settable(cli)
        .iter()
        .filter_map(|arg| arg.get_long())
        .collect();
    UsageError::with_hint(message, format!("the settings are {}", names.join(", ")))
}

/// `diffucoder/config.toml` in the user's folder for such files.
fn usual_file() -> Option<PathBuf> {
    let folders = etcetera::choose_base_strategy().ok()?;
    Some(folders.config_dir().join("diffucoder").join("config.toml"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    /// clap finds two flags of one id in debug builds alone; the value of one is then the other's.
    #[test]
    fn every_flag_of_a_command_has_an_id_of_its_own() {
        let cli = crate::cli::Cli::command();
        for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
            let mut seen = BTreeSet::new();
            for arg in command.get_arguments() {
                let (name, id) = (command.get_name(), arg.get_id());
                assert!(seen.insert(id), "{name} has two arguments of the id {id}");
            }
        }
    }
}
