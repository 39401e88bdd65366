#!/usr/bin/env python3
"""Writes src/cli/commands/licences/third-party.txt: every crate of Cargo.lock that the program is built from, on any
platform and with any feature, with its licence, and the texts of those licences. Run it when Cargo.lock changes:

    python3 .github/release/licences.py          # --check only compares, and fails where they differ

Where authors leave a choice, it is Apache-2.0, whose text is the LICENSE file; or else MIT. Needs Python 3.11 and cargo.
"""
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTICE = ROOT / "src/cli/commands/licences/third-party.txt"
NAMES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|COPYRIGHT)", re.I)
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
# What is in the binaries and in no Cargo.lock.
BESIDE = ["Rust's standard library: Apache-2.0", "musl, in the static binaries for Linux: MIT"]
MUSL = "Copyright © 2005-2020 Rich Felker, et al."
PLAIN = re.compile(r"LICEN[CS]ES?$|LICEN[CS]E[-_.](MIT|APACHE|APACHE-2\.0|APACHE2|UNLICENSE|ZLIB|BSD|BSL|BOOST|0BSD|LLVM)|COPYRIGHT|COPYING$"
                   r"|UNLICENSE|COPYING-LESSER", re.I)


def locked():
    """Names and versions that our dependencies, all but those of the tests alone, lead to in Cargo.lock."""
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    tables = [manifest, *manifest.get("target", {}).values()]
    ours = {name for table in tables for name in table.get("dependencies", {})}

    def find(reference):
        name, _, version = reference.partition(" ")
        return [p for p in packages if p["name"] == name and version.split(" ")[0] in ("", p["version"])]
    root = next(p for p in packages if p["name"] == manifest["package"]["name"])
    waiting = [p for d in root["dependencies"] if d.split(" ")[0] in ours for p in find(d)]
    found = set()
    while waiting:
        package = waiting.pop()
        if (package["name"], package["version"]) not in found:
            found.add((package["name"], package["version"]))
            waiting += [p for d in package.get("dependencies", []) for p in find(d)]
    return sorted(found)


def choose(expression):
    """Which of the licences that a crate offers is taken."""
    expression = expression.replace("/", " OR ")
    if " AND " not in expression:
        offered = [e.strip("() ") for e in expression.split(" OR ")]
        for wanted in ("Apache-2.0", "MIT", "BSD-3-Clause"):
            if wanted in offered:
                return wanted
    return expression


def texts(folder, chosen):
    """The files that say how the crate may be used; none for the Apache licence, whose text is in LICENSE."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and NAMES.match(p.name) and p.stat().st_size < 100_000
             and p.suffix.lower() not in (".rs", ".py", ".toml", ".json", ".html") and "test" not in p.parts]
    if chosen == "Apache-2.0":
        files = [p for p in files if not (p.parent == folder and PLAIN.match(p.name)) and p.parent.name.upper() != "LICENSES"]
    elif chosen == "MIT" and any("MIT" in p.name.upper() for p in files if p.parent == folder):
        files = [p for p in files if p.parent != folder or "MIT" in p.name.upper() or not PLAIN.match(p.name)]
    for path in files:
        text = "\n".join(line.rstrip() for line in path.read_text(errors="replace").strip().splitlines())
        if not is_apache(text):
            yield text


def is_apache(text):
    return "Apache License" in text[:400] and "TERMS AND CONDITIONS FOR USE, REPRODUCTION" in text and len(text) < 13_000


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    packages = {(p["name"], p["version"]): p for p in metadata["packages"]}
    lines, by_text = BESIDE.copy(), {f"{MUSL}\n\n{MIT}": ["musl"]}
    for key in locked():
        package = packages[key]
        expression = package["license"] or "see its text"
        chosen = choose(expression)
        lines.append(f"{key[0]} {key[1]}: {chosen}")
        found = False
        for text in texts(Path(package["manifest_path"]).parent, chosen):
            found = True
            by_text.setdefault(text, []).append(key[0])
        if not found and chosen != "Apache-2.0":
            authors = ", ".join(re.sub(r" *<.*?>", "", a) for a in package["authors"]) or package["repository"] or "its authors"
            assert chosen == "MIT", f"{key}: {chosen}, without a text"
            by_text.setdefault(f"Copyright (c) {authors}\n\n{MIT}", []).append(key[0])
    blocks = []
    for text, names in sorted(by_text.items(), key=lambda item: item[1]):
        blocks.append("-" * 80 + "\n" + ", ".join(dict.fromkeys(names)) + "\n\n" + text + "\n")
    notice = "\n".join(lines) + "\n\n" + "\n".join(blocks)
    if "--check" in sys.argv[1:]:
        same = NOTICE.exists() and NOTICE.read_text() == notice
        sys.exit(0 if same else f"{NOTICE.relative_to(ROOT)} is out of date: run .github/release/licences.py")
    NOTICE.parent.mkdir(parents=True, exist_ok=True)
    NOTICE.write_text(notice)


main()
