//! `diffucoder models`: what `--model` can name, and what is already here.

use serde::Serialize;

use super::ui::{Ui, human_bytes};
use super::values::Output;
use crate::error::Error;
use crate::hub::registry::{KnownModel, MODELS};
use crate::hub::{CachedModel, HubOptions, cached};

/// Flags of `models`.
#[derive(clap::Args)]
pub struct Args {
    /// What to print: a table, or a JSON array
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// One line of the list.
#[derive(Serialize)]
struct Row {
    /// What to give to `--model`, or `None` if that is the id.
    alias: Option<&'static str>,
    /// Hub id.
    id: Option<String>,
    /// What a first use downloads.
    download_bytes: Option<u64>,
    licence: Option<&'static str>,
    /// "built in", "complete", "partial" or "no".
    cached: &'static str,
    cached_bytes: u64,
    about: Option<&'static str>,
}

/// Runs the command.
///
/// # Errors
/// When the cache cannot be read or stdout cannot be written.
pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let options = HubOptions::from_env();
    let in_cache = cached(&options).map_err(Error::from)?;
    let known = MODELS.iter().map(|model| {
        let found = in_cache
            .iter()
            .find(|found| found.alias == Some(model.alias));
        Row::known(model, found)
    });
    let others = in_cache
        .iter()
        .filter(|found| found.alias.is_none())
        .map(Row::other);
    let rows: Vec<Row> = known.chain(others).collect();
    match args.output {
        Output::Json => ui.result(&format!("{}\n", serde_json::to_string(&rows)?))?,
        Output::Text => {
            ui.result(&table(&rows))?;
            ui.status(&format!("cache: {}", options.cache_dir.display()));
        }
    }
    Ok(())
}

impl Row {
    fn known(model: &KnownModel, found: Option<&CachedModel>) -> Self {
        Self {
            alias: Some(model.alias),
            id: model.hub_id.map(str::to_string),
            download_bytes: model.hub_id.map(|_| model.download_bytes),
            licence: Some(model.licence),
            cached: match (model.hub_id, found) {
                (None, _) => "built in",
                (_, Some(found)) => completeness(found),
                (_, None) => "no",
            },
            cached_bytes: found.map_or(0, |found| found.bytes),
            about: Some(model.about),
        }
    }

    fn other(found: &CachedModel) -> Self {
        Self {
            alias: None,
            id: Some(found.id.to_string()),
            download_bytes: None,
            licence: None,
            cached: completeness(found),
            cached_bytes: found.bytes,
            about: None,
        }
    }
}

fn completeness(found: &CachedModel) -> &'static str {
    if found.is_complete {
        "complete"
    } else {
        "partial"
    }
}

fn table(rows: &[Row]) -> String {
    let header = ["MODEL", "SIZE", "LICENCE", "CACHED", "HUB ID"].map(str::to_string);
    let cells = rows.iter().map(|row| {
        [
            row.alias
                .or(row.id.as_deref())
                .unwrap_or_default()
                .to_string(),
            row.download_bytes.map_or_else(|| "-".into(), human_bytes),
            row.licence.unwrap_or("see its page").to_string(),
            match row.cached_bytes {
                0 => row.cached.to_string(),
                bytes => format!("{} ({})", row.cached, human_bytes(bytes)),
            },
            row.id.clone().unwrap_or_else(|| "-".into()),
        ]
    });
    let lines: Vec<[String; 5]> = std::iter::once(header).chain(cells).collect();
    super::table::table(&lines)
}
