"""Transitions of the hypergrid by index arithmetic.

Shapes: n dimensions, h_i positions of dimension i; states (..., n) int64; A = n + 1 actions, s = h_1 + .. +
h_n inputs.
"""

from __future__ import annotations

import itertools
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genflow import GenflowError, Reward, Transitions, brief


class GridTransitions(Transitions):
    """Transitions of a grid: action i increments dimension i, and the last action exits."""

    def __init__(
        self, make: Callable[..., Any], device: torch.device, heights: tuple[int, ...], reward: Reward
    ) -> None:
        super().__init__(make, device)
        self.heights, self.reward = heights, reward
        ndim = len(heights)
        self._n_actions = ndim + 1
        # a state's number must fit 64 bits
        self._numbered = math.prod(heights) < 2**63
        weights = [math.prod(heights[i + 1 :]) if self._numbered else 0 for i in range(ndim)]
        self._increments = torch.eye(ndim + 1, ndim, dtype=torch.long, device=device)
        self._weights = torch.tensor(weights, device=device)
        self._first_inputs = torch.tensor([0, *itertools.accumulate(heights[:-1])], device=device)
        self._tops = torch.tensor(heights, device=device) - 1
        self._start = torch.zeros(ndim, dtype=torch.long, device=device)

    @property
    def n_actions(self) -> int:
        """The number of actions, n + 1."""
        return self._n_actions

    @property
    def initial_state(self) -> Tensor:
        """The state in which all counters are at 0, (n,)."""
        return self._start

    @property
    def max_steps(self) -> int:
        """To the far corner, and exit."""
        return sum(self.heights) - len(self.heights) + 1

    def forward_masks(self, states: Tensor) -> Tensor:
        """Which actions are allowed, (..., n) -> (..., n+1): dimensions that are not at the top, and exit."""
        masks = torch.ones(*states.shape[:-1], self._n_actions, dtype=torch.bool, device=states.device)
        torch.lt(states, self._tops, out=masks[..., :-1])
        return masks

    def n_parents(self, states: Tensor) -> Tensor:
        """How many parents states have, (..., n) -> (...): the dimensions that are not at 0."""
        return (states > 0).sum(-1)

    def log_n_trajectories(self, states: Tensor) -> Tensor:
        """The log of the number of orders of all increments, a multinomial coefficient, (..., n) -> (...)."""
        return torch.lgamma(states.sum(-1).double() + 1) - torch.lgamma(states.double() + 1).sum(-1)

    def log_pb(self, parents: Tensor, states: Tensor) -> Tensor:
        """log P_B of steps, (..., n) -> (...): under "maxent" x_i / |x| for an increment of dimension i."""
        if self.backward == "uniform":
            return super().log_pb(parents, states)
        undone = (states * (states != parents)).sum(-1).double()
        return (undone / states.sum(-1).clamp(min=1)).log()

    def backward_probs(self, states: Tensor) -> Tensor:
        """P_B of undoing each increment, (B, n) -> (B, n)."""
        shares = (states > 0 if self.backward == "uniform" else states).double()
        return shares / shares.sum(-1, keepdim=True).clamp(min=1)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """The states (..., n) after actions (...), which must be allowed."""
        return states + self._increments[actions]

    def state_ids(self, states: Tensor) -> Tensor | None:
        """The row-major numbers of states, (..., n) -> (...); None where they do not fit 64 bits."""
        return (states * self._weights).sum(-1) if self._numbered else None

    def inputs(self, states: Tensor) -> Tensor:
        """The one-hot inputs of states, (B, n) -> (B, s)."""
        # the preprocessor makes int64 first, which would cost most of an evaluation
        one_hot = torch.zeros(len(states), sum(self.heights), dtype=torch.float32, device=states.device)
        return one_hot.scatter_(1, self.one_hot_indices(states), 1.0)

    def one_hot_indices(self, states: Tensor) -> Tensor:
        """The input of each dimension that is 1, (..., n) -> (..., n) int64."""
        return states + self._first_inputs

    @torch.no_grad()
    def log_reward(self, states: Tensor) -> Tensor:
        """Log R of states, (B, n) -> (B,) float64.

        Raises:
            GenflowError: the reward fails, or returns no numbers, another number of them, or one that is not
                positive and finite.
        """
        name = type(self.reward).__name__
        try:
            scores = self.reward.score(states)
        except GenflowError:
            raise
        except Exception as error:  # somebody else's function may raise anything
            *_, last = traceback.extract_tb(error.__traceback__)
            where = f"{Path(last.filename).name}, line {last.lineno}"
            raise GenflowError(
                f"reward {name} failed for {len(states)} positions, the first of which is"
                f" {states[0].tolist()}: {type(error).__name__}: {brief(str(error))} ({where})"
            ) from error
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
        """Which states are modes by the reward, (B, n) -> (B,); None where it does not say."""
        return self.reward.is_mode(states)
