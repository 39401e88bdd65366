//! The model that a command runs: which one, where it computes, opened and then loaded.
//!
//! Opening reads the small files, so that everything that can be wrong with a request is found before
//! the weights are touched; loading reads those.

use std::time::{Duration, Instant};

use anyhow::Context;
use candle_core::DeviceLocation;

use crate::cli::args::model::ModelArgs;
use crate::cli::args::values::at_least_one;
use crate::cli::terminal::download::Download;
use crate::cli::terminal::ui::Ui;
use crate::cli::usage::UsageError;
use diffucoder::Error;
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::kernels::{Format, Isa};
use diffucoder::model::config::Config;
use diffucoder::model::device::{
    DeviceChoice, Precision, Quantisation, Storage, free_memory_bytes,
};
use diffucoder::model::{Model, Target};
use diffucoder::package::Package;
use diffucoder::weights::Checkpoint;

/// The computing flags, of every command that runs a model.
#[derive(clap::Args)]
#[command(next_help_heading = "Computing")]
pub struct ComputeArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Type of weights and activations: auto, f32, bf16 or f16
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: Precision,
    /// Quantise the weights while loading them: auto, none, q8_0, q4_0 or q4_k. auto does so only if
    /// float32 weights do not fit the free memory
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    quant: Quantisation,
    /// Threads to compute with; the result does not depend on it [default: one for each physical core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
}

/// A model whose small files are read and which can be loaded as asked.
pub struct Opened {
    pub package: Package,
    pub target: Target,
    spec: ModelSpec,
    started: Instant,
}

/// A loaded model.
pub struct Engine {
    pub package: Package,
    pub target: Target,
    pub model: Model,
    /// From the first file to the last weight.
    pub load_time: Duration,
}

impl Opened {
    /// Finds the model, downloads its small files if need be, and decides how to hold its weights.
    ///
    /// # Errors
    /// When the model cannot be had or does not fit this machine.
    pub fn open(model: &ModelArgs, compute: &ComputeArgs, ui: &Ui) -> anyhow::Result<Self> {
        compute.start_threads()?;
        let device = compute.device.open().map_err(Error::from)?;
        let isa = isa()?;
        let started = Instant::now();
        let (options, spec): (HubOptions, ModelSpec) = (model.hub_options(), model.spec()?);
        let package = Package::open(&spec, &options, &mut Download::new(ui, &spec))?;
        let storage = compute.storage(&package, &device)?;
        if let (Storage::Quantised(format), Quantisation::Auto) = (storage, compute.quant) {
            ui.note(&format!(
                "quantising to {format}: float32 weights do not fit the free memory"
            ));
        }
        let target = Target {
            device,
            storage,
            isa,
        };
        Ok(Self {
            package,
            target,
            spec,
            started,
        })
    }

    /// Downloads the weights if need be, and loads them.
    ///
    /// # Errors
    /// When the weights cannot be had or are not what they should be.
    pub fn load(self, ui: &Ui) -> anyhow::Result<Engine> {
        let weights = self
            .package
            .fetch_weights(&mut Download::new(ui, &self.spec))?;
        let bar = ui.byte_bar("loading", 0);
        let model = self
            .package
            .load(weights, &self.target, &mut |done, total| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            })?;
        bar.finish_and_clear();
        Ok(Engine {
            package: self.package,
            target: self.target,
            model,
            load_time: self.started.elapsed(),
        })
    }
}

impl ComputeArgs {
    /// Starts the one pool of threads that everything computes on.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start_threads(&self) -> anyhow::Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.unwrap_or_else(cores));
        pool.build_global().context("cannot start the threads")
    }

    /// Random weights in the shapes of `config`, and how to hold them: quantised to q4_0 unless `--quant` says
    /// otherwise.
    ///
    /// # Errors
    /// When they do not fit the memory.
    pub fn synthetic(&self, config: &Config) -> anyhow::Result<(Checkpoint, Target)> {
        let (quantisation, format) = match self.quant {
            Quantisation::Auto => (Quantisation::To(Format::Q4_0), Some(Format::Q4_0)),
            Quantisation::To(format) => (self.quant, Some(format)),
            Quantisation::None => (self.quant, None),
        };
        let (device, parameters) = (candle_core::Device::Cpu, config.parameters());
        let free_bytes = free_memory_bytes(&device);
        let storage = Storage::choose(self.dtype, quantisation, &device, parameters, free_bytes);
        let target = Target {
            storage: storage.map_err(Error::from)?,
            isa: isa()?,
            device,
        };
        let checkpoint = Checkpoint::synthetic(config, format).map_err(Error::from)?;
        Ok((checkpoint, target))
    }

    /// How to hold the weights.
    fn storage(&self, package: &Package, device: &candle_core::Device) -> anyhow::Result<Storage> {
        let free_bytes = free_memory_bytes(device);
        let parameters = package.config.parameters();
        if package.is_gguf() {
            let quantises = matches!(self.quant, Quantisation::To(_));
            if quantises || matches!(self.dtype, Precision::Fixed(_)) {
                return Err(UsageError::with_hint(
                    "--quant and --dtype do not apply to a GGUF file",
                    "its weights are used as they are stored",
                )
                .into());
            }
            let storage = Storage::as_stored(package.bytes_as_stored()?, parameters, free_bytes);
            return Ok(storage.map_err(Error::from)?);
        }
        let storage = Storage::choose(self.dtype, self.quant, device, parameters, free_bytes);
        Ok(storage.map_err(Error::from)?)
    }
}

/// Physical cores that this process may use: a second thread on a core adds nothing to arithmetic.
pub fn cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    sysinfo::System::physical_core_count().map_or(allowed, |cores| cores.min(allowed))
}

/// The name of the device that a model runs on, as `--device` takes it.
pub fn device_name(target: &Target) -> String {
    match target.device.location() {
        DeviceLocation::Cpu => DeviceChoice::Cpu,
        DeviceLocation::Cuda { gpu_id } => DeviceChoice::Cuda(gpu_id),
        DeviceLocation::Metal { .. } => DeviceChoice::Metal,
    }
    .to_string()
}

/// The instructions of the kernels: `DIFFUCODER_ISA`, or the best of this CPU.
pub fn isa() -> Result<Isa, UsageError> {
    let Ok(name) = std::env::var("DIFFUCODER_ISA") else {
        return Ok(Isa::detect());
    };
    Isa::named(&name).ok_or_else(|| {
        let names: Vec<&str> = Isa::available().map(Isa::name).collect();
        UsageError::with_hint(
            format!("DIFFUCODER_ISA is {name}, which this CPU does not have"),
            format!("it has {}", names.join(", ")),
        )
    })
}
