//! `diffucoder doctor`: what this machine has, and which model suits it.

use serde::Serialize;
use sysinfo::System;

use super::choices::{Choice, Machine, Use, in_cache};
use crate::cli::args::compute::{self, IsaArgs};
use crate::cli::args::output::OutputArgs;
use crate::cli::args::values::at_least_one;
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::{Ui, count, human_bytes};
use diffucoder::hub::registry::MODELS;
use diffucoder::hub::{CachedModel, HubOptions};
use diffucoder::kernels::Isa;
use diffucoder::model::device::{DeviceChoice, DeviceError, description};

/// Flags of `doctor`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: OutputArgs,
    /// Threads to measure with [default: one for each physical core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    #[command(flatten)]
    isa: IsaArgs,
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
    /// Of bf16 in tiles, where there are such.
    #[serde(skip_serializing_if = "Option::is_none")]
    tile_ops_per_s: Option<f64>,
    read_bytes_per_s: f64,
    /// How much slower than the best the middle of the measurements was, if by much.
    #[serde(skip_serializing_if = "Option::is_none")]
    busy: Option<f64>,
    /// What to take for what.
    uses: Vec<Use>,
    /// The ways to run the default model; the speeds are estimates from the limits.
    choices: Vec<Choice>,
    advice: String,
}

#[derive(Serialize)]
struct Cached {
    id: String,
    bytes: u64,
    complete: bool,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let isa = args.isa.isa();
    let threads = compute::threads(args.threads, ui);
    let options = HubOptions::from_env();
    let models = in_cache(&options, ui);
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_cpu_all();
    let machine = Machine::measure(isa, threads);
    let choices = machine.choices(&MODELS[0]); // the default
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
        memory_free_bytes: machine.free_bytes,
        cuda: gpu(DeviceChoice::Cuda(0)),
        metal: gpu(DeviceChoice::Metal),
        cache: options.cache_dir.display().to_string(),
        cached: models.iter().map(cached).collect(),
        int8_ops_per_s: machine.limits.int8_ops_per_s,
        tile_ops_per_s: machine.limits.tile_ops_per_s,
        read_bytes_per_s: machine.limits.read_bytes_per_s,
        busy: machine.busy,
        uses: machine.uses().collect(),
        advice: advice(&choices),
        choices,
    };
    args.output.report(&findings, || findings.text(), ui)
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
                format!(
                    "{}, {} to compute with",
                    self.cpu,
                    count(self.threads, "thread")
                ),
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
                    "{:.2} T int8 operations/s{}, {:.1} GB/s of reading (measured now{})",
                    self.int8_ops_per_s / 1e12,
                    self.tile_ops_per_s
                        .map_or_else(String::new, |ops_per_s| format!(
                            ", {:.2} T in bf16 tiles",
                            ops_per_s / 1e12
                        )),
                    self.read_bytes_per_s / 1e9,
                    self.busy.map_or_else(String::new, |times| format!(
                        ": the best of short runs, half of which took {times:.1} times as long or \
                         more; other work is running, and alone it may be faster"
                    ))
                ),
            ),
            ("advice", self.advice.clone()),
        ];
        let lines = lines.map(|(what, text)| [what.to_string(), text]);
        format!(
            "{}\n{}\n{}\nMemory is what a run takes in all. Tokens/s are estimates from the limits above\n\
             for `--mode balanced`: from one to three tokens a forward pass.\n",
            table([Align::Left; 2], lines),
            uses_table(&self.uses),
            choices_table(&self.choices)
        )
    }
}

fn cached(model: &CachedModel) -> Cached {
    Cached {
        id: model.id.to_string(),
        bytes: model.bytes,
        complete: model.is_complete(),
    }
}

/// Whether this build and this machine have the GPU.
fn gpu(choice: DeviceChoice) -> String {
    match choice.open() {
        Ok((device, _)) => description(&device).unwrap_or_else(|| "ready".into()),
        Err(DeviceError::NotCompiled { feature, .. }) => {
            format!("not in this build (`cargo build --release --features {feature}`)")
        }
        Err(error) => format!("{:#}", anyhow::Error::from(error)),
    }
}

/// Which of the choices to take.
fn advice(choices: &[Choice]) -> String {
    match choices.iter().find(|choice| choice.needs.fits) {
        Some(Choice { flags, .. }) => format!("`diffucoder generate {flags} --prompt …`"),
        None => {
            let least = choices.iter().map(|choice| choice.needs.memory_bytes).min();
            format!(
                "`--model tiny`: the 7B models need {} of free memory at least",
                human_bytes(least.unwrap_or_default())
            )
        }
    }
}

/// What to take for what, as a table.
fn uses_table(uses: &[Use]) -> String {
    let header = ["FOR", "MODEL", "DOWNLOAD", "MEMORY", "TOKENS/S"].map(str::to_string);
    let lines = uses.iter().map(|Use { what, choice }| {
        [
            (*what).to_string(),
            choice.flags.clone(),
            human_bytes(choice.download_bytes),
            human_bytes(choice.needs.memory_bytes),
            choice.needs.speed(),
        ]
    });
    use Align::{Left, Right};
    table(
        [Left, Left, Right, Right, Right],
        std::iter::once(header).chain(lines),
    )
}

/// The choices as a table.
fn choices_table(choices: &[Choice]) -> String {
    let header = ["7B MODEL", "DOWNLOAD", "MEMORY", "TOKENS/S", ""].map(str::to_string);
    let recommended = choices.iter().position(|choice| choice.needs.fits);
    let lines = choices.iter().enumerate().map(|(number, choice)| {
        let remark = match choice.needs.fits {
            true if Some(number) == recommended => "recommended",
            true => "",
            false => "does not fit",
        };
        [
            choice.flags.clone(),
            human_bytes(choice.download_bytes),
            human_bytes(choice.needs.memory_bytes),
            choice.needs.speed(),
            remark.to_string(),
        ]
    });
    let columns = [
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Left,
    ];
    table(columns, std::iter::once(header).chain(lines))
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
        "avx512bw" "avx512vnni" "avx512bf16")
    .chain([("amx-bf16", Isa::detect().has_tiles())]);
    #[cfg(target_arch = "aarch64")]
    let all = detected!(is_aarch64_feature_detected, "neon" "dotprod" "i8mm" "bf16" "sve");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let all = std::iter::empty::<(&'static str, bool)>();
    all.filter_map(|(name, has)| has.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::commands::choices::tests::machine;

    #[test]
    fn the_advice_is_the_first_choice_that_fits() {
        let choices = |free_gb| machine(free_gb).choices(&MODELS[0]);
        assert!(advice(&choices(24.0)).contains("--model diffucoder:q4_k_m"));
        assert!(advice(&choices(2.0)).contains("--model tiny"));
        assert_eq!(
            choices_table(&choices(7.0)),
            "\
7B MODEL                         DOWNLOAD   MEMORY    TOKENS/S
--model diffucoder:q4_k_m         4.80 GB  5.76 GB  1.1 to 3.3  recommended
--model diffucoder --quant q8_0  15.20 GB  9.69 GB  1.1 to 3.3  does not fit
--model diffucoder --quant q4_0  15.20 GB  5.13 GB  1.1 to 3.3
"
        );
    }
}
