"""Train the small masked-diffusion model, on a CPU or a GPU.

Objective (DiffuCoder, arXiv 2506.20639; LLaDA, arXiv 2502.09992, eq. 14): choose a masking level t uniformly,
mask that share of the row, and average the cross-entropy over the masked tokens. Masking exactly
ceil(t * n) tokens and averaging is the low-variance form of "mask each token with probability t and weight
by 1/t". Levels are stratified over the batch. `data.py` makes the rows.

Auxiliary task: some of the steps are next-token prediction with causal attention on plain text. The head is shifted
by one either way, so the weights are the same (GPT-BERT, arXiv 2410.24159; the large models start from autoregressive
weights for the same reason). Their share falls to nothing by the time the decay begins.

Optimizer: Muon (Keller Jordan) for the matrices of the layers, AdamW for the embedding, norms and biases.
Schedule: warmup, stable, linear decay, on the time spent in steps; a file DECAY in the run folder starts the decay
(a number in it: over so many minutes). Being stopped and continued does not count: a step counts for at most three
times the usual. SIGTERM saves and ends.
"""
import argparse
import contextlib
import json
import os
import queue
import random
import shutil
import signal
import statistics
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import MIXES, Corpus
from model import CONFIG, Dream, load


class Prefetch(threading.Thread):
    """Builds the next batches while the current step runs (the matrix products release the interpreter)."""

    def __init__(self, make, device):
        super().__init__(daemon=True)
        self.make, self.device, self.queue = make, device, queue.Queue(4)
        self.start()

    def run(self):
        while True:
            batch = self.make()
            if self.device.type == "cuda":
                batch = {k: v.pin_memory() if torch.is_tensor(v) else v for k, v in batch.items()}
            self.queue.put(batch)

    def next(self):
        return on(self.queue.get(), self.device)


def on(batch, device):
    return {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}


