//! Tensor names, between GGUF and checkpoints.
//!
//! llama.cpp's converter stores Qwen2 and Dream as they are: the rows of q and k are not permuted
//! (it rotates halves, as the checkpoints do), so a tensor is the same under both names.
//!
//! Source: `gguf-py/gguf/tensor_mapping.py` in ggml-org/llama.cpp.

/// Outside the layers: GGUF, checkpoint.
const ONCE: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// In each layer: GGUF after `blk.N.`, checkpoint after `model.layers.N.`.
const IN_LAYER: [(&str, &str); 12] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
];

const GGUF_LAYER: &str = "blk.";
const CHECKPOINT_LAYER: &str = "model.layers.";

/// `blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`; `None` for a tensor that
/// the network does not have.
pub fn to_checkpoint(gguf: &str) -> Option<String> {
    let mut once = ONCE.iter();
    if let Some((_, name)) = once.find(|(name, _)| *name == gguf) {
        return Some((*name).into());
    }
    let (layer, rest) = layer(gguf, GGUF_LAYER)?;
    let (_, rest) = IN_LAYER.iter().find(|(name, _)| *name == rest)?;
    Some(format!("{CHECKPOINT_LAYER}{layer}.{rest}"))
}

/// The way back.
pub fn to_gguf(checkpoint: &str) -> Option<String> {
    let mut once = ONCE.iter();
    if let Some((name, _)) = once.find(|(_, name)| *name == checkpoint) {
        return Some((*name).into());
    }
    let (layer, rest) = layer(checkpoint, CHECKPOINT_LAYER)?;
    let (rest, _) = IN_LAYER.iter().find(|(_, name)| *name == rest)?;
    Some(format!("{GGUF_LAYER}{layer}.{rest}"))
}

/// The GGUF names of a network with this many layers, in the order of the computation.
pub fn in_order(layers: usize, tied: bool) -> Vec<String> {
    let [(embedding, _), (norm, _), (head, _)] = ONCE;
    let mut names = vec![embedding.to_owned()];
    for layer in 0..layers {
        let rest = IN_LAYER.iter();
        names.extend(rest.map(|(name, _)| format!("{GGUF_LAYER}{layer}.{name}")));
    }
    names.push(norm.into());
    if !tied {
        names.push(head.into());
    }
    names
}

/// `blk.12.rest` to 12 and `rest`. Numbers are written one way only: `blk.+1` is no layer.
fn layer<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (digits, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let number: usize = digits.parse().ok()?;
    (number.to_string() == digits).then_some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let names = in_order(28, false);
        assert_eq!(names.len(), 3 + 28 * 12);
        for name in &names {
            let checkpoint = to_checkpoint(name).unwrap();
            assert_eq!(to_gguf(&checkpoint).as_ref(), Some(name));
        }
        assert_eq!(
            to_checkpoint("blk.27.attn_output.weight").unwrap(),
            "model.layers.27.self_attn.o_proj.weight"
        );
        assert_eq!(in_order(1, true).last().unwrap(), "output_norm.weight");
    }

    #[test]
    fn others_have_no_name() {
        for name in [
            "",
            "blk.",
            "blk.1",
            "blk.+1.attn_q.weight",
            "blk.01.attn_q.weight",
            "blk.1.attn_q.scale",
            "blk.1.attn_output.bias",
            "rope_freqs.weight",
            "blk.99999999999999999999.attn_q.weight",
            "model.norm.weight",
        ] {
            assert_eq!(to_checkpoint(name), None, "{name}");
        }
        assert_eq!(to_gguf("model.layers.0.self_attn.o_proj.bias"), None);
    }
}
