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


def body_lines(doc):
    """(begin, end) in characters of each line of the body, comments and blank lines aside, without indentation (but for
    its last space: a word's token begins with it) and last line break."""
    text, at = doc["text"], max(doc["sig"], doc["doc"])
    begin = text.find("\n", at) + 1
    lines, place = [], begin
    for line in text[begin:].splitlines(keepends=True):
        body = line.strip()
        if body and not body.startswith("#"):
            first = place + len(line) - len(line.lstrip())
            lines.append((first - (text[first - 1] == " "), place + len(line.rstrip())))
        place += len(line)
    return lines


def pick_hole(lines, rng):
    """A place to fill in: one line of the body (seven times of ten) or up to four. None when the body is too short to
    leave anything round it."""
    if len(lines) < 3:
        return None
    first = rng.randrange(len(lines))
    last = first if rng.random() < 0.7 else min(len(lines) - 1, first + rng.randint(1, 3))
    return (lines[first][0], lines[last][1]) if lines[last][1] - lines[first][0] >= 4 else None


def pick_lines(lines, rng):
    """One to four lines of the body in ten, or one, as places to fill in; very short ones stay."""
    if len(lines) < 3:
        return []
    share = rng.uniform(0.1, 0.4)
    chosen = [line for line in lines if rng.random() < share] or [rng.choice(lines)]
    return [(a, b) for a, b in chosen if b - a >= 4]


def encode_split(tok, path, out, batch=4096):
    """Flat uint16 arrays and document starts for functions, functions with a hole, functions with some lines missing
    (`lines_inside` marks their tokens), and modules."""
    rng, more = random.Random(0), random.Random(1)
    flat = {"function": [], "hole": [], "lines": [], "module": []}
    extra = {"function_prefix": [], "function_body": [], "hole_begin": [], "hole_end": []}
    inside = []

    def flush(group):
        # the pieces of a text are tokenised on their own
        encoded = iter(tok.encode_batch_fast([piece for _, pieces in group for piece in pieces], add_special_tokens=False))
        for kind, pieces in group:
            ids = [next(encoded).ids for _ in pieces]
            flat[kind].append(np.concatenate([np.array(i, dtype=np.uint16) for i in ids]))
            if kind == "function":
                extra["function_prefix"].append(len(ids[0]))
            elif kind == "hole":
                extra["hole_begin"].append(len(ids[0]))
                extra["hole_end"].append(len(ids[0]) + len(ids[1]))
            elif kind == "lines":
                inside.append(np.repeat(np.arange(len(ids)) % 2 == 1, [len(i) for i in ids]))

    group = []
    for doc in documents(path):
        text = doc["text"]
        if doc["kind"] == "file":
            group.append(("module", (text,)))
        else:
            at, cut = split_point(doc, rng)
            if not cut:
                at = text.find("\n", at) + 1
            group.append(("function", (text[:at], text[at:])))
            extra["function_body"].append(len(text) - max(doc["sig"], doc["doc"]))
            lines = body_lines(doc)
            hole = pick_hole(lines, rng)
            if hole:
                group.append(("hole", (text[:hole[0]], text[hole[0]:hole[1]], text[hole[1]:])))
            missing = [place for line in pick_lines(lines, more) for place in line]
            if missing:
                group.append(("lines", [text[a:b] for a, b in zip([0, *missing], [*missing, len(text)])]))
        if len(group) >= batch:
            flush(group)
            group = []
    flush(group)
    arrays = {k: np.array(v, dtype=np.int32) for k, v in extra.items()} | {"lines_inside": np.concatenate(inside)}
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
