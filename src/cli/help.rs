//! What stands behind the flags in a help, for terminals of any width.

use clap::Command;

/// Has clap break the paragraphs of the notes of a command, and of those below it, where the
/// terminal ends, and not where their lines do in the source.
pub fn flowing(command: Command) -> Command {
    let command = command.mut_subcommands(flowing);
    let notes = command.get_after_long_help().map(ToString::to_string);
    match notes {
        None => command,
        Some(notes) => command.after_long_help(paragraphs(&notes)),
    }
}

/// Indented lines are examples and tables, and stay lines.
fn paragraphs(notes: &str) -> String {
    let mut flowing = String::with_capacity(notes.len());
    let is_text = |line: &str| !line.is_empty() && !line.starts_with(' ');
    let mut was_text = false;
    for line in notes.lines() {
        flowing += match (was_text && is_text(line), flowing.is_empty()) {
            (true, _) => " ",
            (false, true) => "",
            (false, false) => "\n",
        };
        flowing += line;
        was_text = is_text(line);
    }
    flowing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lines_of_a_paragraph_are_joined() {
        let notes = "Try:\n  a\n  b\nOne\ntwo.\n\nThree\nfour:\n  x\n    y";
        let flowing = "Try:\n  a\n  b\nOne two.\n\nThree four:\n  x\n    y";
        assert_eq!(paragraphs(notes), flowing);
    }
}
