"""bfloat16 products with float32 sums: close to float32, and as good in the end."""

from __future__ import annotations

import pytest
import torch
from oracles import by_autograd, grid, lively

from genflow import Population
from genflow.measure import exact_metrics
from genflow.progress import Progress
from genflow.training.policies import PolicyOptions, PopulationTrainee, train_population

OBJECTIVES = ["tb", "db", "subtb", "distill"]
#: relative error of a product whose factors have 8 bits, and of what some layers make of it
LOSS, GRADIENT = 0.01, 0.02
WAYS = pytest.mark.parametrize("way", [lambda s: s, by_autograd], ids=["fast", "autograd"])


def stepped(structure, precision: str, objective: str) -> tuple[float, torch.Tensor, PopulationTrainee]:
    """The loss of a step, the gradients (M, D) of the weights, and the trainee."""
    options = PolicyOptions(
        steps=5, batch_size=256, epsilon=1 - 1e-9, objective=objective, precision=precision
    )
    # with random actions alone both sample the same trajectories
    trainee = PopulationTrainee(
        structure, lively(structure, 3).weights, options, seed=0, device="cpu", checkpoints=1, every=1
    )
    loss, _ = trainee.backward(0, torch.Generator().manual_seed(1))
    return loss, torch.cat([w.grad.reshape(3, -1) for w in trainee.weights.values()], 1), trainee


@WAYS
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradients_are_close_to_those_in_float32(objective, way):
    structure = way(grid(2, 5))
    (loss, gradient, _), (low_loss, low, trainee) = (
        stepped(structure, precision, objective) for precision in ("float32", "bfloat16")
    )
    assert low_loss == pytest.approx(loss, rel=LOSS)
    error = (low - gradient).norm(dim=1) / gradient.norm(dim=1)
    # the products are not those of float32
    assert ((error > 1e-4) & (error < GRADIENT)).all(), error
    assert {p.dtype for p in trainee.parameters()} == {p.grad.dtype for p in trainee.parameters()}
    assert low.dtype == torch.float32


def test_a_reward_is_computed_as_without_it(monkeypatch):
    """What is rounded are the policies' products, not those of others that run meanwhile."""
    structure, found = grid(2, 4), []
    score = type(structure.environment.reward).score

    def watched(self, positions):
        found.append(torch.is_autocast_enabled("cpu"))
        return score(self, positions)

    monkeypatch.setattr(type(structure.environment.reward), "score", watched)
    stepped(structure, "bfloat16", "tb")
    assert found and not any(found)


@pytest.mark.parametrize(("objective", "batch_size", "reached"), [("tb", 16, 0.005), ("distill", 64, 0.0005)])
def test_it_learns_as_well_as_float32(tmp_path, objective, batch_size, reached):
    structure = grid(2, 6, width=32)
    options = PolicyOptions(
        steps=300, lr=0.01, batch_size=batch_size, objective=objective, precision="bfloat16"
    )
    population = train_population(
        structure,
        options,
        start=Population.initialised(structure, 2, 0).weights,
        seed=0,
        folder=tmp_path,
        progress=Progress(quiet=True),
    )
    # the bounds of test_every_objective_learns_a_small_grid
    assert (exact_metrics()["js"](population) < reached).all()
