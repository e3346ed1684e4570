"""Transitions of the hypergrid by index arithmetic.

Shapes: n dimensions, h positions each; states (..., n) int64; A = n + 1 actions, s = n*h inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genflow import GenflowError, Reward, Transitions
from genflow.schema import brief


class GridTransitions(Transitions):
    """Action i increments dimension i, the last one exits."""

    def __init__(
        self, make: Callable[..., Any], device: torch.device, ndim: int, height: int, reward: Reward
    ) -> None:
        super().__init__(make, device)
        self.height, self.reward = height, reward
        self._n_actions = ndim + 1
        # a state's number must fit 64 bits
        self._numbered = height**ndim < 2**63
        weights = [height**i if self._numbered else 0 for i in reversed(range(ndim))]
        self._increments = torch.eye(ndim + 1, ndim, dtype=torch.long, device=device)
        self._weights = torch.tensor(weights, device=device)
        self._first_inputs = height * torch.arange(ndim, device=device)
        self._start = torch.zeros(ndim, dtype=torch.long, device=device)

    @property
    def n_actions(self) -> int:
        """n + 1."""
        return self._n_actions

    @property
    def initial_state(self) -> Tensor:
        """(n,) zeros."""
        return self._start

    def forward_masks(self, states: Tensor) -> Tensor:
        """(..., n) -> (..., n+1): every dimension that is not at the top, and exit."""
        masks = torch.ones(*states.shape[:-1], self._n_actions, dtype=torch.bool, device=states.device)
        torch.lt(states, self.height - 1, out=masks[..., :-1])
        return masks

    def n_parents(self, states: Tensor) -> Tensor:
        """(..., n) -> (...) dimensions that are not at 0."""
        return (states > 0).sum(-1)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """(..., n), (...) -> (..., n)."""
        return states + self._increments[actions]

    def state_ids(self, states: Tensor) -> Tensor | None:
        """(..., n) -> (...) row-major number of the state, where it fits 64 bits."""
        return (states * self._weights).sum(-1) if self._numbered else None

    def inputs(self, states: Tensor) -> Tensor:
        """(B, n) -> (B, n*h) one-hot.

        Built in place: the preprocessor's int64 detour costs most of an evaluation.
        """
        size = (self._n_actions - 1) * self.height
        one_hot = torch.zeros(len(states), size, dtype=torch.float32, device=states.device)
        return one_hot.scatter_(1, self.one_hot_indices(states), 1.0)

    def one_hot_indices(self, states: Tensor) -> Tensor:
        """(..., n) -> (..., n) int64: the input of each dimension that is 1."""
        return states + self._first_inputs

    @torch.no_grad()
    def log_reward(self, states: Tensor) -> Tensor:
        """(B, n) -> (B,) float64.

        Raises:
            GenflowError: the reward returns no numbers, another number of them, or one that is not positive
                and finite.
        """
        name, scores = type(self.reward).__name__, self.reward.score(states)
        try:
            scores = torch.as_tensor(scores, dtype=torch.float64).detach().to(states.device)
        except (TypeError, ValueError) as error:
            raise GenflowError(
                f"reward {name} returned what is no list of numbers: {brief(str(error))}"
            ) from error
        if scores.shape != states.shape[:1]:
            raise GenflowError(
                f"reward {name} returned {tuple(scores.shape)} values for {len(states)} objects"
            )
        bad = ~(torch.isfinite(scores) & (scores > 0))
        if bad.any():
            place = int(bad.nonzero()[0, 0])
            raise GenflowError(
                f"reward {name} is {float(scores[place])} at positions {states[place].tolist()}; it must be"
                " positive and"
                " finite everywhere"
            )
        return scores.log()

    def is_mode(self, states: Tensor) -> Tensor | None:
        """(B, n) -> (B,) what the reward says."""
        return self.reward.is_mode(states)
