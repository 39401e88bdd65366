//! How to denoise: the flags, and the settings they become.

use clap::ArgMatches;
use diffucoder::diffusion::{Algorithm, Attention, Decoding, Ending, Mode, Rule, Settings, Steps};
use diffucoder::session::{Hole, Job, Session};
use diffucoder::{Error, RequestError};

use crate::cli::args::decoding::DecodingArgs;
use crate::cli::args::values::{
    at_least_one, inside_unit, one_of, share, steps, zero_or_above, zero_or_more,
};
use crate::cli::defaults::layers::is_typed;
use crate::cli::terminal::ui;
use crate::cli::usage::UsageError;

/// The sampling flags, of every command that denoises.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Length of the canvas: the most tokens that can be written; auto lets it grow until the text
    /// or the model's context ends, and between texts the model chooses it
    #[arg(short = 'n', long, value_name = "N", value_parser = new_tokens)]
    #[arg(default_value = USUAL_TOKENS.to_string())]
    #[arg(visible_alias = "max-tokens", aliases = ["n-predict", "num-predict"])]
    pub max_new_tokens: NewTokens,
    /// Tokens that the model is shown at most, those to be written included: of longer text, what
    /// is nearest to the holes, or to the end, cut at line ends [default: as many as it was trained
    /// on, 2048 for Dream's relatives; on a CPU 1024 of a model with more than a billion
    /// parameters, which reads some 25 of them a second on each core]
    #[arg(short, long, value_name = "N", value_parser = at_least_one, alias = "ctx-size")]
    context: Option<usize>,
    /// Number of denoising steps [default: as many as new tokens]; in fast-dllm without a cache
    /// what it reveals at most [default: half as many]; in DreamOn's holes the most
    #[arg(long, value_name = "N", value_parser = steps)]
    steps: Option<usize>,
    /// Tokens to reveal at each step, instead of --steps
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with = "steps")]
    tokens_per_step: Option<usize>,
    /// What decides the order in which tokens are revealed [default: maskgit_plus with a threshold,
    /// entropy without]
    #[arg(long, value_parser = one_of(&Algorithm::ALL, Algorithm::name, about_algorithm))]
    algorithm: Option<Algorithm>,
    /// Randomness of the tokens, and through them of the order; 0 takes the most probable
    /// [default: the authors' for the model, 0.2 to 0.4; 0 in fast-dllm]
    #[arg(short, long, value_name = "T", value_parser = zero_or_more)]
    #[arg(visible_alias = "temp")]
    temperature: Option<f32>,
    /// Keep the most probable tokens up to this mass; 1 keeps all [default: mostly 0.95; 1 in
    /// fast-dllm, d3llm and samplers that fill blocks]
    #[arg(long, value_name = "P", value_parser = share)]
    top_p: Option<f32>,
    /// Keep this many of the most probable tokens; 0 keeps all [default: 0, as Dream and its
    /// relatives are evaluated; their Python code has 50 where a call does not say]
    #[arg(long, value_name = "K", value_parser = zero_or_above::<usize>)]
    top_k: Option<usize>,
    /// Randomness of the order; 0 reveals the surest first
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = zero_or_more)]
    alg_temp: f32,
    /// Last timestep of the schedule
    #[arg(long, value_name = "E", default_value_t = 1e-3, value_parser = inside_unit)]
    eps: f32,
    /// Seed of all randomness; the same seed gives the same text [default: a new one each time]
    #[arg(long, value_name = "N", value_parser = zero_or_above::<u64>)]
    seed: Option<u64>,
    /// Reference mode, the same as --mode exact
    #[arg(long, conflicts_with = "mode")]
    pub exact: bool,
    #[command(flatten)]
    decoding: DecodingArgs,
}

/// The most tokens that are written behind a text where nobody says how many.
pub const USUAL_TOKENS: usize = 256;

/// How much can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTokens {
    /// As much as the context holds.
    Auto,
    Most(usize),
}

pub fn new_tokens(text: &str) -> Result<NewTokens, String> {
    match text {
        "auto" => Ok(NewTokens::Auto),
        _ => at_least_one(text)
            .map(NewTokens::Most)
            .map_err(|error| format!("{error} (or auto)")),
    }
}

