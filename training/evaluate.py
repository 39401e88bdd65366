"""Measure an exported model: `python evaluate.py scores|bodies|holes|tasks|samples`, one JSON line each.

scores   masked-token accuracy at 15, 50 and 85 %; NELBO per byte beside a Kneser-Ney 5-gram model on the same text
bodies   share of 200 held-out function bodies that parse
holes    200 single-line holes: share that parse, exact matches with the true length and with a chosen one
tasks    30 small tasks with tests: pass@1 and pass@10
samples  a few prompts, nothing chosen
"""
import argparse
import ast
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from model import load
from sampler import in_batches
from tasks import EVAL, parses, share_passed
from tokenizer import body_lines

SAMPLES = ["def fibonacci(n):\n", "def add(a, b):\n", "def read_json(path):\n    \"\"\"Read a JSON file and return its content.\"\"\"\n",
           "def is_even(number):\n    return", "class Stack:\n    def __init__(self):\n",
           "import os\n\ndef list_files(directory, suffix=\".py\"):\n    \"\"\"Return the files of a directory.\"\"\"\n"]


# --- likelihood ------------------------------------------------------------------------------------------
def rows_of(data, kind, length, count, eot, rng):
    """Held-out texts: whole functions with their end, or full pieces of modules. No padding."""
    flat, starts = data[kind], data[kind + "_starts"]
    sizes = np.diff(starts)
    if kind == "function":
        fits = np.nonzero((sizes >= 16) & (sizes < length))[0]
        return [np.append(flat[starts[i]:starts[i + 1]], eot).astype(np.int64) for i in rng.choice(fits, min(count, len(fits)), replace=False)]
    fits = np.nonzero(sizes >= length)[0]
    out = []
    for i in rng.choice(fits, count):
        at = int(rng.integers(starts[i], starts[i + 1] - length + 1))
        out.append(flat[at:at + length].astype(np.int64))
    return out


@torch.no_grad()
def masked_scores(net, rows, level, rng):
    """Number of masked tokens, of right guesses, and each row's mean cross-entropy, at one masking level."""
    device = net.model.embed_tokens.weight.device
    total = right = 0
    means = []
    for row in rows:
        count = max(1, round(level * len(row)))
        where = np.sort(rng.choice(len(row), count, replace=False))
        ids = row.copy()
        ids[where] = net.config["mask_token_id"]
        logits = net.logits_at(net.model(torch.from_numpy(ids)[None].to(device)), torch.from_numpy(where).to(device))
        target = torch.from_numpy(row[where]).to(device)
        right += int((logits.argmax(-1) == target).sum())
        total += count
        means.append(float(F.cross_entropy(logits, target)))
    return total, right, np.array(means)


def scores(net, tok, args):
    eot = net.config["eos_token_id"]
    data = np.load(args.data / "held-out.npz")
    baseline = None
    if not args.no_ngram:
        from ngram import KneserNey, stream
        baseline = KneserNey(stream(np.load(args.data / "train.npz"), eot), net.config["vocab_size"])
    report = {}
    for kind in ("module", "function"):
        rows = rows_of(data, kind, 256, args.count, eot, np.random.default_rng(0))
        rng = np.random.default_rng(1)
        accuracy = {}
        for level in (0.15, 0.5, 0.85):
            total, right, _ = masked_scores(net, rows, level, rng)
            accuracy[f"{level:.0%}"] = round(right / total, 4)
        # NELBO of a row: its length times the mean, over uniform levels, of the cross-entropy a masked token
        nats = np.mean([masked_scores(net, rows, level, rng)[2] for level in (np.arange(8) + 0.5) / 8], axis=0)
        sizes = np.array([len(r) for r in rows])
        n_bytes = sum(len(tok.decode([t for t in r.tolist() if t != eot]).encode()) for r in rows)
        report[kind] = {"rows": len(rows), "masked_accuracy": accuracy, "nelbo_nats_per_token": round(float((nats * sizes).sum() / sizes.sum()), 3),
                        "nelbo_bits_per_byte": round(float((nats * sizes).sum() / math.log(2) / n_bytes), 3)}
        if baseline:  # a function is known to begin, a piece of a module is not
            cost = -sum(np.log2(baseline.probabilities(r, [eot] if kind == "function" else [])).sum() for r in rows)
            report[kind]["ngram_bits_per_byte"] = round(float(cost / n_bytes), 3)
    return report


