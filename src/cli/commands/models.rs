//! `diffucoder models`: what `--model` can name, and what is already here.

use serde::Serialize;

use super::choices::{Machine, Needs, in_cache};
use crate::cli::args::compute::{self, IsaArgs};
use crate::cli::args::output::OutputArgs;
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::{Ui, human_bytes};
use diffucoder::hub::registry::{KnownModel, MODELS, ON_ITS_PAGE, in_repo};
use diffucoder::hub::{CachedModel, HubOptions};

/// Flags of `models`.
#[derive(clap::Args)]
#[command(
    after_long_help = "Downloads share Python's cache and follow its variables: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
HF_TOKEN, HF_HUB_OFFLINE, and the older names of these; HTTPS_PROXY and NO_PROXY; SSL_CERT_FILE,
REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE for a proxy that opens TLS."
)]
pub struct Args {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    isa: IsaArgs,
}

/// One line of the list.
#[derive(Default, Serialize)]
struct Row {
    /// What to give to `--model`, or `None` if that is the id.
    alias: Option<String>,
    id: Option<String>,
    /// What a first use downloads.
    download_bytes: Option<u64>,
    /// `None` for the built-in model, and for those that are in the cache but have no alias.
    #[serde(flatten)]
    needs: Option<Needs>,
    licence: Option<&'static str>,
    /// What `--mode` is where nobody says; `None` is its family's.
    mode: Option<&'static str>,
    /// "built in", "complete", "partial" or "no".
    cached: &'static str,
    cached_bytes: u64,
    about: Option<&'static str>,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let options = HubOptions::from_env();
    let in_cache = in_cache(&options, ui);
    let machine = Machine::measure(args.isa.isa(), compute::cores());
    let find = |id: &str| {
        let mut found = in_cache.iter();
        found.find(|found| found.id.as_str().eq_ignore_ascii_case(id))
    };
    let known = MODELS.iter().flat_map(|model| {
        let needs = model.hub_id.map(|_| machine.needs_of_whole(model));
        let mut rows = vec![Row::whole(model, needs, model.hub_id.and_then(find))];
        if let Some(conversion) = &model.conversion {
            let found = find(conversion.hub_id);
            rows.extend(conversion.files.iter().map(|file| {
                let needs = machine.needs(model, file.1 as f64);
                Row::quantized(model, needs, (conversion.hub_id, file), found)
            }));
        }
        rows
    });
    let is_other = |found: &&CachedModel| in_repo(found.id.as_str()).is_none();
    let others = in_cache.iter().filter(is_other).map(Row::other);
    let rows: Vec<Row> = known.chain(others).collect();
    let terminal = console::Term::stdout().size_checked();
    let width = terminal.map_or(usize::MAX, |(_, columns)| columns.into());
    args.output.report(&rows, || text(&rows, width), ui)?;
    if !args.output.is_json() {
        ui.status("Memory and tokens/s are estimates; whole models are quantized while loading.");
    }
    ui.status(&format!("cache: {}", options.cache_dir.display()));
    Ok(())
}

impl Row {
    /// What all rows of a model have.
    fn of(model: &KnownModel) -> Self {
        Self {
            licence: Some(model.licence),
            mode: Some(model.mode().name()),
            about: Some(model.about),
            ..Self::default()
        }
    }

    fn whole(model: &KnownModel, needs: Option<Needs>, found: Option<&CachedModel>) -> Self {
        Self {
            alias: Some(model.alias.to_owned()),
            id: model.hub_id.map(str::to_string),
            download_bytes: model.hub_id.map(|_| model.download_bytes),
            needs,
            cached: match (model.hub_id, found) {
                (None, _) => "built in",
                (_, Some(found)) => completeness(found),
                (_, None) => "no",
            },
            cached_bytes: found.map_or(0, |found| found.bytes),
            ..Self::of(model)
        }
    }

    /// One GGUF file of a conversion.
    fn quantized(
        model: &KnownModel,
        needs: Needs,
        (hub_id, &(quantization, download_bytes)): (&str, &(&str, u64)),
        found: Option<&CachedModel>,
    ) -> Self {
        let file = found.and_then(|found| found.gguf(quantization));
        Self {
            alias: Some(format!("{}:{quantization}", model.alias)),
            id: Some(hub_id.to_owned()),
            download_bytes: Some(download_bytes),
            needs: Some(needs),
            cached: if file.is_some() { "complete" } else { "no" },
            cached_bytes: file.map_or(0, |file| file.bytes),
            ..Self::of(model)
        }
    }

    fn other(found: &CachedModel) -> Self {
        Self {
            id: Some(found.id.to_string()),
            cached: completeness(found),
            cached_bytes: found.bytes,
            ..Self::default()
        }
    }
}

fn completeness(found: &CachedModel) -> &'static str {
    if found.is_complete() {
        "complete"
    } else {
        "partial"
    }
}

/// As a table, without the licences and the ids on the Hub where they do not fit beside the rest.
fn text(rows: &[Row], width: usize) -> String {
    let header = [
        "MODEL", "DOWNLOAD", "MEMORY", "TOKENS/S", "MODE", "CACHED", "LICENCE", "HUB ID",
    ];
    let cells = rows.iter().map(|row| {
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), human_bytes);
        let needs = row.needs.as_ref();
        [
            row.alias.clone().or(row.id.clone()).unwrap_or_default(),
            bytes(row.download_bytes),
            bytes(needs.map(|needs| needs.memory_bytes)),
            needs.map_or_else(|| "-".into(), Needs::speed),
            row.mode.unwrap_or("-").to_string(),
            match row.cached_bytes {
                0 => row.cached.to_string(),
                bytes => format!("{} ({})", row.cached, human_bytes(bytes)),
            },
            row.licence.unwrap_or(ON_ITS_PAGE).to_string(),
            row.id.clone().unwrap_or_else(|| "-".into()),
        ]
    });
    let lines: Vec<_> = std::iter::once(header.map(str::to_string))
        .chain(cells)
        .collect();
    use Align::{Left, Right};
    let whole = table(
        [Left, Right, Right, Right, Left, Left, Left, Left],
        lines.clone(),
    );
    if whole.lines().all(|line| line.chars().count() <= width) {
        return whole;
    }
    let first = |line: [String; 8]| line.first_chunk::<6>().cloned().unwrap_or_default();
    table(
        [Left, Right, Right, Right, Left, Left],
        lines.into_iter().map(first),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_gets_the_first_columns() {
        let row = Row {
            cached_bytes: 15_200_000_000,
            cached: "complete",
            ..Row::whole(&MODELS[0], None, None)
        };
        let rows = [row];
        assert!(text(&rows, usize::MAX).contains("apple/DiffuCoder"));
        let narrow = text(&rows, 80);
        assert!(narrow.ends_with("complete (15.20 GB)\n"), "{narrow}");
        assert!(narrow.lines().all(|line| line.len() <= 80));
    }
}
