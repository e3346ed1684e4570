"""How policies reach given states: exactly through all their ancestors, or by trajectories sampled backwards.

Shapes: M policies, K given states, S ancestors of these states, A actions (the last is exit), B trajectories.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from genflow.errors import GenflowError
from genflow.exact import NO_CHILD, StateGraph
from genflow.interfaces.transitions import Transitions
from genflow.rollouts import MAX_STEPS, Trajectories

#: the most ancestors of states whose probability is computed exactly, and the most entries of their table
MAX_ANCESTORS, MAX_TABLE = 50_000, 2**26
#: states in which policies are evaluated at once
MAX_ROWS = 4096

#: torchgfn states (B, *state_shape) -> logits (M, B, A)
Policy = Callable[[Tensor], Tensor]


class Ancestry(NamedTuple):
    """All states from which some given states can be reached.

    Attributes:
        graph: the ancestors, the given states among them, and one more state, the last, that stands for all
            states outside.
        places: (K,) index of each given state, the last for one that cannot be reached.
        reached: (K,) whether a trajectory can end there.
    """

    graph: StateGraph
    places: Tensor
    reached: Tensor


def ancestry(transitions: Transitions, states: Tensor) -> Ancestry | None:
    """Find all ancestors of states (K, *state_shape) by going backwards.

    Returns:
        The ancestry, or None if there are too many ancestors.
    """
    limit = min(MAX_ANCESTORS, MAX_TABLE // transitions.n_actions)
    env, start = transitions.env, transitions.initial_state
    shape = start.shape
    known: dict[bytes, int] = {}
    found: list[Tensor] = []

    def number(rows: Tensor) -> tuple[Tensor, Tensor]:
        """The indices of rows (B, n), and which of the different ones are new."""
        unique, inverse = rows.unique(dim=0, return_inverse=True)
        before = len(known)
        keys = [row.tobytes() for row in unique.numpy()]
        numbers = torch.tensor([known.setdefault(key, len(known)) for key in keys], dtype=torch.long)
        fresh = unique[numbers >= before]
        found.append(fresh)
        return numbers[inverse], fresh

    number(start.reshape(1, -1))  # a graph begins with its initial state
    places, fresh = number(states.reshape(len(states), -1))
    edges: list[tuple[Tensor, Tensor, Tensor]] = []
    while len(fresh):
        if len(known) > limit:
            return None
        level = fresh.reshape(-1, *shape)
        rows, actions = env.States(level).backward_masks.nonzero(as_tuple=True)
        if not len(rows):
            break
        back = env.backward_step(env.States(level[rows]), env.actions_from_tensor(actions[:, None])).tensor
        children, _ = number(fresh[rows])
        parents, fresh = number(back.reshape(len(rows), -1))
        edges.append((parents, actions, children))
    every = torch.cat(found).reshape(-1, *shape)
    masks = transitions.forward_masks(every)
    none = torch.empty(0, dtype=torch.long)
    parents, actions, children = (torch.cat(part) for part in zip((none,) * 3, *edges, strict=True))
    real = masks[parents, actions]
    depth = _depths(len(every), parents[real], children[real])
    # what the initial state does not lead to is no state, so that no policy is asked there
    kept = depth >= 0
    real &= kept[parents]
    outside = int(kept.sum())
    numbers = torch.where(kept, kept.cumsum(0) - 1, outside)
    only_exit = torch.zeros_like(masks[:1])
    only_exit[:, -1] = True
    allowed = torch.cat([masks[kept], only_exit])
    table = torch.where(allowed[:, :-1], outside, NO_CHILD).int()
    table[numbers[parents[real]], actions[real]] = numbers[children[real]].int()
    levels = torch.cat([depth[kept], depth.max()[None] + 1])
    order = levels.argsort(stable=True).split(torch.bincount(levels).tolist())
    graph = StateGraph(torch.cat([every[kept], start[None]]), table, allowed[:, -1], tuple(order))
    return Ancestry(graph, numbers[places], kept[places] & masks[places, -1])


def _depths(count: int, parents: Tensor, children: Tensor) -> Tensor:
    """The most steps (count,) from state 0, the initial one, to each; -1 where it does not lead."""
    depth = torch.full((count,), -count - 1)
    depth[0] = 0
    for _ in range(count):
        deeper = depth.scatter_reduce(0, children, depth[parents] + 1, "amax")
        if deeper.equal(depth):
            return depth.where(depth >= 0, -1)
        depth = deeper
    raise GenflowError("this task leads back to states that a trajectory has left; it has no probabilities")


class Backwards(NamedTuple):
    """B trajectories that were drawn backwards from given states.

    Attributes:
        steps: rows (R,) among them, the states (R, *state_shape) before the step and the actions (R,) taken
            there, of each step, the last of the trajectories first.
        log_pb: (B,) float64 log P_B.
        complete: (B,) whether one comes from the initial state by actions that are allowed.
    """

    steps: list[tuple[Tensor, Tensor, Tensor]]
    log_pb: Tensor
    complete: Tensor

    def forwards(self, shape: tuple[int, int]) -> Trajectories:
        """The same from the first step on, of states that were (M, C) = `shape`; all must be complete."""
        rows, states, actions = self.steps[0]
        lengths = torch.stack([torch.bincount(rows, minlength=len(self.log_pb)) for rows, _, _ in self.steps])
        size = (len(self.steps), len(rows))
        all_states = states[None].expand(size[0], *states.shape).clone()
        all_actions = actions[None].expand(size).clone()
        last = lengths.sum(0) - 1
        for back, (rows, states, actions) in enumerate(self.steps):
            all_states[last[rows] - back, rows] = states
            all_actions[last[rows] - back, rows] = actions
        valid = torch.arange(size[0], device=last.device)[:, None] <= last
        return Trajectories(*(part.unflatten(1, shape) for part in (all_states, all_actions, valid)))


@torch.no_grad()
def sample_backwards(transitions: Transitions, states: Tensor, rng: torch.Generator) -> Backwards:
    """Draw a trajectory to each of some terminal states (B, *state_shape) with the P_B of the task.

    Args:
        transitions: the transitions of the task.
        states: from which to go back.
        rng: generator of the random numbers, on the device of the states.
    """
    env, start = transitions.env, transitions.initial_state
    num, device = len(states), states.device
    under_way = torch.arange(num, device=device)
    log_pb = torch.zeros(num, dtype=torch.float64, device=device)
    exits = torch.full((num,), transitions.n_actions - 1, device=device)
    steps = [(under_way, states, exits)]
    complete = torch.zeros(num, dtype=torch.bool, device=device)
    for _ in range(MAX_STEPS):
        home = (states == start).flatten(1).all(1)
        complete[under_way[home]] = True
        probs = transitions.backward_probs(states)
        going = ~home & (probs > 0).any(1)
        if not going.any():
            break
        under_way, states, probs = under_way[going], states[going], probs[going]
        actions = probs.multinomial(1, generator=rng)[:, 0]
        log_pb[under_way] += probs.gather(1, actions[:, None])[:, 0].log()
        states = env.backward_step(env.States(states), env.actions_from_tensor(actions[:, None])).tensor
        steps.append((under_way, states, actions))
    for rows, before, actions in steps:
        allowed = transitions.forward_masks(before)[torch.arange(len(rows), device=device), actions]
        complete[rows[~allowed]] = False
    return Backwards(steps, log_pb, complete)


@torch.no_grad()
def sampled_log_probabilities(
    transitions: Transitions, policy: Policy, state: Tensor, num: int, rng: torch.Generator
) -> Tensor:
    """Estimate the log probability (M,) that each policy ends in a state, by importance sampling.

    Trajectories are drawn backwards from the state with the P_B of the task, and weighted by P_F / P_B. The
    mean weight is an unbiased estimate of the probability, so its logarithm is a lower bound on average
    (Burda et al., "Importance weighted autoencoders", 2016), which tightens with more trajectories.

    Args:
        transitions: the transitions of the task.
        policy: evaluates the policies.
        state: (*state_shape).
        num: B, the number of trajectories.
        rng: generator of the random numbers.

    Returns:
        (M,) float64, minus infinity where no trajectory leads to the state.
    """
    drawn = sample_backwards(transitions, state.expand(num, *state.shape), rng)
    weights = log_pf_of(transitions, policy, drawn) - drawn.log_pb
    return weights.masked_fill(~drawn.complete, -torch.inf).logsumexp(1) - math.log(num)


@torch.no_grad()
def log_pf_of(transitions: Transitions, policy: Policy, drawn: Backwards) -> Tensor:
    """Log P_F (M, B) in float64 of trajectories that were drawn backwards; 0 for one that is not complete."""
    rows, states, actions = (torch.cat(parts) for parts in zip(*drawn.steps, strict=True))
    real = drawn.complete[rows]
    rows, states, actions = rows[real], states[real], actions[real]
    start = transitions.initial_state
    total = torch.zeros(len(policy(start[None])), len(drawn.log_pb), dtype=torch.float64)
    ids = transitions.state_ids(states)
    # policies are asked once in each different state, of which small tasks have few
    different, place = (
        ids.unique(return_inverse=True)
        if ids is not None
        else states.flatten(1).unique(dim=0, return_inverse=True)
    )
    first = torch.empty(len(different), dtype=torch.long).scatter_(0, place, torch.arange(len(place)))
    order = place.argsort(stable=True)
    visits = place.bincount(minlength=len(different)).split(MAX_ROWS)
    parts = zip(first.split(MAX_ROWS), order.split([int(each.sum()) for each in visits]), visits, strict=True)
    for asked, own, times in parts:
        log_pf = _log_pf(transitions, policy, states[asked])
        at = torch.arange(len(asked)).repeat_interleave(times)
        total.index_add_(1, rows[own], log_pf[:, at, actions[own]])
    return total


def _log_pf(transitions: Transitions, policy: Policy, states: Tensor) -> Tensor:
    """Log P_F (M, B, A) of all actions in states (B, *state_shape)."""
    masks = transitions.forward_masks(states)
    return policy(states).double().masked_fill(~masks, -torch.inf).log_softmax(-1)
