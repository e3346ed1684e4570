"""The name under which genflow is installed: in the package index, `genflow` is another project's code."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import genflow
from genflow.storage import runs

REPOSITORY = Path(__file__).parents[1]
#: what asks the package index for the stranger's: pip install genflow, genflow[docking], a line genflow==1
STRANGER = re.compile(
    r"pip3? (?:install|download)(?: +-\S+)* +[\"']?genflow(?![\w./-])"
    r"|(?<![\w.-])genflow\[\w+\]"
    r"|^genflow *(?:[<>~!=]=|[<>]) *\d",
    re.MULTILINE,
)
SUFFIXES = {".toml", ".md", ".txt", ".py", ".cfg", ".yml", ".yaml", ".sh", ".cff", ""}


def texts() -> dict[str, str]:
    """Every file of the tree that can name a package, but this one."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone")
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return {
        str(path.relative_to(REPOSITORY)): path.read_text()
        for path in paths
        if path.is_file() and path.suffix in SUFFIXES and path != Path(__file__)
    }


def project(path: str) -> dict:
    return tomllib.loads((REPOSITORY / path).read_text())["project"]


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("pip install genflow", True),
        ("pip install 'genflow[docking]'", True),
        ("pip install --quiet -U genflow==0.1.0", True),
        ("genflow==0.6.0a2", True),
        ("Needs the extra genflow[docking].", True),
        ("pip install '.[docking]'", False),
        ("pip install genflownet", False),
        ("pip install ./examples/genflow-line", False),
        ("genflow generate --env hypergrid", False),
        ("pip install .\ngenflow list-plugins", False),
    ],
)
def test_what_asks_for_the_stranger(text, asks):
    assert bool(STRANGER.search(text)) == asks


def test_no_file_of_the_tree_installs_or_depends_on_the_stranger():
    found = {name: match[0] for name, text in texts().items() if (match := STRANGER.search(text))}
    assert not found


def test_the_distribution_and_what_depends_on_it():
    own, line = project("pyproject.toml"), project("examples/genflow-line/pyproject.toml")
    assert own["name"] == "genflownet" and line["dependencies"] == ["genflownet"]
    extras = own["optional-dependencies"].values()
    for each in [*own["dependencies"], *(each for extra in extras for each in extra)]:
        assert re.match(r"[\w.-]+", each)[0] != "genflow"
    cited = re.search(r"^version: (.*)$", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE)
    assert own["version"] == genflow.__version__ == cited[1]


def test_sdist_and_the_wheel_made_from_it_hold_every_template(tmp_path):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone")
    names = [name for name in listed.stdout.split("\0") if (REPOSITORY / name).is_file()]
    for name in names:  # a copy, since building leaves folders behind
        if name.startswith(("genflow/", "plugins/")) or "/" not in name:
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tmp_path / "tree" / name)

    def build(what: str, tree: Path) -> Path:
        code = f"from setuptools import build_meta; build_meta.build_{what}({str(tmp_path)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
        return next(path for path in tmp_path.iterdir() if path.suffix in (".gz", ".whl")).replace(
            tmp_path / what
        )

    with tarfile.open(build("sdist", tmp_path / "tree")) as sdist:
        sdist.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheel = set(zipfile.ZipFile(build("wheel", unpacked)).namelist())
    templates = {name for name in names if name.endswith(".tmpl")}
    assert {name.split("/")[1] for name in templates} == {
        "templates", "genflow_hypergrid", "genflow_molecule"
    }  # fmt: skip
    assert not [name for name in templates if not (unpacked / name).is_file()]
    assert not {name.removeprefix("plugins/") for name in templates} - wheel


def test_a_run_knows_its_version_under_whatever_name_it_is_installed(monkeypatch):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(runs, "version", missing)
    assert runs.versions() == {"python": platform.python_version(), "genflow": genflow.__version__}
