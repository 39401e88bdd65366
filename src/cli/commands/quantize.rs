//! `diffucoder quantize`: a model to a smaller GGUF file.

use std::fmt::Write;
use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::args::model::ModelArgs;
use crate::cli::terminal::download::Download;
use crate::cli::terminal::ui::{Ui, human_bytes};
use diffucoder::kernels;
use diffucoder::model::quantize::KindReport;
use diffucoder::package::Package;

/// Flags of `quantize`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Format of the weights
    #[arg(long, value_enum)]
    to: Format,
    /// The file to write
    #[arg(short, long, value_name = "FILE.gguf")]
    output: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// 8 bits: half the size of bf16, hardly any loss
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits: just over a quarter, and the fastest
    #[value(name = "q4_0")]
    Q4_0,
    /// 4 bits with finer scales: a little better than q4_0
    #[value(name = "q4_k")]
    Q4K,
}

/// Runs the command.
///
/// # Errors
/// When the model cannot be had or the file cannot be written.
pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let (options, spec) = (args.model.hub_options(), args.model.spec()?);
    let mut download = Download::new(ui, &spec);
    let package = Package::open(&spec, &options, &mut download)?;
    let weights = package.fetch_weights(&mut download)?;
    let to = match args.to {
        Format::Q8_0 => kernels::Format::Q8_0,
        Format::Q4_0 => kernels::Format::Q4_0,
        Format::Q4K => kernels::Format::Q4K,
    };
    let bar = ui.byte_bar("quantising", 0);
    let place = (args.output.as_path(), args.force);
    let report = package.quantize(weights, to, place, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    ui.result(&table(&report?))?;
    ui.status(&format!("wrote {}", args.output.display()));
    Ok(())
}

fn table(report: &std::collections::BTreeMap<String, KindReport>) -> String {
    let mut table = format!(
        "{:<14} {:<6} {:>10} {:>8}\n",
        "TENSORS", "TYPE", "SIZE", "ERROR"
    );
    for (kind, report) in report {
        let (size, error) = (human_bytes(report.bytes), 100.0 * report.relative_error);
        let _ = writeln!(
            table,
            "{kind:<14} {:<6} {size:>10} {error:>6.2} %",
            report.stored_as.name()
        );
    }
    let bytes = report.values().map(|kind| kind.bytes).sum();
    let _ = writeln!(table, "{:<14} {:<6} {:>10}", "all", "", human_bytes(bytes));
    table
}
