"""Exact distributions and flows against brute force, torchgfn's sampler and torchgfn's losses."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from gfn.estimators import ScalarEstimator
from gfn.gflownet import DBGFlowNet, SubTBGFlowNet, TBGFlowNet
from gfn.samplers import Sampler
from oracles import (
    Table,
    action_probabilities,
    by_torchgfn,
    cells,
    chi_square,
    every_trajectory,
    grid,
    lively,
    optimal,
    reward,
    uniform_backward,
)

from genflow import GenflowError, Population, exact
from genflow.enumeration import enumerate_states


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """Jensen-Shannon, written out."""
    m = (p + q) / 2
    return float(sum(0.5 * torch.special.xlogy(a, a / m).nan_to_num().sum() for a in (p, q)))


@pytest.mark.parametrize(("ndim", "height"), [(1, 2), (1, 5), (2, 2), (2, 4), (3, 3), (4, 2)])
def test_terminal_distribution_is_the_sum_over_all_trajectories(ndim, height):
    structure = grid(ndim, height)
    population = lively(structure, 3)
    found = population.terminal_distribution()
    assert found.shape == (3, height**ndim)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    for member in range(3):
        expected = every_trajectory(height, action_probabilities(population[member]))
        torch.testing.assert_close(found[member], expected, rtol=1e-5, atol=1e-8)
    # the members differ, so a mix-up of members would have shown
    assert (found[0] - found[1]).abs().sum() > 0.05


def test_terminal_distribution_is_what_torchgfn_samples():
    structure = grid(2, 4)
    population = lively(structure, 2)
    draws = 4000
    env, _ = structure.environment.make()
    trajectories = Sampler(population[0].to_estimator()).sample_trajectories(
        env, n=draws, save_logprobs=False
    )
    ends = trajectories.terminating_states.tensor
    counts = torch.bincount(ends @ torch.tensor([4, 1]), minlength=16)
    own, other = population.terminal_distribution() * draws
    # 4.75 standard deviations: one false alarm in a million seeds
    assert chi_square(counts, own) < 4.75
    assert chi_square(counts, other) > 10


def test_states_are_evaluated_once_and_never_more_than_max_rows_at_a_time():
    graph = grid(3, 4).solution.graph
    asked = []

    def policy(index):
        asked.append(index)
        return torch.zeros(2, len(index), 4)

    exact.terminal_distribution(graph, policy, n_policies=2, max_rows=5)
    assert max(map(len, asked)) == 5
    assert sorted(torch.cat(asked).tolist()) == list(range(64))


@pytest.mark.parametrize("max_floats", [1, 100, 1000])
def test_bounded_chunks_give_the_same_distribution(max_floats):
    structure = grid(3, 4)
    population = lively(structure, 3)
    whole = population.terminal_distribution()
    chunked = population.terminal_distribution(max_floats)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-9)


def test_the_bound_on_floats_bounds_the_states_evaluated_at_once(monkeypatch):
    structure = grid(3, 4, width=32)
    population = lively(structure, 3)
    sizes = []
    trace = Population.trace
    monkeypatch.setattr(Population, "trace", lambda self, x: sizes.append(len(x)) or trace(self, x))
    population.terminal_distribution(max_floats=3 * 32 * 4)
    assert max(sizes) == 4
    assert sum(sizes) == 64


REWARDS = [
    {},
    {"R0": 0.001},
    {"R0": 0.01, "R1": 1.0, "R2": 5.0},
    {"reward": "paper"},
    {"reward": "cosine"},
    {"reward": "sparse"},
    {"reward": "deceptive"},
]


@pytest.mark.parametrize("fields", REWARDS, ids=str)
@pytest.mark.parametrize(("ndim", "height"), [(1, 9), (2, 8), (3, 4)])
def test_optimal_flows_sample_the_target(ndim, height, fields):
    structure = grid(ndim, height, **fields)
    flows, target = structure.solution.optimal_flows(), structure.solution.target()
    found = exact.terminal_distribution(
        structure.solution.graph, lambda index: flows.policy[index].log()[None], 1, 10**6
    )[0]
    assert float(target.sum()) == pytest.approx(1, abs=1e-12)
    assert divergence(target, found) < 1e-10
    torch.testing.assert_close(found, target, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("ndim", "height"), [(2, 7), (3, 4), (5, 2)])
def test_optimal_flows_balance_at_every_state(ndim, height):
    structure = grid(ndim, height)
    flows = structure.solution.optimal_flows()
    states = cells(ndim, height)
    flow = dict(zip(states, flows.state.exp().tolist(), strict=True))
    policy = dict(zip(states, flows.policy.tolist(), strict=True))
    visit = dict(zip(states, flows.visit.tolist(), strict=True))
    passing = dict.fromkeys(states, 0.0) | {(0,) * ndim: 1.0}
    for cell in sorted(states, key=sum):
        terms = []
        for i in range(ndim):
            child = (*cell[:i], cell[i] + 1, *cell[i + 1 :])
            terms.append(flow[child] / sum(k > 0 for k in child) if child in flow else 0.0)
            if child in flow:
                passing[child] += passing[cell] * policy[cell][i]
        terms.append(reward(cell, height, height - 1))
        assert flow[cell] == pytest.approx(sum(terms), rel=1e-12)
        assert policy[cell] == pytest.approx([term / sum(terms) for term in terms], rel=1e-10)
        assert visit[cell] == pytest.approx(passing[cell], rel=1e-10)


@pytest.mark.parametrize(("ndim", "height"), [(2, 9), (3, 5), (4, 3)])
def test_partition_function_is_the_sum_of_all_rewards(ndim, height):
    structure = grid(ndim, height)
    total = math.fsum(reward(cell, height, height - 1) for cell in cells(ndim, height))
    assert structure.solution.log_partition() == pytest.approx(math.log(total), abs=1e-12)
    assert structure.solution.optimal_flows().log_z == pytest.approx(math.log(total), abs=1e-12)
    expected = torch.tensor(
        [reward(cell, height, height - 1) / total for cell in cells(ndim, height)], dtype=torch.float64
    )
    torch.testing.assert_close(structure.solution.target(), expected, rtol=1e-12, atol=0)


def state_flow(structure, log_flow):
    """torchgfn's estimator of the log flow of states, from a table."""
    env, preprocessor = structure.transitions().env, structure.transitions().preprocessor
    table = Table(preprocessor.output_dim, env.ndim, 1)
    table.table.data = log_flow.float()[:, None]
    return ScalarEstimator(table, preprocessor=preprocessor)