fn about_algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Entropy => "lowest entropy first",
        Algorithm::TopkMargin => "largest gap between the two best tokens first",
        Algorithm::MaskgitPlus => "highest probability first",
        Algorithm::Origin => "random order",
        Algorithm::P2 => "highest probability, with tokens masked again that are not (Open-dCoder)",
    }
}

impl SamplingArgs {
    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// Wrong usage: more steps than new tokens, or a canvas that cannot grow.
    pub fn check(&self) -> Result<(), UsageError> {
        match self.max_new_tokens {
            NewTokens::Most(n) => self.check_steps(n),
            NewTokens::Auto if self.steps.is_some() => Err(UsageError::with_hint(
                "--steps needs a number of new tokens, and -n is auto",
                "--tokens-per-step K sets the pace of a canvas that grows",
            )
            .about(&["steps", "max-new-tokens"])),
            // Before a model is open its mode is not known; the flags may say enough.
            NewTokens::Auto => {
                let mode = self.mode().unwrap_or(Mode::Fast);
                self.check_growth(&self.decoding(mode.decoding(false), false))
            }
        }
    }

    /// Refuses a canvas that is to grow and cannot.
    fn check_growth(&self, decoding: &Decoding) -> Result<(), UsageError> {
        if self.max_new_tokens != NewTokens::Auto || decoding.reach() < usize::MAX {
            return Ok(());
        }
        Err(UsageError::with_hint(
            "-n auto grows the canvas with its windows, and here all of it is seen at once",
            "use --mode balanced or fast, with --window and --lookahead that are numbers",
        )
        .about(&["max-new-tokens", "exact", "mode", "window", "lookahead"]))
    }

    /// Tokens that the model is shown at most, if somebody said how many.
    pub fn context(&self) -> Option<usize> {
        self.context
    }

    /// What a person should know about how much of a text the model is shown.
    pub fn context_notes(&self, session: &Session, job: &Job) -> Vec<String> {
        let (package, longest) = (session.package(), session.longest_context());
        let wanted = self.context.unwrap_or_default();
        let trained = package.config.family.trained_positions;
        let trained = trained.filter(|&trained| wanted.min(longest) > trained);
        let held = (wanted > longest).then(|| {
            format!(
                "--context is {wanted}, but {} holds {longest}",
                package.name()
            )
        });
        let trained = trained.map(|trained| {
            format!(
                "{} was trained on texts of up to {trained} tokens: what it writes in a longer one \
                 can be worse",
                package.name()
            )
        });
        let left_out = job.left_out();
        let cut = (!left_out.is_nothing()).then(|| {
            let can_see_more = self.context.unwrap_or(session.usual_context()) < longest;
            let how = if can_see_more {
                ": --context sets how much it sees"
            } else {
                ""
            };
            format!(
                "the model is shown {} of the text and not the other {} ({}){how}",
                ui::count(job.given_tokens(), "token"),
                ui::count(left_out.lines, "line"),
                ui::human_bytes(left_out.bytes as u64),
            )
        });
        [held, trained, cut].into_iter().flatten().collect()
    }

    /// How much is asked for, unless that is what is built in, which variables and the file can say
    /// too.
    pub fn asked_tokens(&self, matches: &ArgMatches, built_in: usize) -> Option<NewTokens> {
        let asked = self.max_new_tokens;
        let is_other = asked != NewTokens::Most(built_in);
        (is_other || is_typed(matches, "max_new_tokens")).then_some(asked)
    }

    /// The hole behind a prompt.
    pub fn hole(&self) -> Hole {
        match self.max_new_tokens {
            NewTokens::Most(n) => Hole::Exactly(n),
            NewTokens::Auto => Hole::Growing { up_to: usize::MAX },
        }
    }

    /// The hole between texts that has no length: with auto the model chooses it, also one for
    /// which another length is usual.
    pub fn open_hole(&self, session: &Session) -> Hole {
        match self.max_new_tokens {
            NewTokens::Most(n) => session.open_hole(n),
            NewTokens::Auto => Hole::Chosen {
                up_to: session.usual_hole(),
            },
        }
    }

