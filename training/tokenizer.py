"""Train the byte-level BPE and turn the corpus into arrays of token ids.

The pre-tokeniser is Qwen2's (its tokenizer.json): the split expression below, then ByteLevel without its
own expression, under an NFC normaliser. Ids 0..255 are the bytes, then the merges, then the two specials,
so that no text is out of vocabulary and the layout is the one of the large checkpoints in small.
"""
import argparse
import json
import random
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

QWEN2_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
               r"|\s*[\r\n]+|\s+(?!\S)|\s+")
EOT, MASK = "<|endoftext|>", "<|mask|>"


def train(texts, vocab_size):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size - 2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), min_frequency=2,
        show_progress=False))
    tok.add_special_tokens([EOT, MASK])
    return tok


def documents(path):
    with open(path) as lines:
        for line in lines:
            yield json.loads(line)


def split_point(doc, rng):
    """Where a prompt would end in this function, in characters, and whether it is a token boundary.

    A user's prompt is tokenised on its own: `def f(n):` ends in the token `):` although in running text the
    token would be `):\\n`. Half of the functions are therefore tokenised in two pieces, cut where a prompt
    may end, and the other half whole, cut after the line break.
    """
    at = doc["doc"] if doc["doc"] and rng.random() < 0.6 else doc["sig"]
    return at, rng.random() < 0.5


def pick_hole(doc, rng):
    """A place to fill in: one line of the body (seven times of ten) or up to four, without indentation (but for its
    last space) and last line break, as (begin, end) in characters. None when the body is too short to leave anything round it."""
    text, at = doc["text"], max(doc["sig"], doc["doc"])
    begin = text.find("\n", at) + 1
    lines, place = [], begin
    for line in text[begin:].splitlines(keepends=True):
        body = line.strip()
        if body and not body.startswith("#"):
            first = place + len(line) - len(line.lstrip())  # a word's token begins with its space: that is in the hole
            lines.append((first - (text[first - 1] == " "), place + len(line.rstrip())))
        place += len(line)
    if len(lines) < 3:
        return None
    first = rng.randrange(len(lines))
    last = first if rng.random() < 0.7 else min(len(lines) - 1, first + rng.randint(1, 3))
    return (lines[first][0], lines[last][1]) if lines[last][1] - lines[first][0] >= 4 else None


def encode_split(tok, path, out, batch=4096):
    """Flat uint16 arrays and document starts for functions, functions with a hole, and modules."""
    rng = random.Random(0)
    flat = {"function": [], "hole": [], "module": []}
    extra = {"function_prefix": [], "function_body": [], "hole_begin": [], "hole_end": []}

    def flush(group):
        # a text goes in as three pieces that are tokenised on their own; most pieces of most texts are empty
        ids = [e.ids for e in tok.encode_batch_fast([piece for _, pieces in group for piece in pieces], add_special_tokens=False)]
        for n, (kind, _) in enumerate(group):
            a, b, c = ids[3 * n:3 * n + 3]
            flat[kind].append(np.array(a + b + c, dtype=np.uint16))
            if kind == "function":
                extra["function_prefix"].append(len(a))
            elif kind == "hole":
                extra["hole_begin"].append(len(a))
                extra["hole_end"].append(len(a) + len(b))

    group = []
    for doc in documents(path):
        text = doc["text"]
        if doc["kind"] == "file":
            group.append(("module", (text, "", "")))
        else:
            at, cut = split_point(doc, rng)
            if not cut:
                at = text.find("\n", at) + 1
            group.append(("function", (text[:at], text[at:], "")))
            extra["function_body"].append(len(text) - max(doc["sig"], doc["doc"]))
            hole = pick_hole(doc, rng)
            if hole:
                group.append(("hole", (text[:hole[0]], text[hole[0]:hole[1]], text[hole[1]:])))
        if len(group) >= batch:
            flush(group)
            group = []
    flush(group)
    arrays = {k: np.array(v, dtype=np.int32) for k, v in extra.items()}
    for kind, docs in flat.items():
        arrays[kind] = np.concatenate(docs)
        arrays[kind + "_starts"] = np.cumsum([0] + [len(d) for d in docs])
    np.savez(out, **arrays)
    return {k: int(len(arrays[k])) for k in ("function", "hole", "module")} | {"functions": len(extra["function_prefix"])}


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--vocab-size", type=int, default=6144)
    ap.add_argument("--sample", type=float, default=0.3, help="share of the documents the merges are learnt from")
    args = ap.parse_args()
    rng = random.Random(1)
    saved = args.data / "tokenizer.json"
    if saved.exists():  # delete it to learn the merges anew
        tok = Tokenizer.from_file(str(saved))
    else:
        tok = train((d["text"] for d in documents(args.data / "train.jsonl") if rng.random() < args.sample), args.vocab_size)
    assert tok.get_vocab_size() == args.vocab_size
    probe = bytes(range(256)).decode("latin-1") + "def f(n):\n    return 'é✓' * 12\n"
    assert tok.decode(tok.encode(probe).ids) == probe
    tok.save(str(saved))
    for split in ("train", "held-out"):
        print(split, encode_split(tok, args.data / f"{split}.jsonl", args.data / f"{split}.npz"), flush=True)
    chars = sum(len(d["text"].encode()) for d in documents(args.data / "held-out.jsonl"))
    z = np.load(args.data / "held-out.npz")
    print("held-out bytes per token", round(chars / (len(z["function"]) + len(z["module"])), 3))


if __name__ == "__main__":
    main()
