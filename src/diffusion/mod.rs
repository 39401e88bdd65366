//! Masked-diffusion generation: the denoising loop, and the pure parts it is made of.
//!
//! A canvas of masks is filled over a number of steps. Each step runs the network once, proposes a
//! token for every mask, and reveals the proposals it is surest of. This is the sampler of Dream
//! and DiffuCoder (arXiv 2506.20639; `_sample` in Dream's `generation_utils.py`), step for step.
//! Nothing here knows tensors or files: the network is a [`Denoiser`].

pub mod arness;
mod canvas;
mod confidence;
mod random;
mod remasking;
mod sampling;
mod schedule;
mod window;

pub use canvas::{Canvas, Piece};
pub use confidence::{Algorithm, Candidate};
pub use sampling::Shaping;
pub use schedule::Schedule;
pub use window::{Cache, Decoding, Refresh};

use rayon::prelude::*;

use random::{Draws, Purpose};
use remasking::Remasking;
use window::Frame;

/// A network that predicts positions of a canvas, and keeps what it computed of the others.
pub trait Denoiser {
    /// What can go wrong in a forward pass.
    type Error;

    /// Runs a pass, makes `logits` those of `pass.predict`, in their order and unshaped
    /// (`[positions, V]`, row-major), and gives the number of positions that went through the
    /// transformer: the measure of work.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Self::Error>;

    /// Predicts the tokens at `positions` of the canvas `ids`, computing all of it.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn predict(&mut self, ids: &[u32], positions: &[usize]) -> Result<Predictions, Self::Error> {
        let all: Vec<usize> = (0..ids.len()).collect();
        let mut logits = Vec::new();
        let pass = Pass {
            ids,
            refresh: &all,
            predict: positions,
        };
        let rows = self.forward(&pass, &mut logits)?;
        Ok(Predictions { logits, rows })
    }
}

/// One forward pass over a canvas of which keys and values may be known.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Token ids, masks included, of the part of the canvas that is to be seen.
    pub ids: &'a [u32],
    /// Positions whose keys and values are computed; those of all others must be from earlier passes.
    pub refresh: &'a [usize],
    /// Positions to predict.
    pub predict: &'a [usize],
}

/// What a pass over a whole canvas yields.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// Logits of the asked positions, in their order, unshaped. `[positions, V]`, row-major.
    pub logits: Vec<f32>,
    /// Positions pushed through the transformer.
    pub rows: usize,
}

/// How to denoise.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What decides the order of the reveals.
    pub algorithm: Algorithm,
    /// Number of denoising steps, at least 1.
    pub steps: usize,
    /// Last timestep, in (0, 1).
    pub eps: f32,
    /// Temperature, top-p and top-k.
    pub shaping: Shaping,
    /// Randomness of the order: `None` or 0 reveals the most confident, else positions are drawn
    /// with weights softmax(confidence / alg_temp).
    pub alg_temp: Option<f32>,
    /// Seed of every draw.
    pub seed: u64,
    /// When to end.
    pub ending: Ending,
    /// How the canvas is taken in parts, and what is reused between passes.
    pub decoding: Decoding,
    /// The canvas gains masks at its end as windows need them, up to this many positions.
    pub grow_to: Option<usize>,
    /// How many times each token of the text is masked and predicted again once all is there; a round that changes
    /// nothing is the last. The reference has none.
    pub remask: usize,
}

impl Settings {
    /// The reference's sampler in so many steps, surest first by entropy, with nothing left to chance
    /// and nothing filtered.
    pub fn reference(steps: usize) -> Self {
        Self {
            algorithm: Algorithm::Entropy,
            steps,
            eps: 1e-3,
            shaping: Shaping::temperature(0.0),
            alg_temp: None,
            seed: 0,
            ending: Ending::FullCanvas,
            decoding: Decoding::default(),
            grow_to: None,
            remask: 0,
        }
    }
}

/// When a generation is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// When every position is revealed, as in the reference.
    FullCanvas,
    /// As soon as one of these tokens is revealed with everything before it: what comes behind the
    /// first stop token is not part of the text.
    AtStop(Vec<u32>),
}

impl Ending {
    /// The tokens that end a text; none where it has the whole canvas.
    fn stop_ids(&self) -> &[u32] {
        match self {
            Self::FullCanvas => &[],
            Self::AtStop(stop_ids) => stop_ids,
        }
    }
}

/// One finished step, for whoever watches.
#[derive(Debug)]
pub struct Step<'a> {
    /// Step number, 0-based.
    pub index: usize,
    /// The canvas after the step.
    pub canvas: &'a Canvas,
    /// What was revealed, surest first.
    pub revealed: &'a [Candidate],
}