# --- optimizer --------------------------------------------------------------------------------------
class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps (github.com/KellerJordan/Muon).
    Matrices of one shape are processed together: a batched product keeps the cores busy."""

    def __init__(self, params, lr, momentum=0.98, weight_decay=0.0, dtype=torch.bfloat16):
        super().__init__(list(params), dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                grads = [p.grad for p in params]
                bufs = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
                torch._foreach_lerp_(bufs, grads, 1 - group["momentum"])
                u = orthogonal(torch.stack(torch._foreach_lerp(grads, bufs, group["momentum"])).to(self.dtype))  # Nesterov
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(params, list(u.to(params[0].dtype).unbind()), alpha=-group["lr"] * scale)


def orthogonal(g):
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[1] > g.shape[2]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if tall else x


# --- loss --------------------------------------------------------------------------------------------
def loss_of(net, body, batch, causal=False, dtype=torch.bfloat16):
    with torch.autocast(batch["ids"].device.type, dtype, enabled=dtype != torch.float32):
        logits = net.logits_at(body(batch["ids"], causal), batch["at"])
    ce = F.cross_entropy(logits.float(), batch["target"], reduction="none")
    return (ce * batch["weight"]).sum()


@torch.no_grad()
def validate(net, batches, dtype):
    """Mean loss of fixed held-out batches: nats a token, an estimate of the NELBO's."""
    return float(sum(loss_of(net, net.model, batch, dtype=dtype) for batch in batches)) / len(batches)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--run", type=Path, default=Path("data/run"))
    ap.add_argument("--init", type=Path, help="start from an exported folder's weights instead of from nothing")
    ap.add_argument("--copy-to", type=Path, help="copy each checkpoint and the log into this folder as well")
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--mix", choices=MIXES, default="broad", help="which kinds of rows: see data.py")
    ap.add_argument("--minutes", type=float, default=90, help="time in steps, decay included")
    ap.add_argument("--decay-minutes", type=float, default=40)
    ap.add_argument("--tokens", type=int, default=6144, help="tokens a step")
    ap.add_argument("--causal-share", type=float, default=0.0, help="share of next-token steps, at the start")
    ap.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"])
    ap.add_argument("--hidden", type=int, default=CONFIG["hidden_size"])
    ap.add_argument("--intermediate", type=int, default=CONFIG["intermediate_size"])
    ap.add_argument("--heads", type=int, default=CONFIG["num_attention_heads"])
    ap.add_argument("--kv-heads", type=int, default=CONFIG["num_key_value_heads"])
    ap.add_argument("--matrix-lr", type=float, default=0.02)
    ap.add_argument("--adam-lr", type=float, default=0.003)
    ap.add_argument("--weight-decay", type=float, default=0.01)
    ap.add_argument("--warmup", type=int, default=100)
    ap.add_argument("--clip", type=float, default=1.0)
    ap.add_argument("--average", type=float, default=0.99, help="decay of the averaged weights, a step")
    ap.add_argument("--compile", action="store_true")
    ap.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16",
                    help="of the products in training; some CPUs are faster at float32: see README.md")
    ap.add_argument("--save-minutes", type=float, default=4)
    ap.add_argument("--valid-minutes", type=float, default=8)
    ap.add_argument("--max-steps", type=int, default=10**9)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_flush_denormal(True)  # before the threads start, which inherit it: on Intel CPUs softmax's tiny numbers cost a factor of three
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    else:
        torch.set_float32_matmul_precision("high")
    args.run.mkdir(parents=True, exist_ok=True)
    (args.run / "DECAY").unlink(missing_ok=True)

    if args.init:
        net = load(args.init).train()
    else:
        net = Dream(CONFIG | {"num_hidden_layers": args.layers, "max_window_layers": args.layers, "hidden_size": args.hidden,
                              "intermediate_size": args.intermediate, "num_attention_heads": args.heads,
                              "num_key_value_heads": args.kv_heads})
    config = net.config
    net.to(device)
    body = net.model
    if args.compile:
        torch._dynamo.config.recompile_limit = 32  # a graph for each length of rows, with and without gradients
        for layer in body.layers:  # they share it: compiled in seconds, where the whole body takes a minute a length
            layer.compile(dynamic=False)
    matrices = [p for n, p in net.named_parameters() if p.dim() == 2 and "layers" in n]
    others = [p for n, p in net.named_parameters() if p.dim() == 1]
    adam = torch.optim.AdamW([{"params": [net.model.embed_tokens.weight], "lr": args.adam_lr, "weight_decay": args.weight_decay},
                              {"params": others, "lr": args.adam_lr, "weight_decay": 0.0}],
                             betas=(0.95, 0.99), eps=1e-10, fused=True)
    dtype = getattr(torch, args.dtype)
    opts = [adam, Muon(matrices, args.matrix_lr, weight_decay=args.weight_decay, dtype=dtype)]
    peaks = [[group["lr"] for group in opt.param_groups] for opt in opts]

    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    texts = [tok.decode([i], skip_special_tokens=False) for i in range(config["vocab_size"])]
    corpus, held = Corpus(args.data / "train.npz", args.seed, texts, args.mix), Corpus(args.data / "held-out.npz", 1, texts)
    # the same whatever is trained on
    valid = [on(held.validation(32), device) for _ in range(8)]
    valid_holes = [on(held.validation_holes(32), device) for _ in range(8)]

    # `seconds` is time spent in steps, by this run and those it continues
    state = {"step": 0, "tokens": 0, "masked": 0, "seconds": 0.0}
    average = {k: v.detach().clone() for k, v in net.state_dict().items()}
    latest = args.run / "latest.pt"
    if latest.exists():
        saved = torch.load(latest, weights_only=False, map_location=device)
        net.load_state_dict(saved["net"])
        average = saved["average"]
        for opt, s in zip(opts, saved["opts"]):
            opt.load_state_dict(s)
        state |= saved["state"]
        corpus.reseed(args.seed + state["step"])
        print("resumed at", state, flush=True)
    end, decay_at = args.minutes * 60, (args.minutes - args.decay_minutes) * 60

    def save(name):
        torch.save({"net": net.state_dict(), "average": average, "opts": [o.state_dict() for o in opts], "state": dict(state),
                    "config": config, "args": vars(args)}, args.run / "tmp.pt")
        os.replace(args.run / "tmp.pt", args.run / name)
        if args.copy_to:
            args.copy_to.mkdir(parents=True, exist_ok=True)
            for file in (name, "log.jsonl"):
                if (args.run / file).exists():
                    shutil.copy(args.run / file, args.copy_to / (file + ".tmp"))
                    os.replace(args.copy_to / (file + ".tmp"), args.copy_to / file)

    def record(**row):
        row = {"step": state["step"], "tokens": state["tokens"], "seconds": round(state["seconds"])} | row
        with open(args.run / "log.jsonl", "a") as f:
            f.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def record_validation():
        raw = {k: v.detach().clone() for k, v in net.state_dict().items()}
        row = {}
        for name, weights in (("", raw), ("_average", average)):
            net.load_state_dict(weights)
            for what, batches in (("valid", valid), ("holes", valid_holes)):
                row[what + name] = round(validate(net, batches, dtype), 4)
        net.load_state_dict(raw)
        record(**row)

    for opt, rates in zip(opts, peaks):  # after a resume too: the command line's rates hold, not the saved ones
        for group, rate in zip(opt.param_groups, rates):
            group["peak"] = rate
    print(sum(p.numel() for p in net.parameters()), "parameters", flush=True)
    coin = random.Random(args.seed + state["step"])

    def make():
        progress = min(1.0, state["seconds"] / max(1.0, decay_at))
        if coin.random() < args.causal_share * min(1.0, 2 - 2 * progress):
            return corpus.causal_batch(args.tokens) | {"causal": True}
        return corpus.batch(args.tokens) | {"causal": False}

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stream = Prefetch(make, device)
    usual = deque(maxlen=50)
    saved_at = validated_at = state["seconds"]
    shown, shown_tokens = state["seconds"], state["tokens"]
    losses = {True: [], False: []}
    first = state["step"]
    record_validation()
    sync = torch.cuda.synchronize if device.type == "cuda" else contextlib.nullcontext
    begun = time.time()
    while state["seconds"] < end and state["step"] < args.max_steps and not stop.is_set():
        if state["step"] % 10 == 0 and (args.run / "DECAY").exists():
            text = (args.run / "DECAY").read_text().strip()
            (args.run / "DECAY").unlink()
            decay_at = min(decay_at, state["seconds"])
            end = min(end, state["seconds"] + (float(text) if text else args.decay_minutes) * 60)
        warm = min(1.0, (state["step"] - first + 1) / args.warmup)
        cool = min(1.0, max(0.0, (end - state["seconds"]) / (end - decay_at)))
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = group["peak"] * warm * cool
        batch = stream.next()
        loss = loss_of(net, body, batch, batch["causal"], dtype)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), args.clip)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=False)
        now = net.state_dict()
        torch._foreach_lerp_(list(average.values()), [now[k] for k in average], 1 - min(args.average, 1 - 1 / (state["step"] - first + 2)))
        state["step"] += 1
        state["tokens"] += batch["ids"].numel()
        state["masked"] += batch["at"].numel()
        losses[batch["causal"]].append(loss.detach())
        if state["step"] % 25 == 0:
            sync()
            means = {name: round(float(torch.stack(losses[key]).mean()), 4)
                     for name, key in (("loss", False), ("causal_loss", True)) if losses[key]}
            spent = max(1e-3, state["seconds"] - shown)
            record(**means, lr=round(warm * cool, 3), norm=round(float(norm), 2), tok_s=round((state["tokens"] - shown_tokens) / spent))
            losses, shown, shown_tokens = {True: [], False: []}, state["seconds"], state["tokens"]
        # compiling makes the first steps slow, a STOP makes one step endless: neither is time spent training
        step = time.time() - begun
        begun = time.time()
        usual.append(step)
        state["seconds"] += min(step, 3 * (statistics.median(usual) if len(usual) > 20 else min(usual))) if len(usual) > 1 else 0.0
        if state["seconds"] - saved_at > args.save_minutes * 60:
            saved_at = state["seconds"]
            save("latest.pt")
            begun = time.time()
        if state["seconds"] - validated_at > args.valid_minutes * 60:
            validated_at = state["seconds"]
            record_validation()
            begun = time.time()
    record_validation()
    save("latest.pt")
    if not stop.is_set():
        save("final.pt")


if __name__ == "__main__":
    main()
