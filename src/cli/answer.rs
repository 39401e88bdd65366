//! One prompt and its answer: encoded and checked, denoised, cut where the text ends, described.

use std::time::{Duration, Instant};

use crate::cli::args::sampling::{NewTokens, SamplingArgs};
use crate::cli::json::{Report, SettingsReport, Timing, Usage};
use crate::cli::trace::{End, Recorder, Start, TraceFile};
use diffucoder::Error;
use diffucoder::diffusion::{self, Canvas, Generation, Observer, Piece, Settings};
use diffucoder::infill::{Template, length};
use diffucoder::model::{Model, Target};
use diffucoder::package::{Package, Prompt};
use diffucoder::tokenizer::Specials;

/// A prompt that fits the model, and how to answer it.
pub struct Request<'a> {
    pub prompt: Prompt<'a>,
    pub prompt_ids: Vec<u32>,
    /// What follows the hole, if the text is to be filled in.
    pub suffix_ids: Vec<u32>,
    pub max_new_tokens: usize,
    pub settings: Settings,
    /// The text round the hole, if there is one.
    template: Option<Template>,
    /// Forward passes that chose the hole's length, their rows and their time.
    chosen_in: (usize, usize, Duration),
}

/// What the model wrote.
pub struct Answer {
    pub text: String,
    pub finish_reason: &'static str,
    /// Tokens of `text`.
    pub tokens: usize,
    pub generation: Generation,
    pub time: Duration,
}

impl<'a> Request<'a> {
    /// Encodes the prompt and checks everything that can be checked without the weights.
    ///
    /// # Errors
    /// Wrong usage if prompt and answer do not fit the model; failures of template and tokenizer.
    pub fn new(
        package: &Package,
        prompt: Prompt<'a>,
        sampling: &SamplingArgs,
    ) -> anyhow::Result<Self> {
        let prompt_ids = package.encode(&prompt)?;
        Self::of(package, prompt, (prompt_ids, Vec::new()), sampling)
    }

