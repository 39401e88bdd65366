//! The order of the reveals against the temperature, as in the paper (arXiv 2506.20639, figures 3
//! and 5): local and global AR-ness of the built-in model's texts on held-out prompts, one token a
//! step on a whole canvas.
//!
//! Two ways to order: by the probabilities that tokens are drawn from, as the reference does, and
//! by untempered ones (`--order-temperature 1`). Only the text is counted, up to its end.
//!
//! `cargo bench --bench order -- [--prompts N] [--new-tokens N] [--svg FILE]`

mod common;

use std::fmt::Write as _;
use std::fs;
use std::io::Write;

use common::Options;
use diffucoder::diffusion::{Algorithm, Decoding, Settings, Shaping, Step, arness};
use diffucoder::session::Observer;

const TEMPERATURES: [f32; 7] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2];
const KS: [usize; 3] = [1, 2, 4];

/// A way to order, and for each temperature and `k` local and global AR-ness.
struct Curve {
    name: &'static str,
    local: [[f64; 3]; 7],
    global: [[f64; 3]; 7],
}

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    let new_tokens = options.number("--new-tokens", 64)?;
    let prompts = common::held_out_prompts(options.number("--prompts", 100)?)?;
    let mut session = common::tiny()?;

    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<22} {:>5} {:>7}   local @1    @2    @4   global @1    @2    @4",
        "order", "T", "tokens"
    )?;
    let mut curves = Vec::new();
    for (name, order_temperature) in [("as sampled (reference)", None), ("untempered", Some(1.0))] {
        let mut curve = Curve {
            name,
            local: Default::default(),
            global: Default::default(),
        };
        for (i, temperature) in TEMPERATURES.into_iter().enumerate() {
            let (mut scores, mut tokens) = ([[(0.0, 0.0); 3]; 2], 0);
            for (seed, text) in prompts.iter().enumerate() {
                let settings = Settings {
                    algorithm: Algorithm::Entropy,
                    shaping: Shaping::nucleus(temperature, 0.95),
                    seed: seed as u64,
                    decoding: Decoding {
                        order_temperature,
                        ..Decoding::default()
                    },
                    ..Settings::reference(new_tokens)
                };
                let mut order = Order(Vec::new());
                let done = common::complete(&mut session, text, new_tokens, &settings, &mut order)?;
                tokens += done.tokens();
                let end = done.canvas.prompt_len() + done.tokens();
                let text = order.0.into_iter().map(|mut step| {
                    step.retain(|&position| position < end);
                    step
                });
                let text: Vec<Vec<usize>> = text.collect();
                for (k, at) in KS.into_iter().zip(0..) {
                    let both = [arness::local(&text, k), arness::global(&text, k)];
                    for (score, found) in scores.iter_mut().zip(both) {
                        if let Some(found) = found {
                            score[at] = (score[at].0 + found, score[at].1 + 1.0);
                        }
                    }
                }
            }
            let mean = |(sum, count): (f64, f64)| sum / count;
            (curve.local[i], curve.global[i]) = (scores[0].map(mean), scores[1].map(mean));
            let row = |row: [f64; 3]| row.map(|x| format!("{x:>5.2}")).join(" ");
            writeln!(
                out,
                "{name:<22} {temperature:>5.1} {tokens:>7}      {}       {}",
                row(curve.local[i]),
                row(curve.global[i])
            )?;
        }
        curves.push(curve);
    }
    if let Some(file) = options.value("--svg") {
        fs::write(common::root().join(file), svg(&curves)?)?;
    }
    Ok(())
}

/// Positions that each step reveals.
struct Order(Vec<Vec<usize>>);

impl Observer for Order {
    fn on_step(&mut self, step: &Step<'_>) {
        let positions = step.revealed.iter().map(|candidate| candidate.position);
        self.0.push(positions.collect());
    }
}

/// Two panels, local and global, with a line for each `k`; dashed where the order is untempered.
fn svg(curves: &[Curve]) -> Result<String, std::fmt::Error> {
    let (width, height, left, top) = (270.0, 190.0, 46.0, 34.0);
    let colours = ["#1b6ca8", "#d1642d", "#3c8d53"];
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 700 300\" width=\"700\" height=\"300\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"700\" height=\"300\" fill=\"white\"/>\n",
    );
    for (panel, title) in ["Local AR-ness", "Global AR-ness"].into_iter().enumerate() {
        let x0 = left + 340.0 * panel as f64;
        let x = |temperature: f32| x0 + f64::from(temperature) / 1.2 * width;
        let y = |share: f64| top + (1.0 - share) * height;
        writeln!(
            svg,
            "<text x=\"{x0}\" y=\"20\" font-size=\"13\">{title}</text>"
        )?;
        for tick in 0..=5 {
            let (share, at) = (f64::from(tick) / 5.0, y(f64::from(tick) / 5.0));
            writeln!(
                svg,
                "<path d=\"M{x0} {at}h{width}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{share:.1}</text>",
                x0 - 6.0,
                at + 4.0
            )?;
        }
        for temperature in TEMPERATURES {
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{temperature}</text>",
                x(temperature),
                top + height + 16.0
            )?;
        }
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">temperature</text>",
            x0 + width / 2.0,
            top + height + 32.0
        )?;
        for (curve, dash) in curves.iter().zip(["none", "5 4"]) {
            let rows = if panel == 0 {
                curve.local
            } else {
                curve.global
            };
            for (at, colour) in colours.iter().enumerate() {
                let points = TEMPERATURES.iter().zip(rows);
                let points = points.map(|(&t, row)| format!("{:.1},{:.1}", x(t), y(row[at])));
                writeln!(
                    svg,
                    "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-dasharray=\"{dash}\" points=\"{}\"/>",
                    points.collect::<Vec<_>>().join(" ")
                )?;
            }
        }
    }
    let mut at = left;
    for (k, colour) in KS.iter().zip(colours) {
        writeln!(
            svg,
            "<path d=\"M{at} 284h22\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{}\" y=\"288\">k = {k}</text>",
            at + 28.0
        )?;
        at += 80.0;
    }
    for (curve, dash) in curves.iter().zip(["none", "5 4"]) {
        writeln!(
            svg,
            "<path d=\"M{at} 284h26\" stroke=\"#555\" stroke-width=\"1.6\" stroke-dasharray=\"{dash}\"/><text x=\"{}\" y=\"288\">ordered {}</text>",
            at + 32.0,
            curve.name
        )?;
        at += 200.0;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}
