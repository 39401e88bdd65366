//! `diffucoder doctor`: what this machine has, and which model suits it.

use serde::Serialize;
use sysinfo::System;

use crate::cli::args::compute;
use crate::cli::args::values::{Output, at_least_one};
use crate::cli::hints;
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::{Ui, human_bytes};
use diffucoder::Error;
use diffucoder::hub::{CachedModel, HubOptions, cached};
use diffucoder::kernels::limits::{Limits, Meter};
use diffucoder::kernels::{Format, Isa};
use diffucoder::model::device::{DeviceChoice, DeviceError, free_memory_bytes};

/// Weights of the 7B models.
const PARAMETERS: f64 = 7.6e9;
/// Positions that a pass of the default mode computes, in the mean of 256 tokens at two a pass
/// (`bench --generate`).
const ROWS: f64 = 9.3;
/// Tokens that such a pass reveals, by how sure the model is.
const TOKENS: [f64; 2] = [1.0, 3.0];
/// Share of the int8 limit that a whole forward pass reaches, attention and all.
const EFFICIENCY: f64 = 0.6;
/// Memory beside the weights: activations, keys and values, logits.
const SPARE: f64 = 1.2;

/// Flags of `doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// What to print: text, or one JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Threads to measure with [default: one for each physical core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    cpu: String,
    threads: usize,
    features: Vec<&'static str>,
    kernels: &'static str,
    kernels_available: Vec<&'static str>,
    memory_bytes: u64,
    memory_free_bytes: Option<u64>,
    cuda: String,
    metal: String,
    cache: String,
    cached: Vec<Cached>,
    int8_ops_per_s: f64,
    read_bytes_per_s: f64,
    advice: String,
}

#[derive(Serialize)]
struct Cached {
    id: String,
    bytes: u64,
    complete: bool,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let isa = compute::isa()?;
    let threads = args.threads.unwrap_or_else(compute::cores);
    let options = HubOptions::from_env();
    let models = cached(&options).map_err(Error::from)?;
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_cpu_all();
    let free_bytes = free_memory_bytes(&candle_core::Device::Cpu);
    let limits = Meter::new(isa, threads).measure();
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        cpu: system
            .cpus()
            .first()
            .map_or_else(String::new, |cpu| cpu.brand().trim().into()),
        threads,
        features: features(),
        kernels: isa.name(),
        kernels_available: Isa::available().map(Isa::name).collect(),
        memory_bytes: system.total_memory(),
        memory_free_bytes: free_bytes,
        cuda: gpu(DeviceChoice::Cuda(0)),
        metal: gpu(DeviceChoice::Metal),
        cache: options.cache_dir.display().to_string(),
        cached: models.iter().map(Cached::from).collect(),
        int8_ops_per_s: limits.int8_ops_per_s,
        read_bytes_per_s: limits.read_bytes_per_s,
        advice: advice(free_bytes, limits),
    };
    match args.output {
        Output::Json => ui.result(&format!("{}\n", serde_json::to_string(&findings)?))?,
        Output::Text => ui.result(&findings.text())?,
    }
    Ok(())
}

impl Findings {
    fn text(&self) -> String {
        let free = match self.memory_free_bytes {
            Some(bytes) => format!(", {} free", human_bytes(bytes)),
            None => String::new(),
        };
        let cached = match self.cached.len() {
            0 => "no models".to_string(),
            _ => {
                let about = |model: &Cached| {
                    let part = if model.complete { "" } else { ", partial" };
                    format!("{} ({}{part})", model.id, human_bytes(model.bytes))
                };
                let all: Vec<String> = self.cached.iter().map(about).collect();
                all.join(", ")
            }
        };
        let lines = [
            ("diffucoder", self.version.to_string()),
            (
                "cpu",
                format!("{}, {} threads to compute with", self.cpu, self.threads),
            ),
            ("features", self.features.join(" ")),
            (
                "kernels",
                format!(
                    "{} (of {})",
                    self.kernels,
                    self.kernels_available.join(", ")
                ),
            ),
            (
                "memory",
                format!("{}{free}", human_bytes(self.memory_bytes)),
            ),
            ("cuda", self.cuda.clone()),
            ("metal", self.metal.clone()),
            ("cache", format!("{}: {cached}", self.cache)),
            (
                "limits",
                format!(
                    "{:.2} T int8 operations/s, {:.1} GB/s of reading (measured now)",
                    self.int8_ops_per_s / 1e12,
                    self.read_bytes_per_s / 1e9
                ),
            ),
            ("advice", self.advice.clone()),
        ];
        let lines = lines.map(|(what, text)| [what.to_string(), text]);
        table([Align::Left; 2], lines)
    }
}

