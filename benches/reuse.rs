//! What it costs to keep the keys and values of the texts round a hole between runs, and what it
//! saves: twelve tokens are written, ten more are typed before them, and twelve are written again,
//! at the end of a text of 490 tokens and in the middle of one.
//!
//! For each mode: rows and time of the second run, computed anew and with the texts reused; how
//! the first forward differs (KL in nats and the share of masks whose most probable token is the
//! same), and the share of the written tokens that are the same. At temperature 0, on the built-in
//! model.
//!
//! `cargo bench --bench reuse -- [--texts N]`

mod common;

use std::io::Write;
use std::time::Duration;

use candle_core::Result;
use common::Options;
use diffucoder::diffusion::{Attention, Denoiser, Pass, Shaping};
use diffucoder::kernels::Isa;
use diffucoder::model::Model;
use diffucoder::package::Package;
use diffucoder::session::{Conditions, Hole, Job, Mode};

/// Tokens given, typed, and written: 512 in all, the context of the model.
const GIVEN: usize = 490;
const TYPED: usize = 10;
const WRITTEN: usize = 12;
/// Where the hole is, and tokens given before it.
const PLACES: [(&str, usize); 2] = [("end", GIVEN), ("middle", GIVEN / 2)];

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    let mut session = common::tiny()?;
    let texts = texts(session.package(), options.number("--texts", 50)?)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} texts: {GIVEN} tokens reused round {TYPED} new ones, {WRITTEN} written\n\
         {:<8} {:<6} {:>16} {:>16} {:>12} {:>10} {:>12}",
        texts.len(),
        "mode",
        "at its",
        "rows anew/reused",
        "ms anew/reused",
        "KL of masks",
        "same top",
        "same tokens"
    )?;
    // Exact mode computes everything in every pass.
    let modes = Mode::ALL.into_iter().filter(|mode| *mode != Mode::Exact);
    for (mode, (place, before)) in modes.flat_map(|mode| PLACES.map(|place| (mode, place))) {
        let mut settings = session.settings(mode, before < GIVEN);
        settings.shaping = Shaping::temperature(0.0);
        let special = (
            session.package().mask_id,
            session.package().stop_ids.clone(),
        );
        let model = session.load(&mut (), &mut |_, _| ())?;
        let mut sum = Sum::default();
        for text in &texts {
            let run = |model: &mut Model, given: usize, reuse_context: bool| {
                let behind = text[before + TYPED + WRITTEN..].to_vec();
                let texts = vec![text[..given].to_vec(), behind];
                let holes = vec![Hole::Exactly(WRITTEN)];
                let mut job = Job::new(texts, holes, (special.0, &special.1), settings.clone());
                job.settings.decoding.reuse_context = reuse_context;
                let mut tap = Tap { model, first: None };
                let done = job.run(&mut tap, &mut Conditions::default())?;
                anyhow::Ok((tap.first.unwrap_or_default(), done))
            };
            let (expected, anew) = run(model, before + TYPED, false)?;
            run(model, before, false)?;
            let (found, reused) = run(model, before + TYPED, true)?;
            sum.rows[0] += anew.work.rows;
            sum.rows[1] += reused.work.rows;
            sum.time[0] += anew.work.time;
            sum.time[1] += reused.work.time;
            sum.compare(expected, found, special.0);
            let pairs = anew
                .canvas
                .generated()
                .iter()
                .zip(reused.canvas.generated());
            sum.written += pairs.clone().count();
            sum.same_written += pairs.filter(|(a, b)| a == b).count();
        }
        let count = texts.len();
        let ms = |time: Duration| 1e3 * time.as_secs_f64() / count as f64;
        writeln!(
            out,
            "{:<8} {place:<6} {:>16} {:>16} {:>12.6} {:>8.1} % {:>10.1} %",
            mode.name(),
            format!("{}/{}", sum.rows[0] / count, sum.rows[1] / count),
            format!("{:.1}/{:.1}", ms(sum.time[0]), ms(sum.time[1])),
            sum.kl / sum.masks as f64,
            100.0 * sum.same_top as f64 / sum.masks as f64,
            100.0 * sum.same_written as f64 / sum.written as f64,
        )?;
    }
    Ok(())
}

/// Sums over the texts.
#[derive(Default)]
struct Sum {
    rows: [usize; 2],
    time: [Duration; 2],
    kl: f64,
    masks: usize,
    same_top: usize,
    written: usize,
    same_written: usize,
}

impl Sum {
    /// Compares the logits `[masks, V]` of two first forwards.
    fn compare(&mut self, mut expected: Logits, mut found: Logits, mask_id: u32) {
        let width = expected.width;
        let rows = expected.logits.chunks_exact_mut(width);
        for (p, q) in rows.zip(found.logits.chunks_exact_mut(width)) {
            for row in [&mut *p, &mut *q] {
                row[mask_id as usize] = f32::MIN; // never written
                let _ = Shaping::temperature(1.0).apply(Isa::detect(), row);
            }
            let terms = p.iter().zip(&*q).filter(|(p, _)| **p > 0.0);
            self.kl += terms
                .map(|(&p, &q)| f64::from(p) * (f64::from(p) / f64::from(q.max(1e-30))).ln())
                .sum::<f64>();
            self.same_top += usize::from(top(p) == top(q));
            self.masks += 1;
        }
    }
}

fn top(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best })
}

/// Logits of a pass.
#[derive(Default)]
struct Logits {
    logits: Vec<f32>, // [masks, V]
    width: usize,
}

/// A network whose first logits are kept.
struct Tap<'a> {
    model: &'a mut Model,
    first: Option<Logits>,
}

impl Denoiser for Tap<'_> {
    type Error = candle_core::Error;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize> {
        let rows = self.model.forward(pass, logits)?;
        self.first.get_or_insert_with(|| Logits {
            width: logits.len() / pass.predict.len(),
            logits: logits.clone(),
        });
        Ok(rows)
    }

    fn cached_ids(&self, attention: Attention) -> &[Option<u32>] {
        self.model.cached_ids(attention)
    }

    fn move_cached(&mut self, first: usize, by: isize) -> bool {
        self.model.move_cached(first, by)
    }
}

/// Stretches of code that the model was not trained on, each beginning elsewhere.
fn texts(package: &Package, count: usize) -> anyhow::Result<Vec<Vec<u32>>> {
    let all = common::held_out_prompts(usize::MAX)?.join("\n\n\n");
    let ids = package.tokenizer.encode_plain(&all)?;
    let len = GIVEN + TYPED + WRITTEN;
    let step = ids.len().saturating_sub(len) / count.max(1);
    let starts = (0..count).map(|number| number * step.max(1));
    let texts = starts.filter_map(|start| ids.get(start..start + len));
    Ok(texts.map(<[u32]>::to_vec).collect())
}