    /// The number of denoising steps, where one is asked for.
    pub fn steps(&self) -> Option<Steps> {
        let of_tokens = self.tokens_per_step.map(Steps::OfTokens);
        self.steps.map(Steps::Count).or(of_tokens)
    }

    /// Checks the number of steps for up to `n` new tokens.
    ///
    /// # Errors
    /// Wrong usage when it is above the number of new tokens, but for the published samplers: these
    /// have steps that reveal nothing.
    fn check_steps(&self, n: usize) -> Result<(), UsageError> {
        let (flag, value) = match self.steps() {
            Some(Steps::Count(steps)) => ("steps", steps),
            Some(Steps::OfTokens(tokens)) => ("tokens-per-step", tokens),
            None => return Ok(()),
        };
        let is_published = self.mode() == Some(Mode::Exact);
        match value <= n || is_published || self.algorithm == Some(Algorithm::P2) {
            true => Ok(()),
            false => Err(UsageError::with_hint(
                format!("--{flag} is {value}, but must be from 1 to {n}, the number of new tokens"),
                "-n/--max-new-tokens sets the number of new tokens; that of a hole between texts \
                 --length, or <FILL:N>",
            )
            .about(&[flag, "max-new-tokens"])),
        }
    }

    /// The mode that is asked for, if any is.
    fn mode(&self) -> Option<Mode> {
        self.exact.then_some(Mode::Exact).or(self.decoding.mode)
    }

    /// How the canvas is taken in parts: as usual, with what the flags change.
    fn decoding(&self, usual: Decoding, is_gpu: bool) -> Decoding {
        let is_fixed = self.steps().is_some() || self.is_random();
        self.decoding.decoding(usual, is_gpu, is_fixed)
    }

    /// Whether chance decides the order.
    fn is_random(&self) -> bool {
        self.algorithm == Some(Algorithm::Origin) || self.alg_temp > 0.0
    }

    /// A temperature that nobody means: `-t` is the number of threads in llama-cli.
    pub fn wild_temperature(&self) -> Option<f32> {
        self.temperature.filter(|&temperature| temperature > 2.0)
    }

    /// The settings for a job.
    ///
    /// # Errors
    /// As [`Self::settings_of_any_length`], and for more steps than new tokens.
    pub fn settings(&self, session: &Session, job: &Job) -> Result<Settings, UsageError> {
        let settings = self.settings_of_any_length(session, job)?;
        if !job.is_resizing() && !settings.decoding.is_padded() {
            self.check_steps(job.most_new_tokens())?;
        }
        Ok(settings)
    }

