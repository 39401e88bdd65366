//! `diffucoder quantize`: a model to a smaller GGUF file.

use std::path::PathBuf;

use crate::cli::args::model::{ModelArgs, package};
use crate::cli::args::values::one_of;
use crate::cli::terminal::download::Download;
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::{Ui, human_bytes};
use diffucoder::Error;
use diffucoder::atomic;
use diffucoder::model::quantize::Report;
use diffucoder::weights::gguf::FileType;

/// Flags of `quantize`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Format of the weights
    #[arg(long, value_parser = one_of(&FILE_TYPES, FileType::name, about))]
    to: FileType,
    /// The file to write; `-` is stdout
    #[arg(short, long, value_name = "FILE.gguf")]
    output: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

const FILE_TYPES: [FileType; 8] = [
    FileType::Q8_0,
    FileType::Q6_K,
    FileType::Q5_K_M,
    FileType::Q4_K_M,
    FileType::Q4_K,
    FileType::Q4_0,
    FileType::BF16,
    FileType::F16,
];

fn about(to: FileType) -> &'static str {
    match to {
        FileType::Q8_0 => "8 bits: half the size of bf16, hardly any loss",
        FileType::Q6_K => "6 bits: little loss",
        FileType::Q5_K_M => "5 bits, and 6 where errors cost most",
        FileType::Q4_K_M => "4 bits, and 6 where errors cost most: the usual choice",
        FileType::Q4_K => "4 bits with finer scales: a little better than q4_0",
        FileType::Q4_0 => "4 bits: just over a quarter, and the fastest",
        FileType::BF16 => "as most models are published",
        FileType::F16 => "half precision",
        FileType::F32 => "single precision",
    }
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let (file, is_stdout) = (&*args.output, atomic::is_stdout(&args.output));
    if is_stdout {
        ui.check_stdout()?;
    }
    atomic::check(file, args.force).map_err(Error::from)?;
    let (spec, lora) = (args.model.spec()?, args.model.lora()?);
    let package = package(args.model.hub_options(), &spec, lora.as_ref(), ui)?;
    let weights = package.fetch_weights(&mut Download::new(ui, &spec))?;
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

fn text(report: &Report) -> String {
    let header = ["TENSORS", "TYPE", "SIZE", "ERROR"].map(str::to_string);
    let kinds = report.iter().map(|((kind, stored_as), report)| {
        [
            kind.clone(),
            stored_as.name().to_string(),
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
