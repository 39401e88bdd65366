//! Time of a denoising step on the built-in model: the forward pass, and the sampling around it.
//!
//! Prints each figure beside the limit measured in the same run: the rate of a large float32 matrix
//! product by the same kernels, where nothing but arithmetic counts.
//!
//! `cargo bench --bench generate`

mod common;

use std::io::Write;
use std::time::{Duration, Instant};

use diffucoder::diffusion::{Canvas, Denoiser, Pass, Settings, Shaping, generate};
use diffucoder::kernels::{DenseMatrix, Isa, PANEL, matmul_dense};
use diffucoder::package::Prompt;
use rayon::prelude::*;

const CANVAS: usize = 256;
const STEPS: usize = 16;

fn main() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let limit = product_rate()?;
    writeln!(
        out,
        "float32 matrix product, 1024 x 1024 x 4096: {:.1} GFLOP/s",
        limit / 1e9
    )?;

    let (package, mut model) = common::tiny()?;
    let prompt = package.encode(&Prompt::Raw("def fibonacci(n):"))?;
    let canvas = Canvas::new(&prompt, CANVAS, package.mask_id);

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
        model: &mut model,
        inside: Duration::ZERO,
    };
    let started = Instant::now();
    generate(&mut forwards, canvas.clone(), &settings, &mut ())?;
    let whole = started.elapsed();
    let sampling = whole - forwards.inside;
    writeln!(
        out,
        "generation of {CANVAS} tokens in {STEPS} steps: {:.1} ms a step, of which sampling {:.1} ms ({:.0} %)",
        whole.as_secs_f64() * 1e3 / STEPS as f64,
        sampling.as_secs_f64() * 1e3 / STEPS as f64,
        100.0 * sampling.as_secs_f64() / whole.as_secs_f64()
    )?;
    Ok(())
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
