//! What a known model takes on this machine: what is downloaded, memory, and an estimate of its
//! speed.

use candle_core::Device;
use diffucoder::diffusion::Mode;
use diffucoder::hub::registry::{DEFAULT_ALIAS, KnownModel, by_alias};
use diffucoder::hub::{CachedModel, HubOptions, cached};
use diffucoder::kernels::limits::{Limits, Meter};
use diffucoder::kernels::{Format, Isa};
use diffucoder::model::device::{DeviceChoice, free_memory_bytes};
use serde::Serialize;

use crate::cli::terminal::ui::Ui;

/// Positions that a pass of `balanced` computes, the mode of most of these models, in the mean of
/// 256 tokens at two a pass (`bench --generate`: 17.9 for each token).
const ROWS: f64 = 35.8;
/// Tokens that such a pass reveals, by how sure the model is.
const TOKENS: [f64; 2] = [1.0, 3.0];
/// Share of the int8 limit that a whole forward pass reaches, attention and all.
const EFFICIENCY: f64 = 0.6;
/// The same of the tile limit, where there are tiles: with [`ROWS`] a pass takes them (20 to 32 %
/// from 32 to 320 rows: benches/README.md).
const TILE_EFFICIENCY: f64 = 0.25;
/// Memory beside the weights: activations, keys and values, logits. (5.2 GB at the peak for a file
/// of 4.4 GB: benches/README.md.)
const SPARE: f64 = 1.2;
/// The same on a GPU, where the embedding table is not: 15.9 GB of 15.2, and 5.0 of 4.8.
const GPU_SPARE: f64 = 1.05;
/// In what a whole model is held, from the largest to the smallest.
const HELD_AS: [Format; 2] = [Format::Q8_0, Format::Q4_0];

/// What is downloaded; nothing, and a note, where that cannot be read.
pub fn in_cache(options: &HubOptions, ui: &Ui) -> Vec<CachedModel> {
    cached(options).unwrap_or_else(|error| {
        ui.note(&error.to_string());
        Vec::new()
    })
}

/// What there is to compute with.
pub struct Machine {
    /// Of the GPU where there is one, else of the machine.
    pub free_bytes: Option<u64>,
    pub limits: Limits,
    /// How much slower than the best the middle of the measurements was, if by much.
    pub busy: Option<f64>,
    pub is_gpu: bool,
}

/// What a model takes.
#[derive(Debug, Serialize)]
pub struct Needs {
    /// All in all, about.
    pub memory_bytes: u64,
    pub fits: bool,
    /// From and to, by how sure the model is: estimated from the machine's limits, for CPUs only.
    pub tokens_per_s: Option<[f64; 2]>,
}

/// A way to run a model.
#[derive(Debug, Serialize)]
pub struct Choice {
    pub flags: String,
    pub download_bytes: u64,
    #[serde(flatten)]
    pub needs: Needs,
}

/// A model for a purpose.
#[derive(Debug, Serialize)]
pub struct Use {
    pub what: &'static str,
    #[serde(flatten)]
    pub choice: Choice,
}

/// What models are wanted for, and which one suits it: the quickest that fills holes, the one that
/// fills most of them right, the best at answers.
const USES: [(&str, &str); 3] = [
    ("infill in an editor, CI", "open-dcoder"),
    ("infill, most holes right", "dreamon"),
    ("answers", DEFAULT_ALIAS),
];

impl Machine {
    /// Measures it, which takes about a second.
    pub fn measure(isa: Isa, threads: usize) -> Self {
        let device = DeviceChoice::Auto.open();
        let device = device.map_or(Device::Cpu, |(device, _)| device);
        let mut meter = Meter::new(isa, threads);
        Self {
            free_bytes: free_memory_bytes(&device),
            limits: meter.measure(),
            busy: meter.busy(),
            is_gpu: !device.is_cpu(),
        }
    }

    /// What a model takes whose weights have this size in memory.
    pub fn needs(&self, model: &KnownModel, weights_bytes: f64) -> Needs {
        let spare = if self.is_gpu { GPU_SPARE } else { SPARE };
        let memory = spare * weights_bytes;
        let ops_per_s = match self.limits.tile_ops_per_s {
            Some(tile_ops_per_s) => TILE_EFFICIENCY * tile_ops_per_s,
            None => EFFICIENCY * self.limits.int8_ops_per_s,
        };
        let compute = 2.0 * model.parameters() * ROWS / ops_per_s;
        let pass = compute.max(weights_bytes / self.limits.read_bytes_per_s);
        Needs {
            memory_bytes: memory as u64,
            fits: self.free_bytes.is_none_or(|free| memory < free as f64),
            tokens_per_s: (!self.is_gpu && model.mode() == Mode::Balanced)
                .then(|| TOKENS.map(|tokens| tokens / pass)),
        }
    }

    /// What the whole of a model takes: in the largest quantized form that fits, on a GPU as it is
    /// if that fits.
    pub fn needs_of_whole(&self, model: &KnownModel) -> Needs {
        let unchanged = self.needs(model, model.download_bytes as f64);
        if self.is_gpu && unchanged.fits {
            return unchanged;
        }
        let [larger, smaller] = HELD_AS.map(|format| self.needs(model, held(model, format)));
        if larger.fits { larger } else { smaller }
    }

