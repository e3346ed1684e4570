"""``genflow new-plugin``: what it writes is installed, used as a third party would, and green at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from genflow import GenflowError
from genflow.cli.plugin_kit import KINDS as OFFERED
from genflow.new_plugin import KINDS, write_plugin
from genflow.registry import registry

#: name -> kind and what else is given
PLUGINS = {
    "shelf": ("environment", {}),
    "gated": ("policy", {}),
    "hellinger": ("metric", {}),
    "components": ("encoder", {}),
    "bump": ("reward", {"env": "hypergrid"}),
    "weighty": ("reward", {"env": "molecule"}),
    "growing": ("reward", {"env": "hypergrid", "structures": ('ndim=1,height="4"', "ndim=1,height=6")}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Plugins of every kind, as `write_plugin` writes them, and a site that they are installed in."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, (kind, given) in PLUGINS.items():
        write_plugin(name, kind, folder / name, **given)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    offline = ["--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*pip, *offline, *(f"./{name}" for name in PLUGINS)], check=True, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def python(folder):
    """Run Python's arguments where the plugins are installed; it returns standard output."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GENFLOW_")}
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    environ = {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def run(*args: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *args], cwd=folder, env=environ, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else done.stdout

    return run


def test_every_kind_is_offered_and_tried():
    assert OFFERED == KINDS and {kind for kind, _ in PLUGINS.values()} == set(KINDS)


def test_their_own_tests_pass(python, folder):
    files = [str(path) for name in PLUGINS for path in sorted((folder / name / "tests").glob("test_*.py"))]
    assert len(files) == 2 * len(PLUGINS)
    out = python("-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *files)
    assert " passed" in out and "failed" not in out


def test_their_names_are_listed_in_a_line_each_without_their_classes(python):
    code = (
        "import sys; from genflow.cli.main import main; main(['list-plugins', '--json']);"
        " assert not {'torch', 'genflow_shelf.environment', 'genflow_gated.policy'} & sys.modules.keys()"
    )
    told = json.loads(python("-c", code))
    listed = {plugin["name"]: plugin for plugin in told["plugins"]}
    assert listed["shelf"] == {
        "name": "shelf",
        "version": "0.1.0",
        "distribution": "genflow-shelf",
        "provides": {"environment": ["shelf"], "reward": ["shelf:clashing"]},
        "error": None,
    }
    assert told["lines"]["environment"]["shelf"].startswith("Baskets of at most k of n items")
    assert told["lines"]["policy"]["gated"] == "A hidden layer of d rectified units with a gate each."


def test_the_environment_goes_from_zoo_to_report(python, folder):
    recipe = str(folder / "shelf" / "recipe.toml")
    few = ["zoo.num=2", "zoo.steps=30", "autoencoder.steps=3", "diffusion.steps=3", "generate.num=2"]
    few += ["evaluation.num=2", "selection_structures=[]"]
    few += ['structures=["items=4,most=2,width=8", "items=4,most=4,seed=2,width=8"]']
    few += ['test_structures=["items=5,most=2,width=8,seed=7"]']
    options = [word for each in few for word in ("-o", each)]
    out = python("-m", "genflow", "run", recipe, "--out", "few", "--json", *options)
    unseen = {entry["source"]: entry for entry in json.loads(out) if not entry["seen"]}
    assert {"trained", "generated", "nearest", "random"} <= unseen.keys()
    assert unseen["generated"]["structure"]["items"] == 5
    assert all(0 < entry["metrics"]["js"]["mean"] < 0.7 for entry in unseen.values())
    assert "items=5" in (folder / "few" / "report.html").read_text()


@pytest.mark.slow
def test_its_generator_is_better_than_untrained_and_nearest_policies_where_nothing_was_trained(
    python, folder
):
    out = python("-m", "genflow", "run", str(folder / "shelf" / "recipe.toml"), "--out", "all", "--json")
    held_out = tomllib.loads((folder / "shelf" / "recipe.toml").read_text())["test_structures"]
    js = {}
    for entry in json.loads(out):
        if not entry["seen"]:
            js.setdefault(json.dumps(entry["structure"]), {})[entry["source"]] = entry["metrics"]["js"][
                "mean"
            ]
    assert len(js) >= len(held_out)
    for own in js.values():
        assert own["generated"] < own["random"] / 8 and own["generated"] < own["nearest"] / 3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLUGINS if name not in ("shelf", "growing")])
