"""The optimal policy of a grid whose reward does not tell dimensions apart.

It needs one state for each multiset of positions.

Flows do not change when dimensions are swapped, so C(h+n-1, n) sorted states stand for all h**n: 24,310
instead of 10**8 for n = 8, h = 10.

Shapes: S sorted states, n dimensions, A = n + 1 actions (the last is exit), B drawn states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genflow import Expert, StateGraph, optimal_flows


def n_sorted(ndim: int, height: int) -> int:
    """The number of states whose positions do not decrease from dimension to dimension."""
    return math.comb(height + ndim - 1, ndim)


def sorted_states(ndim: int, height: int) -> Tensor:
    """Every non-decreasing row of positions (S, n), in lexicographic order."""
    rows = torch.arange(height)[:, None]
    for _ in range(ndim - 1):
        counts = height - rows[:, -1]
        rows = rows.repeat_interleave(counts, 0)
        # within each block the new position runs from the last one up to the top
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        rows = torch.cat([rows, (torch.arange(len(rows)) - first + rows[:, -1])[:, None]], dim=1)
    return rows


class SortedGraph(StateGraph):
    """The state graph with every state replaced by its sorted image.

    A state still has as many parents as in the full graph.
    """

    @property
    def n_parents(self) -> Tensor:  # type: ignore[override]
        """How many parents each state has in the full graph, (S,): the dimensions that are not at 0."""
        return (self.states > 0).sum(1)


def sorted_graph(ndim: int, height: int) -> SortedGraph:
    """Build the graph over sorted states, where action i increments the i-th smallest position."""
    states = sorted_states(ndim, height)
    place = height ** torch.arange(ndim - 1, -1, -1)
    key = (states * place).sum(1)
    children = torch.full_like(states, -1)
    for i in range(ndim):
        child = states.clone()
        child[:, i] += 1
        inside = child[:, i] < height
        children[inside, i] = torch.searchsorted(key, (child[inside].sort(1).values * place).sum(1))
    level = states.sum(1)
    levels = torch.argsort(level, stable=True).split(torch.bincount(level).tolist())
    return SortedGraph(states, children, torch.ones(len(states), dtype=torch.bool), tuple(levels))


def shuffle_dimensions(
    states: Tensor, masks: Tensor, policy: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Permute the dimensions of each row (B, n), and the actions (B, A) with them."""
    # sorted on the CPU, so that ties fall the same for every device
    order = torch.rand(states.shape, generator=rng, device=rng.device, dtype=torch.float32).cpu().argsort(1)
    order = order.to(states.device)
    actions = torch.cat([order, order.new_full((len(states), 1), states.shape[1])], dim=1)
    return states.gather(1, order), masks.gather(1, actions), policy.gather(1, actions)


def sorted_expert(ndim: int, height: int, log_reward: Tensor, graph: SortedGraph) -> Expert:
    """The expert over all states from the rewards (S,) of the sorted ones."""
    flows = optimal_flows(graph, log_reward)
    images = torch.full((len(graph.states),), math.lgamma(ndim + 1), dtype=torch.float64)
    for position in range(height):
        images -= torch.lgamma((graph.states == position).sum(1).double() + 1)
    images = images.exp().round()
    mask = graph.mask(torch.arange(len(graph.states)))
    return Expert(graph.states, flows.policy.float(), mask, flows.visit * images, images, shuffle_dimensions)
