#!/usr/bin/env python3
"""Runs diffucoder with too little of everything, and looks at how it ends.

    tests/campaigns/limits.py target/release/diffucoder [--runs 1000]

Limits of memory, open files, sizes of files and processor time; a full disk and one that cannot be written (both
mounted, so for root on Linux); as many runs as are asked for one after the other, and two at a time on one file.
Each must end as an undisturbed run or with an `error:`, and leave whole files. Out of memory ends with the one line
of Rust's allocator: nothing can run after it. Prints a line for each kind; ends with 1 if anything was found.
"""

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import campaign

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
GENERATE = ["generate", "--model", "tiny", "--seed", "1", "-n", "8", "-p", "def f(x):\n"]
faults = 0


class Program:
    def __init__(self, binary, folder):
        self.binary, self.folder = os.path.abspath(binary), Path(folder)
        self.env = campaign.environment(folder)
        self.expected = self.run(GENERATE).stdout

    def run(self, args, limit=None, cwd=None):
        set_limit = limit and (lambda: resource.setrlimit(limit[0], (limit[1], limit[1])))
        return subprocess.run([self.binary, *map(str, args)], env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
                              preexec_fn=set_limit, cwd=cwd or self.folder)

    def start(self, args):
        return subprocess.Popen([self.binary, *map(str, args)], env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def report(kind, outcomes):
    """One line for a kind: how often each outcome came, and what should not have."""
    global faults
    counts = {}
    for outcome, _ in outcomes:
        counts[outcome] = counts.get(outcome, 0) + 1
    print(f"{kind}: " + ", ".join(f"{count} x {outcome}" for outcome, count in sorted(counts.items())), flush=True)
    for outcome, detail in outcomes:
        if outcome.startswith("FAULT"):
            faults += 1
            print("   ", detail)


def outcome(done, expected, label, ends=()):
    """What a run came to; `ends` are signals that the limit itself sends."""
    said = done.stderr.decode(errors="replace")
    detail = f"{label}: {done.returncode} {said[-300:]}"
    if done.returncode == 0:
        return ("as always", detail) if expected in (None, done.stdout) else ("FAULT: another text", detail)
    if "panicked" in said:
        return "FAULT: panic", detail
    if done.returncode in (1, 2) and "error:" in said:
        return "error", detail
    if done.returncode == -signal.SIGABRT and "memory allocation of" in said:
        return "out of memory", detail
    unloaded = done.returncode == 127 and "shared" in said or done.returncode == -signal.SIGSEGV and not said
    if -done.returncode in ends or unloaded:
        return "ended by the system", detail  # the loader, before anything of ours
    return "FAULT: end", detail


def limits(p):
    memory = [mb << 20 for mb in [*range(20, 200, 6), *range(200, 1000, 50)]]
    kinds = {
        "memory (RLIMIT_AS)": (resource.RLIMIT_AS, memory, ()),
        "open files (RLIMIT_NOFILE)": (resource.RLIMIT_NOFILE, range(3, 24), ()),
        "processor time (RLIMIT_CPU)": (resource.RLIMIT_CPU, [0, 1, 60], (signal.SIGXCPU, signal.SIGKILL)),
    }
    for kind, (which, values, ends) in kinds.items():
        report(kind, [outcome(p.run(GENERATE, (which, value)), p.expected, value, ends) for value in values])


def writers(p, folder):
    """Every command that writes, into `folder`; and what has to be there whole if it is there."""
    (p.folder / "in.jsonl").write_text('{"prompt": "def f("}\n' * 20)
    hole = folder / "hole.py"
    yield ["quantize", "--model", FIXTURES / "golden/model", "--to", "q8_0", "--force", "-o", folder / "q.gguf"], folder / "q.gguf"
    yield [*GENERATE, "--trace", folder / "t.jsonl"], None
    yield ["batch", p.folder / "in.jsonl", "--model", "tiny", "-n", 2, "-o", folder / "out.jsonl"], None
    yield ["infill", "--in-place", "--model", "tiny", "--seed", 1, hole], hole


def writing(p, kind, folder, limit=None, prepare=lambda: None):
    outcomes = []
    for args, whole in writers(p, folder):
        try:
            (folder / "hole.py").write_text("x = <FILL:2>\n" * 10)
        except OSError:
            pass  # it is full, or cannot be written
        before = whole.read_bytes() if whole and whole.exists() else None
        prepare()
        done = p.run(args, limit)
        outcomes.append(outcome(done, None, " ".join(map(str, args[:1])), [signal.SIGXFSZ]))
        after = whole.read_bytes() if whole and whole.exists() else None
        if done.returncode != 0 and after != before:
            outcomes.append(("FAULT: half a file", str(whole)))
        parts = [part.name for part in folder.rglob("*.diffucoder")]
        if parts:
            outcomes.append(("FAULT: left behind", str(parts)))
    report(kind, outcomes)


def disks(p):
    for size in [0, 1000, 5000, 50_000]:
        with tempfile.TemporaryDirectory() as folder:
            writing(p, f"files of at most {size} bytes (RLIMIT_FSIZE)", Path(folder), (resource.RLIMIT_FSIZE, size))
    for kind, options in [("a full disk", "size=64k"), ("a disk that cannot be written", "ro")]:
        with tempfile.TemporaryDirectory() as folder:
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], stderr=subprocess.DEVNULL)
            if mounted.returncode != 0:
                print(f"{kind}: not mounted here, so not tried")
                continue

            def fill():
                with contextlib.suppress(OSError), open(Path(folder) / "fill", "ab", buffering=0) as file:
                    while file.write(b"x" * 512) == 512:
                        pass

            try:
                writing(p, kind, Path(folder), prepare=fill)
            finally:
                subprocess.run(["umount", folder], check=True)


def many(p, runs):
    started = time.monotonic()
    outcomes = [outcome(p.run(GENERATE), p.expected, run) for run in range(runs)]
    report(f"one after the other, {1000 * (time.monotonic() - started) / max(runs, 1):.0f} ms each", outcomes)


def together(p):
    """Two at one file: one may refuse, and what is there in the end is whole."""
    outcomes = []
    for args, whole in list(writers(p, p.folder)) * 5:
        (p.folder / "hole.py").write_text("x = <FILL:2>\n" * 10)
        both = [p.start(args), p.start(args)]
        for child in both:
            stdout, stderr = child.communicate()
            done = subprocess.CompletedProcess(args, child.returncode, stdout, stderr)
            outcomes.append(outcome(done, None, args[0]))
        if whole and whole.name == "hole.py" and b"<FILL" in whole.read_bytes():
            outcomes.append(("FAULT: nothing written", str(whole)))
        for left in p.folder.glob("out.jsonl*"):
            left.unlink()
    report("two at once", outcomes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--runs", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = Program(args.binary, folder)
        limits(program)
        disks(program)
        together(program)
        many(program, args.runs)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