def test_the_other_recipes_run_to_the_report(python, folder, name):
    recipe = folder / name / "recipe.toml"
    few = ["zoo.num=2", "zoo.steps=30", "autoencoder.steps=3", "diffusion.steps=3", "generate.num=2"]
    few += ["evaluation.num=2", "selection_structures=[]"]
    options = [word for each in few for word in ("-o", each)]
    entries = json.loads(
        python("-m", "genflow", "run", str(recipe), "--out", f"{name}-few", "--json", *options)
    )
    assert {entry["seen"] for entry in entries} == {True, False}
    if name == "hellinger":
        assert all(0 <= entry["metrics"]["hellinger"]["mean"] <= 1 for entry in entries)


def test_a_file_that_is_written_says_nothing_of_templates(folder):
    texts = {
        path: path.read_text() for name in PLUGINS for path in (folder / name).rglob("*.*") if path.is_file()
    }
    assert len(texts) > 40
    unfilled = [
        str(path) for path, text in texts.items() if "$part" in text or "$name" in text or "${" in text
    ]
    assert not unfilled and not list(folder.rglob("*.tmpl"))
    code = [line for path, text in texts.items() if path.suffix == ".py" for line in text.splitlines()]
    assert max(map(len, code)) <= 110


@pytest.mark.parametrize(
    ("name", "kind", "given", "message"),
    [
        ("2d", "environment", {}, "'2d' is no name for a plugin"),
        ("spin-glass", "environment", {}, "'spin-glass' is no name for a plugin"),
        ("größe", "metric", {}, "'größe' is no name for a plugin"),
        ("_x", "metric", {}, "'_x' is no name for a plugin"),
        ("", "metric", {}, "'' is no name for a plugin"),
        ("lambda", "policy", {}, "is a word of Python's"),
        ("none", "policy", {}, "is a word of Python's"),
        ("x" * 60, "policy", {}, "has 60 characters"),
        ("hypergrid", "environment", {}, "the plugin 'hypergrid' exists"),
        ("coordinate", "encoder", {}, "the encoder 'coordinate' exists"),
        ("original", "reward", {"env": "hypergrid"}, "the reward 'original' exists"),
        ("json", "metric", {}, "the module 'json' exists"),
        ("mine", "reward", {}, "name it with --env, one of: hypergrid"),
        ("mine", "reward", {"env": "hypergird"}, "did you mean 'hypergrid'?"),
        ("mine", "reward", {"env": "hypergrid", "structures": ("A",)}, "fewer than two structures"),
        ("mine", "reward", {"env": "hypergrid", "structures": ("B", "A,reward=paper")}, "leave reward out"),
        ("mine", "reward", {"env": "hypergrid", "structures": ("B", "A,heigth=3")}, "did you mean 'height'?"),
        ("mine", "reward", {"env": "hypergrid", "structures": ("B", "A,R0=.2")}, "leave R0 out"),
        ("mine", "reward", {"env": "hypergrid", "structures": ("E*,width=9", 'height="2",ndim=2,width=9')},
         "held out; do not train on it too"),
        ("mine", "metric", {"env": "hypergrid"}, "leave them out"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_one_line_and_nothing_is_written(tmp_path, name, kind, given, message):
    with pytest.raises(GenflowError) as refused:
        write_plugin(name, kind, tmp_path / "new", **given)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_structure_that_names_a_file_is_refused_for_the_plugin_would_not_find_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = next(resources.files("genflow_molecule").joinpath("vocabularies").glob("*.json"))
    shutil.copy(shipped, "blocks.json")
    structures = ("blocks=4,max_blocks=2", "vocabulary=blocks.json,max_blocks=2")
    with pytest.raises(GenflowError) as refused:
        write_plugin("mine", "reward", tmp_path / "new", "molecule", structures)
    assert "--structure vocabulary=blocks.json,max_blocks=2 names a file" in str(refused.value)
    assert "\n" not in str(refused.value) and not (tmp_path / "new").exists()


def test_structures_are_written_as_parsed_without_quotation_marks(tmp_path):
    given = ('E*,height=4+3,width="8"', "height=[3,3]")
    write_plugin("mine", "reward", tmp_path / "new", "hypergrid", given)
    recipe = tomllib.loads((tmp_path / "new" / "recipe.toml").read_text())
    assert recipe["structures"] == ["ndim=2,height=4+3,width=8,reward=mine"]
    assert recipe["test_structures"] == ["ndim=2,height=3,reward=mine"]


@pytest.fixture
def template(tmp_path, monkeypatch):
    """The folder that hypergrid says its template is in: of a distribution that is not genflow's."""
    folder = tmp_path / "site" / "genflow_elsewhere" / "start"
    (folder / "$package").mkdir(parents=True)
    (folder / "$package" / "reward.py.tmpl").write_text("class $cls: costs = '$$1'\n")
    (folder / "recipe.toml.tmpl").write_text('structures = ["ndim=2,height=7,reward=$name"]\n')
    monkeypatch.syspath_prepend(tmp_path / "site")
    cls = registry().load("environment", "hypergrid")
    monkeypatch.setattr(cls, "reward_template", "genflow_elsewhere:start")
    return folder


def test_an_environment_brings_the_template_of_its_rewards(tmp_path, template):
    folder = write_plugin("mine", "reward", tmp_path / "new", "hypergrid")
    assert (folder / "genflow_mine" / "reward.py").read_text() == "class Mine: costs = '$1'\n"
    assert "ndim=2,height=7,reward=mine" in (folder / "tests" / "test_interface.py").read_text()
    assert (folder / "Makefile").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("recipe.toml.tmpl", "steps = 3\n", "is no recipe with structures"),
        ("recipe.toml.tmpl", "structures = [\n", "is no recipe with structures"),
        ("$package/reward.py.tmpl", "costs = '$1'\n", "is a $$ missing"),
        ("$package/reward.py.tmpl", "costs = $unheard\n", "is a $$ missing"),
    ],
)
def test_a_template_that_is_wrong_is_one_line(tmp_path, template, file, text, message):
    (template / file).write_text(text)
    with pytest.raises(GenflowError) as refused:
        write_plugin("mine", "reward", tmp_path / "new", "hypergrid")
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("where", ["genflow_nowhere:start", "genflow_elsewhere:nowhere", "nonsense:", ":x"])
def test_a_template_that_is_not_there_is_one_line(tmp_path, template, monkeypatch, where):
    monkeypatch.setattr(registry().load("environment", "hypergrid"), "reward_template", where)
    with pytest.raises(GenflowError) as refused:
        write_plugin("mine", "reward", tmp_path / "new", "hypergrid")
    assert "\n" not in str(refused.value) and not (tmp_path / "new").exists()


def test_make_check_installs_what_its_tests_need_first(folder, tmp_path):
    python = tmp_path / "python"  # nothing is installed, and every command succeeds
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n[ "$1" != -c ]\n')
    python.chmod(0o755)
    subprocess.run(["make", "check", f"PYTHON={python}"], cwd=folder / "shelf", check=True)
    _, *said = (tmp_path / "said").read_text().splitlines()
    assert said == ["-m pip install --editable .[test]", "-m genflow check shelf", "-m pytest"]
    project = tomllib.loads((folder / "shelf" / "pyproject.toml").read_text())["project"]
    assert any(each.startswith("pytest") for each in project["optional-dependencies"]["test"])


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(GenflowError, match="there exists already; give another folder with --out"):
        write_plugin("mine", "metric", tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    written, write = [], Path.write_text

    def full(path, *args, **kwargs):
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        return write(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(GenflowError, match="No space left on device"):
        write_plugin("mine", "metric", tmp_path / "new")
    assert len(written) == 3 and not list(tmp_path.iterdir())


def test_the_command_writes_beside_where_it_is_called(python, folder):
    out = python("-m", "genflow", "new-plugin", "spin_glass", "--kind", "environment", "--json")
    told = json.loads(out)
    assert told["folder"] == "genflow-spin-glass" and "genflow_spin_glass/environment.py" in told["files"]
    assert "class SpinGlass(genflow.Environment)" in (folder / told["folder"] / told["files"][4]).read_text()
    again = python("-m", "genflow", "new-plugin", "spin_glass", "--kind", "environment", status=2)
    assert again == "genflow: genflow-spin-glass exists already; give another folder with --out\n"
