"""The layout of the code holds: the rows of the table in CONTRIBUTING, sizes of modules, widths of lines.

A row of the table names modules of ``genflow/``: ``errors.py``, ``storage/{runs,zoo}.py``, or a whole folder,
``training/``. Imports are read from the source, so those under ``TYPE_CHECKING`` and in functions count.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import genflow
from genflow.registry import registry

REPO = Path(__file__).resolve().parents[1]
MAX_LINES, MAX_COLUMNS = 350, 110
#: the lines of the table whose heading starts with `genflow/`
TABLE = re.compile(r"^\| `genflow/`.*\n\|---.*\n((?:\|.*\n)+)", re.MULTILINE)


@cache
def modules() -> dict[str, Path]:
    """{dotted name: file} of all modules of the core."""
    found = {}
    for path in sorted(REPO.glob("genflow/**/*.py")):
        parts = path.relative_to(REPO).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """Modules of the core that a module imports, wherever in its source."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(known[name].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{shown(name)}: import by the full name, not from '.'"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else str(node.module))
    return frozenset(found & known.keys()) - {name}


def shown(name: str) -> str:
    return str(modules()[name].relative_to(REPO))


@cache
def table() -> list[list[str]]:
    """What each row of CONTRIBUTING's table names, from the ground up: ``storage/zoo.py``, ``training/``."""
    match = TABLE.search((REPO / "CONTRIBUTING.md").read_text())
    assert match, "CONTRIBUTING.md: the table of layers, headed | `genflow/` ..., is missing"
    rows = []
    for line in match[1].splitlines():
        row = []
        for place in re.findall(r"`([^`]+)`", line.split("|")[1]):
            braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", place)
            row += [braces[1] + each + braces[3] for each in braces[2].split(",")] if braces else [place]
        rows.append(row)
    return rows


def row_of(name: str) -> int | None:
    """The number of the row that names a module or its folder."""
    place = modules()[name].relative_to(REPO / "genflow").as_posix()
    for number, row in enumerate(table()):
        if any(place == each or (each.endswith("/") and place.startswith(each)) for each in row):
            return number
    return None


def is_empty(name: str) -> bool:
    """Whether a module has nothing but a docstring, as the ``__init__.py`` of a folder should."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(modules()[name].read_text()).body)


def test_the_table_names_every_module_once() -> None:
    named = [each for row in table() for each in row]
    wrong = [f"{each} is named twice" for each in sorted({n for n in named if named.count(n) > 1})]
    wrong += [
        f"{each} does not exist: take it out" for each in named if not (REPO / "genflow" / each).exists()
    ]
    wrong += [
        f"{shown(name)} is in no row: add it to the lowest one that fits"
        for name in modules()
        if row_of(name) is None and not is_empty(name)
    ]
    assert not wrong, "CONTRIBUTING.md, table of layers:\n" + "\n".join(wrong)


def test_a_module_imports_from_its_own_row_or_rows_above() -> None:
    wrong = []
    for name in modules():
        own = row_of(name)
        for other in sorted(imports(name)):
            row = row_of(other)
            if own is not None and row is not None and row > own:
                wrong.append(
                    f"{shown(name)} (row {own + 1}) imports {shown(other)} (row {row + 1}): "
                    "move what it needs up, or the module down in the table of CONTRIBUTING.md"
                )
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_imports() -> None:
    try:
        TopologicalSorter({name: imports(name) for name in modules()}).prepare()
    except CycleError as error:
        circle = " <- ".join(map(shown, error.args[1]))
        raise AssertionError(f"{circle}: move what both need into a module of its own") from None


def test_the_core_names_no_plugin() -> None:
    packages = sorted(path.name for path in (REPO / "plugins").iterdir() if (path / "__init__.py").exists())
    assert packages
    pattern = re.compile(rf"\b(?:{'|'.join(packages)}|genflow_\w+)\b")
    wrong = [
        f"{shown(name)}:{number}: names {match[0]}; ask the registry, or move this into the plugin"
        for name, path in modules().items()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := pattern.search(line))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_template_of_the_core_names_a_plugin() -> None:
    """`genflow new-plugin` takes what is concrete from ``defaults.toml`` and from environments."""
    names = "|".join(registry().names("environment"))
    pattern = re.compile(rf"\bgenflow_\w+|\b(?:{names})s?\b|\brdkit\b")
    files = sorted(path for path in REPO.glob("genflow/templates/**/*") if path.is_file())
    assert len(files) > 30 and pattern.search("hypergrids")
    wrong = [
        f"{path.relative_to(REPO)}:{number}: names {match[0]}; see `Environment.reward_template`"
        for path in files
        for number, line in enumerate([path.name, *path.read_text().splitlines()])
        if (match := pattern.search(line))
    ]
    assert not wrong, "\n".join(wrong)


def test_plugins_import_public_names_only() -> None:
    public, wrong = set(genflow.__all__), []
    files = [*REPO.glob("plugins/**/*.py"), *REPO.glob("examples/**/*.py")]
    for path in sorted(files):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found = [f"{node.value.id}.{node.attr}"]
            else:
                continue
            for name in found:
                inner = name.removeprefix("genflow.")
                testing = inner == "testing" or inner.startswith("testing.")
                if inner != name and inner not in public and not testing:
                    wrong.append(
                        f"{path.relative_to(REPO)}:{node.lineno}: {name} is not public: export it from"
                        " genflow/__init__.py, or do without"
                    )
    assert not wrong, "\n".join(wrong)


def test_every_public_name_is_there() -> None:
    assert not [name for name in genflow.__all__ if not hasattr(genflow, name)]


def test_no_module_is_too_long() -> None:
    wrong = []
    for path in sorted([*REPO.glob("genflow/**/*.py"), *REPO.glob("plugins/**/*.py")]):
        lines = len(path.read_text().splitlines())
        if lines > MAX_LINES:
            wrong.append(f"{path.relative_to(REPO)}: {lines} lines, above {MAX_LINES}: split it by subject")
    assert not wrong, "\n".join(wrong)


def too_wide(path: Path) -> list[str]:
    """Lines above the width without addresses and pragmas; of guides not tables, code and pictures."""
    found, guide, code = [], path.suffix == ".md", False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if guide and line.lstrip().startswith("```"):
            code = not code
        elif guide and (code or line.lstrip().startswith(("|", "!["))):
            continue
        width = len(re.sub(r"https?://[^\s)>]+|  # noqa.*", "", line))
        if width > MAX_COLUMNS:
            found.append(f"{path.relative_to(REPO)}:{number}: {width} columns, above {MAX_COLUMNS}: wrap it")
    return found


def test_no_line_of_code_is_too_wide() -> None:
    folders = ["genflow", "plugins", "tests", "examples", "benchmarks", "docs"]
    files = sorted(path for folder in folders for path in (REPO / folder).rglob("*.py"))
    wrong = [each for path in files for each in too_wide(path)]
    assert not wrong, "\n".join(wrong)


def test_no_line_of_the_guides_is_too_wide() -> None:
    files = sorted([*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md")])
    wrong = [each for path in files for each in too_wide(path)]
    assert not wrong, "\n".join(wrong)
