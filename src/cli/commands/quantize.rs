//! `diffucoder quantize`: a model to a smaller GGUF file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli::args::model::ModelArgs;
use crate::cli::args::values::one_of;
use crate::cli::terminal::download::Download;
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::{Ui, human_bytes};
use diffucoder::Error;
use diffucoder::atomic;
use diffucoder::kernels::Format;
use diffucoder::model::quantize::KindReport;
use diffucoder::package::Package;

/// Flags of `quantize`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Format of the weights
    #[arg(long, value_parser = one_of(&FORMATS, Format::name, about))]
    to: Format,
    /// The file to write; `-` is stdout
    #[arg(short, long, value_name = "FILE.gguf")]
    output: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

const FORMATS: [Format; 3] = [Format::Q8_0, Format::Q4_0, Format::Q4K];

fn about(format: Format) -> &'static str {
    match format {
        Format::Q8_0 => "8 bits: half the size of bf16, hardly any loss",
        Format::Q4_0 => "4 bits: just over a quarter, and the fastest",
        Format::Q4K => "4 bits with finer scales: a little better than q4_0",
        Format::Q6K => "6 bits: what the output head gets beside 4 bits",
    }
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let is_stdout = args.output == Path::new("-");
    let file = match is_stdout {
        true => Path::new("/dev/stdout"),
        false => args.output.as_path(),
    };
    atomic::check(file, args.force).map_err(Error::from)?;
    let (options, spec) = (args.model.hub_options(), args.model.spec()?);
    let mut download = Download::new(ui, &spec);
    let package = Package::open(&spec, &options, &mut download)?;
    let weights = package.fetch_weights(&mut download)?;
    let bar = ui.byte_bar("quantizing", 0);
    let report = package.quantize(weights, args.to, (file, args.force), &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let report = text(&report?);
    match is_stdout {
        true => ui.status(report.trim_end()),
        false => ui.result(&report)?,
    }
    ui.status(&format!("wrote {}", args.output.display()));
    Ok(())
}

fn text(report: &BTreeMap<String, KindReport>) -> String {
    let header = ["TENSORS", "TYPE", "SIZE", "ERROR"].map(str::to_string);
    let kinds = report.iter().map(|(kind, report)| {
        [
            kind.clone(),
            report.stored_as.name().to_string(),
            human_bytes(report.bytes),
            format!("{:.2} %", 100.0 * report.relative_error),
        ]
    });
    let bytes = report.values().map(|kind| kind.bytes).sum();
    let all = [
        "all".into(),
        String::new(),
        human_bytes(bytes),
        String::new(),
    ];
    let lines = std::iter::once(header).chain(kinds).chain([all]);
    table(
        [Align::Left, Align::Left, Align::Right, Align::Right],
        lines,
    )
}
