//! What `bench` prints: a table, or the same as JSON.

use std::time::Duration;

use diffucoder::kernels::limits::{self, Limits};
use diffucoder::model::config::Config;
use serde::Serialize;

use super::card::CardLimits;
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
    /// Memory of the GPU that is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card_bytes: Option<u64>,
}

#[derive(Serialize)]
struct LimitsReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    int8_tops: Option<f64>,
    /// Of bf16 in tiles, where there are such.
    #[serde(skip_serializing_if = "Option::is_none")]
    tile_tops: Option<f64>,
    /// Of bf16 on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    bf16_tops: Option<f64>,
    read_gb_s: f64,
}

/// What the machine can do at best where the network runs.
pub enum Roof {
    /// Rows from which on its limits are those of tiles come with them.
    Cpu(Limits, Option<usize>),
    /// Bytes of the weights that a pass reads come with them.
    Card(CardLimits, u64),
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
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_int8: Option<f64>,
    /// Where there are tiles, and rows enough for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_tiles: Option<f64>,
    /// On a GPU: of the time that reading the weights takes, or multiplying, whichever is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_roofline: Option<f64>,
}

impl Report {
    pub fn new(
        config: &Config,
        roof: &Roof,
        passes: &[(usize, Duration)],
        generate: Option<Generated>,
        load_time: Duration,
    ) -> Self {
        let weights = config.multiplied_weights() as f64;
        let forward = passes.iter().map(|&(rows, time)| {
            let (ops, seconds) = (2.0 * weights * rows as f64, time.as_secs_f64());
            let mut forward = Forward {
                rows,
                seconds,
                tops: ops / seconds / 1e12,
                share_of_int8: None,
                share_of_tiles: None,
                share_of_roofline: None,
            };
            match roof {
                Roof::Cpu(limits, tile_rows) => {
                    let tiled = tile_rows.is_some_and(|least| rows >= least);
                    let tile_limit = limits.tile_ops_per_s.filter(|_| tiled);
                    forward.share_of_int8 = Some(ops / seconds / limits.int8_ops_per_s);
                    forward.share_of_tiles = tile_limit.map(|limit| ops / seconds / limit);
                }
                Roof::Card(limits, bytes) => {
                    let reading = *bytes as f64 / limits.read_bytes_per_s;
                    let least = reading.max(ops / limits.bf16_ops_per_s);
                    forward.share_of_roofline = Some(least / seconds);
                }
            }
            forward
        });
        let tops = |ops_per_s: f64| ops_per_s / 1e12;
        let limits = match roof {
            Roof::Cpu(limits, _) => LimitsReport {
                int8_tops: Some(tops(limits.int8_ops_per_s)),
                tile_tops: limits.tile_ops_per_s.map(tops),
                bf16_tops: None,
                read_gb_s: limits.read_bytes_per_s / 1e9,
            },
            Roof::Card(limits, _) => LimitsReport {
                int8_tops: None,
                tile_tops: None,
                bf16_tops: Some(tops(limits.bf16_ops_per_s)),
                read_gb_s: limits.read_bytes_per_s / 1e9,
            },
        };
        Self {
            limits,
            forward: forward.collect(),
            generate,
            modes: Vec::new(),
            load_s: load_time.as_secs_f64(),
            peak_rss_bytes: limits::peak_rss_bytes(),
            card_bytes: None,
        }
    }

    pub fn table(&self) -> String {
        let limits = &self.limits;
        let tops = |limit: f64| format!("{limit:.3} T op/s");
        let machine = [
            ("int8 limit", limits.int8_tops.map(tops)),
            ("tile limit", limits.tile_tops.map(tops)),
            ("bf16 limit", limits.bf16_tops.map(tops)),
            ("reading", Some(format!("{:.1} GB/s", limits.read_gb_s))),
            ("loading", Some(format!("{:.1} s", self.load_s))),
            (
                "peak memory",
                Some(self.peak_rss_bytes.map_or("unknown".into(), human_bytes)),
            ),
            ("GPU memory", self.card_bytes.map(human_bytes)),
        ];
        let machine = machine
            .into_iter()
            .filter_map(|(name, value)| Some([name.to_string(), value?]));
        let mut rows = vec![["ROWS", "SECONDS", "T OP/S", "OF LIMIT"].map(str::to_string)];
        rows.extend(self.forward.iter().map(|pass| {
            let shares = [
                (pass.share_of_roofline, "roofline"),
                (pass.share_of_tiles, "tile"),
                (pass.share_of_int8, "int8"),
            ];
            let known = |(share, of): (Option<f64>, _)| Some((share?, of));
            let (share, of) = shares.into_iter().find_map(known).unwrap_or_default();
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
        let report = |roof| Report::new(&config, &roof, &passes, None, second);
        let tiles = report(Roof::Cpu(limits, Some(32)));
        assert_eq!(tiles.limits.tile_tops, Some(4.0));
        assert_eq!(tiles.forward[0].share_of_tiles, None);
        let share = tiles.forward[1].share_of_int8.unwrap();
        assert_eq!(tiles.forward[1].share_of_tiles, Some(share / 4.0));
        assert!(tiles.table().contains("% tile") && tiles.table().contains("tile limit"));
        let none = Limits {
            tile_ops_per_s: None,
            ..limits
        };
        let without = report(Roof::Cpu(none, None));
        assert_eq!(without.forward[1].share_of_tiles, None);
        assert!(!without.table().contains("tile"));
    }

    #[test]
    fn a_card_is_held_against_reading_or_multiplying() {
        let config = Shape::Tiny.config().unwrap();
        let weights = config.multiplied_weights() as f64;
        let limits = CardLimits {
            bf16_ops_per_s: 8.0 * weights, // four rows a second
            read_bytes_per_s: weights,     // the weights in half a second
        };
        let second = Duration::from_secs(1);
        let roof = Roof::Card(limits, config.multiplied_weights() as u64 / 2);
        let report = Report::new(&config, &roof, &[(1, second), (3, second)], None, second);
        let shares: Vec<_> = report.forward.iter().map(|f| f.share_of_roofline).collect();
        assert_eq!(shares, [Some(0.5), Some(0.75)]);
        assert!(report.table().contains("75.0 % roofline"));
    }
}
