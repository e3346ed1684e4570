"""Sampling trajectories with a whole population of policies at once.

Shapes: M policies, B trajectories each, T steps of the longest, K kept rows a policy (a row is one step of one
trajectory; rows are ordered by trajectory, then by step), s inputs, A actions (the last is exit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genflow.errors import GenflowError

if TYPE_CHECKING:
    from gfn.env import DiscreteEnv

#: logits of a population: inputs (M, B, s) -> (M, B, A)
Forward = Callable[[Tensor], Tensor]
#: state tensors (N, *state_shape) -> policy inputs (N, s)
Inputs = Callable[[Tensor], Tensor]
MAX_STEPS = 10_000


@dataclass(frozen=True, eq=False)
class Rollouts:
    """B trajectories of each of M policies.

    Attributes:
        inputs: (M, K, s) policy inputs of each row's state.
        masks: (M, K, A) allowed actions; padding rows allow every action.
        actions: (M, K) action taken.
        valid: (M, K) False for padding rows.
        exits: (M, K) whether the row's action is exit.
        log_pb: (M, K) log P_B of the step under a uniform backward policy; 0 for exit.
        places: (M, K) trajectory * T + step, for `pad`.
        log_reward: (M, B) of the terminal states.
        final: (M, B, *state_shape) terminal states.
        length: T.
    """

    inputs: Tensor
    masks: Tensor
    actions: Tensor
    valid: Tensor
    exits: Tensor
    log_pb: Tensor
    places: Tensor
    log_reward: Tensor
    final: Tensor
    length: int

    def log_pf(self, logits: Tensor) -> Tensor:
        """(M, K, A) logits -> (M, K) log P_F of the actions taken, 0 for padding rows."""
        log_probs = logits.masked_fill(~self.masks, -torch.inf).log_softmax(dim=-1)
        taken = log_probs.gather(-1, self.actions[..., None]).squeeze(-1)
        return taken.masked_fill(~self.valid, 0.0)

    def total(self, values: Tensor) -> Tensor:
        """Sum row values (M, K) over each trajectory: (M, B)."""
        trajectory = self.places // self.length
        return values.new_zeros(self.log_reward.shape).scatter_add(1, trajectory, values.masked_fill(~self.valid, 0.0))

    def pad(self, values: Tensor) -> Tensor:
        """Row values (M, K) -> (M, B, T), 0 after a trajectory's end."""
        members, trajectories = self.log_reward.shape
        flat = values.new_zeros(members, trajectories * self.length)
        return flat.scatter_add(1, self.places, values.masked_fill(~self.valid, 0.0)).reshape(members, trajectories, self.length)


def sample(env: DiscreteEnv, inputs: Inputs, forward: Forward, shape: tuple[int, int], epsilon: float, rng: torch.Generator) -> Rollouts:
    """Sample shape = (M, B) trajectories; with probability `epsilon` a step takes a uniformly random allowed action."""
    with torch.no_grad():
        states_TMB, actions_TMB, final, log_reward = _roll(env, inputs, forward, shape, epsilon, rng)
        return _compact(env, inputs, states_TMB, actions_TMB, final, log_reward)


def _roll(
    env: DiscreteEnv, inputs: Inputs, forward: Forward, shape: tuple[int, int], epsilon: float, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    members, trajectories = shape
    count, exit_action = members * trajectories, env.n_actions - 1
    states = env.s0.expand(count, *env.s0.shape).clone()
    done = torch.zeros(count, dtype=torch.bool, device=states.device)
    all_states, all_actions = [], []
    for _ in range(MAX_STEPS):
        mask = env.States(states).forward_masks
        logits = forward(inputs(states).reshape(members, trajectories, -1)).reshape(count, -1)
        # a policy that has diverged to NaN walks at random, so that its loss is NaN, which the training loop explains
        probs = logits.masked_fill(~mask, -torch.inf).softmax(dim=-1).nan_to_num(1.0) * mask
        if epsilon:
            probs = (1 - epsilon) * probs + epsilon * mask / mask.sum(-1, keepdim=True)
        # argmax of p / Exp(1) draws from p, without a kernel launch a row
        actions = (probs / torch.empty_like(probs).exponential_(generator=rng)).argmax(dim=-1)
        actions = actions.masked_fill(done, -1)
        all_states.append(states)
        all_actions.append(actions)
        moving = (actions != -1) & (actions != exit_action)
        done = ~moving
        rows = moving.nonzero().squeeze(-1)
        if not len(rows):
            break
        stepped = env.step(env.States(states[rows]), env.actions_from_tensor(actions[rows, None])).tensor
        states = states.index_copy(0, rows, stepped)
    else:
        raise GenflowError(f"a trajectory did not end within {MAX_STEPS} steps")
    log_reward = env.log_reward(env.States(states)).reshape(shape)
    state_shape = env.s0.shape
    return (
        torch.stack(all_states).reshape(-1, *shape, *state_shape),
        torch.stack(all_actions).reshape(-1, *shape),
        states.reshape(*shape, *state_shape),
        log_reward,
    )


def _compact(env: DiscreteEnv, inputs: Inputs, states_TMB: Tensor, actions_TMB: Tensor, final: Tensor, log_reward: Tensor) -> Rollouts:
    """Drop the steps after each trajectory's end; members with fewer rows are padded to the longest."""
    length, members, trajectories = actions_TMB.shape
    actions = actions_TMB.permute(1, 2, 0).reshape(members, -1)
    kept = actions != -1
    rows = int(kept.sum(1).max())
    places = torch.argsort(~kept, dim=1, stable=True)[:, :rows]
    valid = kept.gather(1, places)
    states = states_TMB.movedim(0, 2).reshape(members, trajectories * length, -1)
    states = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1])).reshape(members * rows, *env.s0.shape)
    wrapped = env.States(states)
    masks = wrapped.forward_masks.reshape(members, rows, -1)
    n_parents = wrapped.backward_masks.sum(-1).reshape(members, rows).clamp(min=1)
    actions = actions.gather(1, places).clamp(min=0)
    exits = valid & (actions == env.n_actions - 1)
    # the next row is the next state of the same trajectory unless this row exits
    log_pb = -n_parents.roll(-1, dims=1).to(log_reward.dtype).log().masked_fill(exits | ~valid, 0.0)
    return Rollouts(
        inputs=inputs(states).reshape(members, rows, -1),
        masks=masks | ~valid[..., None],
        actions=actions,
        valid=valid,
        exits=exits,
        log_pb=log_pb,
        places=places,
        log_reward=log_reward,
        final=final,
        length=length,
    )
