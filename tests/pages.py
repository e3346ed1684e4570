"""The fenced blocks of a page, followed from top to bottom in one folder as a reader would.

How a page says what a block is stands in CONTRIBUTING.md, "Pages that run".
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import environment

ROOT = Path(__file__).parents[1]
#: the comments over a block, its language and its text
BLOCK = re.compile(r"^((?: *<!--[^\n]*-->\n)*) *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- (not run|run with|quoted from): (.*?) -->")
#: the first line of a block that is a file, e.g. "# score.py"
FILE = re.compile(r"# ([\w-]+\.(?:py|toml))\n")
#: what runs Python blocks, one after the other, in one interpreter; a line comes back for each
INTERPRETER = """
import contextlib, io, json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    printed, failed = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(json.loads(line), "the page", "exec"), names)
    except BaseException:
        failed = traceback.format_exc()
    print(json.dumps([printed.getvalue(), failed]), flush=True)
"""
#: before the commands of a block: make only looks for its target, and the reader is in the clone already
SHELL = """
set -e
make() {
    for target; do
        grep -q "^$target:" "$MAKEFILE" || { echo "no target $target" >&2; return 1; }
    done
}
cd() { :; }
"""


class Block(NamedTuple):
    """A fenced block: where it begins, its language, and its text as the tests run it."""

    place: str
    language: str
    text: str
    not_run: str | None
    quoted_from: str | None

    @property
    def file(self) -> str | None:
        """The name of the file that it is, if it is one."""
        match = FILE.match(self.text)
        return match[1] if match else None


def blocks(page: str) -> list[Block]:
    """The blocks of a page of the repository."""
    text, found = (ROOT / page).read_text(encoding="utf-8"), []
    for match in BLOCK.finditer(text):
        comments, language, body = match.groups()
        said: dict[str, list[str]] = {"not run": [], "run with": [], "quoted from": []}
        for kind, value in COMMENT.findall(comments):
            said[kind].append(value)
        body, place = textwrap.dedent(body), f"{page}:{text[: match.start(2)].count(chr(10)) + 1}"
        for each in said["run with"]:
            old, arrow, new = each.partition(" -> ")
            assert arrow and old in body, f"{place}: 'run with: {each}' replaces nothing"
            body = body.replace(old, new)
        found.append(
            Block(
                place,
                language or "console",
                body,
                *(next(iter(said[k]), None) for k in ("not run", "quoted from")),
            )
        )
    return found


def pages() -> list[str]:
    """The pages that a reader follows: those of the site that are written by hand, and the README."""
    docs = sorted(path for path in (ROOT / "docs").rglob("*.md") if "decisions" not in path.parts)
    return ["README.md", "CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in docs)]


def same(wanted: str, found: str) -> bool:
    """Whether a word is there; numbers differ a little between processors."""
    try:
        return float(found) == pytest.approx(float(wanted), rel=0.1)
    except ValueError:
        return wanted == found


class Reader:
    """Follows a page in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("examples", "tests"):
            (folder / name).symlink_to(ROOT / name)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        plugin = ROOT / "examples" / "genflow-line"  # which plugins.md imports from
        self.environment = environment(
            PATH=path, PYTHONPATH=plugin, MAKEFILE=ROOT / "Makefile", PYTHONWARNINGS="ignore"
        )
        self.printed = ""
        self._python: subprocess.Popen[str] | None = None

    def follow(self, block: Block) -> None:
        """Do what a block asks for."""
        if block.not_run is not None or block.quoted_from is not None:
            return
        if block.file is not None:
            (self.folder / block.file).write_text(block.text)
        elif block.language == "text":
            self.see(block)
        elif block.language == "python":
            self.compute(block)
        else:
            self.call(block)

    def call(self, block: Block) -> None:
        """Run the commands of a block."""
        done = subprocess.run(
            ["bash", "-c", SHELL + block.text],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not done.returncode, f"{block.place}: {block.text}\n{done.stderr}"
        self.printed = done.stdout

    def compute(self, block: Block) -> None:
        """Run Python, in the interpreter of the page; a number in a comment behind a print is printed."""
        if self._python is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._python = subprocess.Popen(
                [sys.executable, "-c", INTERPRETER], cwd=self.folder, env=self.environment, text=True, **pipes
            )
        assert self._python.stdin and self._python.stdout
        print(json.dumps(block.text), file=self._python.stdin, flush=True)
        self.printed, failed = json.loads(self._python.stdout.readline())
        assert not failed, f"{block.place}: {failed}"
        wanted = re.findall(r"\)\s+# ([\d.]+)$", block.text, re.MULTILINE)
        assert not wanted or same(*wanted, self.printed.split()[-1]), f"{block.place} prints {self.printed}"

    def see(self, block: Block) -> None:
        """Look for the lines of a block in what was printed last."""
        found = [line.split() for line in self.printed.splitlines()]
        for line in block.text.splitlines():
            words = line.split()
            assert any(len(words) <= len(row) and all(map(same, words, row)) for row in found), (
                f"{block.place}: {line!r} is not printed; this is:\n{self.printed}"
            )

    def close(self) -> None:
        """End the interpreter."""
        if self._python is not None:
            self._python.communicate()
