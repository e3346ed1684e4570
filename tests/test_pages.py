"""Every command and snippet of the pages runs, every page is in the site, and links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys

import click
import pytest
from pages import BLOCK, ROOT, Reader, blocks, pages

import genflow
from genflow.cli.main import cli

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


def documented_commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    return {name: cli.get_command(context, name) for name in cli.list_commands(context)}


@pytest.mark.parametrize("page", pages())
def test_a_block_runs_or_says_why_it_does_not(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(BLOCK.findall(text)), (
        "a fence is not closed"
    )
    for block in blocks(page):
        assert block.not_run is None or len(block.not_run.split()) > 2, (
            f"{block.place}: say why it is not run"
        )
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


def test_no_command_stands_outside_of_a_block():
    for page in pages():
        text = BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
        found = re.findall(r"^ {4,}\$? ?(?:genflow|make|python|pip|git) .*$", text, re.MULTILINE)
        assert not found, f"{page}: put {found[0].strip()!r} between fences, so that it is run"


@pytest.fixture(scope="module")
def build_site():
    """The module that builds the site."""
    pytest.importorskip("zensical")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        yield importlib.import_module("build_site")
    finally:
        sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def site(build_site, tmp_path_factory):
    """The pages as they are laid out, and the navigation."""
    pages = tmp_path_factory.mktemp("site") / "pages"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_site, "PAGES", pages)  # links that lead nowhere are refused here
        return pages, build_site.completed(build_site.lay_out()["project"]["nav"])


def test_every_page_is_in_the_navigation_once(build_site, site):
    laid_out, navigation = site
    named = build_site.pages_in(navigation)
    assert sorted(named) == sorted(path.relative_to(laid_out).as_posix() for path in laid_out.rglob("*.md"))
    written = [page.removeprefix("docs/") for page in pages() if page.startswith("docs/")]
    decisions = [f"decisions/{path.name}" for path in (ROOT / "docs" / "decisions").glob("*.md")]
    notebooks = [f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.ipynb")]
    assert {*written, *decisions, *notebooks} < set(named)


def test_every_public_name_and_command_has_its_place_in_the_reference(site):
    laid_out, _ = site
    modules = [genflow]
    if importlib.util.find_spec("genflow.testing") is not None:
        modules.append(importlib.import_module("genflow.testing"))
    index = (laid_out / "reference" / "index.md").read_text()
    for module in modules:
        for name in module.__all__:
            page, place = re.search(rf"\[`{module.__name__}\.{name}`\]\((\S+)#(\S+)\)", index).groups()
            assert f"::: {place}\n" in (laid_out / "reference" / page).read_text()
    for name, command in documented_commands().items():
        text = (laid_out / "reference" / "commands" / f"{name}.md").read_text()
        for option in command.params:
            for word in (*option.opts, *option.secondary_opts) if isinstance(option, click.Option) else ():
                assert f"`{word}" in text, f"{name} {word}"


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_asks_nobody_for_anything(build_site):
    build_site.main()
    built = sorted((ROOT / "build" / "site").rglob("*.html"))
    assert len(built) > 60
    for path in built:
        foreign = re.findall(
            r"<(?:script|link|img|iframe|source)[^>]*(?:src|href)=[\"']?https?:[^\s>]*", path.read_text()
        )
        assert not foreign, f"{path}: {foreign}"


def test_links_between_pages_hold():
    for page in pages():
        folder = (ROOT / page).parent
        for target in re.findall(
            r"\]\(([^)\s]+)\)", BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
        ):
            path, _, anchor = target.partition("#")
            if re.match("[a-z]+:", target) or path.startswith("reference/"):
                continue
            found = (folder / path) if path else ROOT / page
            assert found.exists() or path == "decisions/index.md", f"{page}: {target}"
            if anchor and found.suffix == ".md":
                headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\s-]", "", each).strip().lower().replace(" ", "-") for each in headings}
                assert anchor in slugs, f"{page}: {target}: no such heading"


def test_the_first_screen_of_the_readme_is_short():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.sub(r"^```.*?^```$", "", readme.split("## Read on")[0], flags=re.M | re.S)
    assert len(first.split()) < 650, "the README is read in two minutes"
    assert readme.count("Jensen-Shannon divergence") == 1