# --- generation ------------------------------------------------------------------------------------------
def held_functions(tok, args, most):
    with open(args.data / "held-out.jsonl") as lines:
        docs = [d for d in map(json.loads, lines) if d["kind"] == "function"]
    return [d for d in docs if len(tok.encode(d["text"]).ids) <= most]


def until_end(tok, ids, eot):
    return tok.decode(ids[:ids.index(eot)] if eot in ids else ids, skip_special_tokens=False)


def statements(source):
    """Statements in the body, the docstring aside; 0 when it does not parse."""
    try:
        body = ast.parse(source).body[0].body
    except (SyntaxError, ValueError, IndexError, AttributeError):
        return 0
    return len([n for n in body for _ in ast.walk(n) if isinstance(_, ast.stmt)]) - (ast.get_docstring(ast.parse(source).body[0]) is not None)


def bodies(net, tok, args):
    """Signature and docstring are given; the text up to the first end of text counts."""
    eot, mask = net.config["eos_token_id"], net.config["mask_token_id"]
    docs = [d for d in held_functions(tok, args, 256) if len(tok.encode(d["text"][:max(d["sig"], d["doc"])]).ids) <= 96]
    docs = [docs[i] for i in np.random.default_rng(2).choice(len(docs), args.count, replace=False)]
    heads = [d["text"][:max(d["sig"], d["doc"])] + "\n" for d in docs]
    prompts = [tok.encode(h).ids for h in heads]
    out = in_batches(net, [p + [mask] * args.new_tokens for p in prompts], args.steps, temperature=args.temperature)
    ended, as_is, repaired, trivial, sizes, counts = 0, 0, 0, 0, [], []
    for head, prompt, (ids, _) in zip(heads, prompts, out):
        new = ids[len(prompt):]
        text = until_end(tok, new, eot)
        ended += eot in new
        sizes.append(new.index(eot) if eot in new else len(new))
        # a body cut by the length rightly stops in the middle of a line: then the whole lines count
        whole = head + text
        cut = head + text.rsplit("\n", 1)[0] + "\n"
        as_is += parses(whole)
        repaired += parses(whole) or parses(cut)
        counts.append(statements(whole if parses(whole) else cut))
        trivial += sizes[-1] <= 8
    n = len(docs)
    truth = [len(tok.encode(d["text"][len(h):]).ids) for d, h in zip(docs, heads)]
    return {"bodies": n, "parse": as_is / n, "parse_whole_lines": repaired / n, "ended": ended / n, "at_most_8_tokens": trivial / n,
            "parse_and_more_than_8_tokens": sum(c > 0 and s > 8 for c, s in zip(counts, sizes)) / n, "median_tokens": float(np.median(sizes)),
            "mean_statements": round(float(np.mean(counts)), 2), "true_median_tokens": float(np.median(truth))}


def holes(net, tok, args):
    """One line of a function is missing. Greedy. The length is the true one, or chosen by the model: by the end of text
    in a hole of 24 masks, or as the length whose fill in four steps is the most likely a token. Remasked: each token is
    masked by itself and predicted again when all are there, once or twice."""
    eot, mask = net.config["eos_token_id"], net.config["mask_token_id"]
    rng = np.random.default_rng(3)
    docs = held_functions(tok, args, 256)
    items = []
    for i in rng.permutation(len(docs)):
        d = docs[i]
        text = d["text"]
        lines = [(a, b) for a, b in body_lines(d) if len(text[a:b].strip()) >= 4 and text[a:b].lstrip()[0] not in "\"'"]
        if len(lines) < 3:
            continue
        a, b = lines[rng.integers(len(lines))]
        middle = tok.encode(text[a:b]).ids
        if len(middle) <= 24 and parses(text):
            items.append((text, a, b, tok.encode(text[:a]).ids, middle, tok.encode(text[b:]).ids))
        if len(items) == args.count:
            break
    n = len(items)

    def run(lengths, steps, remask=0):
        canvases = [h + [mask] * k + t for (_, _, _, h, _, t), k in zip(items, lengths)]
        out = in_batches(net, canvases, steps, temperature=0, remask=remask)
        return [(ids[len(it[3]):len(it[3]) + k], s) for (ids, s), it, k in zip(out, items, lengths)]

    def judge(fills):
        texts = [until_end(tok, f, eot) for f, _ in fills]
        return {"parse": sum(parses(t[:a] + x + t[b:]) for x, (t, a, b, *_) in zip(texts, items)) / n,
                "exact": sum(x.strip() == t[a:b].strip() for x, (t, a, b, *_) in zip(texts, items)) / n}
    true = [len(it[4]) for it in items]
    report = {"holes": n, "true_length": judge(run(true, 24)), "true_length_remasked": judge(run(true, 24, 1)),
              "true_length_remasked_twice": judge(run(true, 24, 2)), "end_of_text_in_24": judge(run([24] * n, 24))}
    lengths = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24)
    tried = [run([k] * n, 4) for k in lengths]
    best = [max(range(len(lengths)), key=lambda c: tried[c][i][1]) for i in range(n)]
    report["most_likely_length"] = judge(run([lengths[c] for c in best], 24))
    report["most_likely_length_remasked"] = judge(run([lengths[c] for c in best], 24, 1))
    return report


