"""Exact flows and distributions of enumerable tasks, by dynamic programming over their state graph.

Shapes: S states, A actions (the last one is exit), M policies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genflow.caching import bytes_of, cached_on
from genflow.errors import GenflowError
from genflow.schema import brief

NO_CHILD = -1
#: the most bytes of an expert's tables that are moved to another device, rather than what is drawn of them
MOVED_BYTES = 2**26
#: states whose edges are asked for at once
MAX_ROWS = 2**16


@dataclass(frozen=True, eq=False)
class StateGraph:
    """Every state of a task and the edges between them.

    Attributes:
        states: (S, *state_shape) torchgfn state tensors; state 0 is the initial one.
        children: (S, A-1) index of the state that each non-exit action leads to, `NO_CHILD` where it is not
            allowed.
        can_exit: (S,) whether a trajectory may end here.
        levels: index tensors in topological order: every edge leads from a level to a later one.
    """

    states: Tensor
    children: Tensor
    can_exit: Tensor
    levels: tuple[Tensor, ...]

    @cached_property
    def n_parents(self) -> Tensor:
        """(S,) number of parents of each state, over which the backward policy is uniform."""
        edges = self.children[self.children != NO_CHILD]
        return torch.bincount(edges.long(), minlength=len(self.states))

    @cached_property
    def sweep(self) -> Sweep:
        """The same graph with its states numbered in topological order."""
        n_states = len(self.states)
        order = torch.cat(self.levels)
        place = torch.empty(n_states + 1, dtype=torch.int32)
        place[order] = torch.arange(n_states, dtype=torch.int32)
        place[NO_CHILD] = n_states
        children = place[self.children[order].long()].T.contiguous()
        allowed = torch.cat([children != n_states, self.can_exit[order][None]])
        return Sweep(order, children, allowed, tuple(len(level) for level in self.levels))

    def mask(self, index: Tensor) -> Tensor:
        """Return the allowed actions of the states at `index`, as (len(index), A) bool."""
        return torch.cat([self.children[index] != NO_CHILD, self.can_exit[index, None]], dim=1)


@dataclass(frozen=True, eq=False)
class Sweep:
    """A state graph whose states are numbered by level, so that each level is a contiguous slice.

    Attributes:
        order: (S,) state index of each number.
        children: (A-1, S) number of the state that each non-exit action leads to, S where it is not allowed.
        allowed: (A, S) allowed actions.
        sizes: number of states of each level.
    """

    order: Tensor
    children: Tensor
    allowed: Tensor
    sizes: tuple[int, ...]

    def pieces(self, max_rows: int) -> Iterator[tuple[slice, list[slice]]]:
        """Yield slices of at most `max_rows` states, each with its parts that lie within one level."""
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        level = 0
        for first in range(0, ends[-1], max_rows):
            last, parts, start = min(first + max_rows, ends[-1]), [], first
            while start < last:
                parts.append(slice(start, min(ends[level], last)))
                start = parts[-1].stop
                level += start == ends[level]
            yield slice(first, last), parts


@dataclass(frozen=True, eq=False)
class Flows:
    """The flow that samples the target exactly under a backward policy.

    Attributes:
        state: (S,) log F(s).
        policy: (S, A) P_F(a | s) = F(s -> s') / F(s); rows sum to 1.
        visit: (S,) probability that a trajectory passes through a state.
        log_z: log of the partition function, log F(s_0).
    """

    state: Tensor
    policy: Tensor
    visit: Tensor
    log_z: float


#: applies a random symmetry of the task to each row of states (B, *state_shape), masks (B, A) and policies
#: (B, A), on the device of the states
Symmetry = Callable[[Tensor, Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor]]


class Expert:
    """Draws states of a task together with the optimal policy there, the target of distillation.

    Attributes:
        length: expected number of states on a trajectory of the optimal policy.
    """

    def __init__(
        self,
        states: Tensor,
        policy: Tensor,
        mask: Tensor,
        visit: Tensor,
        count: Tensor | None = None,
        symmetry: Symmetry | None = None,
    ) -> None:
        """Create an expert from every state, or from one representative of each class of symmetric states.

        Args:
            states: (S, *state_shape).
            policy: (S, A) optimal policy.
            mask: (S, A) allowed actions.
            visit: (S,) probability that an optimal trajectory passes through the state's class.
            count: (S,) number of states in each class; None means one.
            symmetry: maps drawn states to random states of their class.
        """
        self._tables, self._symmetry = (states, mask, policy), symmetry
        self.length = float(visit.sum())
        self._visit_cdf = (visit / visit.sum()).cumsum(0)
        count = torch.ones(len(states), dtype=torch.float64) if count is None else count
        self._uniform_cdf = (count / count.sum()).cumsum(0)

    def draw(
        self, num: int, uniform: float, rng: torch.Generator, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw `num` states with replacement, and the optimal policy in each.

        Args:
            num: B, the number of states.
            uniform: fraction of the states that is drawn uniformly. The others are drawn in proportion to
                their visit probability.
            rng: generator of the random numbers. Those of one on the CPU need not be waited for.
            device: where the result is.

        Returns:
            States (B, *state_shape), allowed actions (B, A) and optimal policies (B, A).
        """
        # inverse transform sampling, in float64 on the CPU, works with a generator on any device
        place = torch.rand(num, dtype=torch.float64, generator=rng, device=rng.device).cpu()
        split = num - round(uniform * num)
        index = torch.cat(
            [
                torch.searchsorted(self._visit_cdf, place[:split]),
                torch.searchsorted(self._uniform_cdf, place[split:]),
            ]
        )
        tables: tuple[Tensor, ...] = self._tables
        if bytes_of(tables) <= MOVED_BYTES:  # only an index moves then
            tables = cached_on(device, self, "tables", lambda: self._tables)
        index = index.clamp(max=len(tables[0]) - 1).to(tables[0].device)
        states, mask, policy = (table[index] for table in tables)
        if self._symmetry is not None:
            states, mask, policy = self._symmetry(states, mask, policy, rng)
        return states.to(device), mask.to(device), policy.to(device)


def require_rewards(states: Tensor, log_reward: Tensor) -> None:
    """Raise an error if a reward is not a positive finite number, because it defines no distribution.

    Args:
        states: (B, *state_shape).
        log_reward: (B,).

    Raises:
        GenflowError: names the first such state and its reward.
    """
    bad = ~log_reward.isfinite()
    if bad.any():
        state, value = states[bad][0], float(log_reward[bad][0])
        found = "negative or not a number" if math.isnan(value) else "0" if value < 0 else "infinite"
        raise GenflowError(
            f"the reward of state {brief(state.tolist())} is {found}; "
            "every object that a policy can make must have a finite reward above 0, e.g. by a small floor"
        )


def dead_end(state: Tensor) -> GenflowError:
    """Return the error for a state (*state_shape) in which no action is allowed."""
    return GenflowError(
        f"state {brief(state.tolist())} is a dead end: no action is allowed there, not even exit;"
        " allow exit there, or forbid what leads there"
    )


def require_ways_out(graph: StateGraph) -> None:
    """Raise an error if a task has a state in which no action is allowed.

    Raises:
        GenflowError: names the first such state.
    """
    stuck = ~graph.can_exit & (graph.children == NO_CHILD).all(1)
    if stuck.any():
        raise dead_end(graph.states[stuck][0])


def log_pb_of_edges(graph: StateGraph, log_pb: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Compute log P_B (S, A-1) in float64 of the step along each edge, -infinity where there is none.

    Args:
        graph: the states of a task.
        log_pb: maps indices of parents (E,) and of the states that they lead to (E,) to log P_B (E,).
    """
    edges = graph.children != NO_CHILD
    table = torch.full(edges.shape, -torch.inf, dtype=torch.float64)
    for index in torch.arange(len(edges)).split(MAX_ROWS):
        rows, actions = edges[index].nonzero(as_tuple=True)
        parents = index[rows]
        table[parents, actions] = log_pb(parents, graph.children[parents, actions].long()).double()
    return table


@torch.no_grad()
def optimal_flows(graph: StateGraph, log_reward: Tensor, log_pb: Tensor | None = None) -> Flows:
    """Solve for the flows by backward dynamic programming, F(s) = R(s) + sum over children F(s') P_B(s | s').

    Source: Bengio et al., "GFlowNet Foundations", JMLR 2023.

    Args:
        graph: the states of the task.
        log_reward: (S,) float64. Only entries of states in which a trajectory may end are read.
        log_pb: (S, A-1) float64 log P_B of the step along each edge, as `children` lists them; None if it is
            uniform over the parents of a state.

    Raises:
        GenflowError: a reward is not a positive finite number, or a state is a dead end.
    """
    log_reward = log_reward.detach()  # a learned model's carries an autograd graph
    require_rewards(graph.states, log_reward.masked_fill(~graph.can_exit, 0.0))
    logits = torch.full((len(graph.states), graph.children.shape[1] + 1), -torch.inf, dtype=torch.float64)
    logits[:, -1] = log_reward.double().masked_fill(~graph.can_exit, -torch.inf)
    log_flow = torch.empty(len(graph.states), dtype=torch.float64)
    log_parents = graph.n_parents.clamp(min=1).double().log()
    for index in reversed(graph.levels):
        child = graph.children[index].long()
        behind = -log_parents[child.clamp(min=0)] if log_pb is None else log_pb[index]
        inflow = log_flow[child.clamp(min=0)] + behind
        logits[index, :-1] = inflow.masked_fill(child == NO_CHILD, -torch.inf)
        log_flow[index] = logits[index].logsumexp(dim=1)
    if log_flow.isneginf().any():
        require_ways_out(graph)
    policy = (logits - log_flow[:, None]).exp()
    return Flows(log_flow, policy, (log_flow - log_flow[0]).exp(), float(log_flow[0]))


def terminal_distribution(
    graph: StateGraph, policy: Callable[[Tensor], Tensor], n_policies: int, max_rows: int
) -> Tensor:
    """Compute the exact probability that each of M policies ends in each state.

    One pass over the levels passes the probability of each state on to its children. The cost is linear in
    the number of edges.

    Args:
        graph: the states of the task.
        policy: maps state indices (B,) to logits (M, B, A).
        n_policies: M.
        max_rows: the most states that are evaluated at once, which bounds the memory.

    Returns:
        (M, S) float64, whose rows sum to 1.

    Raises:
        GenflowError: a policy's logits are not finite, or a state is a dead end.
    """
    sweep = graph.sweep
    n_states = len(sweep.order)
    # first the probability of passing through a state, later of ending there; the extra column is the target
    # of forbidden actions, whose probability is 0
    mass_MS = torch.zeros(n_policies, n_states + 1, dtype=torch.float64)
    mass_MS[:, :-1][:, sweep.order == 0] = 1.0
    for piece, levels in sweep.pieces(max_rows):
        logits_MAB = policy(sweep.order[piece]).cpu().transpose(1, 2).double()
        probs_MAB = logits_MAB.masked_fill(~sweep.allowed[:, piece], -torch.inf).softmax(dim=1)
        child_AB = sweep.children[:, piece].long()  # index_add_ is far slower with 32-bit indices
        for level in levels:
            within = slice(level.start - piece.start, level.stop - piece.start)
            flow_MAB = probs_MAB[:, :, within] * mass_MS[:, None, level]
            for action, child_B in enumerate(child_AB[:, within]):
                mass_MS.index_add_(1, child_B, flow_MAB[:, action])
            mass_MS[:, level] = flow_MAB[:, -1]
    end_MS = torch.empty(n_policies, n_states, dtype=torch.float64)
    end_MS[:, sweep.order] = mass_MS[:, :-1]
    if not torch.isfinite(end_MS).all():
        require_ways_out(graph)
        raise GenflowError(
            "a policy's logits are not finite, so it samples nothing; its weights are too large"
        )
    return end_MS
