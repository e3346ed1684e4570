"""How policies reach given states, against the exact distribution over all states."""

from __future__ import annotations

import pytest
import torch
from oracles import by_torchgfn, grid, lively, optimal

from genflow import ancestry as module
from genflow.ancestry import ancestry, sampled_log_probabilities


def index_of(graph, states):
    return [next(i for i, row in enumerate(graph.states) if row.equal(state)) for state in states]


@pytest.mark.parametrize("change", [lambda task: task, by_torchgfn])
def test_the_probability_through_all_ancestors_is_that_of_the_whole_graph(change):
    task = change(grid(2, 5))
    population = lively(task, 3)
    states = torch.tensor([[2, 1], [0, 0], [4, 4], [0, 3]])
    for some in (states, states[:1], states[3:]):
        found = ancestry(task.transitions(), some)
        ends = population.ends_in(found.graph)
        wanted = population.terminal_distribution()[:, index_of(task.solution.graph, some)]
        assert found.reached.all()
        torch.testing.assert_close(ends[:, found.places], wanted, rtol=1e-6, atol=0)
        torch.testing.assert_close(ends.sum(1), torch.ones(3, dtype=torch.float64))


def test_only_ancestors_are_visited():
    found = ancestry(grid(2, 9).transitions(), torch.tensor([[1, 2]]))
    inside = {tuple(state) for state in found.graph.states[:-1].tolist()}
    assert inside == {(i, j) for i in range(2) for j in range(3)}


def test_what_the_initial_state_does_not_lead_to_is_not_reached():
    task = grid(2, 4)
    found = ancestry(task.transitions(), torch.tensor([[9, 0], [1, 0]]))
    assert found.reached.tolist() == [False, True]
    population = lively(task, 2)  # a policy has no input for position 9
    ends = population.ends_in(found.graph)[:, found.places[1]]
    wanted = population.terminal_distribution()[:, index_of(task.solution.graph, torch.tensor([[1, 0]]))[0]]
    torch.testing.assert_close(ends, wanted, rtol=1e-6, atol=0)


def test_too_many_ancestors_are_left(monkeypatch):
    task = grid(2, 4)
    monkeypatch.setattr(module, "MAX_ANCESTORS", 9)
    assert ancestry(task.transitions(), torch.tensor([[2, 2]])) is not None
    assert ancestry(task.transitions(), torch.tensor([[2, 3]])) is None


def estimate(population, state, num, seed=0):
    task = population.structure
    rng = torch.Generator().manual_seed(seed)
    return sampled_log_probabilities(
        task.transitions(), lambda states: population.trace(states)[0], torch.tensor(state), num, rng
    )


@pytest.mark.parametrize("state", [[0, 0], [3, 1], [4, 4]])
def test_each_trajectory_of_the_optimal_policy_has_the_whole_probability_as_its_weight(state):
    # log P_F / P_B of a trajectory is log R - log Z where P_F is optimal for the uniform P_B
    task = grid(2, 5)
    wanted = task.transitions().log_reward(torch.tensor([state])) - task.solution.log_partition()
    for seed in range(3):
        found = estimate(optimal(task), state, 1, seed)
        torch.testing.assert_close(found.double(), wanted.double(), rtol=0, atol=1e-4)


def test_the_estimate_is_unbiased():
    population = lively(grid(2, 4), 3, scale=1.0)
    exact = population.terminal_distribution()[
        :, index_of(population.structure.solution.graph, [torch.tensor([2, 3])])[0]
    ]
    repeats = torch.stack([estimate(population, [2, 3], 50, seed).exp() for seed in range(200)])
    error = (repeats.mean(0) - exact) / (repeats.std(0) / 200**0.5)
    assert error.abs().max() < 4


def test_what_cannot_be_reached_is_estimated_as_never():
    assert estimate(lively(grid(2, 4), 2), [9, 0], 10).isneginf().all()
