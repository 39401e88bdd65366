//! `diffucoder config`: every setting, its value and where that came from.

use clap::Command;
use serde::Serialize;

use crate::cli::args::output::OutputArgs;
use crate::cli::defaults::{Defaults, all_settable, layers};
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::Ui;

/// Flags of `config`.
#[derive(clap::Args)]
#[command(
    after_long_help = "A configuration file sets defaults for flags, by their long names:
  model = \"tiny\"
  max-new-tokens = 64
  temperature = 0.3

So do variables: DIFFUCODER_MODEL=tiny, DIFFUCODER_MAX_NEW_TOKENS=64.
A flag wins over a variable, a variable over the file, and a mode over all that is a part of one
(under Decoding in the help). A default that a command or model cannot
take, such as quant with a GGUF file or more steps than new tokens, steps back, and a note says
so; the same flag on the command line is an error."
)]
pub struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Row {
    setting: String,
    value: Option<String>,
    source: String,
}

pub fn run(args: &Args, cli: &Command, defaults: &Defaults, ui: &Ui) -> anyhow::Result<()> {
    let row = |arg: &clap::Arg| {
        let name = arg.get_long().unwrap_or_default();
        let built_in = || layers::built_in(arg).into_iter().next();
        let (value, source) = match (defaults.of(name), defaults.yields_to(cli, name)) {
            (None, _) => (built_in(), "built in".to_string()),
            (Some(entry), None) => (Some(entry.value()), entry.source.clone()),
            (Some(entry), Some(other)) => {
                let source = format!("built in: {} steps back for {}", entry.source, other.source);
                (built_in(), source)
            }
        };
        Row {
            setting: name.to_string(),
            value,
            source,
        }
    };
    let rows: Vec<Row> = all_settable(cli).into_iter().map(row).collect();
    let text = || {
        let header = ["SETTING", "VALUE", "FROM"].map(str::to_string);
        let cells = rows.iter().map(|row| {
            let value = row.value.clone().unwrap_or_else(|| "-".into());
            [row.setting.clone(), value, row.source.clone()]
        });
        table([Align::Left; 3], std::iter::once(header).chain(cells))
    };
    args.output.report(&rows, text, ui)?;
    for said in &defaults.unknown {
        ui.note(said);
    }
    if let Some(file) = &defaults.file {
        let absent = if file.exists() { "" } else { " (not there)" };
        ui.status(&format!("file: {}{absent}", file.display()));
    }
    Ok(())
}
