"""Optimal policies from sorted states against the exact flows over all states, and the states that experts
draw.
"""

from __future__ import annotations

import itertools
import math
import runpy
from pathlib import Path

import pytest
import torch
from genflow_hypergrid.expert import n_sorted, shuffle_dimensions, sorted_graph, sorted_states
from oracles import Lookup, cells, chi_square, grid

from genflow import GenflowError, Structure, optimal_flows

LINE = Path(__file__).parents[2] / "examples" / "genflow-line" / "genflow_line.py"
GRIDS = [
    (1, 6, {}),
    (2, 7, {"R0": 0.001}),
    (3, 5, {"reward": "paper", "R1": 1.5}),
    (3, 8, {"R2": 0.0}),
    (4, 4, {"outer": 0.1, "band": (0.15, 0.45), "R2": 7.0}),
    (5, 2, {"reward": "paper"}),
]


def row(states: torch.Tensor, height: int) -> torch.Tensor:
    """Where states (B, n) stand in row-major order."""
    return (states * height ** torch.arange(states.shape[1] - 1, -1, -1)).sum(1)


def draw(structure, num: int, uniform: float, seed: int = 0):
    return structure.solution.expert.draw(num, uniform, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("ndim", "height"), [(1, 5), (2, 2), (3, 6), (5, 3), (6, 2)])
def test_sorted_states_are_all_multisets_of_positions(ndim, height):
    expected = [list(rows) for rows in itertools.combinations_with_replacement(range(height), ndim)]
    assert sorted_states(ndim, height).tolist() == expected
    assert n_sorted(ndim, height) == len(expected)


@pytest.mark.parametrize(("ndim", "height", "fields"), GRIDS)
def test_flows_over_sorted_states_are_those_over_all(ndim, height, fields):
    structure = grid(ndim, height, **fields)
    full, graph = structure.solution.optimal_flows(), sorted_graph(ndim, height)
    found = optimal_flows(graph, structure.transitions().log_reward(graph.states))
    place = row(graph.states, height)
    torch.testing.assert_close(found.state, full.state[place], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.policy, full.policy[place], rtol=1e-9, atol=0)
    torch.testing.assert_close(found.visit, full.visit[place], rtol=1e-9, atol=0)
    assert found.log_z == pytest.approx(full.log_z, abs=1e-10)


@pytest.mark.parametrize(("ndim", "height", "fields"), [*GRIDS, (2, 6, {"reward": "cosine"})])
def test_what_is_drawn_is_the_optimal_policy_at_that_state(ndim, height, fields):
    structure = grid(ndim, height, **fields)
    flows, graph = structure.solution.optimal_flows(), structure.solution.graph
    for uniform in (0.0, 0.4, 1.0):
        states, masks, policy = draw(structure, 300, uniform)
        assert (len(states), len(masks), len(policy)) == (300, 300, 300)
        place = row(states, height)
        torch.testing.assert_close(policy, flows.policy[place].float(), rtol=1e-5, atol=1e-9)
        assert masks.equal(graph.mask(place))
    # an optimal trajectory passes through one state a level
    steps = [sum(cell) for cell in cells(ndim, height)]
    target = structure.solution.target()
    assert structure.solution.expert.length == pytest.approx(
        1 + float((target * torch.tensor(steps)).sum()), rel=1e-9
    )


# the sorted one, and the one over every state
@pytest.mark.parametrize("fields", [{"R0": 0.01}, {"reward": "cosine"}], ids=str)
@pytest.mark.parametrize(("ndim", "height"), [(3, 4), (2, 7)])
def test_states_are_drawn_by_visits_and_uniformly(ndim, height, fields):
    structure = grid(ndim, height, **fields)
    visit = structure.solution.optimal_flows().visit
    visit, even = visit / visit.sum(), torch.full((height**ndim,), height**-ndim, dtype=torch.float64)
    for uniform in (0.0, 0.25, 1.0):
        states, _, _ = draw(structure, 20_000, uniform, seed=3)
        counts = torch.bincount(row(states, height), minlength=height**ndim)
        # 4.75 standard deviations: one false alarm in a million seeds
        assert chi_square(counts, 20_000 * ((1 - uniform) * visit + uniform * even)) < 4.75
        for other in {0.0, 0.25, 1.0} - {uniform}:
            assert chi_square(counts, 20_000 * ((1 - other) * visit + other * even)) > 10


