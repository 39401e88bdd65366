//! Which model, and where from.

use diffucoder::hub::registry::DEFAULT_ALIAS;
use diffucoder::hub::{HubOptions, ModelSpec};

use crate::cli::hints::hint;
use crate::cli::usage::UsageError;

/// Which model, and where from.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// An alias (see `diffucoder models`), an id on the Hugging Face Hub (owner/name), a folder or
    /// a .gguf file. An alias or id may end in the quantization of one of its GGUF files:
    /// diffucoder:q4_k_m
    #[arg(short, long, value_name = "MODEL", default_value = DEFAULT_ALIAS, help_heading = "Model")]
    model: String,
    /// GGUF file of the model on the Hub, in any letter case
    #[arg(long, value_name = "NAME.gguf", help_heading = "Model")]
    file: Option<String>,
    /// Branch, tag or commit on the Hub [default: main]
    #[arg(long, value_name = "REVISION", help_heading = "Model")]
    revision: Option<String>,
    /// Use what is downloaded already and no network
    #[arg(long, help_heading = "Model")]
    offline: bool,
}

impl ModelArgs {
    /// Where to get the model: the flags over the environment of huggingface_hub.
    pub fn hub_options(&self) -> HubOptions {
        let mut options = HubOptions::from_env();
        options.revision.clone_from(&self.revision);
        options.offline |= self.offline;
        options
    }

    /// What `--model` names. A name that cannot be one is wrong usage.
    pub fn spec(&self) -> Result<ModelSpec, UsageError> {
        let mut spec = ModelSpec::parse(&self.model).map_err(|error| {
            let refused = UsageError::new(format!("--model: {error}")).about(&["model"]);
            UsageError {
                hint: hint(&error.into()),
                ..refused
            }
        })?;
        if let Some(file) = &self.file {
            let message = match &mut spec {
                ModelSpec::Hub(model) if model.gguf.is_none() => {
                    model.gguf = Some(file.clone());
                    return Ok(spec);
                }
                ModelSpec::Hub(_) => format!("--file and --model {} name two files", self.model),
                _ => format!(
                    "--file is for models on the Hub, which {} is not",
                    self.model
                ),
            };
            return Err(UsageError::new(message).about(&["file", "model"]));
        }
        if self.revision.is_some() && !matches!(spec, ModelSpec::Hub(_)) {
            let message = format!(
                "--revision is for models on the Hub, which {} is not",
                self.model
            );
            return Err(UsageError::new(message).about(&["revision", "model"]));
        }
        Ok(spec)
    }
}
