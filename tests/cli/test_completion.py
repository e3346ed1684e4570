"""Tab completion, through click's own interface of shells."""

import subprocess
import sys
from typing import get_args

import pytest
from click.shell_completion import ShellComplete

from genflow.cli import completion
from genflow.cli.main import COMMANDS, cli
from genflow.config import Config, EvaluationOptions
from genflow.registry import registry


def completed(*args, incomplete=""):
    shell = ShellComplete(cli, {}, "genflow", "_GENFLOW_COMPLETE")
    return [item.value for item in shell.get_completions(list(args), incomplete)]


@pytest.mark.parametrize(
    ("args", "incomplete", "expected"),
    [
        ((), "train-", ["train-zoo", "train-ae", "train-ldm"]),
        (("train-zoo", "--env"), "hyp", ["hypergrid"]),
        (("generate", "--env", "molecule", "--structure"), "", ["small", "medium", "full"]),
        (("generate", "--env", "molecule", "--structure"), "m", ["medium"]),
        (("generate", "--structure", "full", "--env", "molecule", "--structure"), "s", ["small"]),
        (("generate", "--env", "nothing", "--structure"), "", []),
        (("evaluate", "somewhere", "--baseline"), "n", ["nearest", "none"]),
        (("train-ae", "-o"), "di", ["diffusion."]),
        (("train-ae", "-o"), "se", ["seed=", "selection_structures="]),
        (("train-ae", "-o"), "diffusion.noise", ["diffusion.noise="]),
        (("train-ae", "-o"), "zoo.checkpoint_", ["zoo.checkpoint_seconds=", "zoo.checkpoint_every="]),
        (("train-ae", "-o"), "nothing.", []),
        (("finetune", "--device"), "c", ["cpu", "cuda"]),
        (("finetune",), "--bud", ["--budget"]),
    ],
)
def test_names_are_completed(args, incomplete, expected):
    assert completed(*args, incomplete=incomplete) == expected


def test_registered_names_are_completed():
    assert completed("run", "a.toml", "--env") == registry().names("environment")
    assert completed("evaluate", "--metric") == registry().names("metric")
    assert set(COMMANDS) <= set(completed())


def test_without_an_environment_the_presets_of_all_are_offered():
    found = completed("generate", "--structure")
    for env in ("hypergrid", "molecule"):
        assert set(registry().load("environment", env).presets) <= set(found)
    assert len(found) == len(set(found))


def test_the_lists_are_those_of_the_configuration():
    (names, _) = get_args(EvaluationOptions.model_fields["baselines"].annotation)
    assert {*get_args(names), "none"} == set(completion.BASELINES)
    sections = [key for key, info in Config.model_fields.items() if hasattr(info.annotation, "model_fields")]
    assert sorted(sections) == sorted(completion.SECTIONS)
    assert {*sections, *completion.KEYS} == set(Config.model_fields)


@pytest.mark.parametrize(
    "args", [("run", "a.toml", "--env"), ("evaluate", "x", "--metric"), ("train-ae", "-o")]
)
def test_names_come_without_torch(args):
    script = (
        "import sys\n"
        "from click.shell_completion import ShellComplete\n"
        "from genflow.cli.main import cli\n"
        "shell = ShellComplete(cli, {}, 'genflow', '_GENFLOW_COMPLETE')\n"
        f"items = shell.get_completions({list(args)!r}, '')\n"
        "assert len(items) > 1, items\n"
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_shell_is_answered(monkeypatch, capsys):
    from genflow.cli.main import main

    monkeypatch.setenv("_GENFLOW_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "genflow train-zoo --env hy")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "plain,hypergrid\n"