def test_the_same_generator_draws_the_same_states():
    structure = grid(3, 5)
    first, again, other = (draw(structure, 50, 0.5, seed) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not first[0].equal(other[0])


def test_dimensions_are_shuffled_together_with_their_actions():
    num = 6000
    states, policy = (
        torch.tensor([[0, 1, 1]]).expand(num, -1),
        torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(num, -1),
    )
    masks = torch.tensor([[True, False, False, True]]).expand(num, -1)
    moved, allowed, probabilities = shuffle_dimensions(
        states, masks, policy, torch.Generator().manual_seed(0)
    )
    # exit stays the last action
    assert (probabilities[:, 3] == policy[0, 3]).all() and allowed[:, 3].all()
    zero = probabilities[:, :3].argmin(1)
    assert (moved.gather(1, zero[:, None]) == 0).all() and (moved.sum(1) == 2).all()
    assert (allowed.gather(1, zero[:, None])).all() and (allowed.sum(1) == 2).all()
    # each of the six orders is as likely
    orders = (probabilities[:, :3].argsort(1) * torch.tensor([9, 3, 1])).sum(1)
    counts = torch.stack([(orders == order).sum() for order in orders.unique()])
    assert len(counts) == 6
    assert chi_square(counts, torch.full((6,), num / 6, dtype=torch.float64)) < 4.75


@pytest.mark.parametrize(
    ("ndim", "height", "fields"),
    [(8, 10, {}), (12, 5, {"R0": 1e-4}), (20, 3, {"reward": "paper"}), (40, 2, {})],
)
def test_grids_far_beyond_enumeration_are_solved_exactly(ndim, height, fields):
    structure = grid(ndim, height, **fields)
    assert not structure.solution.enumerable
    graph = sorted_graph(ndim, height)
    log_reward = structure.transitions().log_reward(graph.states)
    flows = optimal_flows(graph, log_reward)
    # the flow through the first state is the sum of all rewards, which is known in closed form
    assert flows.log_z == pytest.approx(structure.solution.log_partition(), abs=1e-9)
    images = torch.tensor(
        [
            math.factorial(ndim) / math.prod(math.factorial(count) for count in state.bincount().tolist())
            for state in graph.states
        ],
        dtype=torch.float64,
    )
    assert float(images.sum()) == pytest.approx(float(height) ** ndim, rel=1e-12)
    ends = images * flows.visit * flows.policy[:, -1]
    torch.testing.assert_close(ends, images * (log_reward - flows.log_z).exp(), rtol=1e-6, atol=0)
    assert structure.solution.expert.length == pytest.approx(
        1 + float((ends * graph.states.sum(1)).sum()), rel=1e-9
    )
    states, masks, policy = draw(structure, 200, 0.5)
    torch.testing.assert_close(policy.sum(1), torch.ones(200), rtol=0, atol=1e-5)
    assert masks[:, :-1].equal(states < height - 1)
    assert not policy[~masks].any() and (policy[masks] > 0).all()


def test_too_many_sorted_states_are_refused_in_one_line():
    grid(8, 20).solution.require_expert()  # 25,600,000,000 states, but 2,220,075 sorted ones
    for refuse in (grid(9, 20).solution.require_expert, lambda: grid(9, 20).solution.expert):
        with pytest.raises(
            GenflowError, match=r"ndim=9, height=20 needs 6,906,900 sorted states .* zoo\.objective=tb"
        ) as caught:
            refuse()
        assert "\n" not in str(caught.value)
    # other rewards may tell dimensions apart, so that every state is needed
    for refuse in (
        grid(8, 20, reward="cosine").solution.require_expert,
        lambda: grid(8, 20, reward="cosine").solution.expert,
    ):
        with pytest.raises(
            GenflowError, match=r"the optimal policy needs every state, .* 25,600,000,000 states"
        ):
            refuse()


@pytest.mark.parametrize("length", [2, 9])
def test_an_environment_that_says_nothing_about_symmetry_has_an_expert_over_its_states(length):
    line = runpy.run_path(str(LINE))["Line"]
    structure = Structure.of(line(line.Config(length=length)), Lookup(), "line")
    _, rewards = structure.environment.rewards()
    states, masks, policy = draw(structure, 4000, 1.0)
    # on a chain the best policy exits with R(x) / (R(x) + R(x+1) + ...)
    exits = rewards / rewards.flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(policy[:, 1], exits[states[:, 0]], rtol=1e-4, atol=1e-6)
    assert masks[:, 0].equal(states[:, 0] < length - 1) and masks[:, 1].all()
    assert (
        chi_square(
            torch.bincount(states[:, 0], minlength=length),
            torch.full((length,), 4000 / length, dtype=torch.float64),
        )
        < 4.75
    )
    assert structure.solution.expert.length == pytest.approx(
        1 + float((rewards / rewards.sum()) @ torch.arange(length).float()), rel=1e-5
    )
