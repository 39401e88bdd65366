//! The machine's roofline (operations on 8-bit integers and in tiles, and bytes of memory read, a
//! second), and the process's peak of memory.
//!
//! A figure of speed means something only beside these. They are measured where they are needed,
//! because machines vary and share their cores with others.

use super::isa::Isa;
use super::matmul::{peak_ops, peak_tile_ops};
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

/// Memory that is read: far more than caches hold, a part of it in each run, so that a part is read
/// again when the others have driven it out.
const TABLE_BYTES: usize = 512 << 20;
const TABLE_PARTS: usize = 8;
/// Places that a thread reads from at a time.
const STREAMS: usize = 8;
/// The shortest run of dot products that counts: between two turns of other work on the same cores
/// there is room for one.
const SHORTEST_RUN: Duration = Duration::from_millis(3);
/// Runs of each kind in a measurement, of which the best counts.
const RUNS: usize = 16;
/// The best run by the middle one, from which other work must have been in the way.
const BUSY: f64 = 1.3;

/// What a machine can do at best, all threads together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Operations on 8-bit integers; a product and a sum are two.
    pub int8_ops_per_s: f64,
    /// Operations on bf16 numbers in tiles, where there are such.
    pub tile_ops_per_s: Option<f64>,
    /// Read from memory.
    pub read_bytes_per_s: f64,
}

/// Measures [`Limits`], as often as asked, and keeps the best.
pub struct Meter {
    isa: Isa,
    threads: usize,
    rounds: u64,
    table: Vec<u64>,
    part: usize,
    rates: Vec<f64>, // of products, of every run
    best: Limits,
}

impl Meter {
    /// For products by `isa` on this many threads.
    pub fn new(isa: Isa, threads: usize) -> Self {
        let mut meter = Self {
            isa,
            threads,
            rounds: 1 << 12,
            table: vec![1; TABLE_BYTES / 8],
            part: 0,
            rates: Vec::new(),
            best: Limits::default(),
        };
        // A short run can take long where it waits for other work: it is as long as its best.
        let is_short = |meter: &Self| (0..RUNS).any(|_| meter.multiply() < SHORTEST_RUN);
        while meter.rounds < 1 << 40 && is_short(&meter) {
            meter.rounds *= 2;
        }
        meter
    }

    /// Measures once more, and gives the best so far: other work may have been running before.
    pub fn measure(&mut self) -> Limits {
        let ops = peak_ops(self.isa, 1) as f64 * self.rounds as f64 * self.threads as f64;
        for _ in 0..RUNS {
            let multiplied = ops / self.multiply().as_secs_f64();
            let tiled = self.tile_rate();
            let read = self.read();
            let best = &mut self.best;
            best.int8_ops_per_s = best.int8_ops_per_s.max(multiplied);
            if best.tile_ops_per_s < tiled {
                best.tile_ops_per_s = tiled;
            }
            best.read_bytes_per_s = best.read_bytes_per_s.max(read);
            self.rates.push(multiplied);
        }
        self.best
    }

    /// How many times as fast the best run was as the middle one, if that tells of other work on
    /// the machine: even the best may be too low then.
    pub fn busy(&self) -> Option<f64> {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        let spread = self.best.int8_ops_per_s / rates.get(rates.len() / 2)?;
        Some(spread).filter(|&spread| spread > BUSY)
    }

    fn multiply(&self) -> Duration {
        self.on_threads(|_| _ = black_box(peak_ops(self.isa, self.rounds)))
    }

    /// Operations a second in tiles.
    fn tile_rate(&self) -> Option<f64> {
        let ops = peak_tile_ops(self.isa, 1)? as f64;
        let rounds = self.rounds / 4 + 1; // each takes about four times as long
        let time = self.on_threads(|_| _ = black_box(peak_tile_ops(self.isa, rounds)));
        Some(ops * rounds as f64 * self.threads as f64 / time.as_secs_f64())
    }

    /// Bytes a second of the next part of the table.
    fn read(&mut self) -> f64 {
        self.part = (self.part + 1) % TABLE_PARTS;
        let mut parts = self.table.chunks(self.table.len().div_ceil(TABLE_PARTS));
        let words = parts.nth(self.part).unwrap_or_default();
        let time = self.on_threads(|thread| {
            let mut shares = words.chunks(words.len().div_ceil(self.threads).max(1));
            let share = shares.nth(thread).unwrap_or_default();
            // Several places at a time, as products read panels: one by itself is slower.
            let mut places = share.chunks(share.len().div_ceil(STREAMS).max(1));
            let places =
                [(); STREAMS].map(|()| places.next().unwrap_or_default().as_chunks::<8>().0);
            let mut sums = [0u64; STREAMS];
            for line in 0..places[0].len() {
                for (sum, lines) in sums.iter_mut().zip(&places) {
                    for word in lines.get(line).unwrap_or(&[0; 8]) {
                        *sum = sum.wrapping_add(*word);
                    }
                }
            }
            black_box(sums);
        });
        size_of_val(words) as f64 / time.as_secs_f64()
    }

    /// Time of some work on all threads, which get their numbers.
    fn on_threads(&self, work: impl Fn(usize) + Sync) -> Duration {
        let start = Instant::now();
        thread::scope(|scope| {
            for number in 0..self.threads {
                let work = &work;
                scope.spawn(move || work(number));
            }
        });
        start.elapsed()
    }
}

/// Lets [`peak_rss_bytes`] count from now on, where the system can do that (Linux).
pub fn reset_peak_rss() {
    #[cfg(target_os = "linux")]
    {
        // 5 is the peak (proc_pid_clear_refs); without it the figure only covers more.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
}

/// The most memory that this process has held so far, shared pages of mapped files included, if the
/// system says.
pub fn peak_rss_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    }
    #[cfg(all(unix, not(target_os = "linux")))]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        let peak = u64::try_from(getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss()).ok()?;
        // Apple counts bytes, the others kibibytes.
        Some(if cfg!(target_vendor = "apple") {
            peak
        } else {
            peak * 1024
        })
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_a_machine() {
        let mut meter = Meter::new(Isa::detect(), 1);
        meter.table.truncate(1 << 16);
        let first = meter.measure();
        assert!(first.int8_ops_per_s > 0.0 && first.read_bytes_per_s > 0.0);
        let second = meter.measure();
        meter.rates = vec![1.0, 2.0, 2.0];
        meter.best.int8_ops_per_s = 2.0;
        assert_eq!(meter.busy(), None, "the middle run is as fast as the best");
        meter.rates = vec![1.0, 1.0, 2.0];
        assert_eq!(meter.busy(), Some(2.0));
        assert!(second.int8_ops_per_s >= first.int8_ops_per_s);
        assert!(second.read_bytes_per_s >= first.read_bytes_per_s);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_covers_what_was_held() {
        let held = vec![1u8; 64 << 20];
        let peak = peak_rss_bytes().unwrap();
        assert!(peak >= black_box(&held).len() as u64, "{peak}");
    }
}
