//! What fingers have learned elsewhere: a prompt without a command, flags and commands of other
//! programs, and mistyped ones.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::Path;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command, CommandFactory};

use crate::cli::usage::UsageError;

/// Arguments as clap takes them: `diffucoder "…"` and `diffucoder --prompt …` are `generate`.
///
/// A single word is no prompt, since it is most likely a mistyped command.
pub fn with_command(mut args: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1; // behind the flags of every command
    let first = loop {
        match args.get(at).map(|arg| arg.to_string_lossy()) {
            None => return args,
            Some(arg) if matches!(&*arg, "-q" | "--quiet") || arg.starts_with("--config=") => {
                at += 1
            }
            Some(arg) if arg == "--config" => at += 2,
            Some(arg) => break arg,
        }
    };
    let is_own = matches!(&*first, "-h" | "--help" | "-V" | "--version");
    if !is_own && (first.starts_with('-') || first.trim().contains(char::is_whitespace)) {
        args.insert(1, "generate".into());
    }
    args
}

/// Has every flag take a number below zero as its value, to say itself what it wants instead.
pub fn taking_numbers(cli: Command) -> Command {
    cli.mut_subcommands(|command| {
        command.mut_args(|arg| {
            let takes = arg.get_action().takes_values() && !arg.is_positional();
            arg.allow_negative_numbers(takes)
        })
    })
}

/// Of a prompt without a command: refuses the name of a command in its place, which came behind a
/// flag.
///
/// # Errors
/// Wrong usage.
pub fn check_order(
    cli: &Command,
    matches: &ArgMatches,
    given: &[OsString],
) -> Result<(), UsageError> {
    let prompt = |(_, matches): (&str, &ArgMatches)| matches.get_one("prompt_words").cloned();
    let prompt: Option<String> = matches.subcommand().and_then(prompt);
    let is_explicit = given.iter().any(|arg| arg == "--");
    let Some(word) = prompt.filter(|_| !is_explicit) else {
        return Ok(());
    };
    let is_meant = |name: &str| name == word || (word.len() > 4 && is_near(&word, name));
    let mut commands = cli.get_subcommands();
    let meant =
        commands.find(|known| is_meant(known.get_name()) || known.get_all_aliases().any(is_meant));
    match meant.map(Command::get_name) {
        Some(name) => Err(UsageError::with_hint(
            format!("`{word}` is no prompt: a command comes first"),
            format!(
                "diffucoder {name} with the flags behind it; that prompt is diffucoder generate {word}"
            ),
        )),
        None => Ok(()),
    }
}

/// Flags of other programs, without their dashes, and what serves the purpose here.
const FLAGS: [(&[&str], &str); 9] = [
    (&["modle"], "a similar argument exists: '--model'"), // as near to --mode, which is rarer
    (
        &["s"],
        "it is --seed in llama-cli and --system in llm: write out which one",
    ),
    (&["stream"], "text goes to stdout as it is decided"),
    (&["v", "verbose"], "--json prints ids, order and timing"),
    (&["format"], "--json prints one JSON object"),
    (
        &["n-gpu-layers", "gpu-layers"],
        "--device chooses where to compute, and all layers are there",
    ),
    (
        &[
            "min-p",
            "repeat-penalty",
            "presence-penalty",
            "frequency-penalty",
        ],
        "--temperature, --top-p and --top-k bound what is drawn",
    ),
    (&["no-display-prompt"], "the prompt is not printed"),
    (
        &["i", "interactive", "conversation", "chat"],
        "there are no conversations: each run answers one prompt",
    ),
];

/// Commands of other programs.
const COMMANDS: [(&[&str], &str); 2] = [
    (
        &["run", "chat", "prompt", "ask", "complete"],
        "`diffucoder generate --model MODEL PROMPT` answers a prompt",
    ),
    (
        &["show", "search"],
        "`diffucoder models` shows what there is",
    ),
];

