"""Measure an exported model on held-out projects, and sample from it.

Reported: accuracy on masked tokens, NELBO in bits per byte, and the share of completed functions that parse.
The sampler is the plain one of Dream and DiffuCoder (arXiv 2506.20639, section 3), one canvas at a time.
"""
import argparse
import ast
import json
import math
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from model import load


# --- sampler -------------------------------------------------------------------------------------------
def top_p_filter(logits, p):
    """Keep the most likely tokens up to and including the one that crosses p."""
    ordered, index = logits.sort(descending=True)
    over = ordered.softmax(-1).cumsum(-1) > p
    over = torch.cat((torch.zeros_like(over[..., :1]), over[..., :-1]), -1)
    return logits.masked_fill(torch.zeros_like(over).scatter(-1, index, over), -torch.inf)


@torch.no_grad()
def generate(net, prompt, new_tokens, steps, temperature=0.2, top_p=0.95, eps=1e-3, seed=0, suffix=()):
    """Entropy order, alg_temp 0. Returns the canvas's ids."""
    mask = net.config["mask_token_id"]
    rng = torch.Generator().manual_seed(seed)
    x = torch.tensor([list(prompt) + [mask] * new_tokens + list(suffix)])
    times = torch.linspace(1, eps, steps + 1)
    for i in range(steps):
        where = (x[0] == mask).nonzero()[:, 0]
        if len(where) == 0:
            break
        reveal = int(len(where) * (1 - times[i + 1] / times[i])) if i < steps - 1 else len(where)
        if reveal == 0:
            continue
        hidden = net.model(x)
        logits = net.logits_at(hidden, where)
        if temperature > 0:
            logits = logits / temperature
        probs = top_p_filter(logits, top_p).softmax(-1)
        token = torch.multinomial(probs, 1, generator=rng)[:, 0] if temperature > 0 else probs.argmax(-1)
        confidence = (probs * torch.log(probs + 1e-10)).sum(-1)  # negative entropy
        chosen = confidence.topk(reveal).indices
        x[0, where[chosen]] = token[chosen]
    return x[0].tolist()


# --- measures ------------------------------------------------------------------------------------------
def rows_of(data, kind, length, count, eot, rng):
    """Held-out texts: whole functions with their end, or full pieces of modules. No padding."""
    flat, starts = data[kind], data[kind + "_starts"]
    sizes = np.diff(starts)
    if kind == "function":
        fits = np.nonzero((sizes >= 16) & (sizes < length))[0]
        return [np.append(flat[starts[i]:starts[i + 1]], eot).astype(np.int64) for i in rng.choice(fits, count, replace=False)]
    fits = np.nonzero(sizes >= length)[0]
    out = []
    for i in rng.choice(fits, count):
        at = int(rng.integers(starts[i], starts[i + 1] - length + 1))
        out.append(flat[at:at + length].astype(np.int64))
    return out


@torch.no_grad()
def masked_scores(net, rows, level, rng):
    """Number of masked tokens, of right guesses, and each row's mean cross-entropy, at one masking level."""
    total = right = 0
    means = []
    for row in rows:
        count = max(1, round(level * len(row)))
        where = np.sort(rng.choice(len(row), count, replace=False))
        ids = row.copy()
        ids[where] = net.config["mask_token_id"]
        flat = torch.from_numpy(where)
        logits = net.logits_at(net.model(torch.from_numpy(ids)[None]), flat)
        target = torch.from_numpy(row[where])
        right += int((logits.argmax(-1) == target).sum())
        total += count
        means.append(float(F.cross_entropy(logits, target)))
    return total, right, np.array(means)