/// Is told of every step.
pub trait Observer {
    /// Called after each step.
    fn on_step(&mut self, step: &Step<'_>);
}

/// Watches nothing.
impl Observer for () {
    fn on_step(&mut self, _: &Step<'_>) {}
}

/// A finished generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The final canvas.
    pub canvas: Canvas,
    /// Forward passes run.
    pub forwards: usize,
    /// Positions pushed through the transformer, summed over the forward passes.
    pub rows: usize,
}

/// Why a generation failed.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError<E: std::error::Error + 'static> {
    /// The forward pass failed.
    #[error("the forward pass failed")]
    Model(#[source] E),
    /// The network's output is not numbers: broken weights, or a precision that overflows.
    #[error("the model's output at position {position} is not finite (step {step})")]
    NotFinite {
        /// Canvas position.
        position: usize,
        /// Step, 0-based.
        step: usize,
    },
}

/// Fills the masks of `canvas`.
///
/// # Errors
/// When the network fails, or yields infinities or NaN.
pub fn generate<D: Denoiser>(
    model: &mut D,
    mut canvas: Canvas,
    settings: &Settings,
    observer: &mut dyn Observer,
) -> Result<Generation, GenerateError<D::Error>>
where
    D::Error: std::error::Error + 'static,
{
    let (mut forwards, mut rows) = (0, 0);
    let (mut frame, mut logits) = (Frame::default(), Vec::new());
    let (mut schedule, mut window_start) = (Schedule::new(settings.steps, settings.eps), 0);
    let growth = settings
        .grow_to
        .map(|limit| limit.saturating_sub(canvas.ids().len()));
    let masks = canvas.masked().len() + growth.unwrap_or(0);
    let mut in_windows = 0;
    let mut remasking = Remasking::new(settings.remask);

    for step in 0.. {
        if let Some(limit) = settings.grow_to {
            canvas.grow(settings.decoding.reach(), limit);
        }
        let is_full = is_over(&canvas, &settings.ending) || !frame.plan(&canvas, settings);
        if is_full {
            let is_remasked = remasking.next(&mut canvas, settings.ending.stop_ids());
            if !(is_remasked && frame.plan(&canvas, settings)) {
                break;
            }
            (schedule, window_start) = (Schedule::new(1, settings.eps), step);
        } else if frame.is_new {
            // A window has the steps up to its share of the canvas, so that they add up to all of them.
            in_windows += frame.masked.len();
            let until = settings.steps * in_windows / masks;
            let steps = until.saturating_sub(step).max(1);
            (schedule, window_start) = (Schedule::new(steps, settings.eps), step);
        }
        let masked = &frame.masked;
        let draws = Draws::new(settings.seed, step);

        let pass = Pass {
            ids: &canvas.ids()[..frame.visible],
            refresh: &frame.refresh,
            predict: masked,
        };
        rows += model
            .forward(&pass, &mut logits)
            .map_err(GenerateError::Model)?;
        forwards += 1;

        let candidates = propose(&mut logits, masked, &canvas, settings, draws)
            .map_err(|position| GenerateError::NotFinite { position, step })?;

        let count = schedule.reveal_count(step - window_start, masked.len());
        // The reference has steps that reveal nothing; elsewhere a pass is not wasted.
        let count = count.max(usize::from(settings.ending != Ending::FullCanvas));
        let revealed = match (settings.decoding.threshold, settings.algorithm) {
            (Some(threshold), _) => confidence::at_least(&candidates, threshold),
            (None, Algorithm::Origin) => {
                let share = schedule.reveal_share(step - window_start);
                confidence::draw_each(&candidates, share, draws)
            }
            (None, _) => match settings.alg_temp {
                Some(alg_temp) if alg_temp > 0.0 => {
                    confidence::draw_confident(&candidates, count, alg_temp, draws)
                }
                _ => confidence::most_confident(&candidates, count),
            },
        };
        for candidate in &revealed {
            canvas.reveal(candidate, step);
        }
        observer.on_step(&Step {
            index: step,
            canvas: &canvas,
            revealed: &revealed,
        });
    }
    Ok(Generation {
        canvas,
        forwards,
        rows,
    })
}

fn is_over(canvas: &Canvas, ending: &Ending) -> bool {
    match ending {
        Ending::FullCanvas => false,
        Ending::AtStop(stop_ids) => canvas.stop_at(stop_ids).is_some(),
    }
}

/// A candidate for each masked position, from its logits `[masked, V]`, which are used up.
/// `Err` holds the position of a row that is not finite.
fn propose(
    logits: &mut [f32],
    masked: &[usize],
    canvas: &Canvas,
    settings: &Settings,
    draws: Draws,
) -> Result<Vec<Candidate>, usize> {
    let vocab_size = logits.len() / masked.len();
    logits
        .par_chunks_mut(vocab_size)
        .zip(masked)
        .map_init(Vec::new, |order, (row, &position)| {
            order.clear();
            if let Some(temperature) = settings.decoding.order_temperature {
                order.extend_from_slice(row);
                Shaping::temperature(temperature)
                    .apply(order)
                    .ok_or(position)?;
            }
            settings.shaping.apply(row).ok_or(position)?;
            let token = if settings.shaping.temperature > 0.0 {
                let uniform = draws.uniform(Purpose::Token, position);
                sampling::draw(row, canvas.mask_id(), uniform)
            } else {
                sampling::most_probable(row, canvas.mask_id())
            };
            let order: &[f32] = if order.is_empty() { row } else { order };
            Ok(Candidate {
                position,
                token,
                confidence: settings.algorithm.confidence(order, token),
                probability: order[token as usize],
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
