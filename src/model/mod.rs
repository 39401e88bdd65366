//! The network: a Qwen2.5 transformer without its causal mask ("Dream" architecture), ids to
//! logits.
//!
//! Sources: Dream's `modeling_dream.py` and DiffuCoder (arXiv 2506.20639). There is no batch
//! dimension: one canvas at a time. Keys and values of computed positions are kept, and a pass
//! computes the rows it is told to; the last layer and the head run only for the rows whose logits
//! are asked for, which is exact, because nothing after them mixes positions.
//!
//! There are two implementations: `native` for the CPU, with kernels of our own, and `tensor` on
//! candle for GPUs, with a few of our own on NVIDIA's (`card`). Both are weights, which passes only
//! read, and a state for each canvas: its keys and values, and room to compute in. What differs
//! between models is a matter of [`arch`].

pub mod arch;
#[cfg(feature = "cuda")]
mod card;
pub mod config;
pub mod device;
mod embedding;
mod loader;
pub mod lora;
pub(crate) mod named;
mod native;
mod packed_cache;
pub mod quantize;
mod rows;
mod shared;
pub mod storage;
pub mod synthetic;
mod tensor;
pub mod tensors;
mod weight;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Result};

use self::config::Config;
use self::loader::{Loader, PackedMatrices};
pub use self::packed_cache::tidy_packed;
use self::rows::Rows;
pub use self::shared::Seat;
use self::shared::{CanvasPass, Shared};
use self::storage::Storage;
use crate::atomic::AtomicError;
use crate::diffusion::{Asked, Attention, Denoiser, Pass, Predicted};
use crate::kernels::Isa;
use crate::weights::{Checkpoint, WeightsError};

/// Loaded weights and the state of one canvas, ready to predict. [`Self::beside`] makes another.
pub struct Model {
    network: Network,
    shift_logits: bool,
    attention: Attention,
    cached_with: Attention,       // of the pass before
    cached_ids: Vec<Option<u32>>, // tokens with which keys and values were computed
    not_kept: Option<AtomicError>,
}

/// Without its numbers.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("attention", &self.attention)
            .finish_non_exhaustive()
    }
}

enum Network {
    Native(Canvas<native::Weights>),
    Tensor(Canvas<tensor::Weights>),
}

/// A canvas over a network that others may share.
struct Canvas<N: shared::Network> {
    shared: Arc<Shared<N>>,
    /// `None` before the first pass, during one, and where one has failed.
    state: Option<N::State>,
}

impl<N: shared::Network + 'static> Canvas<N> {
    fn new(shared: Arc<Shared<N>>) -> Self {
        Self {
            shared,
            state: None,
        }
    }

    fn state(&mut self) -> N::State {
        let state = self.state.take();
        state.unwrap_or_else(|| self.shared.network.state())
    }

    fn forward(
        &mut self,
        ids: &[u32],
        rows: Rows,
        asked: Option<&Asked>,
        predicted: &mut Predicted,
    ) -> Result<()> {
        let state = self.state();
        predicted.likely.clear();
        let done = self.shared.forward(CanvasPass {
            state,
            ids: ids.to_vec(),
            rows,
            asked: asked.cloned(),
            predicted: std::mem::take(predicted),
        })?;
        (self.state, *predicted) = (Some(done.state), done.predicted);
        Ok(())
    }
}

/// Where a network runs and how it holds its weights.
#[derive(Debug, Clone)]
pub struct Target {
    /// The device.
    pub device: Device,
    /// How weights are held.
    pub storage: Storage,
    /// The instructions of our own kernels, on the CPU.
    pub isa: Isa,
    /// Where packed matrices are kept for the next process, if they are to be.
    pub packed_folder: Option<PathBuf>,
}

impl Target {
    /// Floating-point weights on the CPU.
    pub fn cpu(dtype: DType) -> Self {
        Self {
            device: Device::Cpu,
            storage: Storage::Dense(dtype),
            isa: Isa::detect(),
            packed_folder: None,
        }
    }

    /// The instructions that everything is computed with, `None` on a GPU.
    pub fn cpu_isa(&self) -> Option<Isa> {
        self.device.is_cpu().then_some(self.isa)
    }
}

/// Bytes loaded so far and in all, for progress.
pub type OnLoad<'a> = &'a mut dyn FnMut(usize, usize);

