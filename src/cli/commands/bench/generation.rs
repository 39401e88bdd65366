//! A generation, measured; and how much work each mode would make of it.

use std::convert::Infallible;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use diffucoder::diffusion::{
    Asked, Attention, Decoding, Denoiser, Ending, GenerateError, Mode, Pass, Predicted, Settings,
    Shaping, Steps,
};
use diffucoder::model::Model;
use diffucoder::model::config::Config;
use diffucoder::session::{Conditions, Hole, Job, Work};
use serde::Serialize;

/// Tokens of the prompt that is generated behind.
const PROMPT: usize = 64;

/// Texts written at the same time, each behind a prompt of [`PROMPT`] tokens.
#[derive(Serialize)]
pub struct Generated {
    /// The prompt included.
    pub seconds: f64,
    /// Of the text that took most: those of the others are run with them.
    pub forwards: usize,
    /// Canvas positions that went through the layers, of all forwards.
    pub rows: usize,
    pub tokens_per_s: f64,
    pub ms_per_forward: f64,
    /// Share of the time that is not the network's: sampling, planning, the cache.
    pub outside_network: f64,
}

/// What a mode computes to write as many tokens, as many at each forward.
#[derive(Serialize)]
pub struct ModeWork {
    pub mode: &'static str,
    pub forwards: usize,
    pub rows_per_token: f64,
}

/// To write `n` tokens behind a prompt, as `--tokens-per-step` does with a mode's decoding, or
/// block by block in a model that can nothing else, however the text ends.
pub fn generation(config: &Config, n: usize, tokens_per_forward: usize, usual: Decoding) -> Job {
    let (decoding, ending) = match (config.attention, config.family.blocks) {
        (Attention::BlockCausal(size), Some(blocks)) => (
            Decoding::blocks(blocks, size),
            Ending::AfterBlock(Vec::new()),
        ),
        _ => (usual, Ending::AtStop(Vec::new())),
    };
    let settings = Settings {
        shaping: Shaping::nucleus(0.2, 0.95),
        ending,
        decoding: Decoding {
            threshold: None,
            ..decoding
        },
        steps: Steps::OfTokens(tokens_per_forward),
        ..Settings::reference(1)
    };
    let mask_id = config.vocab_size as u32 - 1; // some token that the prompt has not
    let texts = vec![token_ids(PROMPT, config), Vec::new()];
    Job::new(texts, vec![Hole::Exactly(n)], (mask_id, &[]), settings)
}

/// A network, and the time that it took.
struct Timed<'a> {
    model: &'a mut Model,
    time: Duration,
}

impl Denoiser for Timed<'_> {
    type Error = candle_core::Error;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> candle_core::Result<usize> {
        let mut predicted = Predicted::default();
        let rows = self.forward_likely(pass, None, &mut predicted);
        *logits = predicted.logits;
        rows
    }

    fn forward_likely(
        &mut self,
        pass: &Pass<'_>,
        asked: Option<&Asked>,
        predicted: &mut Predicted,
    ) -> candle_core::Result<usize> {
        let started = Instant::now();
        let rows = self.model.forward_likely(pass, asked, predicted);
        self.time += started.elapsed();
        rows
    }

    fn attention(&self) -> Attention {
        self.model.attention()
    }
}

/// Computes nothing, and counts the rows that a network would compute: from left to right, for it
/// is equally sure of all. Another order takes a few more or fewer.
struct Counting {
    shift: usize,
    attention: Attention,
}

impl Denoiser for Counting {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        logits.clear();
        logits.resize(2 * pass.predict.len(), 0.0);
        Ok(pass.computed(self.shift).len())
    }

    fn attention(&self) -> Attention {
        self.attention
    }
}

