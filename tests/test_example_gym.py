"""examples/genflow-gym, installed beside genflow as a third party would, passes its own tests."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import genflow
from genflow import load_config

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "examples" / "genflow-gym"
PRETRAINED = EXAMPLE / "genflow_gym" / "pretrained"
NAMES = sorted(path.stem for path in PRETRAINED.glob("*.toml"))


def snapshot() -> dict[str, bytes]:
    """Every byte of the example, and of the core's modules."""
    files = [*EXAMPLE.rglob("*"), *(REPOSITORY / "genflow").rglob("*.py")]
    return {
        str(path): path.read_bytes() for path in files if path.is_file() and "__pycache__" not in str(path)
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with a copy of the example and a folder `site` that holds nothing but its installation."""
    before, folder = snapshot(), tmp_path_factory.mktemp("gym")
    # a build leaves files beside its sources
    source = shutil.copytree(
        EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*pip, *offline, str(source)], check=True, cwd=folder)
    yield folder
    assert snapshot() == before


def run(folder: Path, *command: str) -> str:
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_with_what_it_provides(installed):
    plugins = json.loads(run(installed, "genflow", "list-plugins", "--json", "--check"))["plugins"]
    own = next(plugin for plugin in plugins if plugin["name"] == "gym")
    assert (own["distribution"], own["error"]) == ("genflow-gym", None)
    assert own["provides"]["environment"] == sorted(
        {load_config(PRETRAINED / f"{n}.toml").env for n in NAMES}
    )


def test_its_own_tests_pass_where_it_is_installed(installed):
    said = run(installed, "pytest", "-q", "-p", "no:cacheprovider", "source/tests", "-m", "not slow")
    assert re.search(r"\d+ passed", said)
    assert "failed" not in said


def test_it_uses_public_names_alone():
    for path in [*EXAMPLE.rglob("*.py")]:
        text = path.read_text()
        assert not re.search(r"(from|import) genflow\.(?!testing\b)", text), path
        used = set(re.findall(r"\bgenflow\.(\w+)", text)) - {"testing"}
        for names in re.findall(r"^from genflow import \(?([\w, \n]+)", text, flags=re.MULTILINE):
            used |= set(re.findall(r"\w+", names))
        assert used <= set(genflow.__all__), path


@pytest.mark.parametrize("name", NAMES)
def test_tasks_that_are_reported_are_in_no_other_list(name):
    recipe = load_config(PRETRAINED / f"{name}.toml")
    lists = [set(each) for each in (recipe.structures, recipe.selection_structures, recipe.test_structures)]
    assert all(lists)
    assert len(set.union(*lists)) == sum(map(len, lists))
    assert (recipe.zoo.objective, recipe.autoencoder.encoder) == ("distill", "coordinate")


def figures(text: str) -> list[list[str]]:
    """The rows of all tables of a text."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_readme_quotes_the_tables_that_were_measured():
    line = runpy.run_path(str(EXAMPLE / "table.py"))["line"]
    shown = figures((EXAMPLE / "README.md").read_text())
    for path in sorted((EXAMPLE / "results").glob("*.json")):
        if path.stem not in NAMES:
            continue
        for row in json.loads(path.read_text())["tasks"]:
            cells = figures(line(row))[0][1:]
            assert any(own[-len(cells) :] == cells for own in shown), (path.name, cells)
