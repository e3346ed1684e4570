"""Modes found, and probabilities estimated from samples, against brute force and exact distributions."""

from __future__ import annotations

import math

import pytest
import torch
from genflow_metrics.modes import Modes, RewardCorrelation, log_probability, pearson
from oracles import cells, grid, lively, lookup, optimal, reward

from genflow import GenflowError, optimal_flows
from genflow.evaluation.evaluate import choose_metrics


@pytest.mark.parametrize(
    ("height", "fields", "divisor", "options"),
    [
        (8, {}, 7, {}),
        (11, {}, 10, {}),  # no position in the band
        (9, {"reward": "paper"}, 9, {}),
        (
            9,
            {"R1": 3.0, "R2": 1.0, "band": (0.05, 0.2)},
            8,
            {"r1": 3.0, "r2": 1.0, "band": ("0.05", "0.2")},
        ),  # band and outer apart
        (9, {"R2": 0.0}, 8, {"r2": 0.0}),
        (6, {"R1": 0.0, "R2": 0.0}, 5, {"r1": 0.0, "r2": 0.0}),  # all alike
    ],
)
def test_modes_of_the_hypergrid_are_the_cells_with_the_largest_reward(height, fields, divisor, options):
    rewards = [reward(cell, height, divisor, **options) for cell in cells(2, height)]
    expected = [r == max(rewards) for r in rewards]
    found = grid(2, height, **fields).transitions().is_mode(torch.tensor(cells(2, height)))
    assert found is not None and found.tolist() == expected
    assert any(expected) and (height == 6 or not all(expected))


def test_modes_counts_different_cells_among_the_draws():
    population = lively(grid(2, 8), 3)
    metric = Modes.from_config({"draws": 200})
    final = population.rollouts(200, 0).final
    rewards = {cell: reward(cell, 8, 7) for cell in cells(2, 8)}
    expected = [
        len({cell for cell in map(tuple, row.tolist()) if rewards[cell] == max(rewards.values())})
        for row in final
    ]
    assert metric(population).tolist() == expected
    assert max(expected) > 0


def test_the_optimal_policy_finds_every_mode_and_one_that_stays_finds_none():
    structure = grid(2, 8)
    assert float(Modes()(optimal(structure))) == 4
    assert float(Modes.from_config({"draws": 1})(optimal(structure))) <= 1
    stays = torch.zeros(1, 64, 3)
    stays[..., 2] = 60
    assert float(Modes()(lookup(structure, stays))) == 0
    # all the way along both dimensions but one step: a single mode, over and over
    walks = torch.zeros(1, 8, 8, 3)
    walks[0, :6, :, 0] = walks[0, 6, :6, 1] = walks[0, 6, 6:, 2] = 60
    assert float(Modes()(lookup(structure, walks.reshape(1, 64, 3)))) == 1


def test_a_task_that_names_no_modes_is_not_counted_in():
    structure = grid(2, 4, reward="cosine")
    assert structure.transitions().is_mode(torch.zeros(1, 2, dtype=torch.long)) is None
    assert "modes" not in choose_metrics(structure) and "modes" in choose_metrics(grid(2, 4))
    with pytest.raises(GenflowError, match=r"'modes' does not fit structure .*use one of these: js"):
        choose_metrics(structure, ["modes"])
    with pytest.raises(GenflowError, match="does not say which objects are modes"):
        Modes()(lively(structure, 1))


def test_estimated_log_probability_is_the_exact_one_within_its_sampling_error():
    policy = lively(grid(2, 4), 1)
    states, exact = policy.structure.solution.graph.states, policy.terminal_distribution()[0].log()
    found = log_probability(policy, states, 4000, torch.Generator().manual_seed(0))
    assert found.dtype == torch.float64
    assert (found - exact).abs().max() < 0.1
    # few trajectories are noisy where there is more than one, and exact along the edges, where there is only
    # one
    few = log_probability(policy, states, 1, torch.Generator().manual_seed(0))
    edge = (states == 0).any(1)
    torch.testing.assert_close(few[edge], exact[edge], rtol=0, atol=1e-4)
    assert (few - exact)[~edge].abs().max() > 0.2


def test_the_estimate_is_unbiased_for_the_probability():
    policy = lively(grid(3, 3), 1)
    states, exact = policy.structure.solution.graph.states, policy.terminal_distribution()[0]
    singles = (
        log_probability(policy, states.repeat_interleave(2000, 0), 1, torch.Generator().manual_seed(1))
        .exp()
        .reshape(-1, 2000)
    )
    error = singles.std(1) / 2000**0.5
    assert ((singles.mean(1) - exact).abs() < 5 * error + 1e-6).all()


def test_one_trajectory_is_enough_for_the_optimal_policy():
    structure = grid(3, 4)
    found = log_probability(
        optimal(structure), structure.solution.graph.states, 1, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(found, structure.solution.target().log(), rtol=0, atol=1e-4)


def test_pearson_by_another_way_and_of_constants():
    x, y = torch.randn(2, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(x, y, strict=True)]
    assert pearson(x, y).tolist() == pytest.approx(expected)
    constant = torch.full((3, 7), 0.1, dtype=torch.float64)
    assert (constant != constant.mean(1, keepdim=True)).all(), "rounding is what makes this hard"
    assert pearson(x[:, :7], constant).isnan().all() and pearson(constant, y[:, :7]).isnan().all()


def test_reward_correlation_is_one_for_the_optimal_policy_and_minus_one_for_its_opposite():
    structure = grid(2, 8)
    assert float(RewardCorrelation()(optimal(structure))) == pytest.approx(1, abs=1e-3)
    opposite = optimal_flows(
        structure.solution.graph, -structure.transitions().log_reward(structure.solution.graph.states)
    )
    assert float(
        RewardCorrelation()(lookup(structure, opposite.policy.log().clamp(min=-50)[None]))
    ) == pytest.approx(-1, abs=1e-3)
    assert (RewardCorrelation()(lively(structure, 3)) < 0.9).all()


def test_reward_correlation_is_that_of_the_exact_distribution():
    structure = grid(2, 5)
    population = lively(structure, 2)
    found = RewardCorrelation.from_config({"draws": 100, "trajectories": 500})(population)
    own, foreign = population.rollouts(50, 0).final, population[:1].rollouts(50, 0, epsilon=1.0).final
    for member in range(2):
        x = torch.cat([own[member], foreign[0]])
        log_p = population.terminal_distribution()[member].log()[x[:, 0] * 5 + x[:, 1]]
        log_r = torch.tensor(
            [math.log(reward(tuple(cell), 5, 4)) for cell in x.tolist()], dtype=torch.float64
        )
        assert float(found[member]) == pytest.approx(
            float(torch.corrcoef(torch.stack([log_p, log_r]))[0, 1]), abs=0.02
        )


def test_reward_correlation_has_no_value_where_rewards_are_all_alike():
    assert RewardCorrelation()(lively(grid(2, 4, R1=0.0, R2=0.0), 2)).isnan().all()


def test_a_task_too_large_to_enumerate_is_measured():
    population = lively(grid(8, 20), 2, scale=1.0)
    assert Modes.from_config({"draws": 16})(population).shape == (2,)
    values = RewardCorrelation.from_config({"draws": 16, "trajectories": 2})(population)
    assert ((values >= -1) & (values <= 1)).all()
