//! Masked-diffusion generation: the denoising loop, and the pure parts it is made of.
//!
//! A canvas of masks is filled over a number of steps. Each step runs the network once, proposes a
//! token for every mask, and reveals the proposals it is surest of. This is the sampler of Dream
//! and DiffuCoder (arXiv 2506.20639; `_sample` in Dream's `generation_utils.py`), step for step.
//! Nothing here knows tensors or files: the network is a [`Denoiser`].

mod canvas;
mod confidence;
mod random;
mod sampling;
mod schedule;

pub use canvas::{Canvas, Piece};
pub use confidence::{Algorithm, Candidate};
pub use sampling::Shaping;
pub use schedule::Schedule;

use rayon::prelude::*;

use random::{Draws, Purpose};

/// A network that predicts every position of a canvas at once.
pub trait Denoiser {
    /// What can go wrong in a forward pass.
    type Error;

    /// Predicts the tokens at `positions` of the canvas `ids`, which includes masks.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn predict(&mut self, ids: &[u32], positions: &[usize]) -> Result<Predictions, Self::Error>;
}

/// What one forward pass yields.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// Logits of the asked positions, in their order, unshaped. `[positions, V]`, row-major.
    pub logits: Vec<f32>,
    /// Positions pushed through the transformer: the measure of work.
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

impl<E: std::error::Error + 'static> GenerateError<E> {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Model(_) => None,
            Self::NotFinite { .. } => {
                Some("the weights are damaged, or --dtype f16 overflows: try f32 or bf16".into())
            }
        }
    }
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
    let schedule = Schedule::new(settings.steps, settings.eps);
    let (mut forwards, mut rows) = (0, 0);

    for step in 0..settings.steps {
        let masked = canvas.masked();
        if masked.is_empty() || is_over(&canvas, &settings.ending) {
            break;
        }
        let draws = Draws::new(settings.seed, step);

        let mut predictions = model
            .predict(canvas.ids(), &masked)
            .map_err(GenerateError::Model)?;
        forwards += 1;
        rows += predictions.rows;

        let candidates = propose(&mut predictions.logits, &masked, &canvas, settings, draws)
            .map_err(|position| GenerateError::NotFinite { position, step })?;

        let revealed = match (settings.algorithm, settings.alg_temp) {
            (Algorithm::Origin, _) => {
                confidence::draw_each(&candidates, schedule.reveal_share(step), draws)
            }
            (_, Some(alg_temp)) if alg_temp > 0.0 => {
                let count = schedule.reveal_count(step, masked.len());
                confidence::draw_confident(&candidates, count, alg_temp, draws)
            }
            _ => confidence::most_confident(&candidates, schedule.reveal_count(step, masked.len())),
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
        .map(|(row, &position)| {
            if !row.iter().all(|logit| logit.is_finite()) {
                return Err(position);
            }
            settings.shaping.apply(row);
            let token = if settings.shaping.temperature > 0.0 {
                let uniform = draws.uniform(Purpose::Token, position);
                sampling::draw(row, canvas.mask_id(), uniform)
            } else {
                sampling::most_probable(row, canvas.mask_id())
            };
            let confidence = settings.algorithm.confidence(row, token);
            Ok(Candidate {
                position,
                token,
                confidence,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
