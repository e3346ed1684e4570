"""Build the documentation site into build/site: ``python docs/build_site.py``.

The pages are those of docs/, CONTRIBUTING.md and CHANGELOG.md, the notebooks of examples/ with the outputs
that they keep, and what reference.py writes from the code: a page for each command, and the docstrings of
every public name. All are laid out in build/pages, where links that led to other files of the repository lead
to copies of them.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from reference import api_pages, command_pages

REPO = Path(__file__).parents[1]
BUILD = REPO / "build"
PAGES = BUILD / "pages"
#: a link or a picture of Markdown outside of code: its text, and its target
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
#: fenced blocks and code in a line, in which nothing is a link
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
RENAMED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def place(path: str) -> str | None:
    """Where a file of the repository lies in the site; None if it is a folder, which has no page."""
    if (REPO / path).is_dir():
        return "decisions/index.md" if path == "docs/decisions" else None
    if path in RENAMED:
        return RENAMED[path]
    if path.endswith(".ipynb"):
        return str(Path(path).with_suffix(".md"))
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"


def relinked(text: str, source: str, page: str) -> str:
    """The text of a page with the links of its source, and what they lead to copied beside it."""

    def link(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        found = os.path.normpath(os.path.join(os.path.dirname(source), path))
        if found.startswith("docs/reference"):  # written from the code
            return match[0]
        if not (REPO / found).exists():
            raise SystemExit(f"{source}: the link {target} leads nowhere")
        there = place(found)
        if there is None:
            return words
        if not there.endswith(".md"):
            (PAGES / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / found, PAGES / there)
        return f"{mark}[{words}]({os.path.relpath(there, os.path.dirname(page))}{hash_sign}{anchor})"

    parts = CODE.split(text)
    # every second part is code; a link may have code for its text, so its brackets are in two parts
    masked = "".join(part if i % 2 == 0 else f"\0{i}\0" for i, part in enumerate(parts))
    # in a table GitHub wants a bar in code escaped, and Python-Markdown does not
    parts = [part if part.lstrip().startswith("```") else part.replace("\\|", "|") for part in parts]
    return re.sub(r"\0(\d+)\0", lambda match: parts[int(match[1])], LINK.sub(link, masked))


#: pages in the order in which they are written
written: list[str] = []


def write(page: str, text: str) -> None:
    """Write a page."""
    written.append(page)
    path = PAGES / page
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def title_of(path: Path) -> str:
    """The heading of a page."""
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{path}: a page begins with a heading")
    return found[1].replace("`", "")


def notebook_page(path: Path, page: str) -> str:
    """A notebook as Markdown: its texts, its code, and the tables, pictures and prints that it keeps."""
    source, found, pictures = str(path.relative_to(REPO)), [], 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        found.append(
            relinked(text, source, page) if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        )
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            html, printed = "".join(data.get("text/html", "")), "".join(data.get("text/plain", "")).strip()
            if picture := data.get("image/png"):
                pictures += 1
                name = f"{path.stem}_{pictures}.png"
                write(page, "")  # its folder
                (PAGES / page).with_name(name).write_bytes(base64.b64decode(picture))
                found.append(f"![What the cell draws]({name})")
            elif "<table" in html:
                found.append(f'<div class="output">{html}</div>')
            elif printed and not html:  # what is neither is a bar of progress
                found.append(f"```text\n{printed}\n```")
    title, _, rest = found[0].partition("\n")
    copy = PAGES / "files" / source
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    note = f"*This page is the notebook [{path.name}](../files/{source}), to run and to change.*"
    return "\n\n".join([title, note, rest, *found[1:]])


def lay_out() -> dict:
    """Write all pages into build/pages, and return the configuration of the site."""
    shutil.rmtree(PAGES, ignore_errors=True)
    written.clear()
    sources = [*sorted(REPO.glob("docs/**/*.md")), REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md"]
    for path in sources:
        source = str(path.relative_to(REPO))
        page = place(source)
        write(page, relinked(path.read_text(encoding="utf-8"), source, page))
    for path in sorted(REPO.glob("examples/*.ipynb")):
        page = place(str(path.relative_to(REPO)))
        write(page, notebook_page(path, page))
    decisions = [path.name for path in sorted((REPO / "docs" / "decisions").glob("[0-9]*.md"))]
    lines = [f"- [{title_of(PAGES / 'decisions' / name)}]({name})" for name in decisions]
    head = "# Decisions\n\nWhy things are as they are, with the measurements, in the order of time.\n\n"
    write("decisions/index.md", head + "\n".join(lines) + "\n")
    for page, text in {**command_pages(), **api_pages()}.items():
        write(page, text)
    shutil.copy(REPO / "docs" / "site.css", PAGES)
    return tomllib.loads((REPO / "docs" / "zensical.toml").read_text(encoding="utf-8"))


def pages_in(navigation: object) -> list[str]:
    """The pages, or folders and "*", that a navigation names."""
    if isinstance(navigation, str):
        return [navigation]
    values = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for value in values for page in pages_in(value)]


def completed(navigation: list) -> list:
    """The navigation with the pages of folders, "reference/api/", and of "*": those of docs/ not named."""
    named = pages_in(navigation)

    def pages(entry: str) -> list[str]:
        if entry.endswith("/"):
            found = dict.fromkeys(page for page in written if page.startswith(entry))
            return sorted(found, key=lambda page: not page.endswith("/index.md"))  # the index comes first
        if entry == "*":
            return sorted(path.name for path in PAGES.glob("*.md") if path.name not in named)
        return [entry]

    def complete(entries: list) -> list:
        found: list = []
        for entry in entries:
            if isinstance(entry, str):
                found += [{title_of(PAGES / page): page} for page in pages(entry)]
            else:
                ((title, inner),) = entry.items()
                found.append({title: complete(inner) if isinstance(inner, list) else inner})
        return found

    return complete(navigation)


def inline(value: object) -> str:
    """A navigation as TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def main() -> None:
    """Lay the pages out, and have zensical make the site of them; a warning is an error."""
    navigation = completed(lay_out()["project"]["nav"])
    left_out = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md")} - set(
        pages_in(navigation)
    )
    if left_out:
        raise SystemExit(f"docs/zensical.toml: {', '.join(sorted(left_out))} is in no navigation")
    text = (REPO / "docs" / "zensical.toml").read_text(encoding="utf-8")
    text = re.sub(r"^nav = \[$.*?^\]$", lambda _: f"nav = {inline(navigation)}", text, flags=re.M | re.S)
    (BUILD / "zensical.toml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(
        [*command, "--config-file", str(BUILD / "zensical.toml")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        raise SystemExit(said.partition('Traceback (most recent call last)\n  File "<frozen')[0])
    print("the site is build/site/index.html")


if __name__ == "__main__":
    main()
