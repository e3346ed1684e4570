"""The passes that mlp3 traces, against one network at a time and autograd."""

from __future__ import annotations

import pytest
import torch
from oracles import grid, holed, lively, one_by_one, same_gradients, traced

from genflow import PolicyArch

SIZES = [(1, 2, 1), (3, 5, 8), (2, 6, 33)]


def states_of(structure, members, count, own):
    """Random states: (count, n) shared by all members, or (members, count, n)."""
    n, h = structure.environment.config.ndim, structure.environment.config.height
    return torch.randint(
        h, (members, count, n) if own else (count, n), generator=torch.Generator().manual_seed(3)
    )


def one_hot(structure, states):
    """By torchgfn's preprocessor."""
    env, preprocessor = structure.environment.make()
    flat = preprocessor(env.States(states.reshape(-1, states.shape[-1]))).float()
    return flat.reshape(*states.shape[:-1], -1)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("ndim", "height", "width"), SIZES)
def test_what_is_traced_has_the_logits_and_gradients_of_autograd(ndim, height, width, members, own):
    structure = grid(ndim, height, width=width)
    population = lively(structure, members)
    states, toward = states_of(structure, members, 10, own), holed((members, 10, ndim + 1))
    inputs = one_hot(structure, states)
    dense = torch.randn(inputs.shape)
    for observed, x in (
        (dense, dense),
        (inputs, inputs),
        (structure.transitions().one_hot_indices(states), inputs),
    ):
        logits, gradients = one_by_one(population, x, toward)
        for cuts in ([10], [4, 1, 5]):
            found_logits, found = traced(population, list(observed.split(cuts, dim=-2)), toward)
            torch.testing.assert_close(found_logits, logits, rtol=1e-5, atol=1e-5)
            same_gradients(found, gradients)


def test_rows_without_a_gradient_change_nothing():
    """Padding, whatever it holds and however much there is."""
    structure = grid(2, 5)
    population = lively(structure, 3)
    inputs, toward = torch.randn(3, 6, 10), torch.randn(3, 6, 3)
    _, expected = one_by_one(population, inputs, toward)
    padded = (
        torch.cat([inputs, 1e6 * torch.randn(3, 50, 10)], 1),
        torch.cat([toward, torch.zeros(3, 50, 3)], 1),
    )
    same_gradients(traced(population, [padded[0]], padded[1])[1], expected)
    nothing = traced(population, [inputs], torch.zeros(3, 6, 3))[1]
    assert not any(gradient.count_nonzero() for gradient in nothing.values())


def test_a_population_traces_states_as_it_evaluates_inputs():
    structure = grid(3, 4)
    population = lively(structure, 3)
    for own in (False, True):
        states = states_of(structure, 3, 7, own)
        logits, kept = population.trace(states)
        expected = PolicyArch.forward(
            structure.arch, structure.module(), population.state_dict(), one_hot(structure, states)
        )
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        assert kept == ()
