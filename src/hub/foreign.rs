//! Forms in which models are published and which are not read here: each is named as what it is,
//! from the configuration, the files' names or the tensors' names, whichever is seen first.

use std::fmt;

use serde_json::Value;

/// A form of weights that is not read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// Quantized for another program, by a method of this name.
    Quantized(String),
    /// Changes to the weights of another model.
    Adapter,
    /// A file format, by what makes it.
    Format(&'static str),
    /// Safetensors under other names than transformers gives them, without an index.
    Unindexed,
}

/// Methods that quantize, by what `quant_method` in config.json and files of their own call them.
const METHODS: [(&str, &str); 9] = [
    ("gptq", "GPTQ"),
    ("awq", "AWQ"),
    ("fp8", "FP8"),
    ("fbgemm_fp8", "FP8"),
    ("exl2", "EXL2"),
    ("exl3", "EXL3"),
    ("hqq", "HQQ"),
    ("mxfp4", "MXFP4"),
    ("mlx", "MLX"),
];

/// Endings of file names.
const ENDINGS: [(&str, &str); 12] = [
    (".onnx", "ONNX"),
    (".onnx_data", "ONNX"),
    (".npz", "MLX"),
    ("openvino_model.bin", "OpenVINO"),
    (".bin", "PyTorch (.bin)"),
    (".pt", "PyTorch (.pt)"),
    (".pth", "PyTorch (.pth)"),
    (".ckpt", "PyTorch (.ckpt)"),
    (".h5", "TensorFlow"),
    (".msgpack", "Flax"),
    (".tflite", "TensorFlow Lite"),
    (".mlpackage", "Core ML"),
];

