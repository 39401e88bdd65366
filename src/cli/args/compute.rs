//! Where to compute: the flags, and the session that they open.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use diffucoder::hub::ModelSpec;
use diffucoder::kernels::Isa;
use diffucoder::model::Target;
use diffucoder::model::device::{DeviceChoice, DeviceError};
use diffucoder::model::storage::{Precision, Quantization, Storage};
use diffucoder::session::{Compute, Session};
use diffucoder::{Error, RequestError};
use etcetera::BaseStrategy;

use crate::cli::args::model::{ModelArgs, package};
use crate::cli::args::values::at_least_one;
use crate::cli::hints;
use crate::cli::terminal::download::Download;
use crate::cli::terminal::ui::Ui;
use crate::cli::usage::UsageError;

/// The computing flags, of every command that runs a model.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Computing")]
pub struct ComputeArgs {
    /// Where to compute: auto (the GPU that this build is for, else the CPU), cpu, cuda, cuda:N or
    /// metal
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Type of weights and activations: auto (f32; on a GPU bf16), f32, bf16 or f16
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: Precision,
    /// Quantize the weights while loading them: auto, none, q8_0, q4_0 or q4_k. auto does so only
    /// if float32 weights (on a GPU bfloat16) do not fit the free memory
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    quant: Quantization,
    /// Threads to compute with; the result does not depend on it [default: one for each physical
    /// core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    #[command(flatten)]
    isa: IsaArgs,
    /// Keep the weights on the disk as they are in memory (diffucoder/packed in the user's cache
    /// folder, as large again as the file): the next process is ready at once
    #[arg(long)]
    cache_packed: bool,
}

/// The instructions of the kernels, of every command that runs or measures them.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Computing")]
pub struct IsaArgs {
    /// Instruction set of the CPU to compute with, one of those that `diffucoder doctor` lists
    /// [default: the best of this CPU; where that is amx, amx-always for texts that are written
    /// together]
    #[arg(long = "isa", value_name = "NAME", value_parser = isa)]
    named: Option<Isa>,
}

impl IsaArgs {
    /// The one that is asked for, or the best of this CPU.
    pub fn isa(&self) -> Isa {
        self.named.unwrap_or_else(Isa::detect)
    }
}

fn isa(name: &str) -> Result<Isa, String> {
    Isa::named(name).ok_or_else(|| {
        let names: Vec<&str> = Isa::available().map(Isa::name).collect();
        format!("this CPU has {}", names.join(", "))
    })
}

/// A session, and the name that it was opened by.
pub struct Engine {
    pub session: Session,
    spec: ModelSpec,
}

impl Engine {
    /// Downloads the weights if need be, and loads them if they are not.
    pub fn load(&mut self, ui: &Ui) -> anyhow::Result<()> {
        let bar = ui.byte_bar("loading", 0);
        let on_load = &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let mut download = Download::new(ui, &self.spec);
        if self.session.target().device.is_cpu() {
            download = download.naming_conversion(&self.spec);
        }
        let model = self.session.load(&mut download, on_load)?;
        bar.finish_and_clear();
        if let Some(error) = model.not_kept() {
            ui.note(&format!(
                "the packed weights are not kept: {}",
                with_cause(error)
            ));
        }
        if model.own_kernels() == Some(false) {
            ui.note(
                "this program's own kernels for GPUs do not work on this one: it computes without \
                 them, which takes longer",
            );
        }
        Ok(())
    }
}

/// Says why the CPU computes, where a GPU was to and could not be used.
pub fn note_fallback(error: Option<&DeviceError>, ui: &Ui) {
    if let Some(error) = error {
        ui.note(&format!("computing on the CPU: {}", with_cause(error)));
    }
}

impl ComputeArgs {
    /// Finds the model, downloads its small files if need be, and decides how to hold its weights.
    pub fn open(&self, model: &ModelArgs, ui: &Ui) -> anyhow::Result<Engine> {
        self.open_as(model, model.spec()?, ui)
    }

