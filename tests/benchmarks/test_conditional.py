"""The conditional baseline: its environment of many grids agrees with each grid's own.

And a tiny run writes its figures.
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from genflow import Structure

SOURCE = Path(__file__).parents[2] / "benchmarks" / "conditional.py"
TEXTS = ["ndim=2,height=5", "ndim=3,height=3,R0=0.01", "ndim=2,height=5,width=32", "ndim=1,height=7"]
UNSEEN = "ndim=3,height=4"


@pytest.fixture(scope="module")
def conditional():
    spec = importlib.util.spec_from_file_location("conditional", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "structures.toml"
    path.write_text(f"structures = {json.dumps(TEXTS)}")
    return path


def test_the_environment_is_each_grid(conditional, file):
    structures = conditional.load_structures(file)
    assert len(structures) == 3  # widths mean nothing
    env = conditional.Grids([*structures, Structure.parse("hypergrid", UNSEEN)], trained=3)
    assert (env.ndim, env.height) == (3, 7)
    for row, structure in enumerate(env.structures):
        graph, ndim = structure.solution.graph, structure.environment.config.ndim
        states = env.wrap(row, graph.states)
        own = structure.transitions().env
        masks, expected = states.forward_masks, own.States(graph.states).forward_masks
        assert torch.equal(masks[:, [*range(ndim), env.ndim]], expected)
        assert not masks[:, ndim : env.ndim].any()
        assert torch.equal(states.backward_masks.sum(1), own.States(graph.states).backward_masks.sum(1))
        torch.testing.assert_close(env.log_reward(states), own.log_reward(own.States(graph.states)))


def test_inputs_name_the_positions(conditional):
    env = conditional.Grids(
        [Structure.parse("hypergrid", text) for text in ("ndim=2,height=3", "ndim=1,height=4")], trained=2
    )
    states = env.States(torch.tensor([[2, 1], [3, 0]]), env.conditions)
    assert conditional.OneHotIndex(env)(states).tolist() == [[3, 6], [4, conditional.MISSING]]
    features = conditional.FeatureIndex(env)
    assert features(states).tolist() == [[3, 2], [7, conditional.MISSING]]
    raw = torch.cat(
        [
            structure.layout.units["input"].amounts[:height]
            for structure, height in zip(env.structures, (3, 4), strict=True)
        ]
    )
    wanted = (raw - raw.mean(0)) / raw.std(0, correction=0).clamp(min=1e-9)
    torch.testing.assert_close(features.features[1:], wanted, atol=1e-4, rtol=1e-4)


def test_a_policy_reads_its_condition_but_not_the_row(conditional):
    env = conditional.Grids(
        [
            Structure.parse("hypergrid", text)
            for text in ("ndim=2,height=3,R0=0.1", "ndim=2,height=3,R0=0.01")
        ],
        trained=2,
    )
    policy = conditional.make_policy(env, "padded", width=8, depth=2)
    one, other = env.wrap(0, torch.tensor([[1, 1]])), env.wrap(1, torch.tensor([[1, 1]]))
    assert not torch.allclose(policy(one, one.conditions), policy(other, other.conditions))
    renumbered = env.States(one.tensor, torch.cat([other.conditions[:, :1], one.conditions[:, 1:]], dim=1))
    assert torch.equal(policy(one, one.conditions), policy(renumbered, renumbered.conditions))


@pytest.mark.parametrize(
    ("variant", "objective"), [("padded", "distill"), ("coordinates", "distill"), ("coordinates", "tb")]
)
def test_a_tiny_run(conditional, file, tmp_path, variant, objective):
    out = tmp_path / "out" / "figures.json"
    options = [
        "--variant",
        variant,
        "--objective",
        objective,
        "--structures",
        file,
        "--test",
        UNSEEN,
        "--test",
        TEXTS[0],
        "--out",
        out,
    ]
    small = ["--seconds", "0.2", "--width", "16", "--depth", "2", "--batch", "32", "--trajectories", "8"]
    done = CliRunner().invoke(
        conditional.main, [str(option) for option in [*options, *small]], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text())
    assert (figures["variant"], figures["objective"]) == (variant, objective)
    assert figures["iterations"] > 0 and figures["parameters"] > 0
    assert [(entry["name"], entry["seen"]) for entry in figures["entries"]] == [
        (UNSEEN, False),
        (TEXTS[0], True),
    ]
    assert all(0 <= entry["metrics"]["js"] <= math.log(2) for entry in figures["entries"])
    assert len(figures["step_cost"]["entries"]) == 2
