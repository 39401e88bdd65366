"""Write a checkpoint in the Hub's layout of a Dream model, and the logits that other implementations must match.

    python export.py --run data/run --out ../models/tiny [--fixtures ../tests/fixtures/tiny]
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from model import load

HERE = Path(__file__).resolve().parent
EARLIER_TOKENS = 455_438_336  # seen by the weights that the run started from (--init); 0 for a run from nothing
CARD = """---
license: apache-2.0
language: [code]
tags: [masked-diffusion, python, dream]
---
# tiny: a small masked-diffusion model of Python

{params:.1f} million parameters in the Dream architecture (Qwen2.5 with full attention, logits shifted right by one),
trained from nothing on two CPU cores and then for five minutes on a GPU. It exists so that everything runs at once and
without a download: the tests, the demonstrations, a first try. It writes what looks like Python and mostly parses, and
means little. **It is no substitute for DiffuCoder-7B.**

- Layers {layers}, hidden {hidden}, heads {heads} ({kv} key/value), MLP {mlp}, vocabulary {vocab} (byte-level BPE, Qwen2's split
  expression), positions 512, tied embeddings, bfloat16.
- Trained on {tokens:.1f} million tokens of Python: the standard library and permissively licensed projects from PyPI. Each
  project, its version and its licence are in `training/manifest.json`; held-out projects are marked there.
- `<|endoftext|>` ends a text and pads it, `<|mask|>` is the mask.
- How it was made and how well it does: `training/README.md`.

The weights are released under Apache-2.0. The sources they were trained on keep their own licences (MIT, BSD, Apache-2.0,
PSF, ISC and the like). Generated text may resemble them: check before you reuse it.
"""
PROMPTS = [
    ("def fibonacci(n):\n    ", 10, ""),
    ("def add(a, b):\n    return ", 2, "\n<|endoftext|>"),
    ("", 3, " = 1\n"),  # masks at the very beginning: position 0 keeps its own output
]


def write_model(saved, which, tokenizer, out):
    config = saved["config"]
    weights = {k: v.detach().bfloat16().contiguous() for k, v in saved[which].items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors writes 0600

    def dump(name, value):
        (out / name).write_text(json.dumps(value, indent=1) + "\n")
    dump("config.json", config)
    ids = {k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")}
    dump("generation_config.json", ids | {"alg": "entropy", "alg_temp": 0.0, "eps": 0.001, "steps": 128,
                                          "temperature": 0.2, "top_p": 0.95, "max_new_tokens": 128})
    shutil.copy(tokenizer, out / "tokenizer.json")
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>"}
    dump("special_tokens_map.json", special)
    dump("tokenizer_config.json", {"tokenizer_class": "DreamTokenizer"} | special
         | {"model_max_length": config["max_position_embeddings"], "add_prefix_space": False, "clean_up_tokenization_spaces": False})
    params = sum(v.numel() for v in weights.values())
    (out / "README.md").write_text(CARD.format(
        params=params / 1e6, tokens=(saved["state"]["tokens"] + EARLIER_TOKENS) / 1e6, layers=config["num_hidden_layers"], hidden=config["hidden_size"],
        heads=config["num_attention_heads"], kv=config["num_key_value_heads"], mlp=config["intermediate_size"], vocab=config["vocab_size"]))


def write_fixtures(folder, out):
    """Shifted logits in float32 from the exported weights: `{i}.ids` [L] int64, `{i}.logits` [L, V] float32."""
    net, tok = load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    mask = net.config["mask_token_id"]
    tensors = {}
    for i, (before, masks, after) in enumerate(PROMPTS):
        ids = tok.encode(before).ids + [mask] * masks + tok.encode(after).ids
        ids = torch.tensor(ids)
        with torch.no_grad():
            logits = net(ids[None])[0]
        tensors[f"{i}.ids"], tensors[f"{i}.logits"] = ids, logits.contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "logits.safetensors")
    (out / "logits.safetensors").chmod(0o644)
    print({k: tuple(v.shape) for k, v in tensors.items()})


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--run", type=Path, default=Path("data/run"))
    ap.add_argument("--checkpoint", default="latest.pt")
    ap.add_argument("--average", action="store_true", help="the averaged weights instead of the last ones")
    ap.add_argument("--tokenizer", type=Path, default=Path("data/tokenizer.json"))
    ap.add_argument("--out", type=Path, default=HERE.parent / "models" / "tiny")
    ap.add_argument("--fixtures", type=Path, default=HERE.parent / "tests" / "fixtures" / "tiny")
    args = ap.parse_args()
    saved = torch.load(args.run / args.checkpoint, map_location="cpu", weights_only=False)
    write_model(saved, "average" if args.average else "net", args.tokenizer, args.out)
    write_fixtures(args.out, args.fixtures)
    print(f"weights of step {saved['state']['step']}, {saved['state']['tokens']} tokens ->", args.out)


if __name__ == "__main__":
    main()