@pytest.mark.parametrize("fields", [{}, {"R0": 0.001}, {"reward": "paper"}], ids=str)
def test_the_optimal_policy_has_no_loss_under_torchgfns_own_objectives(fields):
    structure = grid(2, 8, **fields)
    env, _ = structure.environment.make()
    flows = structure.solution.optimal_flows()
    policy, backward = optimal(structure)[0].to_estimator(), uniform_backward(structure)
    trajectories = Sampler(policy).sample_trajectories(env, n=64, save_logprobs=False)

    def losses(shift):
        log_flow = state_flow(structure, flows.state + shift)
        balance = {
            "tb": TBGFlowNet(policy, backward, init_logZ=flows.log_z + shift),
            "db": DBGFlowNet(policy, backward, logF=log_flow),
            "subtb": SubTBGFlowNet(policy, backward, logF=log_flow),
        }
        with torch.no_grad():
            return {
                k: b.loss_from_trajectories(env, trajectories, recalculate_all_logprobs=True).item()
                for k, b in balance.items()
            }

    # the residuals are float32 rounding of sums of some twenty logarithms
    assert all(loss < 1e-10 for loss in losses(0.0).values())
    # a flow that is off by a factor is seen by each of the three
    assert all(loss > 1e-3 for loss in losses(0.5).values())


def test_optimal_population_reaches_the_target_through_its_weights():
    population = optimal(grid(2, 8))
    assert divergence(population.structure.solution.target(), population.terminal_distribution()[0]) < 1e-10


def as_mapping(graph: exact.StateGraph) -> dict:
    """State -> (child of each action or None, whether it may end), whatever the order."""
    states = [tuple(s) for s in graph.states.tolist()]
    assert len(set(states)) == len(states)
    return {
        state: ([states[c] if c != exact.NO_CHILD else None for c in children], may_end)
        for state, children, may_end in zip(
            states, graph.children.tolist(), graph.can_exit.tolist(), strict=True
        )
    }


@pytest.mark.parametrize(("ndim", "height"), [(1, 6), (2, 5), (3, 3), (4, 2)])
def test_the_grids_own_graph_equals_the_one_enumerated_from_torchgfn(ndim, height):
    structure = grid(ndim, height)
    own, found = structure.solution.graph, enumerate_states(structure.transitions().env, 10_000)
    assert as_mapping(own) == as_mapping(found)
    for graph in (own, found):
        assert not graph.states[0].any()
        # every edge leads to a later level, and the levels hold every state once
        level = torch.empty(len(graph.states), dtype=torch.long)
        for depth, index in enumerate(graph.levels):
            level[index] = depth
        assert torch.cat(graph.levels).sort().values.equal(torch.arange(height**ndim))
        assert level.equal(graph.states.sum(1))
        assert graph.n_parents.equal((graph.states > 0).sum(1))


def test_an_enumerated_graph_gives_the_same_distribution_and_flows():
    structure = grid(2, 5)
    graph = enumerate_states(structure.transitions().env, 100)
    order = graph.states @ torch.tensor([5, 1])
    flows = exact.optimal_flows(graph, structure.transitions().log_reward(graph.states))
    torch.testing.assert_close(flows.policy, structure.solution.optimal_flows().policy[order])
    found = exact.terminal_distribution(graph, lambda index: flows.policy[index].log()[None], 1, 7)[0]
    torch.testing.assert_close(found, structure.solution.target()[order])


