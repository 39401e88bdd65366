"""Train the small masked-diffusion model.

Objective (DiffuCoder, arXiv 2506.20639; LLaDA, arXiv 2502.09992, eq. 14): choose a masking level t uniformly,
mask that share of the row, and average the cross-entropy over the masked tokens. Masking exactly
ceil(t * n) tokens and averaging is the low-variance form of "mask each token with probability t and weight
by 1/t". Levels are stratified over the batch. The end-of-text token and the run of it that pads the row are
masked and predicted like any other token: that is how the model learns where a text ends.

A row is a function (signature, docstring, body, end) or a piece of a module. Part of the rows keep a prefix
unmasked (what generation does) and part are masked only inside one to three spans (infilling).

Optimizer: Muon (Keller Jordan) for the matrices of the layers, AdamW for the embedding, norms and biases.
Schedule: warmup, stable, linear decay, on the wall clock; a file DECAY in the run folder starts the decay.
"""
import argparse
import json
import math
import os
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from model import CONFIG, Dream

EOT, MASK = CONFIG["eos_token_id"], CONFIG["mask_token_id"]
LENGTHS = {96: 0.15, 128: 0.25, 192: 0.25, 256: 0.30, 512: 0.05}  # row length -> share of the steps


# --- data -----------------------------------------------------------------------------------------
class Corpus:
    def __init__(self, path, seed, texts):
        """`texts` holds the text of each token id."""
        z = np.load(path)
        self.newline = np.array([t.endswith("\n") for t in texts])
        self.rng = np.random.default_rng(seed)
        self.functions, self.starts, self.prefix = z["function"], z["function_starts"], z["function_prefix"]
        self.files, self.file_starts = z["module"], z["module_starts"]
        sizes = np.diff(self.starts)
        # methods outnumber plain functions, and prompts are mostly plain functions: those count twice
        me = np.array([t.strip("( ,") in ("self", "cls") for t in texts])[self.functions]
        before = np.concatenate(([0], np.cumsum(me)))
        plain = before[np.minimum(self.starts[:-1] + 10, len(me))] == before[self.starts[:-1]]
        # a row of length L is filled with functions close to L seven times of ten, else with any that fits,
        # so that runs of padding of every length are seen without spending most of the time on them
        self.pools, low = {}, 0
        for length in LENGTHS:
            for key, least in (("close", low), ("any", 0)):
                fits = (sizes > max(least, 8)) & (sizes < length)
                self.pools[length, key] = Deck(np.concatenate((np.nonzero(fits)[0], np.nonzero(fits & plain)[0])), self.rng)
            low = int(length * 0.72)

    def function(self, length):
        i = self.pools[length, "close" if self.rng.random() < 0.7 else "any"].draw()
        return self.functions[self.starts[i]:self.starts[i + 1]], int(self.prefix[i])

    def piece(self, length):
        """Part of a module from a random place, or from its beginning; the text's own end is kept when reached."""
        at = int(self.rng.integers(len(self.files)))
        doc = int(np.searchsorted(self.file_starts, at, "right")) - 1
        begin, end = int(self.file_starts[doc]), int(self.file_starts[doc + 1])
        if self.rng.random() < 0.1:
            at = begin
        else:  # move to the start of a line
            window = self.files[at:min(at + 64, end - 1)]
            breaks = np.nonzero(self.newline[window])[0]
            at = at + int(breaks[0]) + 1 if len(breaks) else at
        return self.files[at:min(at + length, end)], 0

    def batch(self, tokens, function_share):
        """ids [B, L] with masks, targets [B, L], and the weight of each position (0 where not masked)."""
        rng = self.rng
        length = int(rng.choice(list(LENGTHS), p=list(LENGTHS.values())))
        rows = tokens // length
        target = np.full((rows, length), EOT, dtype=np.int64)
        masked = np.zeros((rows, length), dtype=bool)
        weight = np.zeros((rows, length), dtype=np.float32)
        levels = (rng.permutation(rows) + rng.random(rows)) / rows  # stratified, in [0, 1)
        for r in range(rows):
            is_function = rng.random() < function_share
            text, prefix = self.function(length) if is_function else self.piece(length)
            target[r, :len(text)] = text
            kind = rng.random()
            if is_function and kind < 0.40 and prefix < length - 1:
                where = np.arange(prefix, length)
            elif not is_function and kind < 0.15:
                where = np.arange(int(rng.integers(1, max(2, len(text)))), length)
            elif kind > 0.85:
                where = np.unique(np.concatenate([self.span(len(text)) for _ in range(rng.integers(1, 4))]))
            else:
                where = np.arange(length)
            count = max(1, math.ceil(levels[r] * len(where)))
            chosen = rng.choice(where, count, replace=False)
            masked[r, chosen] = True
            weight[r, chosen] = 1.0 / (count * rows)
        ids = np.where(masked, MASK, target)
        return torch.from_numpy(ids), torch.from_numpy(target), torch.from_numpy(weight)

    def span(self, n):
        size = int(self.rng.integers(1, max(2, min(n, 64))))
        at = int(self.rng.integers(0, max(1, n - size)))
        return np.arange(at, min(at + size, n))