    /// What to take for what.
    pub fn uses(&self) -> impl Iterator<Item = Use> {
        USES.iter().filter_map(|&(what, alias)| {
            let model = by_alias(alias)?;
            let (name, download_bytes, needs) = match model.conversions().next() {
                Some((name, bytes)) => (name, bytes, self.needs(model, bytes as f64)),
                None => {
                    let needs = self.needs_of_whole(model);
                    (alias.to_owned(), model.download_bytes, needs)
                }
            };
            Some(Use {
                what,
                choice: Choice {
                    flags: format!("--model {name}"),
                    download_bytes,
                    needs,
                },
            })
        })
    }

    /// The ways to run a model, the one to recommend first, those that do not fit included.
    pub fn choices(&self, model: &KnownModel) -> Vec<Choice> {
        let choice = |flags, download_bytes, weights_bytes| Choice {
            flags,
            download_bytes,
            needs: self.needs(model, weights_bytes),
        };
        let whole = |more: &str, weights_bytes| {
            let flags = format!("--model {}{more}", model.alias);
            choice(flags, model.download_bytes, weights_bytes)
        };
        let conversions = model
            .conversions()
            .map(|(name, bytes)| choice(format!("--model {name}"), bytes, bytes as f64));
        match self.is_gpu {
            true => std::iter::once(whole("", model.download_bytes as f64))
                .chain(conversions)
                .collect(),
            false => conversions
                .chain(
                    HELD_AS.map(|format| whole(&format!(" --quant {format}"), held(model, format))),
                )
                .collect(),
        }
    }
}

/// The weights of a model in a format.
fn held(model: &KnownModel, format: Format) -> f64 {
    model.parameters() / format.block_inputs() as f64 * format.block_bytes() as f64
}

impl Needs {
    /// `1.7 to 5.2`, or a dash.
    pub fn speed(&self) -> String {
        let figure = |tokens: f64| match tokens < 10.0 {
            true => format!("{tokens:.1}"),
            false => format!("{tokens:.0}"),
        };
        self.tokens_per_s.map_or_else(
            || "-".to_owned(),
            |[slowest, fastest]| format!("{} to {}", figure(slowest), figure(fastest)),
        )
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use diffucoder::hub::registry::MODELS;

    /// A CPU with so much free memory.
    pub fn machine(free_gb: f64) -> Machine {
        Machine {
            free_bytes: Some((free_gb * 1e9) as u64),
            limits: Limits {
                int8_ops_per_s: 1e12,
                read_bytes_per_s: 40e9,
                ..Limits::default()
            },
            busy: None,
            is_gpu: false,
        }
    }

    #[test]
    fn the_first_choice_that_fits_is_the_conversion() {
        let first = |machine: &Machine| {
            let choices = machine.choices(&MODELS[0]).into_iter();
            let mut fitting = choices.filter(|choice| choice.needs.fits);
            fitting
                .next()
                .map(|choice| (choice.flags, choice.download_bytes))
        };
        let conversion = || Some(("--model diffucoder:q4_k_m".to_owned(), 4_800_000_000));
        assert_eq!(first(&machine(64.0)), conversion());
        assert_eq!(first(&machine(6.0)), conversion());
        // 4.3 GB of weights and what stands beside them.
        let smallest = ("--model diffucoder --quant q4_0".to_owned(), 15_200_000_000);
        assert_eq!(first(&machine(5.5)), Some(smallest));
        assert_eq!(first(&machine(5.0)), None);
        let on_gpu = |free_gb| Machine {
            is_gpu: true,
            ..machine(free_gb)
        };
        let memory = |machine: &Machine| machine.needs_of_whole(&MODELS[0]).memory_bytes;
        let whole = ("--model diffucoder".to_owned(), 15_200_000_000);
        assert_eq!(first(&on_gpu(23.0)), Some(whole));
        assert_eq!(memory(&on_gpu(23.0)), 15_960_000_000);
        assert_eq!(first(&on_gpu(7.0)), conversion());
        assert!(memory(&on_gpu(7.0)) < 5_000_000_000);
    }

    #[test]
    fn every_use_has_its_model() {
        let uses: Vec<_> = machine(64.0).uses().map(|each| each.choice.flags).collect();
        let expected = [
            "--model open-dcoder",
            "--model dreamon",
            "--model diffucoder:q4_k_m",
        ];
        assert_eq!(uses, expected);
    }

    #[test]
    fn speed_follows_arithmetic_and_then_reading() {
        let speed = |needs: Needs| needs.speed();
        assert_eq!(speed(machine(64.0).needs(&MODELS[0], 4.8e9)), "1.1 to 3.3");
        let mut slow = machine(64.0);
        slow.limits.read_bytes_per_s = 4.8e9;
        assert_eq!(speed(slow.needs(&MODELS[0], 4.8e9)), "1.0 to 3.0");
        // Tiles, at a quarter of their limit: 0.33 s of arithmetic.
        let mut tiles = machine(64.0);
        tiles.limits.tile_ops_per_s = Some(6.6e12);
        assert_eq!(speed(tiles.needs(&MODELS[0], 4.8e9)), "3.0 to 9.1");
        slow.is_gpu = true;
        assert_eq!(speed(slow.needs(&MODELS[0], 4.8e9)), "-");
        // A whole model is held in q8_0, or smaller if that does not fit.
        assert_eq!(
            machine(10.0).needs_of_whole(&MODELS[0]).memory_bytes,
            9_690_000_000
        );
        assert_eq!(
            machine(9.0).needs_of_whole(&MODELS[0]).memory_bytes,
            5_130_000_000
        );
    }
}
