//! How to denoise: the flags, and the settings they become.

use clap::builder::PossibleValue;
use clap::{ArgAction, ValueEnum};

use super::UsageError;
use super::values::{at_least_one, inside_unit, share, zero_or_above, zero_or_more};
use crate::diffusion::{Algorithm, Ending, Settings, Shaping};
use crate::package::Package;

/// The sampling flags, of every command that denoises.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Length of the canvas: the most tokens that can be written
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub max_new_tokens: usize,
    /// Number of denoising steps [default: as many as new tokens]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    steps: Option<usize>,
    /// Tokens to reveal at each step, instead of --steps
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with = "steps")]
    tokens_per_step: Option<usize>,
    /// What decides the order in which tokens are revealed
    #[arg(long, value_enum, default_value_t = Algorithm::Entropy)]
    algorithm: Algorithm,
    /// Randomness of the tokens, and through them of the order; 0 takes the most probable
    /// [default: the authors' for the model, 0.2 to 0.4]
    #[arg(short, long, value_name = "T", value_parser = zero_or_more, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the most probable tokens up to this mass; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = share)]
    #[arg(allow_negative_numbers = true)]
    top_p: f32,
    /// Keep this many of the most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = zero_or_above)]
    #[arg(allow_negative_numbers = true)]
    top_k: usize,
    /// Randomness of the order; 0 reveals the surest first
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = zero_or_more)]
    #[arg(allow_negative_numbers = true)]
    alg_temp: f32,
    /// Last timestep of the schedule
    #[arg(long, value_name = "E", default_value_t = 1e-3, value_parser = inside_unit)]
    #[arg(allow_negative_numbers = true)]
    eps: f32,
    /// Seed of all randomness; the same seed gives the same text [default: a new one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Reference mode: fill the whole canvas, as the published sampler does, instead of ending
    /// where the text ends
    #[arg(long, action = ArgAction::SetTrue)]
    pub exact: bool,
}

impl ValueEnum for Algorithm {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(match self {
            Self::Entropy => "lowest entropy first",
            Self::TopkMargin => "largest gap between the two best tokens first",
            Self::MaskgitPlus => "highest probability first",
            Self::Origin => "random order",
        }))
    }
}

impl SamplingArgs {
    /// The number of denoising steps.
    ///
    /// # Errors
    /// Wrong usage when it is above the number of new tokens.
    pub fn steps(&self) -> Result<usize, UsageError> {
        self.steps_for(self.max_new_tokens)
    }

    /// [`Self::steps`] where the number of new tokens is another.
    fn steps_for(&self, n: usize) -> Result<usize, UsageError> {
        let (flag, value) = match (self.steps, self.tokens_per_step) {
            (Some(steps), _) => ("--steps", steps),
            (None, Some(tokens)) => ("--tokens-per-step", tokens),
            (None, None) => return Ok(n),
        };
        if value > n {
            return Err(UsageError::with_hint(
                format!("{flag} is {value}, but must be from 1 to {n}, the number of new tokens"),
                "-n/--max-new-tokens sets the number of new tokens",
            ));
        }
        Ok(self.steps.unwrap_or_else(|| n.div_ceil(value)))
    }

    /// The settings for a model.
    ///
    /// # Errors
    /// As [`Self::steps`].
    pub fn settings(&self, package: &Package) -> Result<Settings, UsageError> {
        self.settings_for(package, self.max_new_tokens)
    }

    /// [`Self::settings`] where the number of new tokens is another.
    ///
    /// # Errors
    /// As [`Self::steps`].
    pub fn settings_for(&self, package: &Package, n: usize) -> Result<Settings, UsageError> {
        Ok(Settings {
            algorithm: self.algorithm,
            steps: self.steps_for(n)?,
            eps: self.eps,
            shaping: Shaping {
                temperature: self
                    .temperature
                    .unwrap_or(package.recipe.temperature as f32),
                top_p: Some(self.top_p).filter(|&p| p < 1.0),
                top_k: Some(self.top_k).filter(|&k| k > 0),
            },
            alg_temp: Some(self.alg_temp).filter(|&t| t > 0.0),
            seed: self.seed.unwrap_or_else(new_seed),
            ending: if self.exact {
                Ending::FullCanvas
            } else {
                Ending::AtStop(package.stop_ids.clone())
            },
        })
    }
}

/// A seed that differs from run to run, short enough to be typed again.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 32
}

/// Wrong usage unless prompt and new tokens fit the model's context.
///
/// # Errors
/// [`UsageError`] with what would fit.
pub fn check_context(prompt: usize, new: usize, context: usize) -> Result<(), UsageError> {
    if prompt.saturating_add(new) <= context {
        return Ok(());
    }
    let message = format!(
        "the prompt has {prompt} tokens, which with --max-new-tokens {new} exceeds the model's \
         context of {context}"
    );
    Err(match context.checked_sub(prompt) {
        None | Some(0) => UsageError::with_hint(message, "shorten the prompt"),
        Some(room) => UsageError::with_hint(
            message,
            format!("-n/--max-new-tokens can be from 1 to {room}"),
        ),
    })
}
