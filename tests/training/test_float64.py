"""With float64 as torch's default dtype, populations stay float32 and train as they do without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from oracles import by_autograd, by_torchgfn, grid, lively

from genflow import Population, Starts
from genflow.progress import Progress
from genflow.rollouts import sample
from genflow.training.options import PolicyOptions, ZooOptions
from genflow.training.policies import PopulationTrainee, train_members, train_population

OBJECTIVES = ["tb", "db", "subtb", "distill"]
QUIET = Progress(quiet=True)


@pytest.fixture
def float64() -> Iterator[None]:
    """float64 is the default until the test ends."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def in_float64(make):
    """What is made meanwhile."""
    torch.set_default_dtype(torch.float64)
    try:
        return make()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("way", [lambda s: s, lambda s: by_autograd(by_torchgfn(s))], ids=["fast", "plain"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_is_that_of_float32(tmp_path, objective, way):
    structure = way(grid(2, 4))
    start = lively(structure, 2, scale=1.0).weights
    options = PolicyOptions(steps=5, batch_size=8, lr=0.01, objective=objective, epsilon=0.3)
    if objective == "tb":
        options = options.model_copy(update={"log_z_start": "estimate"})

    def trained(folder):
        # flows of states are drawn in the default dtype, so that "db" and "subtb" learn something else
        return train_population(
            structure, options, start=start, seed=0, folder=tmp_path / folder, progress=QUIET
        )

    expected, found = trained("32"), in_float64(lambda: trained("64"))
    assert found.weights.dtype == torch.float32
    assert found.weights.isfinite().all() and not found.weights.allclose(start)
    if objective in ("tb", "distill"):
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-3, atol=2e-4)


def test_rollouts_are_those_of_float32():
    structure = grid(2, 5)
    population = lively(structure, 3)

    def rolled():
        rng = torch.Generator().manual_seed(0)
        return sample(structure.transitions(), population.trace, (3, 12), 0.3, rng)

    expected, found = rolled(), in_float64(rolled)
    assert found.actions.equal(expected.actions) and found.final.equal(expected.final)
    for name in ("logits", "log_reward", "log_pb", "inputs"):
        assert getattr(found, name).dtype == torch.float32
    torch.testing.assert_close(found.logits, expected.logits)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_trained_is_float32(objective, float64):
    structure = grid(2, 4)
    start = Population.initialised(structure, 2, 0).weights.double()
    trainee = PopulationTrainee(
        structure, start, PolicyOptions(objective=objective, batch_size=4), seed=0, device="cpu",
        checkpoints=2, every=1,
    )  # fmt: skip
    loss, _ = trainee.backward(0, torch.Generator().manual_seed(0))
    assert loss > 0
    tensors = {n: t for n, t in trainee.tensors().items() if n != "diverged_at"}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(p.grad.dtype == torch.float32 for group in trainee.groups() for p in group["params"])


def test_a_zoo_is_collected(tmp_path, float64):
    options = ZooOptions(num=3, seeds=2, steps=4, checkpoint_every=1, batch_size=4)
    population = train_members(grid(2, 4), options, Starts(), seed=0, folder=tmp_path, progress=QUIET)
    assert population.weights.dtype == torch.float32 and len(population) == 3
    assert all("js" in member["metrics"] for member in population.provenance["members"])