    /// A hole of `max_new_tokens` between two texts.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn fill(
        package: &Package,
        (prefix, suffix): (&'a str, &'a str),
        sampling: &SamplingArgs,
    ) -> anyhow::Result<Self> {
        let template = Template::between(prefix.as_bytes(), suffix.as_bytes());
        let encode = |text: &String| package.tokenizer.encode_plain(text);
        let ids: Result<Vec<_>, _> = template.texts().iter().map(encode).collect();
        let mut ids = ids.map_err(Error::from)?.into_iter();
        let ids = (
            ids.next().unwrap_or_default(),
            ids.next().unwrap_or_default(),
        );
        let request = Self::of(package, Prompt::Raw(prefix), ids, sampling)?;
        Ok(Self {
            template: Some(template),
            ..request
        })
    }

    fn of(
        package: &Package,
        prompt: Prompt<'a>,
        (prompt_ids, suffix_ids): (Vec<u32>, Vec<u32>),
        sampling: &SamplingArgs,
    ) -> anyhow::Result<Self> {
        let context = package.config.max_position_embeddings;
        let given = prompt_ids.len() + suffix_ids.len();
        if !suffix_ids.is_empty() {
            sampling.most_new_tokens()?;
        }
        let max_new_tokens = sampling.new_tokens(given, context)?;
        let mut settings = match suffix_ids.is_empty() {
            true => sampling.settings_for(package, max_new_tokens)?,
            false => sampling.settings_between(package, max_new_tokens)?,
        };
        settings.grow_to = (sampling.max_new_tokens == NewTokens::Auto).then_some(context);
        Ok(Self {
            prompt,
            prompt_ids,
            suffix_ids,
            max_new_tokens,
            settings,
            template: None,
            chosen_in: (0, 0, Duration::ZERO),
        })
    }

    /// Makes the hole as long as the model is surest of, up to `max_new_tokens`.
    ///
    /// # Errors
    /// When the model fails.
    pub fn choose_length(&mut self, package: &Package, model: &mut Model) -> Result<(), Error> {
        let started = Instant::now();
        let texts = [self.prompt_ids.clone(), self.suffix_ids.clone()];
        let (longest, mask_id) = (self.max_new_tokens, package.mask_id);
        let chosen = length::by_confidence(model, &texts, &[None], longest, mask_id, &mut || ())?;
        self.max_new_tokens = chosen.lengths.iter().sum();
        self.settings.steps = self.settings.steps.min(self.max_new_tokens);
        self.chosen_in = (chosen.forwards, chosen.rows, started.elapsed());
        Ok(())
    }

    /// Denoises.
    ///
    /// # Errors
    /// When the model fails.
    pub fn answer(
        &self,
        package: &Package,
        model: &mut Model,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<Answer> {
        let started = Instant::now();
        let masks = self.settings.grow_to.map_or(self.max_new_tokens, |_| 1);
        let pieces = [
            Piece::Text(&self.prompt_ids),
            Piece::Hole(masks),
            Piece::Text(&self.suffix_ids),
        ];
        let canvas = Canvas::of(&pieces, package.mask_id);
        let generation =
            diffusion::generate(model, canvas, &self.settings, observer).map_err(Error::from)?;
        let time = self.chosen_in.2 + started.elapsed();
        let stop = generation.canvas.stop_at(&package.stop_ids);
        let tokens = stop.unwrap_or(self.max_new_tokens);
        let ids = &generation.canvas.generated()[..tokens];
        let text = package.tokenizer.decode(ids, Specials::Keep);
        let text = match &self.template {
            Some(template) => template.fill_one(&text),
            None => text,
        };
        Ok(Answer {
            text,
            finish_reason: if stop.is_some() { "stop" } else { "length" },
            tokens,
            generation,
            time,
        })
    }

    /// Tokens that are given.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_ids.len() + self.suffix_ids.len()
    }

    /// The beginning of its trace.
    ///
    /// # Errors
    /// When the trace cannot be written.
    pub fn record<'p>(
        &self,
        file: TraceFile,
        package: &'p Package,
        target: &Target,
    ) -> anyhow::Result<Recorder<'p>> {
        let start = Start {
            settings: &self.settings(target),
            prompt_ids: &self.prompt_ids,
            prompt_tokens: self.prompt_tokens(),
            holes: &[(self.max_new_tokens, &self.suffix_ids)],
            grows: self.settings.grow_to.is_some(),
        };
        Recorder::start(file, &start, package)
    }

    /// Every setting, for those who read results later.
    pub fn settings(&self, target: &Target) -> SettingsReport {
        let system = self.prompt.system();
        SettingsReport::new(self.max_new_tokens, &self.settings, system, target)
    }
}

impl Answer {
    /// Tokens of the text a second.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.time.as_secs_f64()
    }

    /// The end of its trace.
    pub fn end(&self, request: &Request<'_>) -> End {
        End {
            finish_reason: self.finish_reason.into(),
            text: self.text.clone(),
            usage: self.usage(request),
            generate_s: self.time.as_secs_f64(),
        }
    }

    /// What it took.
    pub fn usage(&self, request: &Request<'_>) -> Usage {
        let done = &self.generation;
        let canvas_tokens = done.canvas.generated().len();
        let tokens = [request.prompt_tokens(), self.tokens, canvas_tokens];
        let (forwards, rows, _) = request.chosen_in;
        Usage::new(tokens, forwards + done.forwards, rows + done.rows)
    }

    /// The object that `--output json` prints.
    pub fn report(
        &self,
        request: &Request<'_>,
        (package, target, load_time): (&Package, &Target, Duration),
    ) -> Report<'_> {
        Report {
            text: &self.text,
            token_ids: self.generation.canvas.generated(),
            reveal_step: self.generation.canvas.reveal_step(),
            finish_reason: self.finish_reason,
            parses: None,
            usage: self.usage(request),
            timing: Timing {
                load_s: load_time.as_secs_f64(),
                generate_s: self.time.as_secs_f64(),
                tokens_per_s: self.rate(),
            },
            model: package.name(),
            settings: request.settings(target),
        }
    }
}