impl From<&CachedModel> for Cached {
    fn from(model: &CachedModel) -> Self {
        Self {
            id: model.id.to_string(),
            bytes: model.bytes,
            complete: model.is_complete,
        }
    }
}

/// Whether this build and this machine have the GPU.
fn gpu(choice: DeviceChoice) -> String {
    match choice.open() {
        Ok(_) => "ready".into(),
        Err(error @ DeviceError::NotCompiled { .. }) => {
            format!("not in this build ({})", hints::device(&error))
        }
        Err(error) => format!("{:#}", anyhow::Error::from(error)),
    }
}

/// Which model to run here, and how long it takes.
fn advice(free_bytes: Option<u64>, limits: Limits) -> String {
    if DeviceChoice::Auto
        .open()
        .is_ok_and(|device| !device.is_cpu())
    {
        return "`--model diffucoder` on the GPU, in bf16: 15.2 GB of its memory".into();
    }
    let bytes =
        |format: Format| PARAMETERS / format.block_inputs() as f64 * format.block_bytes() as f64;
    let fits = |format: &Format| free_bytes.is_none_or(|free| SPARE * bytes(*format) < free as f64);
    let Some(format) = [Format::Q8_0, Format::Q4_0].into_iter().find(fits) else {
        return format!(
            "`--model tiny`: the 7B models need {} of free memory at 4 bits",
            human_bytes((SPARE * bytes(Format::Q4_0)) as u64)
        );
    };
    let compute = 2.0 * PARAMETERS * ROWS / (EFFICIENCY * limits.int8_ops_per_s);
    let pass = compute.max(bytes(format) / limits.read_bytes_per_s);
    let [slowest, fastest] = TOKENS.map(|tokens| tokens / pass);
    format!(
        "`--model diffucoder --quant {format}` ({} of memory): about {pass:.2} s for each forward \
         pass, {slowest:.1} to {fastest:.1} tokens/s",
        human_bytes(bytes(format) as u64),
    )
}

/// Features of this CPU that the kernels, ours and candle's, ask for.
fn features() -> Vec<&'static str> {
    macro_rules! detected {
        ($has:ident, $($name:tt)+) => {
            [$(($name, std::arch::$has!($name))),+].into_iter()
        };
    }
    #[cfg(target_arch = "x86_64")]
    let all = detected!(is_x86_feature_detected, "avx2" "fma" "f16c" "avxvnni" "avx512f"
        "avx512bw" "avx512vnni" "avx512bf16");
    #[cfg(target_arch = "aarch64")]
    let all = detected!(is_aarch64_feature_detected, "neon" "dotprod" "i8mm" "bf16" "sve");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let all = std::iter::empty::<(&'static str, bool)>();
    all.filter_map(|(name, has)| has.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_follows_memory_and_speed() {
        let limits = Limits {
            int8_ops_per_s: 1e12,
            read_bytes_per_s: 40e9,
        };
        let advice = |gb: u64| advice(Some(gb * 1_000_000_000), limits);
        assert!(advice(24).contains("--quant q8_0"), "{}", advice(24));
        assert!(advice(24).contains("about 0.24 s"), "{}", advice(24));
        assert!(advice(24).contains("4.2 to 12.7 tokens/s"));
        assert!(advice(8).contains("--quant q4_0"));
        assert!(advice(2).contains("--model tiny"));
    }
}
