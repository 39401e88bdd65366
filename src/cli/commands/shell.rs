//! `diffucoder completions` and `diffucoder man`: what a shell and `man` know of the flags.

use clap::Command;
use clap_complete::Shell;

use crate::cli::terminal::ui::Ui;
use crate::cli::usage::UsageError;

/// Flags of `completions`.
#[derive(clap::Args)]
#[command(
    after_long_help = "Examples, for folders that are there (mkdir -p makes them):
  diffucoder completions bash > ~/.local/share/bash-completion/completions/diffucoder
  diffucoder completions zsh > ~/.zfunc/_diffucoder    # with ~/.zfunc in fpath
  diffucoder completions fish > ~/.config/fish/completions/diffucoder.fish"
)]
pub struct CompletionsArgs {
    /// The shell to write them for
    shell: Shell,
}

/// Flags of `man`.
#[derive(clap::Args)]
#[command(after_long_help = "Examples (mkdir -p makes the folder):
  diffucoder man | man -l -
  diffucoder man generate > ~/.local/share/man/man1/diffucoder-generate.1")]
pub struct ManArgs {
    /// The command to describe [default: all of them, shortly]
    command: Option<String>,
}

/// Prints a completion script.
pub fn completions(args: &CompletionsArgs, mut cli: Command, ui: &Ui) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "diffucoder", &mut script);
    Ok(ui.result(&script)?)
}

/// Prints a page of the manual.
pub fn man(args: &ManArgs, mut cli: Command, ui: &Ui) -> anyhow::Result<()> {
    cli.build();
    let command = match &args.command {
        None => &cli,
        Some(name) => cli.find_subcommand(name).ok_or_else(|| {
            let names: Vec<&str> = cli.get_subcommands().map(Command::get_name).collect();
            UsageError::with_hint(
                format!("there is no command {name}"),
                format!("the commands are {}", names.join(", ")),
            )
        })?,
    };
    let name = command
        .get_display_name()
        .unwrap_or("diffucoder")
        .to_string();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().name(name)).render(&mut page)?;
    Ok(ui.result(with_lines_kept(&String::from_utf8_lossy(&page)))?)
}

/// A page whose examples and tables, which are the indented lines, stay lines when `man` fills the
/// paragraphs.
fn with_lines_kept(page: &str) -> String {
    let (mut kept, mut is_kept) = (String::with_capacity(page.len()), false);
    for line in page.replace(".SH EXTRA", ".SH NOTES").lines() {
        if line.starts_with(' ') != is_kept {
            is_kept = !is_kept;
            kept += if is_kept { ".nf\n" } else { ".fi\n" };
        }
        kept += line;
        kept.push('\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_a_page_stay_lines() {
        let page = ".SH EXTRA\nExamples:\n  a b\n  c\n\nText\nfilled.\n.SH VERSION\n";
        let kept = ".SH NOTES\nExamples:\n.nf\n  a b\n  c\n.fi\n\nText\nfilled.\n.SH VERSION\n";
        assert_eq!(with_lines_kept(page), kept);
    }
}