/// Endings of tensors' names that only these methods have.
const TENSORS: [(&str, &str); 9] = [
    (".qweight", "GPTQ or AWQ"),
    (".absmax", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_scale_inv", "FP8"),
    (".weight_scale", "FP8"),
    (".q_weight", "EXL2"),
    (".trellis", "EXL3"),
    (".weight_packed", "compressed-tensors"),
    (".scales", "MLX"), // also beside `.qweight`
];

impl Foreign {
    /// From a model's config.json, if that says how its weights are quantized.
    pub(crate) fn of_config(json: &[u8]) -> Option<Self> {
        let config: Value = serde_json::from_slice(json).ok()?;
        let given = |key: &str| config.get(key).and_then(Value::as_object);
        let quantization = given("quantization_config").or_else(|| given("quantization"))?;
        let is_set = |key: &str| quantization.get(key).and_then(Value::as_bool) == Some(true);
        let method = match quantization.get("quant_method").and_then(Value::as_str) {
            Some(method) => method,
            None if is_set("load_in_4bit") || is_set("load_in_8bit") => "bitsandbytes",
            // mlx-lm writes no method.
            None if quantization.contains_key("group_size") => "mlx",
            None => return None,
        };
        let known = METHODS.iter().find(|(key, _)| *key == method);
        Some(Self::Quantized(
            known.map_or(method, |(_, name)| name).to_owned(),
        ))
    }

    /// From the names of a model's files, where those that are read here are not among them.
    pub(crate) fn of_files(files: &[String]) -> Option<Self> {
        let has = |name: &str| files.iter().any(|file| file == name);
        if has("adapter_config.json") || has("adapter_model.safetensors") {
            return Some(Self::Adapter);
        }
        let ends = |ending: &str| files.iter().any(|file| file.ends_with(ending));
        let is_whole = has("model.safetensors") || has("model.safetensors.index.json");
        if ends(".safetensors") && has("config.json") && !is_whole {
            return Some(Self::Unindexed);
        }
        // What is left beside training states and tokenizers.
        let found = ENDINGS.iter().find(|(ending, _)| ends(ending));
        found.map(|(_, name)| Self::Format(name))
    }

    /// From the names of a checkpoint's tensors.
    pub(crate) fn of_tensors<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Option<Self> {
        if names.clone().any(|name| name.contains(".lora_A.")) {
            return Some(Self::Adapter);
        }
        let found = TENSORS
            .iter()
            .find(|(ending, _)| names.clone().any(|name| name.ends_with(ending)));
        found.map(|(_, name)| Self::Quantized((*name).into()))
    }

    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Quantized(_) => {
                "take the original weights in bfloat16, which are quantized here when they are \
                 loaded, or a GGUF file of the model"
            }
            Self::Adapter => {
                "merge it into its base model (peft: merge_and_unload), save that, and give its \
                 folder"
            }
            Self::Format(_) => {
                "take the model in safetensors or as a GGUF file; transformers' save_pretrained \
                 writes safetensors"
            }
            Self::Unindexed => {
                "download model.safetensors.index.json too; one file must be called \
                 model.safetensors"
            }
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantized(method) => write!(f, "weights quantized by {method}"),
            Self::Adapter => f.write_str("a LoRA adapter and no whole model"),
            Self::Format(name) => write!(f, "weights for {name} alone"),
            Self::Unindexed => f.write_str("safetensors without model.safetensors.index.json"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantized_checkpoints_are_named_by_their_configuration() {
        for (json, expected) in [
            (
                r#"{"quantization_config": {"quant_method": "gptq", "bits": 4}}"#,
                "GPTQ",
            ),
            (r#"{"quantization_config": {"quant_method": "awq"}}"#, "AWQ"),
            (r#"{"quantization_config": {"quant_method": "fp8"}}"#, "FP8"),
            (
                r#"{"quantization_config": {"quant_method": "exl2"}}"#,
                "EXL2",
            ),
            (
                r#"{"quantization_config": {"quant_method": "torchao"}}"#,
                "torchao",
            ),
            (
                r#"{"quantization_config": {"load_in_4bit": true}}"#,
                "bitsandbytes",
            ),
            (r#"{"quantization": {"group_size": 64, "bits": 4}}"#, "MLX"),
            (
                r#"{"quantization": {"group_size": 64, "bits": 4},
                    "quantization_config": {"group_size": 64, "bits": 4}}"#,
                "MLX",
            ),
        ] {
            let found = Foreign::of_config(json.as_bytes());
            assert_eq!(found, Some(Foreign::Quantized(expected.into())), "{json}");
        }
        for json in [
            "",
            "{}",
            "[]",
            r#"{"quantization_config": null}"#,
            r#"{"quantization_config": {}}"#,
            r#"{"quantization_config": {"load_in_4bit": false}}"#,
            r#"{"quantization": "none"}"#,
        ] {
            assert_eq!(Foreign::of_config(json.as_bytes()), None, "{json}");
        }
    }

    #[test]
    fn other_forms_are_named_by_their_files() {
        let of = |files: &[&str]| {
            let files: Vec<String> = files.iter().map(ToString::to_string).collect();
            Foreign::of_files(&files)
        };
        let adapter = ["adapter_config.json", "adapter_model.safetensors"];
        assert_eq!(of(&adapter), Some(Foreign::Adapter));
        for (file, expected) in [
            ("pytorch_model-00001-of-00002.bin", "PyTorch (.bin)"),
            ("onnx/model_q4.onnx", "ONNX"),
            ("weights.npz", "MLX"),
            ("openvino_model.bin", "OpenVINO"),
        ] {
            let found = of(&["config.json", "tokenizer.json", file]);
            assert_eq!(found, Some(Foreign::Format(expected)), "{file}");
        }
        let shard = "model-00001-of-00002.safetensors";
        assert_eq!(of(&["config.json", shard]), Some(Foreign::Unindexed));
        for files in [
            &[][..],
            &["config.json", "README.md"],
            &["config.json", "model.safetensors.index.json", shard],
        ] {
            assert_eq!(of(files), None, "{files:?}");
        }
    }

    #[test]
    fn quantized_checkpoints_are_named_by_their_tensors() {
        let of = |part: &str| {
            let name = format!("model.layers.0.self_attn.q_proj{part}");
            Foreign::of_tensors([name.as_str(), "model.norm.weight"].into_iter())
        };
        for (part, expected) in [
            (".qweight", "GPTQ or AWQ"),
            (".scales", "MLX"),
            (".weight.absmax", "bitsandbytes"),
            (".weight_scale", "FP8"),
        ] {
            assert_eq!(of(part), Some(Foreign::Quantized(expected.into())));
        }
        assert_eq!(of(".lora_A.weight"), Some(Foreign::Adapter));
        assert_eq!(of(".weight"), None);
    }
}
