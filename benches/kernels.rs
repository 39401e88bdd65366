//! Speed of the int8 kernels, and of tiles where rows are enough for them, against this machine's
//! own limits, on the shapes of a 7B model: `cargo bench --bench kernels -- [options]`.
//!
//! Options: `--isa NAME`, `--threads N`, `--formats q4_0,q8_0`, `--rows 1,16`, `--shapes
//! 18944x3584`, `--seconds S` (a measurement's share). Each figure is the best of several passes
//! over weights that no cache holds.

#![allow(clippy::expect_used, clippy::print_stdout)] // a program for developers

use diffucoder::kernels::limits::Meter;
use diffucoder::kernels::{
    Activations, Format, Isa, PANEL, PackedMatrix, TileRows, TileWeights, copy_rows, matmul_panels,
    matmul_tiles,
};
use diffucoder::model::synthetic::random_blocks;
use std::env;
use std::thread;
use std::time::{Duration, Instant};

/// Rows and columns of a 7B model's weights: gate and up, down, query and output, key and value.
const SHAPES: [(usize, usize); 4] = [(18944, 3584), (3584, 18944), (3584, 3584), (512, 3584)];
const ROWS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 320];
/// Weights of one pass: far more than caches hold.
const PASS_BYTES: usize = 192 << 20;

struct Options {
    isa: Isa,
    threads: usize,
    formats: Vec<Format>,
    rows: Vec<usize>,
    shapes: Vec<(usize, usize)>,
    seconds: f64,
}

fn main() {
    let options = options();
    let Options { isa, threads, .. } = options;
    // Measured before each figure, since other work may be running: the best is kept.
    let mut meter = Meter::new(isa, threads);
    let mut results = Vec::new();
    for &format in &options.formats {
        for &(n, k) in &options.shapes {
            let matrices = matrices(format, n, k);
            for &rows in &options.rows {
                meter.measure();
                results.push((
                    format,
                    n,
                    k,
                    rows,
                    matrices[0].bytes(),
                    measure(&options, &matrices, rows),
                ));
            }
        }
    }
    let limits = meter.measure();
    println!(
        "{isa}, {threads} threads: int8 {:.3} T op/s, tiles {:.3} T op/s, reading {:.1} GB/s",
        limits.int8_ops_per_s / 1e12,
        limits.tile_ops_per_s.unwrap_or(0.0) / 1e12,
        limits.read_bytes_per_s / 1e9
    );
    println!(
        "{:5} {:>11} {:>4} {:>10} {:>7} {:>7} {:>7} {:>7} {:>9} {:>8}",
        "", "n x k", "rows", "us", "T op/s", "share", "GB/s", "share", "quant us", "copy us"
    );
    for (format, n, k, rows, bytes, times) in results {
        let tops = 2.0 * (rows * n * k) as f64 / times.product / 1e12;
        let limit = match limits.tile_ops_per_s {
            Some(tile_ops_per_s) if tiled(isa, rows) => tile_ops_per_s,
            _ => limits.int8_ops_per_s,
        };
        let gb_s = bytes as f64 / times.product / 1e9;
        println!(
            "{:5} {:>11} {rows:>4} {:>10.1} {tops:>7.3} {:>6.1}% {gb_s:>7.2} {:>6.1}% {:>9.1} {:>8.1}",
            format.name(),
            format!("{n}x{k}"),
            times.product * 1e6,
            100.0 * 1e12 * tops / limit,
            100.0 * 1e9 * gb_s / limits.read_bytes_per_s,
            times.quantize * 1e6,
            times.copy * 1e6,
        );
    }
}

struct Times {
    product: f64,
    quantize: f64,
    copy: f64,
}

