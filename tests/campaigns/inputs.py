#!/usr/bin/env python3
"""Gives diffucoder damaged inputs that only the program reads: requests, batch lines, traces.

    tests/campaigns/inputs.py target/release/diffucoder [--seconds 60] [--seed 1] [--only NAME]

Each input is a good one with a few values replaced by odd ones, names exchanged, or bytes damaged. Wanted: an answer
or an `error:`, never a panic; memory within a bound, and no input that takes seconds of processor time. What is found is written into the
working directory, so that it can be given again. Prints a line for each kind; ends with 1 if anything was found.
Files that the library reads are the targets of tests/fuzz.
"""

import http.client
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import campaign

ODD = [None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, -1e308, 2**31, 2**32, 2**63, 2**64, 10**30, "", " ", "\0", "auto", "x" * 3000,
       "\ud800", "\u202e<FILL>\r\n", "<|mask|><|endoftext|>", "é" * 300, "日本" * 50, [], {}, [[]], [None], ["\n"], {"": 0}]
MEMORY_MB = 400
SECONDS = 5


def places(value):
    """All (container, key) of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from places(inner)


def damaged(rng, seed):
    """A seed, a JSON value or several lines of them, as bytes that are odd in places."""
    value = json.loads(json.dumps(seed))
    for _ in range(rng.randrange(4)):
        at = list(places(value))
        if not at:
            break
        container, key = rng.choice(at)
        other, name = rng.choice(at)
        match rng.randrange(5):
            case 0 | 1 | 2:
                container[key] = json.loads(json.dumps(rng.choice(ODD)))
            case 3:
                container[key] = json.loads(json.dumps(other[name]))
            case 4 if isinstance(container, dict):
                container[str(rng.choice([name, "n", "\n"]))] = container.pop(key)
    text = "\n".join(map(json.dumps, value)) + "\n" if isinstance(seed, list) else json.dumps(value)
    data = bytearray(text.encode())
    if rng.random() < 0.3:
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(4):
                case 0:
                    data[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del data[at : at + rng.randrange(60)]
                case 2:
                    data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randrange(200)]
                case 3:
                    data[at:at] = b"[" * rng.choice([2, 500, 100_000])
    return bytes(data)


class Campaign:
    def __init__(self, binary, folder, seconds, rng):
        self.binary, self.folder, self.until = binary, Path(folder), time.monotonic() + seconds
        self.rng, self.inputs, self.faults = rng, 0, []
        self.slowest, self.megabytes, self.outcomes = 0.0, 0.0, {}
        self.env = campaign.environment(folder)

    def next(self, seeds):
        while time.monotonic() < self.until:
            self.inputs += 1
            yield damaged(self.rng, self.rng.choice(seeds))

    def judge(self, data, outcome, seconds, megabytes, fault=None):
        self.slowest, self.megabytes = max(self.slowest, seconds), max(self.megabytes, megabytes)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if fault is None and seconds > SECONDS:
            fault = f"{seconds:.1f} s"
        if fault is None and megabytes > MEMORY_MB:
            fault = f"{megabytes:.0f} MB"
        if fault:
            name = f"found-{len(self.faults)}"
            Path(name).write_bytes(data)
            self.faults.append(f"{name}: {fault}")

    def run(self, data, *args, stdin=None):
        """Runs to the end: 0, or an error that says so."""
        with tempfile.TemporaryFile() as errors:
            child = subprocess.Popen([self.binary, *map(str, args)], env=self.env, stderr=errors,
                                     stdin=stdin or subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        fault = None
        if child.returncode not in (0, 1, 2) or "panicked" in said:
            fault = f"exit {child.returncode}: {said[-300:]}"
        elif child.returncode != 0 and "error:" not in said:
            fault = f"exit {child.returncode} without an error: {said[-300:]}"
        self.judge(data, child.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, fault)


def batch(c):
    lines = [
        {"id": 1, "prompt": "def f(x):", "seed": 1},
        {"id": "a", "prefix": "def f(", "suffix": "):\n", "length": 3},
        {"task_id": "HumanEval/0", "prompt": "def f():\n"},
        {"task_id": 3, "text": "Write f.", "code": "def f(): pass", "test_list": ["assert f() is None"]},
    ]
    name = lambda line: "task_id" if "task_id" in line else "id"
    seeds = [[{**line, name(line): f"{at}"} for at in range(3)] for line in lines] + [lines]
    for data in c.next(seeds):
        file = c.folder / "in.jsonl"
        file.write_bytes(data)
        form = c.rng.choice([[], [], ["--format", c.rng.choice(["json", "evalplus", "human-eval", "mbpp"])]])
        c.run(data, "batch", file, "--model", "tiny", "-n", 2, *form)


def trace(c):
    """Traces of both kinds of run, as `report` reads them."""
    seeds = []
    for number, (command, text) in enumerate([("generate", "def f(x):\n"), ("infill", "def f(<FILL:3>):\n    <FILL:2>\n")]):
        given, file = c.folder / f"{number}.py", c.folder / f"{number}.jsonl"
        given.write_text(text)
        args = ["-p", text, "-n", "6"] if command == "generate" else [given]
        subprocess.run([c.binary, command, "--model", "tiny", "--seed", "1", "--trace", file, *args], env=c.env, check=True,
                       capture_output=True, stdin=subprocess.DEVNULL)
        seeds.append([json.loads(line) for line in file.read_text().splitlines()])
    for data in c.next(seeds):
        file = c.folder / "t.jsonl"
        file.write_bytes(data)
        c.run(data, "report", file, "-o", c.folder / c.rng.choice(["t.html", "t.svg"]))


def requests(c):
    """Bodies for a server that stays: it must answer each, and still be there."""
    infill = {"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n", "prompt": "", "n_predict": 2, "n_indent": 4,
              "t_max_predict_ms": 500, "input_extra": [{"filename": "a.py", "text": "x = 1\n"}], "response_fields": ["content"]}
    complete = {"model": "tiny", "prompt": "def f(", "suffix": "):\n", "max_tokens": 2, "temperature": 0.1, "top_p": 0.9, "n": 1,
                "seed": 1, "stop": ["\n"], "stream": False, "stream_options": {"include_usage": True}}
    chat = {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "f"}]}],
            "max_tokens": 2, "stream": True}
    ollama = {"model": "tiny", "prompt": "def f(", "stream": False, "options": {"num_predict": 2, "temperature": 0, "seed": 1}}
    seeds = {"/infill": infill, "/v1/completions": complete, "/v1/fim/completions": complete, "/v1/chat/completions": chat,
             "/api/generate": ollama, "/api/chat": {**ollama, **chat}, "/api/show": {"model": "tiny"}, "/canvas": {"text": "f(<FILL:2>)"}}
    args = ["serve", "--model", "tiny", "--port", "0", "-n", "8"]
    log = open(c.folder / "log", "w+b")
    server = subprocess.Popen([c.binary, *args], env=c.env, stderr=log)
    listening = lambda: re.search(r"listening.*:(\d+)\n", (c.folder / "log").read_text())
    while not (found := listening()):
        assert server.poll() is None, "it does not listen"
        time.sleep(0.05)
    port = int(found[1])

    def worked():
        """Seconds of processor time of the server."""
        ticks = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    seen = 0
    for path in iter(lambda: c.rng.choice(list(seeds)), None):
        data = next(c.next([seeds[path]]), None)
        if data is None:
            break
        before, fault = worked(), None
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            outcome, text = answer.status, answer.read()
            if outcome not in (200, 400, 404, 413) or outcome != 200 and b"error" not in text:
                fault = f"{path}: {outcome} {text[:300]}"
        except (OSError, http.client.HTTPException) as error:
            outcome, fault = type(error).__name__, f"{path}: {error!r}"
        connection.close()
        said = os.pread(log.fileno(), 1 << 20, seen).decode(errors="replace")
        seen += len(said.encode())
        if "panicked" in said:
            fault = f"{path}: {said[-300:]}"
        if server.poll() is not None:
            c.judge(data, outcome, 0, 0, f"{path}: the server ended: {server.returncode}")
            return
        kib = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text())
        c.judge(data, outcome, worked() - before, int(kib[1]) / 1024, fault)
    server.terminate()
    log.close()
    if server.wait() != 0:
        c.faults.append(f"the server ended with {server.returncode}")


CAMPAIGNS = [batch, trace, requests]


def report(c):
    outcomes = ", ".join(f"{count} x {outcome}" for outcome, count in sorted(c.outcomes.items(), key=str))
    return f"{c.inputs} inputs ({outcomes}), slowest {c.slowest:.2f} s, at most {c.megabytes:.0f} MB"


if __name__ == "__main__":
    campaign.main(__doc__, CAMPAIGNS, "seconds", 60.0, Campaign, report)
