"""Sampling of trajectories with all policies of a population at once.

Trajectories in the same state share one evaluation of the policy, and finished trajectories are dropped.

Shapes: M policies, B trajectories each, T steps of the longest, U evaluated states a policy, K rows a policy
(a row is one step of one trajectory; rows are ordered by trajectory, then by step), R trajectories still
under way, A actions (the last is exit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from genflow import exact
from genflow.draws import gumbel_noise, sample_actions
from genflow.errors import GenflowError
from genflow.interfaces.transitions import Transitions

#: torchgfn states (M, U, *state_shape) -> logits (M, U, A) of each policy there, and what
#: `PolicyArch.backward` needs, (M, U, ...) each
Trace = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
MAX_STEPS = 10_000
#: trajectories of each policy for an estimate of log Z
LOG_Z_TRAJECTORIES = 256
#: the most steps whose random numbers are drawn at once, and the most numbers in one draw
NOISE_STEPS, MAX_NOISE = 16, 2**20
#: the fraction of rows that sharing states or dropping trajectories must save to outweigh its own cost
WORTHWHILE = 0.1


@dataclass(frozen=True, eq=False)
class Rollouts:
    """B trajectories of each of M policies.

    Attributes:
        transitions: the transitions of the task.
        states: (M, U, *state_shape) states in which the policies were evaluated. Several rows may share one.
        logits: (M, U, A) logits of the policies in these states.
        cache: tensors (M, U, ...) that `PolicyArch.backward` needs.
        index: (M, K) index in `states` of each row's state.
        masks: (M, K, A) allowed actions. Padding rows allow every action.
        actions: (M, K) actions taken.
        valid: (M, K) False for padding rows.
        exits: (M, K) whether the action is exit.
        log_pb: (M, K) log P_B of the step under the backward policy of the task, 0 for exit.
        places: (M, K) trajectory * T + step, for `pad`.
        log_reward: (M, B) log R of the terminal states.
        final: (M, B, *state_shape) terminal states.
        length: T.
    """

    transitions: Transitions
    states: Tensor
    logits: Tensor
    cache: tuple[Tensor, ...]
    index: Tensor
    masks: Tensor
    actions: Tensor
    valid: Tensor
    exits: Tensor
    log_pb: Tensor
    places: Tensor
    log_reward: Tensor
    final: Tensor
    length: int

    @cached_property
    def inputs(self) -> Tensor:
        """Policy inputs (M, K, s) of each row's state."""
        return self.transitions.inputs(self.rows(self.states).flatten(0, 1)).unflatten(0, self.index.shape)

    def log_z(self) -> Tensor:
        """Estimate log Z (M,) as the mean over trajectories of log(R P_B / P_F).

        It is the log Z that minimises the trajectory balance loss of these policies; its expectation is at
        most the true log Z, and equal to it for policies that sample the target exactly.
        """
        log_pf = self.log_pf(self.logits)
        return (self.log_reward + self.total(self.log_pb - log_pf)).mean(1).float()

    def rows(self, values: Tensor) -> Tensor:
        """Expand values (M, U, ...) of evaluated states to the rows (M, K, ...)."""
        return _rows(values, self.index)

    def log_pf(self, logits: Tensor) -> Tensor:
        """Return log P_F (M, K) of the actions taken, from logits (M, U, A) in `states`; 0 for padding."""
        masks = self.transitions.forward_masks(self.states)
        log_probs = logits.masked_fill(~masks, -torch.inf).log_softmax(-1)
        taken = log_probs.flatten(1).gather(1, self.index * masks.shape[-1] + self.actions)
        return taken.masked_fill(~self.valid, 0.0)

    def total(self, values: Tensor) -> Tensor:
        """Sum row values (M, K) over each trajectory, which gives (M, B)."""
        trajectory = self.places // self.length
        return values.new_zeros(self.log_reward.shape).scatter_add(
            1, trajectory, values.masked_fill(~self.valid, 0.0)
        )

    def pad(self, values: Tensor) -> Tensor:
        """Arrange row values (M, K) as (M, B, T), with 0 after the end of a trajectory."""
        members, trajectories = self.log_reward.shape
        flat = values.new_zeros(members, trajectories * self.length)
        return flat.scatter_add(1, self.places, values.masked_fill(~self.valid, 0.0)).reshape(
            members, trajectories, self.length
        )