def parses(text):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
        return True
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def parse_share(net, tok, docs, new_tokens, steps):
    """Complete functions from signature and docstring; the text up to the first end-of-text token counts."""
    eot = net.config["eos_token_id"]
    as_is = repaired = ended = empty = 0
    shown, sizes = [], []
    for n, doc in enumerate(docs):
        head = doc["text"][:max(doc["sig"], doc["doc"])] + "\n"
        prompt = tok.encode(head).ids
        new = generate(net, prompt, new_tokens, steps, seed=n)[len(prompt):]
        stop = eot in new
        text = tok.decode(new[:new.index(eot)] if stop else new, skip_special_tokens=False)
        whole = parses(head + text)
        as_is += whole
        ended += stop
        empty += not text.strip()
        # a body cut by the length rightly stops in the middle of a line: drop that line
        repaired += whole or parses(head + text.rsplit("\n", 1)[0] + "\n")
        shown.append(head + text)
        sizes.append(new.index(eot) if stop else len(new))
    n = len(docs)
    return {"bodies": n, "parse_as_is": as_is / n, "parse_without_last_line": repaired / n, "reached_end_of_text": ended / n,
            "empty_body": empty / n, "median_tokens": float(np.median(sizes))}, shown  # trivial bodies parse too: see the size


SAMPLES = ["def fibonacci(n):\n", "def add(a, b):\n", "def read_json(path):\n    \"\"\"Read a JSON file and return its content.\"\"\"\n",
           "def is_even(number):\n    return", "class Stack:\n    def __init__(self):\n",
           "import os\n\ndef list_files(directory, suffix=\".py\"):\n    \"\"\"Return the files of a directory.\"\"\"\n"]


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--model", type=Path, default=Path(__file__).resolve().parent.parent / "models" / "tiny")
    ap.add_argument("--data", type=Path, default=Path("data"), help="folder of held-out.jsonl and held-out.npz")
    ap.add_argument("--rows", type=int, default=100)
    ap.add_argument("--bodies", type=int, default=100)
    ap.add_argument("--new-tokens", type=int, default=64)
    ap.add_argument("--steps", type=int, default=64)
    ap.add_argument("--out", type=Path, help="write the figures here as JSON")
    args = ap.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    net, tok = load(args.model), Tokenizer.from_file(str(args.model / "tokenizer.json"))
    eot = net.config["eos_token_id"]
    report = {}

    for prompt in SAMPLES:
        ids = tok.encode(prompt).ids
        new = generate(net, ids, 96, 96)[len(ids):]
        text = tok.decode(new[:new.index(eot)] if eot in new else new)
        print("-" * 60 + "\n" + prompt + text + ("<end>" if eot in new else "<cut>"), flush=True)
    print("-" * 60)

    data = np.load(args.data / "held-out.npz")
    for kind in ("module", "function"):
        rows = rows_of(data, kind, 256, args.rows, eot, np.random.default_rng(0))
        rng = np.random.default_rng(1)
        accuracy = {}
        for level in (0.15, 0.5, 0.85):
            total, right, _ = masked_scores(net, rows, level, rng)
            accuracy[f"{level:.0%}"] = round(right / total, 4)
        # NELBO of a row: its length times the mean, over uniform levels, of the cross-entropy a masked token
        levels = (np.arange(8) + 0.5) / 8
        nats = np.mean([masked_scores(net, rows, level, rng)[2] for level in levels], axis=0)
        sizes = np.array([len(r) for r in rows])
        n_bytes = sum(len(tok.decode([t for t in r.tolist() if t != eot]).encode()) for r in rows)
        report[kind] = {"masked_accuracy": accuracy, "nelbo_nats_per_token": round(float((nats * sizes).sum() / sizes.sum()), 4),
                        "nelbo_bits_per_byte": round(float((nats * sizes).sum() / math.log(2) / n_bytes), 4)}
        print(kind, report[kind], flush=True)

    with open(args.data / "held-out.jsonl") as lines:
        docs = [d for d in map(json.loads, lines) if d["kind"] == "function"]
    fits = [d for d in docs if len(tok.encode(d["text"][:max(d["sig"], d["doc"])]).ids) <= 96]
    picked = [fits[i] for i in np.random.default_rng(2).choice(len(fits), args.bodies, replace=False)]
    begun = time.time()
    report["completion"], shown = parse_share(net, tok, picked, args.new_tokens, args.steps)
    print(report["completion"], f"{time.time() - begun:.0f} s")
    for text in shown[:3]:
        print("-" * 60 + "\n" + text)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
