"""Draw training/curves.png from a run's log.jsonl."""
import argparse
import json
from pathlib import Path

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ap = argparse.ArgumentParser(description=__doc__)
ap.add_argument("--run", type=Path, default=Path("data/run"))
ap.add_argument("--second-phase", type=int, default=9_848_832, help="tokens at which the second phase began")
ap.add_argument("--second-rate", type=float, default=0.5, help="its peak rate, as a share of the first's")
ap.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "curves.png")
args = ap.parse_args()
rows = [json.loads(line) for line in open(args.run / "log.jsonl")]
train = [r for r in rows if "loss" in r]
valid = [r for r in rows if "valid" in r]
x = np.array([r["tokens"] for r in train]) / 1e6
loss = np.array([r["loss"] for r in train])

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(2, 1))
left.plot(x, loss, lw=0.6, color="0.7", label="training, mean of 25 steps")
if len(loss) > 9:
    left.plot(x[4:-4], np.convolve(loss, np.ones(9) / 9, "valid"), color="C0", label="the same, smoothed")
# the second phase was trained and validated on a larger share of functions: its losses are no continuation
split = args.second_phase / 1e6
for phase, color, share in ((lambda t: t <= args.second_phase, "C1", "60"), (lambda t: t > args.second_phase, "C2", "80")):
    part = [r for r in valid if phase(r["tokens"])]
    left.plot([r["tokens"] / 1e6 for r in part], [r["valid"] for r in part], "o-", ms=3, color=color,
              label=f"held-out projects, {share} % functions")
left.set(xlabel="million tokens", ylabel="nats a masked token", ylim=(None, 6))
left.legend(frameon=False, fontsize=8)
right.plot(x, [r["lr"] * (args.second_rate if r["tokens"] > args.second_phase else 1) for r in train], color="C3")
right.set(xlabel="million tokens", ylabel="learning rate, share of the peak", ylim=(0, 1.05))
for axis in (left, right):
    axis.grid(alpha=0.3)
    axis.axvline(split, color="0.5", lw=0.8, ls=":")
fig.tight_layout()
fig.savefig(args.out, dpi=110)
