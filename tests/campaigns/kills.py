#!/usr/bin/env python3
"""Kills diffucoder at random moments, and looks at what it leaves behind.

    tests/campaigns/kills.py target/release/diffucoder [--kills 1000] [--seed 1] [--only NAME]

Each campaign runs a command again and again and kills it (SIGKILL): after a random part of the time that it takes
or, where strace is installed, before a random one of its system calls that change files. Afterwards every file must
be whole or absent, and what goes on must end as a run that nobody disturbed. Prints a line for each; ends with 1 if
anything was found.
"""

import collections
import hashlib
import http.server
import json
import re
import shutil
import signal
import socketserver
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import campaign

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
NOISE = ("timing",)
CALLS = ["openat", "write", "writev", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync", "link", "linkat", "rename",
         "renameat", "renameat2", "symlink", "symlinkat", "unlink", "unlinkat", "mkdir", "mkdirat", "fchmod"]
STRACE = ["strace", "-f", "-qq", "-e", "signal=none"]


class Campaign:
    def __init__(self, binary, folder, kills, rng):
        self.binary, self.folder, self.rng = binary, Path(folder), rng
        self.wanted, self.kills, self.ended, self.faults = kills, 0, 0, []
        self.at_calls, self.calls = 0, []
        self.env = campaign.environment(folder)

    def args(self, *args):
        return [self.binary, *map(str, args)]

    def whole(self, *args, check=True):
        done = subprocess.run(self.args(*args), env=self.env, capture_output=True, stdin=subprocess.DEVNULL)
        if check and done.returncode != 0:
            raise SystemExit(f"{args}: {done.stderr.decode()}")
        return done.stdout

    def time(self, *args):
        """Seconds of an undisturbed run, whose calls are kept as (name, which of that name in its thread)."""
        log = self.folder / "calls"
        tracer = [*STRACE, "-o", log, "-e", "trace=" + ",".join(CALLS)] if shutil.which("strace") else []
        started = time.monotonic()
        subprocess.run([*tracer, *self.args(*args)], env=self.env, capture_output=True, stdin=subprocess.DEVNULL, check=True)
        seconds, counts = time.monotonic() - started, collections.Counter()
        for thread, name, rest in re.findall(r"^(\d+) +(\w+)\((.*)", log.read_text(), re.MULTILINE) if tracer else []:
            counts[thread, name] += 1
            if "O_RDONLY" not in rest:
                self.calls.append((name, counts[thread, name]))
        return seconds

    def killed(self, seconds, *args):
        """Runs and kills; whether it was killed rather than done before."""
        quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command, at_call = self.args(*args), self.calls and self.rng.random() < 0.5
        if at_call:
            name, which = self.rng.choice(self.calls)
            inject = ["-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={which}"]
            command = [*STRACE, *inject, *command]
        child = subprocess.Popen(command, env=self.env, **quiet)
        if not at_call:
            time.sleep(self.rng.random() * seconds)
            child.send_signal(signal.SIGKILL)
        was_killed = child.wait() == -signal.SIGKILL
        self.at_calls += was_killed and at_call
        self.kills += was_killed
        self.ended += not was_killed
        return was_killed

    def fault(self, what):
        self.faults.append(f"kill {self.kills}: {what}")

    def no_parts(self, folder):
        """A run to the end has removed what the killed ones left."""
        parts = [p.name for p in Path(folder).rglob("*.diffucoder")]
        if parts:
            self.fault(f"left behind: {parts}")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def batch(c):
    source, out, reference = (c.folder / name for name in ("in.jsonl", "out.jsonl", "reference.jsonl"))
    lines = [json.dumps({"id": i, "prompt": f"def f{i}(x):", "seed": i}) for i in range(12)]
    source.write_text("\n".join(lines) + "\n")
    args = lambda to, parallel: ["batch", source, "-o", to, "--model", "tiny", "-n", 12, "--parallel", parallel]
    seconds = c.time(*args(reference, 1))
    essence = lambda text: [{k: v for k, v in json.loads(line).items() if k not in NOISE} for line in text]
    expected = essence(reference.read_text().splitlines())
    while c.kills < c.wanted:
        parallel = c.rng.choice([1, 3])
        while c.killed(seconds, *args(out, parallel)):
            text = out.read_text() if out.exists() else ""
            done = text.split("\n")[:-1]  # a killed write can leave half a line
            if essence(done) != expected[: len(done)]:
                c.fault("results are not those of an undisturbed run")
        c.whole(*args(out, parallel))
        if essence(out.read_text().splitlines()) != expected:
            c.fault("the end is not that of an undisturbed run")
        out.unlink()


def in_place(c):
    file = c.folder / "a.py"
    old = "def load(path):\n    with open(path) as <FILL:1>:\n        return f.read()\n" * 3
    args = ["infill", "--in-place", "--model", "tiny", "--seed", 1, file]
    file.write_text(old)
    seconds = c.time(*args)
    new = file.read_text()
    while c.kills < c.wanted:
        file.write_text(old)
        c.killed(seconds, *args)
        if file.read_text() not in (old, new):
            c.fault("the file is neither the old nor the new one")
    file.write_text(old)
    c.whole(*args)
    c.no_parts(c.folder)


