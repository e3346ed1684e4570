"""The README and a guide, followed from top to bottom in one folder, as one who has just cloned would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from processes import GENFLOW, environment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: pages whose every command and snippet runs; a block of "text" is what the commands above it print
FOLLOWED = ("README.md", pytest.param("docs/objects.md", marks=pytest.mark.slow))


def _same(wanted: str, found: str) -> bool:
    """Whether a word is there; numbers differ a little between processors."""
    try:
        return float(found) == pytest.approx(float(wanted), rel=0.1)
    except ValueError:
        return wanted == found


@pytest.mark.parametrize("page", FOLLOWED)
def test_every_command_and_snippet_runs_from_top_to_bottom(tmp_path, page):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    printed = ""
    # (language, text) of every fenced block
    for language, text in re.findall(
        r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S
    ):
        if language == "text":
            found = [line.split() for line in printed.splitlines()]
            for line in text.splitlines():
                words = line.split()
                assert any(len(words) <= len(row) and all(map(_same, words, row)) for row in found), (
                    f"{line!r} is not printed; this is:\n{printed}"
                )
            continue
        commands = [[sys.executable, "-c", text]] if language == "python" else []
        for line in text.splitlines() if not language else ():
            program, *words = shlex.split(line, comments=True)
            if program == "make":
                assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M)
            elif program == "genflow":
                commands.append([*GENFLOW, *words])
            else:
                assert program == "cd", f"{line!r} is not run here"
        printed = ""
        for command in commands:
            done = subprocess.run(
                command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
            )
            assert not done.returncode, f"{command}: {done.stderr}"
            printed += done.stdout
        if language == "python":
            wanted = re.findall(r"\)\s+# ([\d.]+)$", text, re.M)
            assert not wanted or _same(*wanted, printed.strip())


def test_links_lead_somewhere_and_the_first_screen_is_short():
    for link in re.findall(r"\]\(([^)#]+)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    first = re.sub(r"^```.*?^```$", "", README.split("## Read on")[0], flags=re.M | re.S)
    assert len(first.split()) < 650, "the README is read in two minutes"
    assert README.count("Jensen-Shannon divergence") == 1
