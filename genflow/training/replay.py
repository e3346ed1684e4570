"""Replay of the best terminal states so far, by trajectories that are drawn backwards from them.

Source: rank-based weights as of Tripp, Daxberger and Hernandez-Lobato, "Sample-Efficient Optimization in the
Latent Space of Deep Generative Models via Weighted Retraining" (2020), which Genetic GFN (Kim et al. 2024)
takes too; the best k as in REINVENT's experience replay (Blaschke et al. 2020).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from genflow.ancestry import sample_backwards
from genflow.errors import GenflowError
from genflow.interfaces.transitions import Transitions
from genflow.rollouts import Trajectories

#: a state of rank r of N is drawn in proportion to 1 / (RANK_SHARE N + r)
RANK_SHARE = 0.01


class ReplayBuffer:
    """The terminal states of the highest reward so far, each once, of all policies of a training.

    Attributes:
        states: (C, *state_shape), the best first; what lies behind them is no state yet.
        log_reward: (C,) float64, minus infinity where there is none.
    """

    def __init__(
        self, transitions: Transitions, ratio: float, capacity: int, sampling: Literal["rank", "uniform"]
    ) -> None:
        """Make an empty one.

        Args:
            transitions: the transitions of the task, on the device of the policies.
            ratio: the fraction of a step's trajectories that are drawn from it.
            capacity: C, how many states it holds.
            sampling: by rank, or all alike.
        """
        start = transitions.initial_state
        self._transitions, self._ratio, self._sampling = transitions, ratio, sampling
        self.states = start.expand(capacity, *start.shape).clone()
        self.log_reward = torch.full((capacity,), -torch.inf, dtype=torch.float64, device=start.device)

    def __len__(self) -> int:
        """The number of states."""
        return int(self.log_reward.isfinite().sum())

    def share(self, batch_size: int) -> int:
        """How many of a batch's trajectories are drawn from it, which leaves one at least."""
        return min(batch_size - 1, round(self._ratio * batch_size)) if len(self) else 0

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of it."""
        return {"replay.states": self.states, "replay.log_reward": self.log_reward}

    def add(self, states: Tensor, log_reward: Tensor) -> None:
        """Take in terminal states (B, *state_shape) of rewards (B,)."""
        together = torch.cat([self.states, states])
        distinct, places = together.flatten(1).unique(dim=0, return_inverse=True)
        rewards = torch.cat([self.log_reward, log_reward.double()])
        best = rewards.new_full((len(distinct),), -torch.inf).scatter_reduce(0, places, rewards, "amax")
        order = best.argsort(descending=True, stable=True)[: len(self.states)]
        self.states[: len(order)] = distinct[order].unflatten(1, self.states.shape[1:])
        self.log_reward[: len(order)] = best[order]

    def sample(self, shape: tuple[int, int], rng: torch.Generator) -> Trajectories:
        """Draw trajectories (M, B) to states of the buffer with the P_B of the task.

        Raises:
            GenflowError: the environment's way back from a state is no way to it.
        """
        rank = torch.arange(len(self), dtype=torch.float64, device=rng.device)
        weights = (
            torch.ones_like(rank) if self._sampling == "uniform" else 1 / (RANK_SHARE * len(rank) + rank)
        )
        drawn = weights.multinomial(shape[0] * shape[1], replacement=True, generator=rng)
        found = sample_backwards(self._transitions, self.states[drawn], rng)
        if not found.complete.all():
            state = self.states[drawn][~found.complete][0].tolist()
            raise GenflowError(
                f"the environment leads to state {state}, and not back from it to the start by steps that"
                " lead there; leave out replay_ratio"
            )
        return found.forwards(shape)
