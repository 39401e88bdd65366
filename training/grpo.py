"""Coupled-GRPO (DiffuCoder, arXiv 2506.20639, section 5) on the built-in model.

A group of completions is sampled for each prompt; a completion's advantage is its reward less the mean of the others of
its group (leave one out). The log probability of a token is estimated on two complementary masks: each token of the
completion is masked in exactly one of the two, so that all of them count, each with part of the others in sight. The
two share one random level t, one masks ceil(t * n) tokens and the other the rest; a third view masks everything, as in
the paper, and the token's estimate is the mean of the two views in which it is masked. One update a group, so the ratio
to the sampling policy is 1 and the clip of GRPO idle; a KL term (k3) holds the policy near the model it began from.

Reward: 0.5 when the text parses and its body says more than `pass`, and the share of the tests that pass. Prompts are
the PRACTICE tasks of tasks.py; the EVAL tasks are measured before and after, with all and with half of the steps.
"""
import argparse
import ast
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from evaluate import sample_tasks, task_rates
from model import load
from tasks import PRACTICE, parses, share_passed


def says_something(source):
    try:
        body = ast.parse(source).body[0].body
    except (SyntaxError, ValueError, IndexError, AttributeError, RecursionError):
        return False
    rest = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)) and not isinstance(n, ast.Pass)]
    return bool(rest)


def reward(source, tests):
    return 0.5 * (parses(source) and says_something(source)) + share_passed(source, tests)


def coupled_views(ids, begin, mask, rng):
    """Three copies of a canvas: everything after `begin` masked, and two complementary masks of it."""
    where = begin + rng.permutation(len(ids) - begin)
    count = int(np.clip(np.ceil(rng.uniform(0.2, 0.8) * len(where)), 1, len(where) - 1))
    return [(ids, np.sort(part), mask) for part in (where, where[:count], where[count:])]


def log_probabilities(net, views, device):
    """Of the masked tokens of each view, all views in one forward; the views have one length."""
    ids = torch.tensor(np.array([v[0] for v in views]), device=device)
    rows = torch.tensor(np.concatenate([[r] * len(v[1]) for r, v in enumerate(views)]), device=device)
    at = torch.tensor(np.concatenate([v[1] for v in views]), device=device)
    seen = ids.clone()
    seen[rows, at] = views[0][2]
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = net.logits_at(net.model(seen), rows * ids.shape[1] + at)
    return logits.float().log_softmax(-1).gather(1, ids[rows, at][:, None])[:, 0], rows


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--model", type=Path, default=Path(__file__).resolve().parent.parent / "models" / "tiny")
    ap.add_argument("--out", type=Path, default=Path("data/grpo"), help="log.jsonl, before.json, after.json, model.pt")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--updates", type=int, default=60)
    ap.add_argument("--minutes", type=float, default=12, help="of updates, the measuring aside")
    ap.add_argument("--prompts", type=int, default=4, help="prompts an update")
    ap.add_argument("--group", type=int, default=10, help="completions a prompt")
    ap.add_argument("--lr", type=float, default=5e-5)
    ap.add_argument("--kl", type=float, default=0.02)
    ap.add_argument("--new-tokens", type=int, default=32)
    ap.add_argument("--steps", type=int, default=32)
    ap.add_argument("--temperature", type=float, default=1.0, help="of the rollouts")
    ap.add_argument("--measure-temperature", type=float, default=0.2)
    ap.add_argument("--samples", type=int, default=10, help="completions of each task when measuring")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_flush_denormal(True)  # see train.py
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device(args.device)
    net, start = load(args.model).to(device), load(args.model).to(device)
    tok = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    eot, mask = net.config["eos_token_id"], net.config["mask_token_id"]
    args.out.mkdir(parents=True, exist_ok=True)

    def measure(name):
        options = argparse.Namespace(samples=args.samples, new_tokens=args.new_tokens, temperature=args.measure_temperature)
        rates = {f"{steps} steps": task_rates(net, tok, options, steps) for steps in (args.steps, args.steps // 2)}
        (args.out / f"{name}.json").write_text(json.dumps(rates, indent=1) + "\n")
        print(name, json.dumps(rates), flush=True)

    measure("before")
    opt = torch.optim.AdamW(net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
    begun = time.time()
    for update in range(args.updates):
        if time.time() - begun > args.minutes * 60:
            break
        todo = [PRACTICE[i] for i in rng.choice(len(PRACTICE), args.prompts, replace=False)]
        sources, rollouts = sample_tasks(net, tok, todo, args.group, args.new_tokens, args.steps, args.temperature, seed=int(rng.integers(2**31)))
        rewards = np.array([reward(s, todo[i // args.group]["tests"]) for i, s in enumerate(sources)]).reshape(args.prompts, args.group)
        advantage = (rewards - (rewards.sum(1, keepdims=True) - rewards) / (args.group - 1)).ravel()
        kls = []
        for p in range(args.prompts):
            begin = len(tok.encode(todo[p]["prompt"]).ids)
            views, gains, worth = [], [], []
            for i in range(p * args.group, (p + 1) * args.group):
                ids = np.array(rollouts[i][0])
                new = ids[begin:].tolist()
                length = new.index(eot) + 1 if eot in new else len(new)  # what follows the first end is no part of the answer
                for view in coupled_views(ids, begin, mask, rng):
                    views.append(view)
                    gains.append(advantage[i])
                    worth.append(np.where(view[1] < begin + length, 0.5 / length, 0.0))  # each token is in two views
            logp, rows = log_probabilities(net, views, device)
            with torch.no_grad():
                reference, _ = log_probabilities(start, views, device)
            weight = torch.tensor(np.concatenate(worth), dtype=torch.float32, device=device) / args.group
            gain = torch.tensor(np.array(gains), dtype=torch.float32, device=device)[rows]
            gap = reference - logp
            kl = gap.exp() - gap - 1
            ratio = (logp - logp.detach()).exp()
            loss = (weight * (args.kl * kl - ratio * gain)).sum() / args.prompts
            loss.backward()
            kls.append(float((weight * kl).sum().detach()))
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        opt.step()
        opt.zero_grad()
        row = {"update": update, "reward": round(float(rewards.mean()), 4), "parse": round(sum(map(parses, sources)) / len(sources), 4),
               "groups_with_a_difference": int((rewards.std(1) > 0).sum()), "kl": round(float(np.mean(kls)), 5), "norm": round(float(norm), 3),
               "seconds": round(time.time() - begun)}
        with open(args.out / "log.jsonl", "a") as f:
            f.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    measure("after")
    torch.save({"net": net.state_dict(), "config": net.config}, args.out / "model.pt")


if __name__ == "__main__":
    main()