def quantize(c):
    out = c.folder / "out.gguf"
    args = ["quantize", "--model", FIXTURES / "golden/model", "--to", "q8_0", "--force", "-o", out]
    seconds = c.time(*args)
    new = digest(out)
    while c.kills < c.wanted:
        out.unlink(missing_ok=True)
        if c.rng.random() < 0.5:
            out.write_text("old")
        before = digest(out)
        c.killed(seconds, *args)
        if digest(out) not in (before, new):
            c.fault("half a file has the name")
    c.whole(*args)
    c.no_parts(c.folder)


def packed(c):
    model, cache = c.folder / "m.gguf", c.folder / "diffucoder/packed"
    c.whole("quantize", "--model", FIXTURES / "golden/model", "--to", "q8_0", "-o", model)
    args = ["generate", "--raw", "-n", 4, "--seed", 1, "-p", "def", "--model", model]
    expected = c.whole(*args)
    args.append("--cache-packed")
    seconds = c.time(*args)
    while c.kills < c.wanted:
        shutil.rmtree(cache, ignore_errors=True)
        while c.killed(seconds, *args):
            if c.rng.random() < 0.3 and c.whole(*args) != expected:
                c.fault("another text")
        if c.whole(*args) != expected:
            c.fault("another text")
        c.no_parts(cache)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a download asks for."""

    protocol_version = "HTTP/1.1"
    commit = "0123456789abcdef0123456789abcdef01234567"
    files = {}

    def log_message(self, *_):
        pass

    def do_GET(self, body=True):
        if "/api/" in self.path:
            siblings = [{"rfilename": name} for name in self.files]
            data = json.dumps({"sha": self.commit, "siblings": siblings}).encode()
            self.reply(200, data, {}, body)
            return
        data = self.files.get(self.path.split(f"/{self.commit}/")[-1].split("/main/")[-1])
        if data is None:
            self.reply(404, b"", {}, body)
            return
        tag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        first, status = 0, 200
        if wanted := self.headers.get("Range"):
            first, status = int(wanted.split("=")[1].split("-")[0]), 206
            tag["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.reply(status, data[first:], tag, body)

    def do_HEAD(self):
        self.do_GET(body=False)

    def reply(self, status, data, headers, body):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for start in range(0, len(data) if body else 0, 1 << 15):
                self.wfile.write(data[start : start + (1 << 15)])
                time.sleep(0.001)
        except OSError:
            pass  # it was killed


def download(c):
    model = FIXTURES / "golden/model"
    Hub.files = {file.name: file.read_bytes() for file in model.iterdir()}
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that was killed
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = c.folder / "hub"
    del c.env["HF_HUB_OFFLINE"]
    c.env |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(home)}
    args = ["pull", "some-one/golden"]
    seconds = c.time(*args)
    while c.kills < c.wanted:
        shutil.rmtree(home)
        while c.killed(seconds, *args):
            for file in home.rglob("snapshots/*/*"):
                if file.read_bytes() != Hub.files[file.name]:
                    c.fault(f"{file.name} is not whole")
        c.whole(*args)
        found = {file.name: file.read_bytes() for file in home.rglob("snapshots/*/*")}
        if not found or any(data != Hub.files[name] for name, data in found.items()):
            c.fault("the download is not whole")
        if left := [file.name for file in home.rglob("*.incomplete")]:
            c.fault(f"left behind: {left}")
    server.shutdown()


def serve(c):
    """Killed while clients ask; the next one must take the port and answer."""
    port = 18000 + c.rng.randrange(10000)
    body = json.dumps({"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n", "n_predict": 8}).encode()
    url = f"http://127.0.0.1:{port}"

    def ask(path, data=None):
        request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=30).read()

    def client(stop):
        while not stop.is_set():
            try:
                ask("/infill", body)
            except OSError:
                time.sleep(0.01)

    for _ in range(min(c.wanted, 100)):
        child = subprocess.Popen(c.args("serve", "--model", "tiny", "--port", port, "--quiet"), env=c.env)
        for attempt in range(600):
            try:
                ask("/health")
                break
            except OSError:
                time.sleep(0.05)
        else:
            c.fault("no answer from /health")
        if "content" not in json.loads(ask("/infill", body)):
            c.fault("no text")
        stop = threading.Event()
        clients = [threading.Thread(target=client, args=(stop,)) for _ in range(4)]
        for thread in clients:
            thread.start()
        time.sleep(c.rng.random() * 0.3)
        child.kill()
        child.wait()
        stop.set()
        for thread in clients:
            thread.join()
        c.kills += 1


CAMPAIGNS = [batch, in_place, quantize, packed, download, serve]


if __name__ == "__main__":
    report = lambda c: f"{c.kills} kills ({c.at_calls} at one of {len(c.calls)} calls), {c.ended} runs that ended before"
    campaign.main(__doc__, CAMPAIGNS, "kills", 1000, Campaign, report)
