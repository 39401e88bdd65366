//! Which model, and where from.

use std::ffi::{OsStr, OsString};

use diffucoder::Error;
use diffucoder::hub::registry::DEFAULT_ALIAS;
use diffucoder::hub::{HubModel, HubOptions, ModelSpec};
use diffucoder::package::Package;

use crate::cli::hints::hint;
use crate::cli::terminal::download::Download;
use crate::cli::terminal::ui::Ui;
use crate::cli::usage::UsageError;

/// Which model, and where from.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// An alias (see `diffucoder models`), an id on the Hugging Face Hub (owner/name), a folder or
    /// a .gguf file. An alias or id may end in the quantization of one of its GGUF files:
    /// diffucoder:q4_k_m
    #[arg(short, long, value_name = "MODEL", default_value = DEFAULT_ALIAS, help_heading = "Model")]
    model: OsString,
    /// GGUF file of the model on the Hub, in any letter case
    #[arg(long, value_name = "NAME.gguf", help_heading = "Model")]
    file: Option<String>,
    /// Branch, tag or commit on the Hub [default: main]
    #[arg(long, value_name = "REVISION", help_heading = "Model")]
    revision: Option<String>,
    /// Use what is downloaded already and no network
    #[arg(long, help_heading = "Model")]
    offline: bool,
    /// A LoRA adapter in PEFT's layout to merge into the weights while they are loaded, before they
    /// are quantized: a folder, or an id on the Hub
    #[arg(long, value_name = "ADAPTER", help_heading = "Model")]
    lora: Option<OsString>,
}

impl ModelArgs {
    /// Where to get the model: the flags over the environment of huggingface_hub.
    pub fn hub_options(&self) -> HubOptions {
        let mut options = HubOptions::from_env();
        options.revision.clone_from(&self.revision);
        options.offline |= self.offline;
        options
    }

    /// What `--lora` names.
    pub fn lora(&self) -> Result<Option<ModelSpec>, UsageError> {
        let Some(name) = &self.lora else {
            return Ok(None);
        };
        let spec = named("--lora", name).map_err(|error| error.about(&["lora"]))?;
        match spec {
            ModelSpec::Local(_) | ModelSpec::Hub(HubModel { gguf: None, .. }) => Ok(Some(spec)),
            _ => {
                let message = format!("--lora {}: this is no adapter", name.display());
                Err(UsageError::new(message).about(&["lora"]))
            }
        }
    }

    /// What was typed for `--model`, or its default.
    pub fn name(&self) -> &OsStr {
        &self.model
    }

    /// What `--model` names. A name that cannot be one is wrong usage.
    pub fn spec(&self) -> Result<ModelSpec, UsageError> {
        self.spec_of(None)
    }

    /// What `name` stands for, or else `--model`.
    pub fn spec_of(&self, name: Option<&OsStr>) -> Result<ModelSpec, UsageError> {
        let source = if name.is_some() { "MODEL" } else { "--model" };
        let name = name.unwrap_or(&self.model);
        let mut spec = named(source, name).map_err(|error| error.about(&["model"]))?;
        let name = name.display();
        if let Some(file) = &self.file {
            let message = match &mut spec {
                ModelSpec::Hub(model) if model.gguf.is_none() => {
                    model.gguf = Some(file.clone());
                    return Ok(spec);
                }
                ModelSpec::Hub(_) => format!("--file and --model {name} name two files"),
                _ => format!("--file is for models on the Hub, which {name} is not"),
            };
            return Err(UsageError::new(message).about(&["file", "model"]));
        }
        if self.revision.is_some() && !matches!(spec, ModelSpec::Hub(_)) {
            let message = format!("--revision is for models on the Hub, which {name} is not");
            return Err(UsageError::new(message).about(&["revision", "model"]));
        }
        Ok(spec)
    }
}

/// Opens a model, with an adapter if there is one.
pub fn package(
    mut options: HubOptions,
    spec: &ModelSpec,
    lora: Option<&ModelSpec>,
    ui: &Ui,
) -> Result<Package, Error> {
    let mut package = Package::open(spec, &options, &mut Download::new(ui, spec))?;
    if let Some(lora) = lora {
        options.revision = None; // the model's
        let base = package.adapt(lora, &options, &mut Download::new(ui, lora))?;
        if let Some(base) = base.map(str::to_owned) {
            ui.status(&format!("the adapter was trained on {base}"));
        }
    }
    Ok(package)
}

/// What a name stands for; one that is not UTF-8 is a path. `source` is where it was given.
///
/// # Errors
/// Wrong usage if it cannot be a model.
pub fn named(source: &str, name: &OsStr) -> Result<ModelSpec, UsageError> {
    let Some(text) = name.to_str() else {
        return Ok(ModelSpec::Local(name.into()));
    };
    ModelSpec::parse(text).map_err(|error| UsageError {
        message: format!("{source}: {error}"),
        flags: Vec::new(),
        hint: hint(&error.into()),
    })
}