fn measure(options: &Options, matrices: &[PackedMatrix], rows: usize) -> Times {
    let Options {
        isa,
        threads,
        seconds,
        ..
    } = *options;
    let (n, k, panels) = (matrices[0].n(), matrices[0].k(), matrices[0].panels());
    let values: Vec<f32> = (0..rows * k)
        .map(|i| (i * 2_654_435_761 % 1009) as f32 / 504.0 - 1.0)
        .collect();
    let mut x = Activations::default();
    let group = matrices[0].format().scale_group();
    x.quantize(isa, &values, k, group);
    let is_tiled = tiled(isa, rows);
    let mut tile_rows = TileRows::default();
    tile_rows.fill(isa, &values, k);
    let mut out = vec![0f32; panels * rows * PANEL];
    // Enough matrices for the pass, but no more work than the time allows.
    let work = rows * n * k;
    let used = matrices.len().min((1 << 36) / work + 1);
    let product = best(seconds, || {
        let part = panels.div_ceil(threads);
        thread::scope(|scope| {
            for (t, out) in out.chunks_mut(part * rows * PANEL).enumerate() {
                let (x, tile_rows) = (&x, &tile_rows);
                scope.spawn(move || {
                    let panels = t * part..panels.min((t + 1) * part);
                    for w in &matrices[..used] {
                        if is_tiled {
                            let w = TileWeights::Packed(w);
                            matmul_tiles(isa, w, tile_rows, panels.clone(), out);
                        } else {
                            matmul_panels(isa, w, x, panels.clone(), out);
                        }
                    }
                });
            }
        });
    }) / used as f64;
    let quantize = best(seconds / 8.0, || match is_tiled {
        true => tile_rows.fill(isa, &values, k),
        false => x.quantize(isa, &values, k, group),
    });
    let mut y = vec![0f32; rows * n];
    let copy = best(seconds / 8.0, || {
        let part = rows.div_ceil(threads);
        thread::scope(|scope| {
            for (t, y) in y.chunks_mut(part * n).enumerate() {
                let out = &out;
                scope.spawn(move || copy_rows(out, rows, n, t * part, y));
            }
        });
    });
    Times {
        product,
        quantize,
        copy,
    }
}

/// Whether a product of so many rows takes tiles.
fn tiled(isa: Isa, rows: usize) -> bool {
    isa.least_tile_rows().is_some_and(|least| rows >= least)
}

/// Matrices of random weights, enough to fill a pass.
fn matrices(format: Format, n: usize, k: usize) -> Vec<PackedMatrix> {
    let blocks = random_blocks(format, n * k / format.block_inputs(), 1.0);
    (0..PASS_BYTES.div_ceil(blocks.len()))
        .map(|_| PackedMatrix::pack(format, &blocks, n, k).expect("the sizes fit"))
        .collect()
}

/// Shortest of several runs, at least three and as many as the time allows.
fn best(seconds: f64, mut work: impl FnMut()) -> f64 {
    let (start, mut shortest, mut runs) = (Instant::now(), Duration::MAX, 0);
    while runs < 3 || start.elapsed().as_secs_f64() < seconds {
        let run = Instant::now();
        work();
        shortest = shortest.min(run.elapsed());
        runs += 1;
    }
    shortest.as_secs_f64()
}

fn options() -> Options {
    let mut options = Options {
        isa: Isa::detect(),
        threads: 2,
        formats: Format::ALL.to_vec(),
        rows: ROWS.to_vec(),
        shapes: SHAPES.to_vec(),
        seconds: 0.3,
    };
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--isa" => {
                options.isa = Isa::named(&value()).expect("this CPU has no such instruction set")
            }
            "--threads" => options.threads = value().parse().expect("a number of threads"),
            "--seconds" => options.seconds = value().parse().expect("seconds"),
            "--rows" => {
                options.rows = value()
                    .split(',')
                    .map(|rows| rows.parse().expect("rows"))
                    .collect()
            }
            "--formats" => {
                let format = |name| Format::named(name).expect("a block format");
                options.formats = value().split(',').map(format).collect();
            }
            "--shapes" => {
                let shape = |text: &str| {
                    let (n, k) = text.split_once('x').expect("a shape as NxK");
                    (n.parse().expect("a number"), k.parse().expect("a number"))
                };
                options.shapes = value().split(',').map(shape).collect();
            }
            "--bench" => {}
            _ => panic!("unknown option {arg}"),
        }
    }
    options
}
