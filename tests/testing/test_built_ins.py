"""What ships passes its own checks, through the classes and the functions that plugins use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genflow.registry import OWN_DISTRIBUTIONS, registry
from genflow.testing import (
    DenoiserTests,
    EncoderTests,
    EnvironmentTests,
    MetricTests,
    PolicyTests,
    RewardTests,
)
from genflow.testing.plans import ENVIRONMENT, STRUCTURES, check, structures_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "genflow-line"
MOLECULES = "blocks=5,max_blocks=3"
#: rewards that need options, or a size
GIVEN = {
    "hypergrid:conditional_multiscale": "ndim=2,height=16,reward=conditional_multiscale",
    "hypergrid:separable": 'ndim=2,height=3,reward=separable,terms="0.1; 2: u > .5"',
    "molecule:profile": f'{MOLECULES},reward=profile,profile="logp:1..3"',
}
#: the tests of a plugin
LINE = """
import sys

import genflow

sys.path.insert(0, {folder!r})
genflow.load_plugin({folder!r} + "/genflow_line_plugin.py")

from genflow.testing import EnvironmentTests


class TestLine(EnvironmentTests):
    env = "line"
    structures = ("short", "length=12")


class TestRefused(EnvironmentTests):
    env = "line"
    structures = ("length=1",)
"""


def names(kind: str) -> list[tuple[str, str]]:
    own = [plugin for plugin in registry().plugins if plugin.distribution in OWN_DISTRIBUTIONS]
    return [(kind, name) for plugin in own for name in plugin.targets.get(kind, {})]


class TestGrids(EnvironmentTests):
    env = "hypergrid"
    structures = ("ndim=2,height=4", "ndim=3,height=3", "height=3+4+2,reward=cosine")


class TestGridsByEntropy(EnvironmentTests):
    env = "hypergrid"
    structures = ("ndim=2,height=4,backward=maxent", "ndim=3,height=3,backward=maxent")


class TestMolecules(EnvironmentTests):
    env = "molecule"
    structures = (MOLECULES, "blocks=4,max_blocks=2", "blocks=4,max_blocks=3,multiplicity=true")


class TestOriginal(RewardTests):
    reward, env = "original", "hypergrid"


class TestMLP3(PolicyTests):
    policy = "mlp3"


class TestCoordinate(EncoderTests):
    encoder = "coordinate"


class TestUNet(DenoiserTests):
    denoiser = "unet1d"


class TestJS(MetricTests):
    metric = "js"
    env, structures = "hypergrid", ("ndim=2,height=4",)


@pytest.mark.parametrize(
    ("kind", "name"),
    [each for kind in ("reward", "policy", "encoder", "denoiser", "metric") for each in names(kind)],
)
def test_what_ships_passes(kind, name):
    env, structures = None, ()
    if kind == "reward":
        env, _, own = name.partition(":")
        structures = GIVEN.get(name, MOLECULES if env == "molecule" else "ndim=2,height=4")
        name, structures = own, (structures,)
    elif kind == "metric":
        molecular = registry().load(kind, name).__module__.startswith("genflow_molecule")
        env, structures = ("molecule", (MOLECULES,)) if molecular else ("hypergrid", ("ndim=2,height=4",))
    outcomes = list(check(kind, name, env, structures))
    assert not [finding for each in outcomes for finding in each.findings]
    if kind != "metric":
        assert not [each.skipped for each in outcomes if each.skipped]


def test_the_smallest_presets_are_taken_that_are_worth_it():
    assert [each.name for each in structures_of("hypergrid")] == [
        "ndim=3,height=3,width=128",
        "ndim=2,height=8,width=128",
    ]


def test_the_example_passes(tmp_path):
    """In a process of its own, into which it is loaded; a structure that is refused is one failed test."""
    tests = tmp_path / "test_line.py"
    tests.write_text(LINE.format(folder=str(EXAMPLE)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert f"1 failed, {2 * len(ENVIRONMENT) + len(STRUCTURES)} passed" in done.stdout, done.stdout
    assert "greater than or equal to 2" in done.stdout and "Traceback" not in done.stdout
