"""The CUDA build on a machine with a GPU: is it right, how fast is it, what does a forward launch?

    python3 run.py diffucoder[.xz] FIXTURES [--out FOLDER] [--shape 7b]

Needs Python, the driver and NVIDIA's libraries (the toolkit's, or the wheels that come with
PyTorch), and nothing of the project but the binary, for the card's architecture, and the folder
tests/fixtures. Writes report.md, and what each command printed to its folder. Takes about 6 minutes.
"""
import argparse
import collections
import csv
import glob
import io
import json
import lzma
import os
import shutil
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODES = ("fast", "balanced", "exact")


class Run:
    def __init__(self, binary, out):
        self.binary, self.out, self.report = binary, out, []
        self.env = dict(os.environ, LD_LIBRARY_PATH=":".join(library_folders()))

    def say(self, line=""):
        print(line, flush=True)
        self.report.append(line)
        (self.out / "report.md").write_text("\n".join(self.report) + "\n")

    def command(self, *args, seconds=150, before=()):
        """What a command prints; its error goes into the report, and the run goes on."""
        line = [*map(str, before), self.binary, *map(str, args)]
        begun = time.time()
        try:
            done = subprocess.run(line, env=self.env, capture_output=True, text=True, timeout=seconds,
                                  stdin=subprocess.DEVNULL)
            status, stdout, stderr = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            status, stdout, stderr = "timeout", (late.stdout or b"").decode(), (late.stderr or b"").decode()
        with open(self.out / "commands.log", "a") as log:
            shown = stdout if len(stdout) < 4000 else stdout[:4000] + " ..."
            log.write(f"$ {' '.join(map(str, args))}   [{status}, {time.time() - begun:.1f} s]\n{shown}\n{stderr}\n")
        if status != 0 and not before:
            self.say(f"- `{' '.join(map(str, args))}`: {status}: {' '.join(stderr.split())[-400:]}")
            return None
        return stdout

    def json(self, *args, **rest):
        text = self.command(*args, **rest)
        return text and json.loads(text)


def library_folders():
    """Where CUDA's libraries may be: PyTorch's wheels, the toolkit, the driver."""
    folders = [folder for base in [*site.getsitepackages(), *sys.path] if base
               for folder in glob.glob(os.path.join(base, "nvidia", "*", "lib"))]
    folders += ["/usr/local/cuda/lib64", "/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu"]
    return list(dict.fromkeys(folders + os.environ.get("LD_LIBRARY_PATH", "").split(":")))