impl Model {
    /// Loads the weights of `checkpoint` for `target`.
    ///
    /// # Errors
    /// When a tensor is missing, superfluous, misshapen, of an unexpected type, or does not fit
    /// the device's memory.
    pub fn load(
        config: &Config,
        checkpoint: Checkpoint,
        target: &Target,
        on_load: OnLoad<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        if !target.device.is_cpu() {
            return Self::load_on_tensors(config, checkpoint, target, on_load);
        }
        let (packed, unkept) = PackedMatrices::of(&checkpoint, target);
        let mut loader = Loader::new(config, checkpoint, target, packed, on_load);
        let weights = native::Weights::load(config, target.isa, &mut loader)?;
        let not_kept = loader.finish()?.or(unkept);
        let network = Network::Native(Canvas::new(Arc::new(Shared::new(weights))));
        Ok(Self {
            not_kept,
            ..Self::new(network, config.shift_logits, config.attention)
        })
    }

    /// The implementation that GPUs get, on any device.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_on_tensors(
        config: &Config,
        checkpoint: Checkpoint,
        target: &Target,
        on_load: OnLoad<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let mut loader = Loader::new(config, checkpoint, target, PackedMatrices::Never, on_load);
        let weights = tensor::Weights::load(config, target, &mut loader)?;
        loader.finish()?;
        let network = Network::Tensor(Canvas::new(Arc::new(Shared::new(weights))));
        Ok(Self::new(network, config.shift_logits, config.attention))
    }

    fn new(network: Network, shift_logits: bool, attention: Attention) -> Self {
        Self {
            network,
            shift_logits,
            attention,
            cached_with: attention,
            cached_ids: Vec::new(),
            not_kept: None,
        }
    }

    /// Another canvas over the same weights: nothing is loaded again, and neither knows of the
    /// other's keys and values, so that both can run at the same time, each on its thread.
    pub fn beside(&self) -> Self {
        let network = match &self.network {
            Network::Native(canvas) => Network::Native(Canvas::new(Arc::clone(&canvas.shared))),
            Network::Tensor(canvas) => Network::Tensor(Canvas::new(Arc::clone(&canvas.shared))),
        };
        Self::new(network, self.shift_logits, self.attention)
    }

    /// Why its packed matrices are not kept on the disk, if they were to be.
    pub fn not_kept(&self) -> Option<&AtomicError> {
        self.not_kept.as_ref()
    }

    /// Whether kernels of our own compute rightly on the GPU, if there are any for it. Where they
    /// do not, the tensor library does without them what it can, and all logits come to the host.
    pub fn own_kernels(&self) -> Option<bool> {
        match &self.network {
            Network::Native(_) => None,
            Network::Tensor(canvas) => canvas.shared.network.own_kernels(),
        }
    }

    /// A place among the canvases over the same weights that are at work: a pass of one waits for
    /// one of every other, and all are run together, each as if it were alone. Who holds it must go
    /// on to the next pass, or let it go. A pass of a canvas without one is counted like theirs: it
    /// waits until there are as many as seats, and is run with them.
    pub fn seat(&self) -> Seat {
        match &self.network {
            Network::Native(canvas) => Seat::at(&canvas.shared),
            Network::Tensor(canvas) => Seat::at(&canvas.shared),
        }
    }

    /// Output of the head at each position of the canvas `ids`, not shifted. `[T, V]`
    ///
    /// # Errors
    /// When the device fails, for instance for lack of memory.
    pub fn head_output(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let all: Vec<usize> = (0..ids.len()).collect();
        let pass = Pass {
            ids,
            positions: &all,
            refresh: &all,
            predict: &all,
            attention: self.attention,
        };
        let mut predicted = Predicted::default();
        self.run(&pass, 0, None, &mut predicted)?;
        Ok(predicted.logits)
    }

    fn run(
        &mut self,
        pass: &Pass<'_>,
        shift: usize,
        asked: Option<&Asked>,
        predicted: &mut Predicted,
    ) -> Result<usize> {
        let rows = Rows::of(pass, shift);
        if self.cached_with != pass.attention {
            self.cached_ids.clear();
            self.cached_with = pass.attention;
        }
        self.cached_ids.resize(pass.ids.len(), None); // what is behind was of another canvas
        let mut cached_ids = std::mem::take(&mut self.cached_ids); // none until it is done
        let indices = rows.indices.clone();
        match &mut self.network {
            Network::Native(canvas) => canvas.forward(pass.ids, rows, asked, predicted)?,
            Network::Tensor(canvas) => canvas.forward(pass.ids, rows, asked, predicted)?,
        }
        for &index in &indices {
            let is_in_place = pass.positions[index] == index;
            cached_ids[index] = is_in_place.then_some(pass.ids[index]);
        }
        self.cached_ids = cached_ids;
        Ok(indices.len())
    }
}

impl Denoiser for Model {
    type Error = candle_core::Error;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize> {
        let mut predicted = Predicted {
            logits: std::mem::take(logits),
            ..Predicted::default()
        };
        let rows = self.forward_likely(pass, None, &mut predicted)?;
        *logits = predicted.logits;
        Ok(rows)
    }