class Deck:
    """Draws without replacement, reshuffled when it runs out."""

    def __init__(self, items, rng):
        self.items, self.rng, self.at = items, rng, len(items)

    def draw(self):
        if self.at >= len(self.items):
            self.rng.shuffle(self.items)
            self.at = 0
        self.at += 1
        return self.items[self.at - 1]


class Prefetch(threading.Thread):
    """Builds the next batch while the current step runs (the matrix products release the interpreter)."""

    def __init__(self, make):
        super().__init__(daemon=True)
        import queue
        self.make, self.queue = make, queue.Queue(3)
        self.start()

    def run(self):
        while True:
            self.queue.put(self.make())


# --- optimizer --------------------------------------------------------------------------------------
class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps (github.com/KellerJordan/Muon).
    Matrices of one shape are processed together: a batched product keeps the cores busy."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(list(params), dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                updates = []
                for p in params:
                    buf = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buf.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buf, group["momentum"]))  # Nesterov
                u = orthogonal(torch.stack(updates))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for p, d in zip(params, u):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(d.to(p.dtype), alpha=-group["lr"] * scale)


def orthogonal(g):
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[1] > g.shape[2]
    x = g.mT if tall else g
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if tall else x


# --- loss --------------------------------------------------------------------------------------------
def loss_of(net, body, batch):
    ids, target, weight = batch
    with torch.autocast("cpu", torch.bfloat16):
        hidden = body(ids)
        flat = weight.flatten().nonzero()[:, 0]
        logits = net.logits_at(hidden, flat)
    ce = F.cross_entropy(logits.float(), target.flatten()[flat], reduction="none")
    return (ce * weight.flatten()[flat]).sum(), ce.detach().sum() / len(ce)


