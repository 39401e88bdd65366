//! What `bench` prints: a table, or the same as JSON.

use std::time::Duration;

use diffucoder::kernels::limits::{self, Limits};
use diffucoder::model::config::Config;
use serde::Serialize;

use super::generation::{Generated, ModeWork};
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::human_bytes;

/// The object that `--output json` prints.
#[derive(Serialize)]
pub struct Report {
    limits: LimitsReport,
    forward: Vec<Forward>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generate: Option<Generated>,
    /// What each mode would compute for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modes: Vec<ModeWork>,
    load_s: f64,
    peak_rss_bytes: Option<u64>,
}

#[derive(Serialize)]
struct LimitsReport {
    int8_tops: f64,
    /// Of bf16 in tiles, where there are such.
    #[serde(skip_serializing_if = "Option::is_none")]
    tile_tops: Option<f64>,
    read_gb_s: f64,
}

/// One number of rows through all layers and the head.
#[derive(Serialize)]
struct Forward {
    rows: usize,
    /// Of the shortest pass.
    seconds: f64,
    /// 10^12 operations a second: two for each weight that a row is multiplied with. Attention is
    /// not counted.
    tops: f64,
    share_of_int8: f64,
    /// Where there are tiles, and rows enough for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_tiles: Option<f64>,
}

impl Report {
    /// The machine's limits come with the number of rows from which on they are those of tiles.
    pub fn new(
        config: &Config,
        (limits, tile_rows): (Limits, Option<usize>),
        passes: &[(usize, Duration)],
        generate: Option<Generated>,
        load_time: Duration,
    ) -> Self {
        let weights = config.multiplied_weights() as f64;
        let forward = passes.iter().map(|&(rows, time)| {
            let tops = 2.0 * weights * rows as f64 / time.as_secs_f64() / 1e12;
            let tiled = tile_rows.is_some_and(|least| rows >= least);
            let tile_limit = limits.tile_ops_per_s.filter(|_| tiled);
            Forward {
                rows,
                seconds: time.as_secs_f64(),
                tops,
                share_of_int8: 1e12 * tops / limits.int8_ops_per_s,
                share_of_tiles: tile_limit.map(|limit| 1e12 * tops / limit),
            }
        });
        Self {
            limits: LimitsReport {
                int8_tops: limits.int8_ops_per_s / 1e12,
                tile_tops: limits.tile_ops_per_s.map(|ops_per_s| ops_per_s / 1e12),
                read_gb_s: limits.read_bytes_per_s / 1e9,
            },
            forward: forward.collect(),
            generate,
            modes: Vec::new(),
            load_s: load_time.as_secs_f64(),
            peak_rss_bytes: limits::peak_rss_bytes(),
        }
    }

    pub fn table(&self) -> String {
        let limits = &self.limits;
        let tops = |limit: f64| format!("{limit:.3} T op/s");
        let tiles = limits.tile_tops.map(|limit| ("tile limit", tops(limit)));
        let machine = std::iter::once(("int8 limit", tops(limits.int8_tops)));
        let machine = machine.chain(tiles).chain([
            ("reading", format!("{:.1} GB/s", limits.read_gb_s)),
            ("loading", format!("{:.1} s", self.load_s)),
            (
                "peak memory",
                self.peak_rss_bytes.map_or("unknown".into(), human_bytes),
            ),
        ]);
        let machine = machine.map(|(name, value)| [name.to_string(), value]);
        let mut rows = vec![["ROWS", "SECONDS", "T OP/S", "OF LIMIT"].map(str::to_string)];
        rows.extend(self.forward.iter().map(|pass| {
            let (share, of) = match pass.share_of_tiles {
                Some(share) => (share, "tile"),
                None => (pass.share_of_int8, "int8"),
            };
            [
                pass.rows.to_string(),
                format!("{:.4}", pass.seconds),
                format!("{:.3}", pass.tops),
                format!("{:.1} % {of}", 100.0 * share),
            ]
        }));
        let (machine, rows) = (
            table([Align::Left; 2], machine),
            table([Align::Right; 4], rows),
        );
        let generated = self.generate.as_ref().map_or(String::new(), |done| {
            format!(
                "\ngenerating   {:.1} s, {:.1} tokens/s: {} forwards of {:.1} rows and {:.0} ms, {:.1} % \
                 outside the network\n",
                done.seconds,
                done.tokens_per_s,
                done.forwards,
                done.rows as f64 / done.forwards as f64,
                done.ms_per_forward,
                100.0 * done.outside_network
            )
        });
        let mut modes = Vec::new();
        if !self.modes.is_empty() {
            modes.push(["MODE", "FORWARDS", "ROWS/TOKEN"].map(str::to_string));
        }
        modes.extend(self.modes.iter().map(|work| {
            let rows = format!("{:.1}", work.rows_per_token);
            [work.mode.to_string(), work.forwards.to_string(), rows]
        }));
        let modes = table([Align::Left, Align::Right, Align::Right], modes);
        format!("{machine}\n{rows}{generated}{modes}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::Shape;
    use super::*;

    #[test]
    fn shares_are_of_the_limit_of_the_kernels_that_ran() {
        let config = Shape::Tiny.config().unwrap();
        let limits = Limits {
            int8_ops_per_s: 1e12,
            tile_ops_per_s: Some(4e12),
            read_bytes_per_s: 1e9,
        };
        let second = Duration::from_secs(1);
        let passes = [(31, second), (32, second)];
        let report = |limits| Report::new(&config, limits, &passes, None, second);
        let tiles = report((limits, Some(32)));
        assert_eq!(tiles.limits.tile_tops, Some(4.0));
        assert_eq!(tiles.forward[0].share_of_tiles, None);
        let share = tiles.forward[1].share_of_int8;
        assert_eq!(tiles.forward[1].share_of_tiles, Some(share / 4.0));
        assert!(tiles.table().contains("% tile") && tiles.table().contains("tile limit"));
        let none = Limits {
            tile_ops_per_s: None,
            ..limits
        };
        let without = report((none, None));
        assert_eq!(without.forward[1].share_of_tiles, None);
        assert!(!without.table().contains("tile"));
    }
}