    fn forward_likely(
        &mut self,
        pass: &Pass<'_>,
        asked: Option<&Asked>,
        predicted: &mut Predicted,
    ) -> Result<usize> {
        self.run(pass, usize::from(self.shift_logits), asked, predicted)
    }

    fn cached_ids(&self, attention: Attention) -> &[Option<u32>] {
        match self.cached_with == attention {
            true => &self.cached_ids,
            false => &[],
        }
    }

    fn move_cached(&mut self, first: usize, by: isize) -> bool {
        let Network::Native(canvas) = &mut self.network else {
            return false;
        };
        let moved = first.min(self.cached_ids.len())..self.cached_ids.len();
        let to = first.saturating_add_signed(by);
        if by > 0 {
            let gap = std::iter::repeat_n(None, by.unsigned_abs());
            self.cached_ids.splice(moved.start..moved.start, gap);
        } else {
            self.cached_ids.drain(to.min(moved.start)..moved.start);
        }
        let mut state = canvas.state();
        state.move_cached(moved, by);
        canvas.state = Some(state);
        true
    }

    fn attention(&self) -> Attention {
        self.attention
    }
}

/// Rotary frequencies, in float32 as the reference has them. `[E / 2]`
fn inv_freq(config: &Config) -> Vec<f32> {
    let (e, theta) = (config.head_dim, config.rope_theta);
    (0..e / 2)
        .map(|i| (1.0 / theta.powf(2.0 * i as f64 / e as f64)) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Format;

    fn config() -> Config {
        let json = serde_json::json!({
            "model_type": "Dream", "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 50, "rms_norm_eps": 1e-6, "max_position_embeddings": 256,
        });
        Config::from_json(json.to_string().as_bytes()).unwrap()
    }

    /// Both networks, and ours with quantized weights.
    fn models() -> Vec<Model> {
        let config = config();
        let dense = Target::cpu(DType::F32);
        let stored = Target {
            storage: Storage::AsStored,
            ..dense.clone()
        };
        let random = |format| Checkpoint::synthetic(&config, format).unwrap();
        let on_load = &mut |_, _| ();
        vec![
            Model::load(&config, random(None), &dense, on_load).unwrap(),
            Model::load(&config, random(Some(Format::Q8_0)), &stored, on_load).unwrap(),
            Model::load_on_tensors(&config, random(None), &dense, on_load).unwrap(),
        ]
    }

    /// One of ten passes over the canvas of a seed, which grows once; later ones refresh three
    /// positions and use the keys and values that the passes before them left.
    fn pass(model: &mut Model, seed: usize, number: usize) -> Vec<f32> {
        let len = 20 + 30 * seed + if number < 5 { 0 } else { 40 };
        let ids: Vec<u32> = (0..len)
            .map(|at| ((at * (seed + 3) + at / 7 + number) % 50) as u32)
            .collect();
        let all: Vec<usize> = (0..len).collect();
        let refresh = match number % 5 {
            0 => &all[..],
            start => &all[start..start + 3],
        };
        let pass = Pass {
            ids: &ids,
            positions: &all,
            refresh,
            predict: &[1, len / 2, len - 1],
            attention: model.attention(),
        };
        let mut logits = Vec::new();
        model.forward(&pass, &mut logits).unwrap();
        logits
    }

    fn run(model: &mut Model, seed: usize) -> Vec<Vec<f32>> {
        (0..10).map(|number| pass(model, seed, number)).collect()
    }

    #[test]
    fn two_canvases_over_one_set_of_weights_are_as_each_alone() {
        for (mut first, mut other) in models().into_iter().zip(models()) {
            let alone = [run(&mut first.beside(), 0), run(&mut other, 1)];
            assert_ne!(alone[0], alone[1]);

            let mut second = first.beside();
            let interleaved: Vec<_> = (0..10)
                .map(|number| [pass(&mut first, 0, number), pass(&mut second, 1, number)])
                .collect();
            for (number, [a, b]) in interleaved.iter().enumerate() {
                assert_eq!((a, b), (&alone[0][number], &alone[1][number]), "{number}");
            }

            let at_once = |is_joint: bool| {
                std::thread::scope(|scope| {
                    let canvases =
                        [(first.beside(), 0), (first.beside(), 1)].map(|(model, seed)| {
                            let seat = is_joint.then(|| model.seat());
                            (model, seed, seat)
                        });
                    let threads = canvases.map(|(mut model, seed, seat)| {
                        scope.spawn(move || (run(&mut model, seed), seat).0)
                    });
                    threads.map(|thread| thread.join().unwrap())
                })
            };
            assert_eq!(at_once(false), alone);
            match first.network {
                Network::Native(_) => assert_eq!(at_once(true), alone),
                // The library's products round by the number of rows.
                Network::Tensor(_) => {
                    let (joint, alone) = (at_once(true), alone.clone());
                    let [joint, alone] = [joint, alone].map(|runs| runs.concat().concat());
                    let mut both = joint.iter().zip(&alone);
                    assert!(both.all(|(a, b)| (a - b).abs() < 1e-4));
                }
            }
        }
    }

    /// Longer than what is computed at a time of gate and up.
    #[test]
    fn long_canvases_are_computed_in_parts() {
        let config = config();
        let target = Target::cpu(DType::F32);
        let weights = || Checkpoint::synthetic(&config, None).unwrap();
        let on_load = &mut |_, _| ();
        let mut models = [
            Model::load(&config, weights(), &target, on_load).unwrap(),
            Model::load_on_tensors(&config, weights(), &target, on_load).unwrap(),
        ];
        let ids: Vec<u32> = (0..1100).map(|i| i * 7 % 50).collect();
        let [ours, other] = models
            .each_mut()
            .map(|model| model.head_output(&ids).unwrap());
        assert_eq!(ours.len(), 1100 * 50);
        assert!(ours.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    /// Beside blocks numbers of 16 bits stay what they are, and nothing is lost that float32 has.
    #[test]
    fn halves_of_a_file_are_not_widened_in_memory() {
        let config = config();
        let target = |storage| Target {
            storage,
            ..Target::cpu(DType::F32)
        };
        let [stored, f32] = [Storage::AsStored, Storage::Dense(DType::F32)].map(target);
        let weights = || Checkpoint::synthetic(&config, None).unwrap(); // bf16
        let on_load = &mut |_, _| ();
        let mut loader = Loader::new(
            &config,
            weights(),
            &stored,
            PackedMatrices::Unknown,
            on_load,
        );
        let affine = loader.linear("model.layers.0.mlp.up_proj").unwrap();
        let weight::Weight::Dense(matrix) = affine.weight else {
            panic!("not of numbers")
        };
        assert_eq!(matrix.dtype(), DType::BF16);
        let logits = |target| {
            let mut model = Model::load(&config, weights(), target, &mut |_, _| ()).unwrap();
            model.head_output(&[5; 12]).unwrap() // too few rows for tiles, which round them
        };
        assert_eq!(logits(&stored), logits(&f32));

        let of_type = |held| weights().bytes_as_stored(("", true), |_| held);
        let [halves, floats] = [DType::BF16, DType::F32].map(of_type);
        assert!(
            halves * 2 > floats && floats * 2 > halves * 3,
            "{halves}, {floats}"
        );
    }

    /// In a single layer keys and values depend on token and position alone, so that those which
    /// moved are those that would be computed.
    #[test]
    fn what_moved_is_as_if_computed_there() {
        let mut config = config();
        config.num_hidden_layers = 1;
        let weights = Checkpoint::synthetic(&config, None).unwrap();
        let target = Target::cpu(DType::F32);
        let mut model = Model::load(&config, weights, &target, &mut |_, _| ()).unwrap();
        let canvas = |masks: usize| [&[5; 20][..], &vec![49; masks], &[7, 8, 9].repeat(9)].concat();
        let mut predict = |masks: usize, moved: Option<(usize, isize)>| {
            let ids = canvas(masks);
            let all: Vec<usize> = (0..ids.len()).collect();
            let inside: Vec<usize> = (20..20 + masks).collect();
            let is_there = moved.is_some_and(|(first, by)| model.move_cached(first, by));
            assert_eq!(is_there, moved.is_some());
            let pass = Pass {
                ids: &ids,
                positions: &all,
                refresh: if is_there { &inside } else { &all },
                predict: &inside,
                attention: model.attention(),
            };
            let mut logits = Vec::new();
            let rows = model.forward(&pass, &mut logits).unwrap();
            assert_eq!(rows, if is_there { masks + 1 } else { ids.len() });
            let known = ids.iter().copied().map(Some).collect::<Vec<_>>();
            assert_eq!(model.cached_ids(model.attention()), known);
            logits
        };
        let computed = [4, 11, 3].map(|masks| predict(masks, None));
        let moves = [(4, (23, 1)), (11, (24, 7)), (3, (31, -8))];
        let moved = moves.map(|(masks, by)| predict(masks, Some(by)));
        for (moved, computed) in moved.iter().zip(computed) {
            assert_eq!(moved.len(), computed.len());
            assert!(
                moved
                    .iter()
                    .zip(&computed)
                    .all(|(a, b)| (a - b).abs() < 1e-4)
            );
        }
    }
}
