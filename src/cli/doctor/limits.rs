//! What this machine can do at best: 8-bit products and reading memory, measured in a moment.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use crate::kernels::{Isa, peak_ops};

/// More than caches hold.
const READ_BYTES: usize = 256 << 20;

/// Measured on all threads at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub int8_ops_per_s: f64,
    pub read_bytes_per_s: f64,
}

impl Limits {
    /// Measures, for well under a second where the machine is not busy.
    pub fn measure(isa: Isa, threads: usize) -> Self {
        let mut rounds = 1 << 12;
        let products = |rounds| {
            best(3, || {
                on_threads(threads, |_| _ = black_box(peak_ops(isa, rounds)))
            })
        };
        while products(rounds) < Duration::from_millis(20) && rounds < 1 << 40 {
            rounds *= 2;
        }
        let operations = peak_ops(isa, 1) as f64 * rounds as f64 * threads as f64;
        let memory = vec![1u64; READ_BYTES / 8];
        let part = memory.len() / threads;
        let read = best(3, || {
            on_threads(threads, |thread| {
                let words = &memory[thread * part..][..part];
                black_box(words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
            });
        });
        Self {
            int8_ops_per_s: operations / products(rounds).as_secs_f64(),
            read_bytes_per_s: (8 * part * threads) as f64 / read.as_secs_f64(),
        }
    }
}

fn on_threads(threads: usize, work: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
}

fn best(runs: usize, mut work: impl FnMut()) -> Duration {
    let run = |_| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    (0..runs).map(run).min().unwrap_or_default()
}