@torch.no_grad()
def validate(net, batches):
    """Mean loss of fixed held-out batches: nats a token, an estimate of the NELBO's."""
    total = 0.0
    for batch in batches:
        total += float(loss_of(net, net.model, batch)[0])
    return total / len(batches)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--run", type=Path, default=Path("data/run"))
    ap.add_argument("--minutes", type=float, default=90, help="wall-clock budget, decay included")
    ap.add_argument("--decay-minutes", type=float, default=20)
    ap.add_argument("--tokens", type=int, default=6144, help="tokens a step")
    ap.add_argument("--function-share", type=float, default=0.6, help="share of the rows that are functions")
    ap.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"])
    ap.add_argument("--hidden", type=int, default=CONFIG["hidden_size"])
    ap.add_argument("--intermediate", type=int, default=CONFIG["intermediate_size"])
    ap.add_argument("--matrix-lr", type=float, default=0.02)
    ap.add_argument("--adam-lr", type=float, default=0.003)
    ap.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    ap.add_argument("--weight-decay", type=float, default=0.01)
    ap.add_argument("--warmup", type=int, default=100)
    ap.add_argument("--clip", type=float, default=1.0)
    ap.add_argument("--compile", action="store_true")
    ap.add_argument("--save-minutes", type=float, default=4)
    ap.add_argument("--valid-minutes", type=float, default=10)
    ap.add_argument("--max-steps", type=int, default=10**9)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    args.run.mkdir(parents=True, exist_ok=True)

    config = CONFIG | {"num_hidden_layers": args.layers, "max_window_layers": args.layers,
                       "hidden_size": args.hidden, "intermediate_size": args.intermediate}
    net = Dream(config)
    body = torch.compile(net.model, dynamic=False) if args.compile else net.model
    matrices = [p for n, p in net.named_parameters() if p.dim() == 2 and "layers" in n]
    others = [p for n, p in net.named_parameters() if p.dim() == 1]
    embed = [net.model.embed_tokens.weight]
    adam = torch.optim.AdamW([{"params": embed, "lr": args.adam_lr, "weight_decay": args.weight_decay},
                              {"params": others, "lr": args.adam_lr, "weight_decay": 0.0}],
                             betas=(0.9, 0.95), eps=1e-10, fused=True)
    if args.optimizer == "muon":
        opts = [adam, Muon(matrices, args.matrix_lr, weight_decay=args.weight_decay)]
    else:
        adam.add_param_group({"params": matrices, "lr": args.matrix_lr, "weight_decay": 0.1})
        opts = [adam]
    peaks = [[group["lr"] for group in opt.param_groups] for opt in opts]

    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    texts = [tok.decode([i], skip_special_tokens=False) for i in range(config["vocab_size"])]
    corpus, held = Corpus(args.data / "train.npz", args.seed, texts), Corpus(args.data / "held-out.npz", 1, texts)
    valid = [held.batch(4096, 0.6) for _ in range(24)]  # the same whatever is trained on

    state = {"step": 0, "tokens": 0, "seconds": 0.0, "decay_at": (args.minutes - args.decay_minutes) * 60, "end": args.minutes * 60}
    latest = args.run / "latest.pt"
    if latest.exists():
        saved = torch.load(latest, weights_only=False)
        net.load_state_dict(saved["net"])
        for opt, s in zip(opts, saved["opts"]):
            opt.load_state_dict(s)
        state |= {k: saved["state"][k] for k in ("step", "tokens", "seconds")}
        corpus.rng = np.random.default_rng(args.seed + state["step"])
        for deck in corpus.pools.values():
            deck.rng = corpus.rng
        print("resumed at", state, flush=True)

    def save(name):
        torch.save({"net": net.state_dict(), "opts": [o.state_dict() for o in opts], "state": dict(state),
                    "config": config, "args": vars(args)}, args.run / "tmp.pt")
        os.replace(args.run / "tmp.pt", args.run / name)

    def record(**row):
        with open(args.run / "log.jsonl", "a") as f:
            f.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def record_validation():
        record(step=state["step"], tokens=state["tokens"], seconds=round(state["seconds"]), valid=round(validate(net, valid), 4))

    for opt, rates in zip(opts, peaks):  # after a resume too: the command line's rates hold, not the saved ones
        for group, rate in zip(opt.param_groups, rates):
            group["peak"] = rate
    print(sum(p.numel() for p in net.parameters()), "parameters", flush=True)
    stream = Prefetch(lambda: corpus.batch(args.tokens, args.function_share))
    begun = time.time() - state["seconds"]
    saved_at = validated_at = state["seconds"]
    shown, shown_tokens = time.time(), state["tokens"]
    losses = []
    while state["seconds"] < state["end"] and state["step"] < args.max_steps:
        state["seconds"] = time.time() - begun
        if (args.run / "DECAY").exists() and state["seconds"] < state["decay_at"]:
            state["decay_at"], state["end"] = state["seconds"], state["seconds"] + args.decay_minutes * 60
        warm = min(1.0, (state["step"] + 1) / args.warmup)
        cool = min(1.0, max(0.0, (state["end"] - state["seconds"]) / (state["end"] - state["decay_at"])))
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = group["peak"] * warm * cool
        batch = stream.queue.get()
        loss, plain = loss_of(net, body, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), args.clip)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=False)
        state["step"] += 1
        state["tokens"] += batch[0].numel()
        losses.append(float(loss.detach()))
        if state["step"] % 25 == 0:
            now = time.time()
            record(step=state["step"], tokens=state["tokens"], seconds=round(state["seconds"]), loss=round(float(np.mean(losses)), 4),
                   lr=round(warm * cool, 3), norm=round(float(norm), 2), tok_s=round((state["tokens"] - shown_tokens) / (now - shown)))
            losses, shown, shown_tokens = [], now, state["tokens"]
        if state["seconds"] - saved_at > args.save_minutes * 60:
            saved_at = state["seconds"]
            save("latest.pt")
        if state["seconds"] - validated_at > args.valid_minutes * 60:
            validated_at = state["seconds"]
            record_validation()
            shown, shown_tokens = time.time(), state["tokens"]
    record_validation()
    save("latest.pt")
    save("final.pt")


if __name__ == "__main__":
    main()
