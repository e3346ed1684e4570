"""Every command and snippet of the pages runs, every page is in the site, and links lead somewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest
from pages import BLOCK, ROOT, Reader, blocks, pages

#: pages that take seconds; the others are followed by `make test-all`
QUICK = ("README.md",)
FOLLOWED = [page for page in pages() if any(not (b.not_run or b.quoted_from) for b in blocks(page))]


@pytest.mark.parametrize(
    "page", [page if page in QUICK else pytest.param(page, marks=pytest.mark.slow) for page in FOLLOWED]
)
def test_every_command_and_snippet_runs_from_top_to_bottom(tmp_path, page):
    reader = Reader(tmp_path)
    try:
        for block in blocks(page):
            reader.follow(block)
    finally:
        reader.close()


@pytest.mark.parametrize("page", pages())
def test_a_block_runs_or_says_why_it_does_not(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(BLOCK.findall(text)), "a fence is not closed"
    for block in blocks(page):
        assert block.not_run is None or len(block.not_run.split()) > 2, f"{block.place}: say why it is not run"
        runs = block.language in ("console", "python", "text") or block.file
        assert runs or block.not_run or block.quoted_from, (
            f"{block.place}: {block.language} is not run; say over it where it is quoted from, or why"
        )
        if block.quoted_from is not None:
            quoted = (ROOT / block.quoted_from).read_text(encoding="utf-8")
            lines = [line.strip() for line in quoted.splitlines()]
            own = [line.strip() for line in block.text.rstrip().splitlines()]
            assert any(lines[i : i + len(own)] == own for i in range(len(lines))), (
                f"{block.place}: {block.quoted_from} has other lines"
            )


@pytest.fixture(scope="module")
def build_site():
    """The module that builds the site."""
    pytest.importorskip("zensical")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        yield importlib.import_module("build_site")
    finally:
        sys.path.remove(str(ROOT / "docs"))


@pytest.fixture
def laid_out(build_site, tmp_path, monkeypatch):
    """The pages of the site in a folder of the test, and the navigation."""
    monkeypatch.setattr(build_site, "PAGES", tmp_path / "pages")
    return tmp_path / "pages", build_site.completed(build_site.lay_out()["project"]["nav"])