impl ModeWork {
    pub fn count(
        config: &Config,
        n: usize,
        tokens_per_forward: usize,
        (mode, is_gpu): (Mode, bool),
    ) -> Self {
        let mut network = Counting {
            shift: usize::from(config.shift_logits),
            attention: config.attention,
        };
        let mut job = generation(config, n, tokens_per_forward, mode.decoding(is_gpu));
        let work = match job.run(&mut network, &mut Conditions::default()) {
            Ok(filling) => filling.work,
            Err(_) => Work::default(), // zeros are finite, and nothing else can fail
        };
        Self {
            mode: mode.name(),
            forwards: work.forwards,
            rows_per_token: work.rows as f64 / n as f64,
        }
    }
}

impl Generated {
    /// `parallel` texts on canvases over the weights of `model`, with seeds that follow.
    pub fn measure(
        model: &Model,
        job: &Job,
        parallel: usize,
    ) -> Result<Self, GenerateError<candle_core::Error>> {
        // All have a seat before one begins.
        let canvases = (0..parallel).map(|number| {
            let (model, mut job) = (model.beside(), job.clone());
            job.settings.seed += number as u64;
            (model.seat(), model, job)
        });
        let canvases: Vec<_> = canvases.collect();
        let started = Instant::now();
        let done = thread::scope(|scope| {
            let threads = canvases.into_iter().map(|(seat, mut model, mut job)| {
                scope.spawn(move || {
                    let mut timed = Timed {
                        model: &mut model,
                        time: Duration::ZERO,
                    };
                    let filling = job.run(&mut timed, &mut Conditions::default());
                    drop(seat);
                    Ok((filling?.work, timed.time))
                })
            });
            let threads: Vec<_> = threads.collect();
            let done = threads.into_iter().map(ScopedJoinHandle::join);
            let done = done.map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)));
            done.collect::<Result<Vec<_>, _>>()
        })?;
        let seconds = started.elapsed().as_secs_f64();
        let forwards = done
            .iter()
            .map(|(work, _)| work.forwards)
            .max()
            .unwrap_or(1);
        let in_network: Duration = done.iter().map(|(_, time)| *time).sum();
        Ok(Self {
            seconds,
            forwards,
            rows: done.iter().map(|(work, _)| work.rows).sum(),
            tokens_per_s: (job.most_new_tokens() * parallel) as f64 / seconds,
            ms_per_forward: 1e3 * seconds / forwards as f64,
            outside_network: 1.0 - in_network.as_secs_f64() / parallel as f64 / seconds,
        })
    }
}

/// Some tokens, never the last of the vocabulary.
pub fn token_ids(count: usize, config: &Config) -> Vec<u32> {
    let text = config.vocab_size - 1;
    (0..count).map(|i| (i * 7919 % text) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::super::shape::Shape;
    use super::*;

    /// On DiffuCoder's shape, 256 tokens behind 64, two at each forward.
    #[test]
    fn work_of_the_modes() {
        let config = Shape::DiffuCoder7B.config().unwrap();
        let work = |mode: Mode| ModeWork::count(&config, 256, 2, (mode, false));
        let rows = |mode: Mode| work(mode).rows_per_token;
        let forwards = Mode::ALL.map(|mode| (mode.name(), work(mode).forwards));
        assert!(
            forwards.iter().all(|&(_, forwards)| forwards >= 128),
            "{forwards:?}"
        );
        assert_eq!(rows(Mode::Exact), 320.0 / 2.0);
        assert!(rows(Mode::Balanced) <= 20.0, "{}", rows(Mode::Balanced));
        assert!(rows(Mode::Fast) < 5.0, "{}", rows(Mode::Fast));
    }

    /// Each token once to predict and once to store, and what stands in its block beside it.
    #[test]
    fn work_of_block_causal_models() {
        for (shape, block) in [(Shape::StableDiffCoder, 4.0), (Shape::FastDllm, 32.0)] {
            let config = shape.config().unwrap();
            let work = ModeWork::count(&config, 256, 2, (Mode::Exact, false));
            // Fast-dLLM v2's first token of a block can come alone.
            assert!((128..=129).contains(&work.forwards), "{}", work.forwards);
            let prompt = PROMPT as f64 / 256.0;
            let rows = work.rows_per_token - prompt;
            assert!(rows <= block / 2.0 + 1.1, "{shape:?}: {rows}");
        }
    }
}
