//! `diffucoder report`: a trace to one page that replays the denoising, with nothing to fetch; or
//! to an animated picture.
//!
//! Everything that the model wrote reaches the page as JSON in which no character can end the
//! script element, and the script writes it as text, never as markup.

mod picture;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::cli::LOOK;
use crate::cli::args::apart::check_apart;
use crate::cli::terminal::cells::cells;
use crate::cli::terminal::ui::Ui;
use crate::cli::trace::Trace;
use diffucoder::diffusion::arness;
use diffucoder::{Error, atomic};

/// The page; `LOOK` stands where the style of all pages goes, and `DATA` where the run's data does.
const PAGE: &str = include_str!("page.html");

/// Flags of `report`.
#[derive(clap::Args)]
pub struct Args {
    /// The trace, as `generate --trace` wrote it; `-` is stdin
    #[arg(value_name = "FILE.jsonl")]
    trace: PathBuf,
    /// Where to write it; replaced if it exists. `-` is stdout. FILE.svg becomes an animated
    /// picture of the canvas instead of a page
    #[arg(short, long, value_name = "FILE.html", default_value = "-")]
    output: PathBuf,
}

/// What the page's script reads.
#[derive(Serialize)]
struct Data<'a> {
    model: &'a str,
    prompt: &'a str,
    settings: &'a Value,
    finish_reason: Option<&'a str>,
    /// Seconds, tokens and forward passes of the whole run.
    totals: Option<Totals>,
    canvas_tokens: usize,
    /// Positions that were masks at first.
    masks: usize,
    cells: Vec<PageCell>,
    steps: Vec<PageStep<'a>>,
    arness: Vec<ArnessRow>,
}

#[derive(Serialize)]
struct Totals {
    generate_s: f64,
    tokens: usize,
    forwards: usize,
}

/// What neighbours show that share a character, or one position alone.
#[derive(Serialize)]
struct PageCell {
    first: usize,
    len: usize,
    /// `None` if it was never revealed.
    text: Option<String>,
    /// Whether it was there from the beginning.
    given: bool,
    /// Whether it is no part of the text, which ends before it.
    behind: bool,
}

#[derive(Serialize)]
struct PageStep<'a> {
    step: usize,
    elapsed_s: f64,
    positions: &'a [usize],
    tokens: &'a [u32],
    confidences: &'a [Option<f32>],
}

#[derive(Serialize)]
struct ArnessRow {
    k: usize,
    local: Option<f64>,
    global: Option<f64>,
    text_local: Option<f64>,
    text_global: Option<f64>,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    check_apart(&[&args.trace], &[&args.output])?;
    let trace = Trace::read(&args.trace)?;
    if trace.end.is_none() {
        ui.note("the run was cut off: the page shows what there is of it");
    }
    let is_picture = args.output.extension().is_some_and(|end| end == "svg");
    let page = match is_picture {
        true => picture::picture(&trace),
        false => page(&trace)?,
    };
    if args.output == Path::new("-") {
        return Ok(ui.result(&page)?);
    }
    Ok(atomic::write(&args.output, true, page.as_bytes()).map_err(Error::from)?)
}

fn page(trace: &Trace) -> anyhow::Result<String> {
    // Characters that could end the script element, or that old parsers trip over.
    let json = serde_json::to_string(&data(trace))?
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029");
    Ok(PAGE.replacen("LOOK", LOOK, 1).replacen("DATA", &json, 1))
}

/// A canvas as a whole trace leaves it.
struct Final {
    bytes: Vec<Option<Vec<u8>>>, // by position, as are the others
    ids: Vec<Option<u32>>,
    /// Tokens can be masked again: the last one counts, and when it came.
    came: Vec<usize>,
    /// What stands behind the first stop token of its hole.
    behind: Vec<bool>,
}

impl Final {
    fn of(trace: &Trace) -> Self {
        let len = trace.canvas_tokens();
        let mut canvas = Self {
            bytes: vec![None; len],
            ids: vec![None; len],
            came: vec![0; len],
            behind: vec![false; len],
        };
        for (at, step) in trace.steps.iter().enumerate() {
            let revealed = step.positions.iter().zip(&step.tokens);
            for ((&position, &token), bytes) in revealed.zip(step.token_bytes()) {
                canvas.bytes[position] = Some(bytes);
                canvas.ids[position] = Some(token);
                canvas.came[position] = at;
            }
        }
        canvas
    }

    /// Cells of the holes and of the texts between them; finds what stands behind their stop
    /// tokens.
    fn cells(&mut self, trace: &Trace) -> Vec<PageCell> {
        let is_stop = |id: &Option<u32>| id.is_some_and(|id| trace.header.stop_ids.contains(&id));
        let (mut page_cells, mut at) = (Vec::new(), 0);
        let given = trace.header.given.iter();
        let ends = given.map(|text| (text.first, Some(text)));
        for (end, given) in ends.chain([(self.ids.len(), None)]) {
            let stop = self.ids[at..end].iter().position(is_stop);
            self.behind[stop.map_or(end, |stop| at + stop)..end].fill(true);
            let hole = cells(&self.bytes[at..end]).into_iter();
            page_cells.extend(hole.map(|cell| PageCell {
                first: at + cell.positions.start,
                len: cell.positions.len(),
                text: cell.text,
                given: false,
                behind: self.behind[at + cell.positions.start],
            }));
            at = end;
            if let Some(text) = given {
                page_cells.push(PageCell {
                    first: text.first,
                    len: text.len,
                    text: Some(text.text.clone()),
                    given: true,
                    behind: false,
                });
                at += text.len;
            }
        }
        page_cells
    }
}

fn data(trace: &Trace) -> Data<'_> {
    let mut canvas = Final::of(trace);
    let page_cells = canvas.cells(trace);
    let order = |is_counted: &dyn Fn(usize) -> bool| -> Vec<Vec<usize>> {
        let steps = trace.steps.iter().enumerate();
        let order = steps.map(|(at, step)| {
            let positions = step.positions.iter().copied();
            positions
                .filter(|&p| canvas.came[p] == at && is_counted(p))
                .collect()
        });
        order.collect()
    };
    let (all, text) = (order(&|_| true), order(&|p| !canvas.behind[p]));
    let given: usize = trace.header.given.iter().map(|text| text.len).sum();
    Data {
        model: &trace.header.model,
        prompt: &trace.header.prompt,
        settings: &trace.header.settings,
        finish_reason: trace.end.as_ref().map(|end| end.finish_reason.as_str()),
        totals: trace.end.as_ref().map(|end| Totals {
            generate_s: end.generate_s,
            tokens: end.usage.completion_tokens,
            forwards: end.usage.forwards,
        }),
        canvas_tokens: canvas.ids.len(),
        masks: canvas.ids.len() - given,
        cells: page_cells,
        steps: trace
            .steps
            .iter()
            .map(|step| PageStep {
                step: step.step,
                elapsed_s: step.elapsed_s,
                positions: &step.positions,
                tokens: &step.tokens,
                confidences: &step.confidences,
            })
            .collect(),
        arness: arness::KS
            .map(|k| ArnessRow {
                k,
                local: arness::local(&all, k),
                global: arness::global(&all, k),
                text_local: arness::local(&text, k),
                text_global: arness::global(&text, k),
            })
            .collect(),
    }
}
