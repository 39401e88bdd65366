//! What came of one problem: a line of the file of results.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What came of a problem.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Model, mode and problem.
    pub id: [Value; 3],
    /// The solution as it was written.
    pub text: String,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default)]
    pub tokens: usize,
    #[serde(default)]
    pub forwards: usize,
    #[serde(default)]
    pub rows: usize,
    #[serde(default)]
    pub seconds: f64,
    /// Whether the model ended it before the canvas did; not of holes, which text follows.
    #[serde(default)]
    pub ended: Option<bool>,
    /// Whether Python parses it, with what stands round it.
    #[serde(default)]
    pub parses: Option<bool>,
    /// Whether it passes its tests.
    #[serde(default)]
    pub passed: Option<bool>,
    /// Whether the hole is filled as it was, where it is as long as that.
    #[serde(default)]
    pub exact: Option<bool>,
    /// How much of it is as it was: 1 for all.
    #[serde(default)]
    pub similarity: Option<f64>,
    /// Negative log-likelihood under exact decoding, in nats, and of how many tokens.
    #[serde(default)]
    pub nll: Option<(f64, usize)>,
}