    /// The settings for a job whose length the user did not choose: a number of steps was meant for
    /// the longest, and of those that are too many none reveals nothing.
    ///
    /// # Errors
    /// For a threshold together with chance, and what else contradicts itself or the model.
    pub fn settings_of_any_length(
        &self,
        session: &Session,
        job: &Job,
    ) -> Result<Settings, UsageError> {
        let mode = self.mode().unwrap_or(session.package().mode());
        let mut usual = session.settings(mode, job.is_between());
        let is_planned = self.algorithm == Some(Algorithm::P2);
        if is_planned {
            usual = Settings {
                decoding: Decoding::default(),
                ending: Ending::FullCanvas,
                remask: 0,
                ..usual
            };
        }
        let decoding = self.decoding(usual.decoding, !session.target().device.is_cpu());
        if job.is_growing() {
            self.check_growth(&decoding)?;
        }
        if is_planned && (decoding != Decoding::default() || job.is_resizing()) {
            return Err(UsageError::with_hint(
                "--algorithm p2 plans for a whole canvas of a known length, at every step anew",
                "leave out --window, --threshold, --cache and the like, or take another algorithm; \
                 holes of DreamOn have no known length",
            )
            .about(&[
                "algorithm",
                "window",
                "lookahead",
                "cache",
                "refresh",
                "threshold",
                "rule",
            ]));
        }
        let is_in_blocks = session.package().config.attention != Attention::Full;
        if !is_in_blocks && self.decoding.sub_block.is_some() {
            return Err(UsageError::with_hint(
                "--sub-block divides the blocks of a block-causal model, and this one has none",
                "--window N fills a canvas part by part",
            )
            .about(&["sub-block", "window"]));
        }
        let is_remasked = self.decoding.remask.is_some_and(|rounds| rounds > 0);
        if is_in_blocks && (is_planned || is_remasked) {
            return Err(UsageError::with_hint(
                "this model is block-causal: what stands in a finished block is never masked again",
                "leave out --remask and --algorithm p2",
            )
            .about(&["remask", "algorithm"]));
        }
        if job.is_resizing() && is_remasked {
            let message = "--remask predicts tokens once more, and here each can change a length";
            return Err(UsageError::with_hint(message, "leave it out").about(&["remask"]));
        }
        let algorithm = self.algorithm.unwrap_or(decoding.usual_algorithm());
        if decoding.rule == Rule::Entropy
            && algorithm != Algorithm::Entropy
            && decoding.threshold.is_some()
        {
            let message = "the threshold of this rule is an entropy, and the order another";
            return Err(UsageError::with_hint(
                message,
                "take --algorithm entropy, or another --rule",
            )
            .about(&["rule", "algorithm", "mode"]));
        }
        let has_own_pace = decoding.is_capped || decoding.blocks.is_some();
        if self.steps().is_some() && decoding.threshold.is_some() && !has_own_pace {
            return Err(UsageError::with_hint(
                "--threshold reveals what is sure, and --steps or --tokens-per-step a fixed number",
                "leave one of them out",
            )
            .about(&["threshold", "steps", "tokens-per-step"]));
        }
        if self.is_random() && decoding.threshold.is_some() {
            return Err(UsageError::with_hint(
                "--threshold reveals what is sure, and --algorithm origin or --alg-temp by chance",
                "leave one of them out",
            )
            .about(&["threshold", "algorithm", "alg-temp"]));
        }
        Ok(Settings {
            algorithm,
            steps: self.steps().unwrap_or(usual.steps),
            eps: self.eps,
            shaping: usual
                .shaping
                .asked(self.temperature, self.top_p, self.top_k),
            alg_temp: Some(self.alg_temp).filter(|&t| t > 0.0),
            seed: self.seed.unwrap_or_else(new_seed),
            decoding,
            remask: self.decoding.remask.unwrap_or(usual.remask),
            deletes_rest: !self.decoding.delete_one,
            ..usual
        })
    }
}

/// A seed that differs from run to run, short enough to be typed again.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 32
}

/// Wrong usage, if that is what an error of a prompt and its answer means.
pub fn as_usage(error: Error) -> anyhow::Error {
    too_long(error, |given, new, context| {
        let message = match new < context {
            true => format!(
                "the prompt has {} or more, which with --max-new-tokens {new} exceeds the context \
                 of {context}",
                ui::count(given, "token")
            ),
            false => format!("--max-new-tokens {new} leaves a context of {context} no prompt"),
        };
        let hint = match context.checked_sub(given) {
            None | Some(0) => {
                "shorten the prompt, or show the model more of it with --context".to_string()
            }
            Some(room) => format!("-n/--max-new-tokens can be from 1 to {room}"),
        };
        UsageError::with_hint(message, hint)
    })
}

/// The same of an error of texts and the holes between them.
pub fn holes_as_usage(error: Error) -> anyhow::Error {
    too_long(error, |_, new, context| {
        let message = format!(
            "the holes can become {new} tokens long, which leaves none of the context of {context} \
             to the text"
        );
        UsageError::with_hint(message, "fill fewer or shorter holes at a time")
    })
}

/// A text that is too long is wrong usage, which `describe` puts into words: tokens that are given,
/// those that can be written, and positions that the model has.
pub fn too_long(
    error: Error,
    describe: impl FnOnce(usize, usize, usize) -> UsageError,
) -> anyhow::Error {
    match error {
        Error::Request(RequestError::TooLong {
            given,
            new,
            context,
        }) => describe(given, new, context)
            .about(&["max-new-tokens", "context"])
            .into(),
        error => error.into(),
    }
}
