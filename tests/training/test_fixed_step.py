"""A step in tensors of fixed sizes: the same as the plain one, and fit for a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from oracles import by_autograd, grid, lively, lookup, same_gradients

from genflow import GenflowError
from genflow.training.fixed_step import FixedStep
from genflow.training.policies import PolicyOptions, PopulationTrainee

BALANCES = ["tb", "db", "subtb"]
WAYS = pytest.mark.parametrize("way", [lambda s: s, by_autograd], ids=["fast", "autograd"])
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def trainee(structure, population=None, device="cpu", warn=None, **options) -> PopulationTrainee:
    start = lively(structure, 3) if population is None else population
    options = PolicyOptions(**{"steps": 5, "batch_size": 8, "epsilon": 0.3, **options})
    return PopulationTrainee(
        structure, start.weights, options, seed=0, device=device, checkpoints=1, every=1, warn=warn
    )


def gradients(of: PopulationTrainee) -> dict[str, torch.Tensor]:
    return {str(i): p.grad.cpu().clone() for i, p in enumerate(of.parameters())}


@WAYS
@pytest.mark.parametrize("objective", BALANCES)
@pytest.mark.parametrize("task", [{"ndim": 2, "height": 5}, {"ndim": 3, "height": 4}], ids=str)
def test_it_is_the_plain_step(task, objective, way, monkeypatch):
    # with the same random numbers for the same trajectories, as none are dropped and no states are shared
    monkeypatch.setattr("genflow.rollouts.WORTHWHILE", 1.0)
    structure = way(grid(**task))
    plain, fixed = (trainee(structure, objective=objective) for _ in range(2))
    loss, figures = plain.backward(0, torch.Generator().manual_seed(3))
    found = FixedStep(fixed)(0.3, torch.Generator().manual_seed(3))
    assert float(found["loss"].sum()) == pytest.approx(loss, rel=1e-4)
    assert float(found["reward"].mean()) == pytest.approx(figures["reward"], rel=1e-6)
    same_gradients(gradients(fixed), gradients(plain))


@WAYS
@pytest.mark.parametrize("objective", BALANCES)
def test_it_neither_waits_for_the_device_nor_has_sizes_that_depend_on_values(objective, way):
    # on this device there are no values
    step = FixedStep(trainee(way(grid(2, 5)), device="meta", objective=objective))
    losses, rewards = step.learn(step.roll_out())
    assert losses.shape == rewards.shape == (3,)


def test_a_trajectory_that_is_longer_than_the_task_says_is_an_error(monkeypatch):
    structure = grid(2, 4)
    monkeypatch.setattr(type(structure.transitions()), "max_steps", 2)
    logits = torch.zeros(1, 16, 3)
    logits[..., -1] = -50
    step = FixedStep(trainee(lookup(structure, logits).structure, lookup(structure, logits), epsilon=0.0))
    with pytest.raises(GenflowError, match=r"did not end within 2 steps, which GridTransitions\.max_steps"):
        step(0.0, torch.Generator().manual_seed(0))


def test_a_dead_end_is_an_error(monkeypatch):
    structure = grid(2, 4)
    masks = type(structure.transitions()).forward_masks

    def blocked(self, states):
        return masks(self, states) & (states.sum(-1, keepdim=True) < 2)

    step = FixedStep(trainee(structure))
    monkeypatch.setattr(type(structure.transitions()), "forward_masks", blocked)
    with pytest.raises(GenflowError, match="no action"):
        step(0.0, torch.Generator().manual_seed(0))


def test_what_cannot_be_captured_is_said_in_a_line(monkeypatch, capfd):
    said = []
    monkeypatch.setattr(FixedStep, "capture", lambda self: (_ for _ in ()).throw(RuntimeError("no\nmore")))
    structure = grid(2, 4)
    assert FixedStep.captured(trainee(structure), said.append) is None
    monkeypatch.setattr(type(structure.transitions()), "max_steps", None)
    assert FixedStep.captured(trainee(structure), said.append) is None
    assert [line.count("\n") for line in said] == [0, 0]
    assert "(no); its kernels are launched one by one" in said[0]
    assert "(GridTransitions.max_steps is not told)" in said[1]


@pytest.mark.parametrize(
    ("objective", "reason"), [("tb", "policies are not on a GPU"), ("distill", "policies are not on a GPU")]
)
def test_a_graph_that_was_asked_for_and_cannot_be_is_told(objective, reason):
    said = []
    trainee(grid(2, 4), objective=objective, cuda_graph="on", warn=said.append)
    assert [line.partition(": ")[2] for line in said] == [f"cuda_graph=on changes nothing, as {reason}"]
    trainee(grid(2, 4), objective=objective, cuda_graph="auto", warn=said.append)
    assert len(said) == 1


@NEEDS_GPU
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("objective", BALANCES)
def test_the_captured_step_is_the_step(objective, precision):
    options = {"objective": objective, "precision": precision, "device": "cuda"}
    captured, plain = (trainee(grid(3, 4), cuda_graph=way, **options) for way in ("on", "off"))
    assert captured._fixed is not None and plain._fixed is None
    step, rngs = FixedStep(plain), [torch.Generator("cuda").manual_seed(3) for _ in range(2)]
    optimizers = [torch.optim.Adam(each.groups(), lr=0.01) for each in (captured, plain)]
    for number in range(4):
        loss, figures = captured.backward(number, rngs[0])
        expected = step(0.3, rngs[1])
        assert loss == pytest.approx(float(expected["loss"].sum()), rel=1e-3)
        assert figures["reward"] == pytest.approx(float(expected["reward"].mean()), rel=1e-3)
        scale = max(float(p.grad.abs().max()) for p in plain.parameters())
        for found, other in zip(captured.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(found.grad, other.grad, rtol=1e-3, atol=1e-4 * scale)
        for other, found in zip(plain.parameters(), captured.parameters(), strict=True):
            other.grad.copy_(found.grad)  # last bits, from which they would drift apart
        for each in optimizers:
            each.step()


@NEEDS_GPU
def test_a_task_that_waits_for_the_device_is_trained_step_by_step(monkeypatch):
    structure, said = grid(2, 4), []
    step = type(structure.transitions()).step

    def waits(self, states, actions):
        int(actions.max())
        return step(self, states, actions)

    monkeypatch.setattr(type(structure.transitions()), "step", waits)
    waiting = trainee(structure, device="cuda", warn=said.append)
    assert waiting._fixed is None and len(said) == 1 and "\n" not in said[0]
    loss, _ = waiting.backward(0, torch.Generator("cuda").manual_seed(0))
    assert loss > 0


@NEEDS_GPU
def test_small_steps_are_captured_by_themselves(monkeypatch):
    monkeypatch.setattr("genflow.training.policies.GRAPH_ROWS", 7 * 3 * 8)  # the longest of (2, 4) is 7
    assert trainee(grid(2, 4), device="cuda")._fixed is not None
    for options in ({"batch_size": 9}, {"objective": "distill"}, {"cuda_graph": "off"}):
        assert trainee(grid(2, 4), device="cuda", **options)._fixed is None
