"""Sampling of trajectories in tensors of fixed sizes, as a CUDA graph needs, without waiting for the device.

Every trajectory takes as many steps as the longest possible one, and repeats its exit where it has ended. So
all of them are evaluated at each step, which `rollouts.sample` avoids.

Shapes as in `rollouts`, with T steps of the longest possible trajectory and K = B * T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genflow import exact
from genflow.draws import gumbel_noise, sample_actions
from genflow.errors import GenflowError
from genflow.interfaces.transitions import Transitions
from genflow.rollouts import Rollouts, Trace, arranged


@dataclass(frozen=True, eq=False)
class FixedRollouts:
    """Trajectories whose rewards are not yet known.

    Attributes:
        transitions: the transitions of the task.
        states, masks, actions, valid: (M, K, ...) of each row, as in `Rollouts`, ordered by trajectory.
        logits, cache: (M, K, ...) what the policies say of each row's state.
        final: (M, B, *state_shape) terminal states.
        stuck: (M, B) where no action was allowed at some step.
        moving: (M, B) what did not end.
    """

    transitions: Transitions
    states: Tensor
    masks: Tensor
    actions: Tensor
    valid: Tensor
    logits: Tensor
    cache: tuple[Tensor, ...]
    final: Tensor
    stuck: Tensor
    moving: Tensor

    def require_ended(self) -> None:
        """Raise an error unless all trajectories have ended; the device is waited for.

        Raises:
            GenflowError: one reached a dead end, or is longer than the task says is possible.
        """
        if not (self.stuck | self.moving).any():
            return
        if self.stuck.any():
            raise exact.dead_end(self.final[self.stuck][0])
        raise GenflowError(
            f"a trajectory did not end within {self.valid.shape[1] // self.final.shape[1]} steps, which"
            f" {type(self.transitions).__name__}.max_steps says is the most"
        )

    def rollouts(self, log_reward: Tensor) -> Rollouts:
        """Return the rollouts, with log R (M, B) of the terminal states."""
        places = torch.arange(self.valid.shape[1], device=log_reward.device).expand_as(self.valid)
        rows = self.states, places, self.masks, self.actions, self.valid, places
        length = self.valid.shape[1] // log_reward.shape[1]
        return arranged(
            self.transitions, self.states, self.logits, self.cache, rows, self.final, log_reward, length
        )


@torch.no_grad()
def sample_fixed(transitions: Transitions, trace: Trace, uniform: Tensor, epsilon: Tensor) -> FixedRollouts:
    """Take T steps with B trajectories of each of M policies.

    Args:
        transitions: the transitions of the task.
        trace: evaluates the policies.
        uniform: (T, M, B, A+1) random numbers from 0 to 1.
        epsilon: () probability that an action is uniformly random among the allowed ones.
    """
    exit_action, start = transitions.n_actions - 1, transitions.initial_state
    gumbel, explored = gumbel_noise(uniform), uniform[..., -1:] < epsilon
    states = start.expand(*uniform.shape[1:3], *start.shape)
    moving = torch.ones(uniform.shape[1:3], dtype=torch.bool, device=uniform.device)
    any_stuck, steps = ~moving, []
    for own_gumbel, own_explored in zip(gumbel, explored, strict=True):
        logits, cache = trace(states)
        masks = transitions.forward_masks(states)
        actions, stuck = sample_actions(logits.masked_fill(own_explored, 0.0), own_gumbel, masks)
        any_stuck, valid, moving = any_stuck | stuck, moving, moving & (actions != exit_action)
        steps.append((states, masks, actions, valid, logits, *cache))
        # what has ended repeats its exit
        states = transitions.step(states, actions.masked_fill(~moving, exit_action))
    rows = (torch.stack(parts, 2).flatten(1, 2) for parts in zip(*steps, strict=True))
    every, masks, actions, valid, logits, *kept = rows
    return FixedRollouts(
        transitions, every, masks, actions, valid, logits, tuple(kept), states, any_stuck, moving
    )