def trace(run, model, device, flags):
    """Token ids in the order in which they came, and the confidence of each."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.jsonl"
        flags = flags if "--temperature" in flags else ("--temperature", 0, *flags)
        done = run.command("generate", "--model", model, "--device", device, "--raw", "--prompt", "def f(x):", "-n", 32,
                           "--seed", 1, "-q", "--trace", file, *flags)
        if done is None:
            return None
        steps = [json.loads(line) for line in open(file)]
    steps = [step for step in steps if step["type"] == "step"]
    return [(step["step"], at, token, confidence) for step in steps
            for at, token, confidence in zip(step["positions"], step["tokens"], step["confidences"])]


def agreement(run, models):
    run.say("\n## Against the CPU\n\n32 tokens, drawn from a nucleus or at temperature 0: how many of the steps choose the same token at the same place, up to the first that does not,\n"
            "and how far their confidences (nats) are apart up to there.\n")
    run.say("| model | mode | weights | same | of | confidences |\n|---|---|---|---|---|---|")
    for name, model in models:
        for mode, form in (("exact", ("--dtype", "f32")), ("fast", ("--dtype", "f32", "--window", 12)),
                           ("exact", ("--dtype", "f32", "--temperature", 0.7, "--top-p", 0.9)), ("exact", ("--dtype", "bf16")),
                           ("exact", ("--quant", "q8_0")), ("exact", ("--quant", "q4_0"))):
            if form[1].startswith("q") and name != "tiny":
                continue  # rows of a few numbers fill no block
            flags = ("--mode", mode, *form)
            cpu = trace(run, model, "cpu", ("--mode", mode, "--dtype", "f32") if form[1] == "bf16" else flags)
            card = trace(run, model, "cuda", flags)
            if not cpu or not card:
                run.say(f"| {name} | {mode} | {form[1]} | failed |")
                continue
            same = next((i for i, (a, b) in enumerate(zip(cpu, card)) if a[:3] != b[:3]), min(len(cpu), len(card)))
            apart = max([abs(a[3] - b[3]) for a, b in zip(cpu[:same], card[:same])], default=0.0)
            drawn = ", drawn" if "--temperature" in form else ""
            run.say(f"| {name} | {mode}{drawn} | {form[1]} | {same} | {len(cpu)} | {apart:.1e} |")


def speed(run, shape, forms, modes):
    run.say(f"\n## Speed, {shape}\n\nMilliseconds of a forward with the head and what the sampler needs of its logits, and the share of the roofline.\n")
    tables, generated = [], []
    for form in forms:
        weights = ("--quant", "none", "--dtype", form) if form == "bf16" else ("--quant", form)
        bench = ("bench", "--synthetic", shape, "--device", "cuda", "--json", "-q", *weights)
        for mode in modes:
            rows = "1,9,16,64,320" if mode == modes[0] else "1"
            done = run.json(*bench, "--rows", rows, "--generate", 256, "--mode", mode)
            if done:
                if mode == modes[0]:
                    tables.append((form, done))
                generated.append((form, mode, 1, done["generate"]))
        done = run.json(*bench, "--rows", 1, "--generate", 256, "--mode", "fast", "--parallel", 16)
        if done:
            generated.append((form, "fast", 16, done["generate"]))
    for form, done in tables:
        limits = done["limits"]
        run.say(f"{form}: {limits['bf16_tops']:.0f} T op/s in bf16, {limits['read_gb_s']:.0f} GB/s; loaded in {done['load_s']:.1f} s; "
                f"{(done.get('card_bytes') or 0) / 1e9:.1f} GB of the card\n")
    if not tables:
        return
    rows = [forward["rows"] for forward in tables[0][1]["forward"]]
    run.say("| weights | " + " | ".join(f"{n} rows" for n in rows) + " |\n|---|" + "---|" * len(rows))
    for form, done in tables:
        cells = [f"{1e3 * f['seconds']:.2f} ({100 * f['share_of_roofline']:.0f} %)" for f in done["forward"]]
        run.say(f"| {form} | " + " | ".join(cells) + " |")
    run.say("\n256 tokens behind a prompt of 64, two a forward:\n\n| weights | mode | texts at a time | tokens/s | ms a forward | rows a forward | outside the network |\n|---|---|---|---|---|---|---|")
    for form, mode, texts, g in generated:
        run.say(f"| {form} | {mode} | {texts} | {g['tokens_per_s']:.0f} | {g['ms_per_forward']:.2f} | {g['rows'] / g['forwards']:.1f} "
                f"| {100 * g['outside_network']:.1f} % |")


def launches(run, shape, layers, forms):
    """By Nsight Compute, of some forwards of 9 rows, when it is there."""
    ncu = shutil.which("ncu") or next(iter(glob.glob("/opt/nvidia/nsight-compute/*/ncu")), None)
    if not ncu:
        return run.say("\nNo Nsight Compute here: launches were not counted.")
    for form in forms:
        weights = ("--quant", "none", "--dtype", form) if form == "bf16" else ("--quant", form)
        text = run.command("bench", "--synthetic", shape, "--device", "cuda", "--json", "-q", *weights, "--rows", 9, before=(
            ncu, "--csv", "--page", "raw", "--metrics", "gpu__time_duration.sum", "--launch-skip", 2500, "--launch-count", 1500,
            "--clock-control", "none", "--kill", "yes"))
        lines = [line for line in (text or "").splitlines() if line.startswith('"')]
        kernels = collections.defaultdict(list)
        for row in list(csv.DictReader(io.StringIO("\n".join(lines))))[1:]:
            kernels[row["Kernel Name"].split("(")[0]].append(float(row["gpu__time_duration.sum"].replace(",", "")))
        norms = sum(len(times) for name, times in kernels.items() if "rmsnorm" in name)
        if not norms:
            run.say(f"\n{form}: nothing counted; see commands.log.")
            continue
        forwards = norms / (2 * layers + 1)
        total = sum(map(len, kernels.values()))
        run.say(f"\n## Launches of a forward of 9 rows, {form}\n\n{total / forwards:.0f} launches; kernels alone, without the gaps between them:\n")
        run.say("| kernel | launches | microseconds in all |\n|---|---|---|")
        unit = 1e-3 if max(map(max, kernels.values())) > 5000 else 1  # nanoseconds in newer versions
        for name, times in sorted(kernels.items(), key=lambda item: -sum(item[1])):
            run.say(f"| {name} | {len(times) / forwards:.1f} | {unit * sum(times) / forwards:.0f} |")


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("binary", type=Path)
    ap.add_argument("fixtures", type=Path)
    ap.add_argument("--out", type=Path, default=Path("gpu-report"))
    ap.add_argument("--shape", default="7b")
    ap.add_argument("--forms", default="bf16,q4_0,q4_k")
    ap.add_argument("--modes", default=",".join(MODES))
    ap.add_argument("--parts", default="agreement,speed,launches")
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    binary = Path(tempfile.mkdtemp()) / "diffucoder"
    with (lzma.open if args.binary.suffix == ".xz" else open)(args.binary, "rb") as packed, open(binary, "wb") as plain:
        shutil.copyfileobj(packed, plain)
    binary.chmod(0o755)
    run = Run(str(binary), args.out)
    missing = [line.strip() for line in subprocess.run(["ldd", binary], env=run.env, capture_output=True, text=True).stdout.splitlines()
               if "not found" in line]
    smi = "nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader"
    card = subprocess.run(smi, shell=True, capture_output=True, text=True).stdout.strip()
    run.say(f"# {card or 'no GPU'}\n\n{run.command('--version') or ''}")
    if missing:
        run.say("Missing: " + "; ".join(missing))
    run.command("doctor")
    begun, parts, forms = time.time(), args.parts.split(","), args.forms.split(",")
    if "agreement" in parts:
        golden = sorted(args.fixtures.glob("golden*/model"))
        agreement(run, [("tiny", "tiny")] + [(folder.parent.name, str(folder)) for folder in golden])
    if "speed" in parts:
        speed(run, args.shape, forms, args.modes.split(","))
    if "launches" in parts:
        launches(run, args.shape, 28, forms[:2])
    run.say(f"\nIn {time.time() - begun:.0f} s.")


if __name__ == "__main__":
    main()
