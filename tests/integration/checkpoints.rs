//! Checkpoints in the layouts of the Hub, with the real vocabulary: what the 7B models look like,
//! small.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::binary::diffucoder;
use crate::fixture;

const VOCAB_SIZE: usize = 152_064;
const HIDDEN: usize = 8;
const INTERMEDIATE: usize = 16;

/// What differs between published checkpoints.
struct Layout {
    shards: usize,
    tied: bool,
    template_file: bool,
}

/// bf16 weights that are small, varied and the same each time.
fn weights(seed: usize, len: usize) -> Vec<u8> {
    let value = |i: usize| {
        let hash = (i + seed * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        (hash as f32 / (1u64 << 24) as f32 - 0.5) * 0.5
    };
    (0..len)
        .flat_map(|i| half_up(value(i)).to_le_bytes())
        .collect()
}

fn half_up(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}

/// Writes a checkpoint with the files of apple/DiffuCoder-7B: no tokenizer.json.
fn write_checkpoint(folder: &Path, layout: &Layout) {
    let tokenizer = fixture("qwen2-tokenizer");
    for file in ["vocab.json", "merges.txt", "added_tokens.json"] {
        std::fs::copy(tokenizer.join(file), folder.join(file)).unwrap();
    }
    let config = std::fs::read(tokenizer.join("tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    if layout.template_file {
        let template = config
            .as_object_mut()
            .unwrap()
            .remove("chat_template")
            .unwrap();
        std::fs::write(
            folder.join("chat_template.jinja"),
            template.as_str().unwrap(),
        )
        .unwrap();
    }
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    let config = json!({
        "model_type": "Dream", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": VOCAB_SIZE, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "rope_scaling": null, "tie_word_embeddings": layout.tied, "max_position_embeddings": 131_072,
        "mask_token_id": 151_666, "eos_token_id": 151_643, "pad_token_id": 151_643,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();

    let (d, f, kv) = (HIDDEN, INTERMEDIATE, HIDDEN / 2);
    let layer = "model.layers.0";
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_string(), vec![VOCAB_SIZE, d]),
        ("model.norm.weight".to_string(), vec![d]),
        (format!("{layer}.input_layernorm.weight"), vec![d]),
        (format!("{layer}.post_attention_layernorm.weight"), vec![d]),
        (format!("{layer}.mlp.gate_proj.weight"), vec![f, d]),
        (format!("{layer}.mlp.up_proj.weight"), vec![f, d]),
        (format!("{layer}.mlp.down_proj.weight"), vec![d, f]),
        (format!("{layer}.self_attn.o_proj.weight"), vec![d, d]),
    ];
    for (name, rows) in [("q", d), ("k", kv), ("v", kv)] {
        shapes.push((
            format!("{layer}.self_attn.{name}_proj.weight"),
            vec![rows, d],
        ));
        shapes.push((format!("{layer}.self_attn.{name}_proj.bias"), vec![rows]));
    }
    if !layout.tied {
        shapes.push(("lm_head.weight".to_string(), vec![VOCAB_SIZE, d]));
    }

    let data: Vec<Vec<u8>> = shapes
        .iter()
        .enumerate()
        .map(|(seed, (_, shape))| weights(seed, shape.iter().product()))
        .collect();
    let file = |shard: usize| match layout.shards {
        1 => "model.safetensors".to_string(),
        n => format!("model-{:05}-of-{n:05}.safetensors", shard + 1),
    };
    let mut weight_map = serde_json::Map::new();
    for shard in 0..layout.shards {
        let mine = (shard..shapes.len()).step_by(layout.shards).map(|i| {
            let (name, shape) = &shapes[i];
            weight_map.insert(name.clone(), file(shard).into());
            (
                name.clone(),
                TensorView::new(Dtype::BF16, shape.clone(), &data[i]).unwrap(),
            )
        });
        let bytes = safetensors::serialize(mine, None).unwrap();
        std::fs::write(folder.join(file(shard)), bytes).unwrap();
    }
    if layout.shards > 1 {
        let index = json!({ "metadata": {}, "weight_map": weight_map });
        std::fs::write(
            folder.join("model.safetensors.index.json"),
            index.to_string(),
        )
        .unwrap();
    }
}

fn generate(folder: &Path, more: &[&str]) -> Value {
    let model = folder.to_str().unwrap();
    let args = [
        "generate", "--model", model, "-n", "6", "--seed", "1", "-o", "json",
    ];
    let output = diffucoder(&[&args[..], more].concat()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_layout_of_the_hub_loads() {
    for layout in [
        Layout {
            shards: 4,
            tied: false,
            template_file: true,
        },
        Layout {
            shards: 1,
            tied: true,
            template_file: false,
        },
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_checkpoint(folder.path(), &layout);
        let chat = generate(folder.path(), &["-p", "Write a haiku."]);
        // <|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n
        // Write a haiku.<|im_end|>\n<|im_start|>assistant\n
        assert_eq!(chat["usage"]["prompt_tokens"], 24);
        assert_eq!(
            chat["settings"]["temperature"].as_f64().unwrap() as f32,
            0.3
        );
        let raw = generate(folder.path(), &["--raw", "-p", "for i in range(100):\n"]);
        assert_eq!(raw["usage"]["prompt_tokens"], 9);
        let tokens = raw["token_ids"].as_array().unwrap();
        assert!(
            tokens
                .iter()
                .all(|id| id.as_u64().unwrap() < VOCAB_SIZE as u64)
        );
    }
}
