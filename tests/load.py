#!/usr/bin/env python3
"""What many, slow and rude clients do to `diffucoder serve`: how long answers take, and what is left.

    tests/load.py target/release/diffucoder [--seconds 60] [--connections 200]

It starts a server of the built-in model and prints, for each kind of client, answers by status and
the median and 99th percentile of the time that they took; and after each the memory of the server and
the requests that it still has. It fails if requests are left at the end, or if one waited for more
than those that were there before it: however long it took then, that is the machine's time.
"""

import argparse
import asyncio
import collections
import json
import random
import subprocess
import time

SMALL = {"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n", "n_predict": 2}
LONG = {"prompt": "def f(x):\n", "max_tokens": 200, "stream": True, "temperature": 1}


class Server:
    def __init__(self, binary, connections):
        flags = ["--model", "tiny", "--port", "0", "--queue", str(2 * connections)]
        self.process = subprocess.Popen([binary, "serve", *flags], stderr=subprocess.PIPE, text=True)
        while not (line := self.process.stderr.readline()).startswith("listening"):
            assert line, "it does not listen"
        self.port = int(line.rsplit(":", 1)[1])
        self.answered = self.most_waited_for = 0

    async def drain(self):
        await asyncio.to_thread(lambda: [None for _ in self.process.stderr])

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            kib = next(line for line in status if line.startswith("VmRSS")).split()[1]
        return int(kib) / 1024

    async def open(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    @staticmethod
    def request(method, path, body=None):
        body = json.dumps(body).encode() if body else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def left(self):
        reader, writer = await self.open()
        writer.write(self.request("GET", "/metrics"))
        _, text = await answer(reader)
        writer.close()
        lines = (line.split() for line in text.decode().splitlines() if line.startswith("diffucoder_re"))
        counts = {name: float(value) for name, value in lines}
        return [int(counts[f"diffucoder_requests_{what}"]) for what in ("waiting", "running")]


async def answer(reader):
    """Status and body of an answer that says its length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


async def typist(server, tally, end):
    """Small requests on one connection, one after the other."""
    reader, writer = await server.open()
    while time.monotonic() < end:
        began, before = time.monotonic(), server.answered
        # Not /infill: there the newest request of a machine takes the place of the others.
        body = {"prompt": SMALL["input_prefix"], "suffix": "\n", "max_tokens": 2}
        writer.write(server.request("POST", "/v1/completions", body))
        status, _ = await answer(reader)
        tally[status].append(time.monotonic() - began)
        server.most_waited_for = max(server.most_waited_for, server.answered - before)
        server.answered += 1
        if status == 429:
            await asyncio.sleep(0.05)
    writer.close()


async def replacing(server, tally, end):
    """llama.vim's requests, of which the newest wins."""
    while time.monotonic() < end:
        began = time.monotonic()
        reader, writer = await server.open()
        writer.write(server.request("POST", "/infill", SMALL))
        status, _ = await answer(reader)
        tally[status].append(time.monotonic() - began)
        writer.close()


async def aborter(server, tally, end):
    """Goes away in the middle of a stream."""
    while time.monotonic() < end:
        began = time.monotonic()
        reader, writer = await server.open()
        writer.write(server.request("POST", "/v1/completions", LONG))
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            tally[int(head.split()[1])].append(time.monotonic() - began)
        except asyncio.TimeoutError:
            tally["unanswered"].append(time.monotonic() - began)
        await asyncio.sleep(random.random() / 20)
        writer.transport.abort()


async def loris(server, tally, end):
    """Sends a byte of a head now and then, until it is put out."""
    while time.monotonic() < end:
        began = time.monotonic()
        reader, writer = await server.open()
        try:
            writer.write(b"POST /infill HTTP/1.1\r\n")
            while not reader.at_eof() and time.monotonic() < end:
                writer.write(b"X: y\r\n")
                await writer.drain()
                try:
                    await asyncio.wait_for(reader.read(1 << 16), 0.5)
                except asyncio.TimeoutError:
                    pass
        except ConnectionError:
            pass
        tally["put out" if time.monotonic() < end else "left"].append(time.monotonic() - began)
        writer.transport.abort()


async def run(server, kinds, seconds):
    end = time.monotonic() + seconds
    tallies = {kind: collections.defaultdict(list) for kind, _ in kinds}
    clients = [kind(server, tallies[kind], end) for kind, count in kinds for _ in range(count)]
    results = await asyncio.gather(*clients, return_exceptions=True)
    errors = collections.Counter(repr(result)[:80] for result in results if result is not None)
    for kind, tally in tallies.items():
        for status, times in sorted(tally.items(), key=str):
            times.sort()
            p = lambda share: 1e3 * times[min(len(times) - 1, int(share * len(times)))]
            print(f"  {kind.__name__:<10}{status!s:<11}{len(times):>8} answers, "
                  f"p50 {p(.5):.1f} ms, p99 {p(.99):.1f} ms")
    for error, count in errors.items():
        print(f"  {count} clients ended with {error}")
    print(f"  none waited for more than {server.most_waited_for} answers to others")
    # Each has one request: that they are read in another order than answered is allowed for.
    assert server.most_waited_for <= 2 * sum(count for _, count in kinds)
    server.most_waited_for = 0
    for _ in range(600):
        if await server.left() == [0, 0]:
            break
        await asyncio.sleep(0.1)
    waiting, running = await server.left()
    print(f"  memory {server.memory():.1f} MiB; {waiting} waiting, {running} running", flush=True)
    assert waiting == running == 0


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=200)
    options = parser.parse_args()
    server = Server(options.binary, options.connections)
    asyncio.create_task(server.drain())
    few = max(1, options.connections // 4)
    try:
        for kinds in [
            [(typist, 1)],
            [(typist, options.connections)],
            [(replacing, few)],
            [(aborter, few), (typist, 4)],
            [(loris, options.connections), (typist, 4)],
            [(typist, options.connections)],
        ]:
            print(", ".join(f"{count} x {kind.__name__}" for kind, count in kinds))
            await run(server, kinds, options.seconds)
        server.process.terminate()
        assert server.process.wait(60) == 0
    finally:
        server.process.kill()  # what reads its log would wait for ever


if __name__ == "__main__":
    asyncio.run(main())
