"""A generated policy goes on learning in torchgfn from its log Z, and gets worse from log Z = 0."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from oracles import by_torchgfn, grid, optimal

from genflow import Population
from genflow.rollouts import LOG_Z_TRAJECTORIES

EXAMPLE = Path(__file__).parents[1] / "examples" / "continue_with_torchgfn.py"


def test_the_example_runs(capsys):
    spec = importlib.util.spec_from_file_location("continue_with_torchgfn", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found = example.main(["--structure", "ndim=2,height=8", "--steps", "12", "--batch", "16", "--lr", "1e-3"])
    printed = capsys.readouterr().out
    assert all(f"{name}: JS {js:.5f}" in printed for name, js in found.items())
    start, from_zero, from_its_own = found.values()
    # a wrong log Z is a residual of every trajectory
    assert from_zero > 2 * from_its_own and from_zero > 2 * start


def test_log_z_is_exact_where_the_solution_knows_it():
    structure = grid(2, 5)
    total = sum(structure.transitions().log_reward(structure.solution.graph.states).exp().tolist())
    population = Population.initialised(structure, 3, 0)
    assert population.log_z.tolist() == pytest.approx([math.log(total)] * 3, abs=1e-5)
    # a closed form, of far too many states
    large = Population.initialised(grid(9, 20), 2, 0)
    assert not large.structure.solution.enumerable
    assert large.log_z.tolist() == pytest.approx([large.structure.solution.log_partition()] * 2, rel=1e-6)
    assert large.log_z.shape == (2,) and large.log_z.dtype == torch.float32


def test_log_z_is_estimated_elsewhere(monkeypatch):
    """Of the policy that samples the target every trajectory tells log Z; of others the mean is a bound."""
    structure = grid(2, 4)
    exact = structure.solution.log_partition()
    monkeypatch.setattr(type(structure.solution), "knows_log_partition", False)
    assert optimal(structure).log_z.item() == pytest.approx(exact, abs=1e-3)
    untrained = Population.initialised(structure, 3, 0)
    rollouts = untrained.rollouts(LOG_Z_TRAJECTORIES)
    log_pf = rollouts.log_pf(rollouts.logits)
    scores = rollouts.total(log_pf - rollouts.log_pb) - rollouts.log_reward
    assert torch.allclose(untrained.log_z, -scores.mean(1), atol=1e-4)
    assert (untrained.log_z < exact).all()
    # a task that says nothing of its states
    plain = by_torchgfn(structure)
    assert plain.solution.knows_log_partition and plain.solution.log_partition() == pytest.approx(exact)
