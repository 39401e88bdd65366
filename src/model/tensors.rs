//! The tensors of a configured model: the table of [`super::arch`] with sizes and layers filled in.

use super::arch::{EMBED_TOKENS, LM_HEAD, Row, Size, TENSORS, When};
use super::config::Config;

/// A tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in checkpoints.
    pub name: String,
    /// Name in GGUF files.
    pub gguf_name: String,
    /// Rows first.
    pub shape: Vec<usize>,
}

impl Config {
    /// Its tensors, in the order of the computation.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSpec> {
        let parts = TENSORS.chunk_by(|a, b| a.in_layer == b.in_layer);
        parts.flat_map(move |rows| {
            let repeats = if rows[0].in_layer {
                self.num_hidden_layers
            } else {
                1
            };
            (0..repeats).flat_map(move |layer| {
                let rows = rows.iter().filter(move |row| row.when.holds(self));
                rows.map(move |row| TensorSpec::of(row, self, layer))
            })
        })
    }

    /// The tensor that a checkpoint may hold though the network does without: some exports write a
    /// shared table twice.
    pub(super) fn spare_tensor(&self) -> Option<&'static str> {
        self.tie_word_embeddings.then_some(LM_HEAD)
    }

    /// Number of parameters, for size estimates.
    pub fn parameters(&self) -> usize {
        self.tensors().map(|tensor| tensor.elements()).sum()
    }

    /// Weights that each row of a pass is multiplied with: all matrices, but of the embedding table
    /// it takes one row, unless that is the output head too.
    pub fn multiplied_weights(&self) -> usize {
        self.tensors()
            .filter(|tensor| tensor.shape.len() == 2)
            .filter(|tensor| self.tie_word_embeddings || tensor.name != EMBED_TOKENS)
            .map(|tensor| tensor.elements())
            .sum()
    }

    /// The tensor that the output head is multiplied with, by its name in checkpoints.
    pub(crate) fn head_name(&self) -> &'static str {
        if self.tie_word_embeddings {
            EMBED_TOKENS
        } else {
            LM_HEAD
        }
    }
}

impl TensorSpec {
    fn of(row: &Row, config: &Config, layer: usize) -> Self {
        Self {
            name: row.name(layer),
            gguf_name: row.gguf_name(layer),
            shape: row.shape.iter().map(|size| size.of(config)).collect(),
        }
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Size {
    fn of(self, config: &Config) -> usize {
        match self {
            Size::D => config.hidden_size,
            Size::E => config.head_dim,
            Size::F => config.intermediate_size,
            Size::V => config.vocab_size,
            Size::Q => config.num_attention_heads * config.head_dim,
            Size::Kv => config.num_key_value_heads * config.head_dim,
        }
    }
}

impl When {
    fn holds(&self, config: &Config) -> bool {
        match self {
            When::Always => true,
            When::QkvBias => config.family.qkv_bias,
            When::QkNorm => config.family.qk_norm,
            When::Untied => !config.tie_word_embeddings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::arch::{LLADA, checkpoint_name};

    fn config(tied: bool) -> Config {
        let json = serde_json::json!({
            "model_type": "Dream", "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "vocab_size": 152064, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "tie_word_embeddings": tied, "max_position_embeddings": 131072,
        });
        Config::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn names_lead_back() {
        let tensors: Vec<_> = config(false).tensors().collect();
        assert_eq!(tensors.len(), 3 + 28 * 12);
        for tensor in &tensors {
            assert_eq!(
                checkpoint_name(&tensor.gguf_name).as_ref(),
                Some(&tensor.name)
            );
        }
        assert_eq!(
            checkpoint_name("blk.27.attn_output.weight").unwrap(),
            "model.layers.27.self_attn.o_proj.weight"
        );
        for name in [
            "",
            "blk.",
            "blk.1",
            "blk.+1.attn_q.weight",
            "blk.01.attn_q.weight",
            "blk.1.attn_q.scale",
            "blk.1.attn_output.bias",
            "blk.1.output.weight",
            "attn_q.weight",
            "rope_freqs.weight",
            "blk.99999999999999999999.attn_q.weight",
            "model.norm.weight",
        ] {
            assert_eq!(checkpoint_name(name), None, "{name}");
        }
    }

    #[test]
    fn tensors_follow_the_computation_and_the_configuration() {
        let names = |config: &Config| -> Vec<String> { config.tensors().map(|t| t.name).collect() };
        let untied = names(&config(false));
        assert_eq!(untied[0], EMBED_TOKENS);
        assert_eq!(untied[1], "model.layers.0.input_layernorm.weight");
        assert_eq!(untied[28 * 12], "model.layers.27.mlp.down_proj.weight");
        assert_eq!(untied[28 * 12 + 1..], ["model.norm.weight", LM_HEAD]);
        assert_eq!(names(&config(true)), untied[..28 * 12 + 2]);

        let unbiased = names(&Config {
            family: &LLADA,
            ..config(false)
        });
        assert_eq!(unbiased.len(), untied.len() - 28 * 3);
        assert!(!unbiased.iter().any(|name| name.ends_with("bias")));
    }

    #[test]
    fn parameters_of_diffucoder_7b() {
        let (d, v, layers) = (3584, 152_064, 28);
        let (untied, tied) = (config(false), config(true));
        assert_eq!(untied.parameters(), 7_615_616_512); // 15.2 GB in bf16
        assert_eq!(tied.parameters(), untied.parameters() - v * d);
        // All parameters but the table, the norms and the biases.
        let vectors = layers * (2 * d + d + 2 * 512) + d;
        let multiplied = untied.parameters() - v * d - vectors;
        assert_eq!(untied.multiplied_weights(), multiplied);
        assert_eq!(tied.multiplied_weights(), multiplied);
    }
}
