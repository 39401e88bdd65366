//! `diffucoder pull`, `list` and `rm`: the models on this disk.

use std::ffi::OsString;

use diffucoder::Error;
use diffucoder::hub::registry::{by_hub_id, in_repo};
use diffucoder::hub::{CachedFile, CachedModel, HubModel, HubOptions, ModelSpec, cached, remove};
use diffucoder::model::tidy_packed;
use serde::Serialize;

use crate::cli::args::compute::packed_folder;
use crate::cli::args::model::{self, ModelArgs};
use crate::cli::args::output::OutputArgs;
use crate::cli::terminal::download::Download;
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::{Ui, human_bytes};
use crate::cli::usage::UsageError;

/// Flags of `pull`.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  diffucoder pull diffucoder:q4_k_m
  diffucoder pull owner/name --revision v1.0

A model that is here already is brought to its newest version; other commands take it as it is. Files
are checked as they arrive.")]
pub struct PullArgs {
    /// The model, as --model takes it
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    name: Option<OsString>,
    #[command(flatten)]
    model: ModelArgs,
}

/// Flags of `list`.
#[derive(clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Flags of `rm`.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  diffucoder rm diffucoder:q4_k_m     that file, and what belongs to it alone
  diffucoder rm owner/name            all that is downloaded of it

Models lie in the cache that Python's huggingface_hub uses too: what is removed is gone for both.")]
pub struct RmArgs {
    /// The models, as `diffucoder list` shows them
    #[arg(value_name = "MODEL", required = true)]
    names: Vec<OsString>,
}

/// One line of the list.
#[derive(Serialize)]
struct Row {
    /// What to give to `--model`.
    model: String,
    id: String,
    bytes: u64,
    complete: bool,
}

pub fn pull(args: &PullArgs, ui: &Ui) -> anyhow::Result<()> {
    let spec = args.model.spec_of(args.name.as_deref())?;
    let lora = args.model.lora()?;
    let name = match (&spec, &lora) {
        (ModelSpec::BuiltIn(model), None) => {
            ui.note(&format!("{} is a part of this program", model.alias));
            return Ok(());
        }
        (ModelSpec::BuiltIn(model), Some(_)) => model.alias.to_string(),
        (ModelSpec::Local(path), Some(_)) => path.display().to_string(),
        _ => on_hub(spec.clone())?.to_string(),
    };
    let options = HubOptions {
        newest: true,
        ..args.model.hub_options()
    };
    let package = model::package(options, &spec, lora.as_ref(), ui)?;
    package.fetch_weights(&mut Download::new(ui, &spec))?;
    ui.note(&format!("{name} is here, whole: {}", package.name()));
    Ok(())
}

pub fn list(args: &ListArgs, ui: &Ui) -> anyhow::Result<()> {
    let options = HubOptions::from_env();
    let models = cached(&options).map_err(Error::from)?;
    let rows: Vec<Row> = models.iter().flat_map(Row::of).collect();
    args.output.report(&rows, || text(&rows), ui)?;
    ui.status(&format!("cache: {}", options.cache_dir.display()));
    Ok(())
}

pub fn rm(args: &RmArgs, ui: &Ui) -> anyhow::Result<()> {
    let specs = args.names.iter().map(|name| model::named("MODEL", name));
    let models = specs.map(|spec| on_hub(spec?));
    for model in models.collect::<Result<Vec<_>, _>>()? {
        let freed = remove(&model, &HubOptions::from_env()).map_err(Error::from)?;
        let freed = human_bytes(freed);
        ui.note(&format!("removed {model}, which frees {freed}"));
    }
    let packed = packed_folder().map_or(0, |folder| tidy_packed(&folder));
    if packed > 0 {
        let freed = human_bytes(packed);
        ui.note(&format!(
            "removed what --cache-packed kept of it, which frees {freed}"
        ));
    }
    Ok(())
}

/// The model, if it is one that is downloaded.
fn on_hub(spec: ModelSpec) -> Result<HubModel, UsageError> {
    let message = match spec {
        ModelSpec::Hub(model) => return Ok(model),
        ModelSpec::BuiltIn(model) => format!("{} is a part of this program", model.alias),
        ModelSpec::Local(path) => format!("{} is a path, not a model on the Hub", path.display()),
    };
    let hint = "`diffucoder models` shows what can be downloaded";
    Err(UsageError::with_hint(message, hint))
}

impl Row {
    /// GGUF files have a row each, under the alias and quantization if those are known. What else a
    /// repository has is another, unless that is no more than a tokenizer.
    fn of(found: &CachedModel) -> Vec<Self> {
        const TOKENIZER: u64 = 16 << 20; // bytes
        let id = found.id.to_string();
        let others = Self {
            model: by_hub_id(&id).map_or_else(|| id.clone(), |known| known.alias.to_string()),
            bytes: found.other_bytes(),
            complete: found.has_checkpoint,
            id: id.clone(),
        };
        let has_others = found.has_checkpoint || others.bytes > TOKENIZER;
        let alias_of = |file: &str| {
            let known = in_repo(&id)?;
            let conversion = known.conversion.as_ref()?;
            let is_it = |quantization: &str| {
                found
                    .gguf(quantization)
                    .is_some_and(|gguf| gguf.name == file)
            };
            let mut names = conversion.files.iter().map(|(name, _)| *name);
            let quantization = names.find(|name| is_it(name))?;
            Some(format!("{}:{quantization}", known.alias))
        };
        let row = |file: &CachedFile| Self {
            model: alias_of(&file.name).unwrap_or_else(|| format!("{id}:{}", file.name)),
            id: id.clone(),
            bytes: file.bytes,
            complete: true,
        };
        let others = (found.ggufs.is_empty() || has_others).then_some(others);
        others
            .into_iter()
            .chain(found.ggufs.iter().map(row))
            .collect()
    }
}

fn text(rows: &[Row]) -> String {
    let header = ["MODEL", "SIZE", "STATE", "HUB ID"].map(str::to_string);
    let cells = rows.iter().map(|row| {
        let state = if row.complete { "complete" } else { "partial" };
        [
            row.model.clone(),
            human_bytes(row.bytes),
            state.to_string(),
            row.id.clone(),
        ]
    });
    table([Align::Left; 4], std::iter::once(header).chain(cells))
}