@pytest.mark.parametrize(("ndim", "height"), [(1, 6), (2, 5), (3, 4)])
def test_policies_of_an_enumerated_task_end_where_those_of_the_grid_do(ndim, height):
    structure = grid(ndim, height)
    population, plain = lively(structure, 3), by_torchgfn(structure)
    found = Population(plain, population.weights).terminal_distribution()
    order = [cells(ndim, height).index(tuple(state)) for state in plain.solution.graph.states.tolist()]
    assert ndim == 1 or order != sorted(order), "both graphs have one order, so mixing them up would not show"
    torch.testing.assert_close(found, population.terminal_distribution()[:, order], rtol=1e-5, atol=1e-9)


def random_graph(seed: int) -> exact.StateGraph:
    """Levels of random sizes whose states are numbered at random, with edges over any number of levels."""
    rng = random.Random(seed)
    sizes = [1] + [rng.randint(1, 6) for _ in range(5)]
    others = list(range(1, sum(sizes)))
    rng.shuffle(others)
    order = [0, *others]
    levels = [[order.pop(0) for _ in range(size)] for size in sizes]
    children, can_exit = (
        torch.full((sum(sizes), 4), exact.NO_CHILD),
        torch.zeros(sum(sizes), dtype=torch.bool),
    )
    for depth, level in enumerate(levels):
        later = list(itertools.chain(*levels[depth + 1 :]))
        for state in level:
            for action in range(4):
                if later and rng.random() < 0.7:
                    children[state, action] = rng.choice(later)
            can_exit[state] = rng.random() < 0.5 or bool((children[state] == exact.NO_CHILD).all())
    return exact.StateGraph(
        torch.arange(sum(sizes))[:, None], children, can_exit, tuple(map(torch.tensor, levels))
    )


def ends_by_walking(graph: exact.StateGraph, logits: torch.Tensor) -> list[float]:
    """The sum over every trajectory of its probability, (S, A) logits."""
    ends, paths = [0.0] * len(graph.states), [(0, 1.0)]
    while paths:
        state, p = paths.pop()
        allowed = [child != exact.NO_CHILD for child in graph.children[state].tolist()] + [
            bool(graph.can_exit[state])
        ]
        weights = [
            math.exp(value) if ok else 0.0 for value, ok in zip(logits[state].tolist(), allowed, strict=True)
        ]
        ends[state] += p * weights[-1] / sum(weights)
        children = zip(graph.children[state].tolist(), weights, allowed, strict=False)
        paths += [(child, p * weight / sum(weights)) for child, weight, ok in children if ok]
    return ends


@pytest.mark.parametrize("seed", range(6))
def test_any_graph_is_swept_however_it_is_numbered_and_cut(seed):
    graph = random_graph(seed)
    levels = torch.cat(graph.levels).tolist()
    assert levels != sorted(levels)
    logits = 2 * torch.randn(3, len(graph.states), 5)
    expected = torch.tensor([ends_by_walking(graph, one) for one in logits], dtype=torch.float64)
    assert (expected > 0.01).sum() > 6
    for max_rows in (1, 2, random.Random(seed).randint(3, 6), 1000):
        found = exact.terminal_distribution(graph, lambda index: logits[:, index], 3, max_rows)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    for m in range(3):
        alone = exact.terminal_distribution(graph, lambda index, m=m: logits[m : m + 1, index], 1, 1000)
        torch.testing.assert_close(alone[0], expected[m], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_many_policies_are_each_alone_however_much_is_held_at_once(seed):
    structure = grid(3, 5)
    population = lively(structure, 7, seed)
    max_floats = random.Random(seed).randint(1, 3000)
    together = population.terminal_distribution(max_floats)
    for m, one in enumerate(population):
        torch.testing.assert_close(one.terminal_distribution()[0], together[m], rtol=1e-5, atol=1e-9)


def test_too_many_states_are_refused_by_number():
    env, _ = grid(2, 5).environment.make()
    assert len(enumerate_states(env, 25).states) == 25
    with pytest.raises(GenflowError, match="more than 24 states"):
        enumerate_states(env, 24)


def test_states_where_no_trajectory_may_end_get_nothing():
    # 0 -> 1 -> 3, 0 -> 2 -> 3 and 2 may end
    graph = exact.StateGraph(
        states=torch.arange(4)[:, None],
        children=torch.tensor([[1, 2], [3, -1], [-1, 3], [-1, -1]]),
        can_exit=torch.tensor([False, False, True, True]),
        levels=(torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([3])),
    )
    found = exact.terminal_distribution(graph, lambda index: torch.zeros(1, len(index), 3), 1, 10)[0]
    assert found.tolist() == pytest.approx([0, 0, 0.25, 0.75])
    log_reward = torch.tensor([9.0, 9.0, 1.0, 3.0], dtype=torch.float64).log()
    flows = exact.optimal_flows(graph, log_reward)
    assert flows.state.exp().tolist() == pytest.approx([4, 1.5, 2.5, 3])
    assert math.exp(flows.log_z) == pytest.approx(4)
    assert flows.policy[0].tolist() == pytest.approx([1.5 / 4, 2.5 / 4, 0])


def test_exact_computation_on_a_huge_grid_names_the_way_out():
    structure = grid(7, 30)
    assert not structure.solution.enumerable
    with pytest.raises(GenflowError, match="use metrics that sample"):
        structure.solution.target()