class Trajectories(NamedTuple):
    """Trajectories that are there already, each ended by exit.

    Attributes:
        states: (T, M, C, *state_shape) the state before each step.
        actions: (T, M, C) the action taken there.
        valid: (T, M, C) False after the end of a trajectory.
    """

    states: Tensor
    actions: Tensor
    valid: Tensor


@torch.no_grad()
def sample(
    transitions: Transitions,
    trace: Trace,
    shape: tuple[int, int],
    epsilon: float,
    rng: torch.Generator,
    beside: Trajectories | None = None,
) -> Rollouts:
    """Sample B trajectories of each of M policies.

    Args:
        transitions: the transitions of the task.
        trace: evaluates the policies, e.g. ``population.trace``.
        shape: (M, B).
        epsilon: probability that an action is uniformly random among the allowed ones.
        rng: generator of all random numbers. Everything is computed on its device.
        beside: C trajectories of each policy that the rollouts have behind the sampled ones.

    Raises:
        GenflowError: a trajectory does not end or reaches a dead end, or a reward is not positive and finite.
    """
    device, exit_action = rng.device, transitions.n_actions - 1
    start = transitions.initial_state
    states = start.expand(*shape, *start.shape)
    every = torch.arange(shape[1], device=device).expand(shape)
    trajectory, moving = every, torch.ones(shape, dtype=torch.bool, device=device)
    noise = _noise(shape, transitions.n_actions, epsilon, rng)
    evaluated: list[tuple[Tensor, ...]] = []
    steps: list[tuple[Tensor, ...]] = []
    n_evaluated, sharing = 0, True
    for step in range(MAX_STEPS):
        under_way = states.shape[1]
        distinct, index = _distinct(transitions, states, step) if sharing else (states, None)
        sharing = index is not None
        logits, cache = trace(distinct)
        evaluated.append((distinct, logits, *cache))
        gumbel, explored = next(noise)
        masks = transitions.forward_masks(states)
        scores = logits if index is None else _rows(logits, index)
        if explored is not None:
            scores = scores.masked_fill(explored[:, :under_way], 0.0)
        actions, stuck = sample_actions(scores, gumbel[:, :under_way], masks)
        valid, moving = moving, moving & (actions != exit_action)
        steps.append(
            (
                states,
                (every[:, :under_way] if index is None else index) + n_evaluated,
                masks,
                actions,
                valid,
                trajectory,
                torch.full_like(trajectory, step),
            )
        )
        n_evaluated += distinct.shape[1]
        most = int(
            moving.sum(1).amax().masked_fill(stuck.any(), -1)
        )  # one transfer from the device for both results
        if most < 0:
            raise exact.dead_end(states[stuck][0])
        if not most:
            length = len(steps)
            if beside is not None:
                length = max(length, len(beside.actions))
                found, rows = _evaluated(transitions, trace, beside, n_evaluated, shape[1])
                evaluated.append(found)
                steps.append(rows)
                shape = shape[0], shape[1] + beside.actions.shape[2]
            return _in_order(transitions, shape, length, evaluated, steps)
        if most <= (1 - WORTHWHILE) * under_way:
            ahead = (~moving).byte().argsort(dim=1, stable=True)[:, :most]
            states, actions, moving, trajectory = (
                _rows(values, ahead) for values in (states, actions, moving, trajectory)
            )
        # finished trajectories repeat their exit, as padding
        states = transitions.step(states, actions.masked_fill(~moving, exit_action))
    raise GenflowError(f"a trajectory did not end within {MAX_STEPS} steps")


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Gather values (M, R, ...) at indices (M, K), which gives (M, K, ...)."""
    wide = index.reshape(*index.shape, *[1] * (values.ndim - 2))
    return values.gather(1, wide.expand(-1, -1, *values.shape[2:]))


def _noise(
    shape: tuple[int, int], n_actions: int, epsilon: float, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield for each step Gumbel noise (M, B, A), and a mask (M, B, 1) of trajectories that explore."""
    n_steps = max(1, min(NOISE_STEPS, MAX_NOISE // (shape[0] * shape[1] * (n_actions + 1))))
    while True:
        uniform = torch.rand(
            n_steps, *shape, n_actions + 1, generator=rng, device=rng.device, dtype=torch.float32
        )
        gumbel, explored = gumbel_noise(uniform), uniform[..., -1:] < epsilon
        yield from ((gumbel[i], explored[i] if epsilon else None) for i in range(n_steps))


def _distinct(transitions: Transitions, states: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
    """Find the distinct states (M, U, *state_shape) of each policy.

    The second result is the index (M, R) of each trajectory's state among them, or None if all states are
    kept.
    """
    if step == 0:  # all trajectories are in the initial state
        return states[:, :1], torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
    keys = transitions.state_ids(states)
    if keys is None:
        return states, None
    ordered, order = keys.sort(dim=1)
    rank = torch.zeros_like(keys)
    torch.cumsum(ordered[:, 1:] != ordered[:, :-1], 1, out=rank[:, 1:])
    size = int(rank[:, -1].max()) + 1
    if size > (1 - WORTHWHILE) * states.shape[1]:
        return states, None
    index = torch.empty_like(rank).scatter_(1, order, rank)
    wide = index.reshape(*index.shape, *[1] * (states.ndim - 2)).expand_as(states)
    # policies with fewer distinct states than others are padded with initial states
    distinct = transitions.initial_state.expand(len(states), size, *states.shape[2:]).clone()
    return distinct.scatter_(1, wide, states), index


def _evaluated(
    transitions: Transitions, trace: Trace, given: Trajectories, n_evaluated: int, first: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Evaluate policies along given trajectories, the first of which is number `first`.

    Returns:
        What `sample` gathers of a step, of all steps of them: of evaluated states, and of rows.
    """
    length, _, trajectories = given.actions.shape
    states, actions, valid = (part.movedim(0, 1).flatten(1, 2) for part in given)  # (M, T*C, ...)
    distinct, index = _distinct(transitions, states, 1)
    logits, cache = trace(distinct)
    places = torch.arange(length * trajectories, device=actions.device).expand_as(actions)
    rows = (
        states,
        (places if index is None else index) + n_evaluated,
        transitions.forward_masks(states),
        actions,
        valid,
        places % trajectories + first,
        places // trajectories,
    )
    return (distinct, logits, *cache), rows


def _in_order(
    transitions: Transitions,
    shape: tuple[int, int],
    length: int,
    evaluated: list[tuple[Tensor, ...]],
    steps: list[tuple[Tensor, ...]],
) -> Rollouts:
    """Build the rollouts, with the rows of each policy sorted by trajectory and step and padding last."""
    trajectories = shape[1]
    states, logits, *cache = (torch.cat(parts, 1) for parts in zip(*evaluated, strict=True))
    row_states, index, masks, actions, valid, trajectory, step = (
        torch.cat(parts, 1) for parts in zip(*steps, strict=True)
    )
    places = torch.where(valid, trajectory * length + step, trajectories * length)
    order = places.argsort(dim=1)[:, : int(valid.sum(1).max())]
    row_states, index, masks, actions, valid, places = (
        _rows(v, order) for v in (row_states, index, masks, actions, valid, places)
    )
    exits = valid & (actions == transitions.n_actions - 1)
    final = row_states[exits].reshape(*shape, *row_states.shape[2:])
    rows = row_states, index, masks, actions, valid, places
    return arranged(
        transitions, states, logits, tuple(cache), rows, final, log_rewards(transitions, final), length
    )


def log_rewards(transitions: Transitions, final: Tensor) -> Tensor:
    """Return log R (M, B) in float32 of terminal states (M, B, *state_shape).

    Raises:
        GenflowError: a reward is not positive and finite.
    """
    states = final.flatten(0, 1)
    log_reward = transitions.log_reward(states).float()
    exact.require_rewards(states, log_reward)
    return log_reward.reshape(final.shape[:2])


def arranged(
    transitions: Transitions,
    states: Tensor,
    logits: Tensor,
    cache: tuple[Tensor, ...],
    rows: tuple[Tensor, ...],
    final: Tensor,
    log_reward: Tensor,
    length: int,
) -> Rollouts:
    """Build the rollouts from rows that are ordered by trajectory and step: their states, and the fields
    `index`, `masks`, `actions`, `valid` and `places`.
    """
    row_states, index, masks, actions, valid, places = rows
    exits = valid & (actions == transitions.n_actions - 1)
    # the next row is the next state of the same trajectory unless this row exits
    steps = valid & ~exits
    log_pb = transitions.log_pb_where(steps, row_states, row_states.roll(-1, dims=1)).to(logits.dtype)
    return Rollouts(
        transitions=transitions,
        states=states,
        logits=logits,
        cache=cache,
        index=index,
        masks=masks | ~valid[..., None],
        actions=actions,
        valid=valid,
        exits=exits,
        log_pb=log_pb.masked_fill(~steps, 0.0),
        places=places.clamp(max=log_reward.shape[1] * length - 1),
        log_reward=log_reward,
        final=final,
        length=length,
    )