    /// The same for another model, from where `model` says.
    pub fn open_as(&self, model: &ModelArgs, spec: ModelSpec, ui: &Ui) -> anyhow::Result<Engine> {
        self.start_threads(ui)?;
        let lora = model.lora()?;
        let open = || package(model.hub_options(), &spec, lora.as_ref(), ui);
        let session = Session::open_with(&self.compute()?, open);
        let session = session.map_err(|error| match error {
            Error::Request(RequestError::HeldAsStored) => UsageError::with_hint(
                "--quant and --dtype do not apply to a GGUF file",
                "its weights are used as they are stored",
            )
            .about(&["quant", "dtype"])
            .into(),
            Error::Device(error @ DeviceError::NotCompiled { .. }) => {
                let hint = hints::device(&error);
                UsageError::with_hint(error.to_string(), hint)
                    .about(&["device"])
                    .into()
            }
            error => anyhow::Error::from(error),
        })?;
        note_fallback(session.fell_back(), ui);
        if let (Storage::Quantized(format), Quantization::Auto) =
            (session.target().storage, self.quant)
        {
            let usual = match session.target().device.is_cpu() {
                true => "float32",
                false => "bfloat16",
            };
            ui.note(&format!(
                "quantizing to {format}: {usual} weights do not fit the free memory"
            ));
        }
        Ok(Engine { session, spec })
    }

    /// What is asked of the machine.
    ///
    /// # Errors
    /// Wrong usage when packed weights are to be kept and there is no folder for them.
    pub fn compute(&self) -> Result<Compute, UsageError> {
        Ok(Compute {
            device: self.device,
            precision: self.dtype,
            quantization: self.quant,
            isa: self.isa(),
            packed_folder: self.cache_packed.then(packed_folder).transpose()?,
        })
    }

    /// The instructions of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa.isa()
    }

    /// The same for what runs the passes of several texts as one.
    pub fn of_several(&self) -> Self {
        let isa = self.isa.named;
        let named = Some(isa.unwrap_or_else(|| Isa::detect().of_several()));
        Self {
            isa: IsaArgs { named },
            ..self.clone()
        }
    }

    /// Starts the one pool of threads that everything computes on, if it is not there yet.
    pub fn start_threads(&self, ui: &Ui) -> anyhow::Result<()> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        if STARTED.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads(self.threads, ui));
        pool.build_global().context("cannot start the threads")
    }
}

/// Where packed weights are kept.
pub fn packed_folder() -> Result<PathBuf, UsageError> {
    let folders = etcetera::choose_base_strategy();
    let folders = folders.map_err(|_| {
        let message = "--cache-packed: this user has no folder of their own";
        UsageError::with_hint(message, "set HOME").about(&["cache-packed"])
    })?;
    Ok(folders.cache_dir().join("diffucoder").join("packed"))
}

/// More threads than this for each that the machine can run at once only wait for each other.
const THREADS_EACH: usize = 4;

/// The threads that are asked for, as far as they do no harm, or one for each physical core. What
/// is computed is the same with any number.
pub fn threads(asked: Option<usize>, ui: &Ui) -> usize {
    let Some(threads) = asked else {
        return cores();
    };
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    let most = THREADS_EACH * here;
    if threads > most {
        ui.note(&format!(
            "--threads {threads} is taken as {most}: this process has {here} to run on"
        ));
    }
    threads.min(most)
}

/// Physical cores that this process may use: a second thread on a core adds nothing to arithmetic.
pub fn cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    sysinfo::System::physical_core_count().map_or(allowed, |cores| cores.min(allowed))
}

/// An error and what caused it.
fn with_cause(error: &dyn std::error::Error) -> String {
    let cause = error
        .source()
        .map_or(String::new(), |cause| format!(": {cause}"));
    format!("{error}{cause}")
}

/// The name of the device that a model runs on, as `--device` takes it.
pub fn device_name(target: &Target) -> String {
    DeviceChoice::of(&target.device).to_string()
}