def sample_tasks(net, tok, todo, samples, new_tokens, steps, temperature, seed=0):
    """`samples` completions of each task's prompt: the source texts."""
    eot, mask = net.config["eos_token_id"], net.config["mask_token_id"]
    prompts = [tok.encode(t["prompt"]).ids for t in todo for _ in range(samples)]
    out = in_batches(net, [p + [mask] * new_tokens for p in prompts], steps, temperature=temperature, seed=seed, batch=50)
    texts = [t["prompt"] for t in todo for _ in range(samples)]
    return [head + until_end(tok, ids[len(p):], eot) for head, p, (ids, _) in zip(texts, prompts, out)], out


def task_rates(net, tok, args, steps):
    k = args.samples
    sources, _ = sample_tasks(net, tok, EVAL, k, args.new_tokens, steps, args.temperature)
    passed = np.array([share_passed(s, EVAL[i // k]["tests"]) == 1.0 for i, s in enumerate(sources)]).reshape(len(EVAL), k)
    wrong = k - passed.sum(1)
    at = {f"pass@{m}": round(float(np.mean([1 - math.comb(w, m) / math.comb(k, m) for w in wrong])), 4) for m in (1, 10) if m <= k}
    return at | {"parse": round(sum(map(parses, sources)) / len(sources), 4),
                 "solved": [t["prompt"].split("(")[0][4:] for t, p in zip(EVAL, passed) if p.any()]}


def tasks(net, tok, args):
    return task_rates(net, tok, args, args.steps)


def samples(net, tok, args):
    eot, mask = net.config["eos_token_id"], net.config["mask_token_id"]
    for prompt in SAMPLES:
        ids = tok.encode(prompt).ids
        new = in_batches(net, [ids + [mask] * args.new_tokens], args.steps, temperature=args.temperature)[0][0][len(ids):]
        print("-" * 60 + "\n" + prompt + until_end(tok, new, eot) + ("<end>" if eot in new else "<cut>"), flush=True)
    print("-" * 60)
    return {}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = {"scores": scores, "bodies": bodies, "holes": holes, "tasks": tasks, "samples": samples}
    ap.add_argument("measure", choices=[*measures, "all"])
    ap.add_argument("--model", type=Path, default=Path(__file__).resolve().parent.parent / "models" / "tiny")
    ap.add_argument("--data", type=Path, default=Path("data"), help="folder of held-out.jsonl, held-out.npz and train.npz")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--count", type=int, default=200, help="rows, bodies or holes")
    ap.add_argument("--samples", type=int, default=10, help="completions of each task")
    ap.add_argument("--new-tokens", type=int, default=64)
    ap.add_argument("--steps", type=int, default=64)
    ap.add_argument("--temperature", type=float, default=0.2)
    ap.add_argument("--no-ngram", action="store_true")
    ap.add_argument("--out", type=Path, help="append the figures here, a JSON line each")
    args = ap.parse_args()
    torch.set_flush_denormal(True)  # see train.py
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    net, tok = load(args.model).to(args.device), Tokenizer.from_file(str(args.model / "tokenizer.json"))
    for name in measures if args.measure == "all" else [args.measure]:
        begun = time.time()
        row = {"measure": name, "steps": args.steps, "temperature": args.temperature} | measures[name](net, tok, args)
        row["seconds"] = round(time.time() - begun)
        print(json.dumps(row), flush=True)
        if args.out:
            with open(args.out, "a") as f:
                f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
