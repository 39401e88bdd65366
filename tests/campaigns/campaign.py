"""What the campaigns have in common."""

import argparse
import os
import random
import sys
import tempfile
import time


def environment(folder):
    """One in which the program knows nothing of the user and the Hub."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DIFFUCODER_", "HF_", "RUST_"))}
    return own | {"HF_HUB_OFFLINE": "1", "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}


def main(doc, campaigns, amount, default, begin, report):
    """Runs each campaign in a folder of its own: `begin(binary, folder, amount, rng)` is what it gets."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument(f"--{amount}", type=type(default), default=default, dest="amount")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=[c.__name__ for c in campaigns])
    args = parser.parse_args()
    failed = False
    for campaign in campaigns:
        if args.only not in (None, campaign.__name__):
            continue
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            state = begin(os.path.abspath(args.binary), folder, args.amount, random.Random(args.seed))
            campaign(state)
        print(f"{campaign.__name__}: {report(state)}, {len(state.faults)} faults, "
              f"{time.monotonic() - started:.0f} s", flush=True)
        for fault in state.faults[:10]:
            print("   ", fault)
        failed |= bool(state.faults)
    sys.exit(failed)