/// Replaces what clap suggests for an unknown flag or command by what is near it, or by what serves
/// the same purpose.
pub fn suggest(error: &mut clap::Error) {
    let (given, suggested, known) = match error.kind() {
        ErrorKind::UnknownArgument => (
            ContextKind::InvalidArg,
            ContextKind::SuggestedArg,
            &FLAGS[..],
        ),
        ErrorKind::InvalidSubcommand => (
            ContextKind::InvalidSubcommand,
            ContextKind::SuggestedSubcommand,
            &COMMANDS[..],
        ),
        _ => return,
    };
    let Some(ContextValue::String(word)) = error.get(given).cloned() else {
        return;
    };
    let name = word.split(['=', ' ']).next().unwrap_or_default();
    let bare = name.trim_start_matches('-');
    let known = known.iter().find(|(names, _)| names.contains(&bare));
    error.remove(ContextKind::Suggested);
    let near = match error.remove(suggested) {
        Some(ContextValue::String(other)) if is_near(bare, other.trim_start_matches('-')) => {
            Some(ContextValue::String(other))
        }
        Some(ContextValue::Strings(mut others)) => {
            others.retain(|other| is_near(bare, other));
            (!others.is_empty()).then_some(ContextValue::Strings(others))
        }
        _ => None,
    };
    if let (None, Some(near)) = (known, near) {
        error.insert(suggested, near);
        return;
    }
    // It repeats what was suggested.
    let usage = error.remove(ContextKind::Usage);
    let takes_prompt = match usage {
        Some(ContextValue::StyledStr(usage)) => usage.to_string().contains("diffucoder generate"),
        _ => false,
    };
    let given: Vec<_> = std::env::args_os().skip(1).collect();
    let given: Vec<_> = given.iter().map(|arg| arg.to_string_lossy()).collect();
    let known = known.map(|(_, tip)| tip.to_string());
    let misplaced = command_behind_flags(&given).filter(|_| takes_prompt);
    let tip = match known.or(misplaced) {
        Some(tip) => tip,
        None if name.starts_with('-')
            && takes_prompt
            && given.iter().any(|arg| is_text_behind_a_dash(arg)) =>
        {
            "a prompt that begins with `-` follows -p".into()
        }
        None if name.starts_with('-') || name.is_empty() => return,
        None if error.kind() == ErrorKind::UnknownArgument && !takes_prompt => return,
        None if error.kind() == ErrorKind::UnknownArgument => {
            "a prompt of several words needs quotes".into()
        }
        None if given.first().is_some_and(|first| first == "help") => {
            "`diffucoder help` lists the commands".into()
        }
        None if Path::new(name).is_file() => {
            format!("`diffucoder generate -f {name}` continues that file")
        }
        None => format!("a prompt of one word is written `diffucoder generate {name}`"),
    };
    let tips = vec![StyledStr::from(tip)];
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
}

/// Says where a command belongs that stands behind a flag.
fn command_behind_flags(given: &[Cow<'_, str>]) -> Option<String> {
    let cli = super::Cli::command();
    let (first, rest) = given.split_first()?;
    let is_command = |arg: &&Cow<'_, str>| cli.find_subcommand(&***arg).is_some();
    let name = rest.iter().find(is_command);
    let name = name.filter(|_| first.starts_with('-'))?;
    Some(format!(
        "a command comes first: diffucoder {name} with the flags behind it"
    ))
}

/// Whether an argument looks like a text and not like a flag.
fn is_text_behind_a_dash(arg: &str) -> bool {
    arg.starts_with('-') && !arg.starts_with("--") && arg.contains(' ')
}

/// Whether one is most likely the other mistyped: a slip for every four letters.
pub fn is_near(word: &str, other: &str) -> bool {
    strsim::osa_distance(word, other) <= (word.chars().count() / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_without_a_command_are_for_generate() {
        let given = |args: &str| {
            let args = args.split('|').map(OsString::from).collect();
            let args = with_command(args).into_iter();
            args.map(|arg| arg.into_string().unwrap())
                .collect::<Vec<_>>()
                .join("|")
        };
        for (args, expected) in [
            ("d|sort a list", "d|generate|sort a list"),
            (
                "d|-q|--config|x y|sort a list|-n|4",
                "d|generate|-q|--config|x y|sort a list|-n|4",
            ),
            ("d|-p|x", "d|generate|-p|x"),
            (
                "d|--config=c|--prompt|x",
                "d|generate|--config=c|--prompt|x",
            ),
            ("d|--|sort", "d|generate|--|sort"),
            ("d|-", "d|generate|-"),
            ("d", "d"),
            ("d|-q", "d|-q"),
            ("d|--help", "d|--help"),
            ("d|-V", "d|-V"),
            ("d|genrate|-p|x", "d|genrate|-p|x"),
            ("d|-q|infill|a b.py", "d|-q|infill|a b.py"),
        ] {
            assert_eq!(given(args), expected);
        }
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        assert!(is_near("promt", "prompt"));
        assert!(is_near("temprature", "temperature"));
        assert!(is_near("genrate", "generate"));
        assert!(!is_near("stream", "system"));
        assert!(!is_near("api-key", "alg-temp"));
    }
}
