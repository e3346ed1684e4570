"""The test of samples against a distribution, also where each object is rare."""

from __future__ import annotations

import pytest
import torch

from genflow.testing.solution_checks import _alike
from genflow.testing.statistics import UNLIKELY, p_value

SAMPLES = 4096


def drawn(probabilities: torch.Tensor, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    found = probabilities.multinomial(SAMPLES, replacement=True, generator=rng)
    return found.bincount(minlength=len(probabilities))


@pytest.mark.parametrize("states", [2, 30, 2_000, 20_000])
def test_samples_of_the_distribution_pass_and_p_values_are_spread(states):
    probabilities = torch.rand(states, generator=torch.Generator().manual_seed(states)) + 0.1
    probabilities = (probabilities / probabilities.sum()).double()
    found = torch.tensor([p_value(drawn(probabilities, seed), probabilities) for seed in range(20)])
    assert found.min() > UNLIKELY and 0.2 < found.mean() < 0.8


@pytest.mark.parametrize("states", [30, 2_000, 20_000])
def test_a_sampler_that_keeps_to_some_objects_is_found(states):
    even = torch.full((states,), 1 / states, dtype=torch.float64)
    some = torch.where(torch.arange(states) < states // 2, 1.6, 0.4).double() / states
    few = torch.where(torch.arange(states) % (states // 10) == 0, 1.0, 0.0).double()
    assert p_value(drawn(some, 0), even) < UNLIKELY
    assert p_value(drawn(few / few.sum(), 0), even) < UNLIKELY


def test_an_impossible_object_is_enough():
    assert p_value(torch.tensor([1000, 1]), torch.tensor([1.0, 0.0])) == 0.0


def test_small_probabilities_must_be_right_too():
    even = torch.full((20_000,), 1 / 20_000, dtype=torch.float64)
    assert _alike(even, even.float()) and not _alike(even, 1.02 * even)
