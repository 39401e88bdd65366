"""Draw training/curves.png from the log.jsonl of a run, or of runs that continue one another."""
import argparse
import json
from pathlib import Path

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ap = argparse.ArgumentParser(description=__doc__)
ap.add_argument("--run", type=Path, nargs="+", default=[Path("data/run")])
ap.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "curves.png")
args = ap.parse_args()
rows, before = [], 0
for run in args.run:
    part = [json.loads(line) for line in open(run / "log.jsonl")]
    rows += [row | {"tokens": row["tokens"] + before} for row in part]
    before = rows[-1]["tokens"]

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), width_ratios=(2, 1))
for key, label, color in (("loss", "training, mean of 25 steps", "0.7"), ("causal_loss", "next-token steps", "C4")):
    part = [r for r in rows if key in r]
    if part:
        left.plot([r["tokens"] / 1e6 for r in part], [r[key] for r in part], lw=0.7, color=color, label=label)
for key, label, color in (("valid", "held-out projects", "C1"), ("valid_average", "the same, averaged weights", "C2"),
                          ("holes", "held-out projects, a hole masked whole", "C0")):
    part = [r for r in rows if key in r]
    if part:
        left.plot([r["tokens"] / 1e6 for r in part], [r[key] for r in part], "o-", ms=3, color=color, label=label)
left.set(xlabel="million tokens", ylabel="nats a masked token")
left.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
rate = [r for r in rows if "lr" in r]
right.plot(np.array([r["tokens"] for r in rate]) / 1e6, [r["lr"] for r in rate], color="C3")
right.set(xlabel="million tokens", ylabel="learning rate, share of the run's peak", ylim=(0, 1.05))
for axis in (left, right):
    axis.grid(alpha=0.3)
fig.tight_layout()
fig.savefig(args.out, dpi=110)
