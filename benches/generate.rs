//! Time of a denoising step on the built-in model: the forward pass, and the sampling around it;
//! and what sampling a position takes with a large vocabulary.
//!
//! Prints each figure beside the limit measured in the same run: the rate of a large float32 matrix
//! product by the same kernels, where nothing but arithmetic counts.
//!
//! `cargo bench --bench generate`

mod common;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diffucoder::diffusion::{
    Algorithm, Canvas, Decoding, Denoiser, Pass, Settings, Shaping, generate,
};
use diffucoder::kernels::{DenseMatrix, Isa, PANEL, matmul_dense};
use diffucoder::package::Prompt;
use diffucoder::session::{Conditions, Hole, Job};
use rayon::prelude::*;

const CANVAS: usize = 256;
const STEPS: usize = 16;
/// DiffuCoder-7B's.
const LARGE_VOCABULARY: usize = 152_064;

fn main() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let limit = product_rate()?;
    writeln!(
        out,
        "float32 matrix product, 1024 x 1024 x 4096: {:.1} GFLOP/s",
        limit / 1e9
    )?;

    let mut session = common::tiny()?;
    let package = Arc::clone(session.package());
    let prompt = package.encode(&Prompt::Raw("def fibonacci(n):"))?;
    let canvas = Canvas::new(&prompt, CANVAS, package.mask_id);
    let model = session.load(&mut (), &mut |_, _| ())?;

    let rows = canvas.ids().len();
    let forward = best(|| {
        model.predict(canvas.ids(), &canvas.masked())?;
        Ok(())
    })?;
    // Each parameter is multiplied and added once a row; attention's products come on top.
    let config = &package.config;
    let attention =
        4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * rows;
    let flops = (rows * (2 * config.parameters() + attention)) as f64;
    let rate = flops / forward.as_secs_f64();
    writeln!(
        out,
        "forward of {rows} rows: {:.1} ms, {:.1} GFLOP/s, {:.0} % of the product's rate",
        forward.as_secs_f64() * 1e3,
        rate / 1e9,
        100.0 * rate / limit
    )?;

    let settings = Settings {
        shaping: Shaping::nucleus(0.2, 0.95),
        seed: 1,
        ..Settings::reference(STEPS)
    };
    let mut forwards = Timed {
        model,
        inside: Duration::ZERO,
    };
    let started = Instant::now();
    let special = (package.mask_id, &[][..]);
    let mut job = Job::new(
        vec![prompt, Vec::new()],
        vec![Hole::Exactly(CANVAS)],
        special,
        settings,
    );
    job.run(&mut forwards, &mut Conditions::default())?;
    let whole = started.elapsed();
    let sampling = whole - forwards.inside;
    writeln!(
        out,
        "generation of {CANVAS} tokens in {STEPS} steps: {:.1} ms a step, of which sampling {:.1} ms ({:.0} %)",
        whole.as_secs_f64() * 1e3 / STEPS as f64,
        sampling.as_secs_f64() * 1e3 / STEPS as f64,
        100.0 * sampling.as_secs_f64() / whole.as_secs_f64()
    )?;

    let recipe = Shaping::nucleus(0.2, 0.95);
    for (name, algorithm, decoding) in [
        ("exact mode", Algorithm::Entropy, Decoding::default()),
        (
            "fast mode",
            Algorithm::MaskgitPlus,
            Decoding::fast(Decoding::CPU_WINDOW),
        ),
    ] {
        let settings = Settings {
            algorithm,
            shaping: recipe,
            decoding,
            ..Settings::reference(STEPS)
        };
        let row = sampling_of_a_row(&settings)?;
        writeln!(
            out,
            "sampling a row of {LARGE_VOCABULARY} tokens, {name}: {:.2} ms",
            row.as_secs_f64() * 1e3
        )?;
    }
    Ok(())
}

/// Time that the sampler takes for one predicted position of a large model, all threads working on
/// many.
fn sampling_of_a_row(settings: &Settings) -> anyhow::Result<Duration> {
    let mut random = 1u64;
    // About normal, as logits are: a sum of uniform numbers.
    let logits = (0..LARGE_VOCABULARY * 4).map(|_| {
        let mut sum = 0.0;
        for _ in 0..4 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            sum += (random >> 40) as f32 / (1 << 22) as f32 - 2.0;
        }
        sum
    });
    let mut rows = Rows {
        logits: logits.collect(),
        count: 0,
    };
    let mut forwards = Timed {
        model: &mut rows,
        inside: Duration::ZERO,
    };
    let canvas = Canvas::new(&[1], 64, 0);
    let started = Instant::now();
    generate(&mut forwards, canvas, settings, &mut ())?;
    let sampling = started.elapsed() - forwards.inside;
    Ok(sampling.div_f64(rows.count as f64))
}

/// Gives the same few rows of logits to whatever is asked, and counts them.
struct Rows {
    logits: Vec<f32>,
    count: usize,
}

impl Denoiser for Rows {
    type Error = std::convert::Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Self::Error> {
        let rows = self.logits.chunks_exact(LARGE_VOCABULARY).cycle();
        logits.clear();
        logits.extend(rows.take(pass.predict.len()).flatten());
        self.count += pass.predict.len();
        Ok(pass.refresh.len())
    }
}

/// Adds up the time spent in forward passes.
struct Timed<'a, D> {
    model: &'a mut D,
    inside: Duration,
}

impl<D: Denoiser> Denoiser for Timed<'_, D> {
    type Error = D::Error;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, D::Error> {
        let started = Instant::now();
        let rows = self.model.forward(pass, logits);
        self.inside += started.elapsed();
        rows
    }
}

/// FLOP/s of our own product, on all threads and too large to be bound by anything but arithmetic.
fn product_rate() -> anyhow::Result<f64> {
    let (m, n, k) = (1024, 1024, 4096);
    let (isa, x) = (Isa::detect(), vec![1f32; m * k]);
    let w = DenseMatrix::from_f32(&vec![1f32; n * k], n, k);
    let mut out = vec![0f32; m * n];
    let time = best(|| {
        let panels = out.par_chunks_mut(m * PANEL).enumerate();
        panels.for_each(|(panel, out)| matmul_dense(isa, &w, &x, panel..panel + 1, out));
        Ok(())
    })?;
    Ok((2 * m * n * k) as f64 / time.as_secs_f64())
}

/// Shortest of several runs, after one to warm up.
fn best(mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    run()?;
    let mut shortest = Duration::MAX;
    for _ in 0..7 {
        let started = Instant::now();
        run()?;
        shortest = shortest.min(started.elapsed());
    }
    Ok(shortest)
}
