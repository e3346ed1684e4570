"""The torchgfn side: HyperGrid with a reward of ours.

Imports torchgfn's gym, which takes seconds: import it late.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from gfn.gym import HyperGrid
from gfn.preprocessors import Preprocessor
from gfn.states import DiscreteStates
from torch import Tensor


class RewardedHyperGrid(HyperGrid):
    """torchgfn's HyperGrid whose reward is a function of positions."""

    def __init__(
        self,
        heights: tuple[int, ...],
        log_reward: Callable[[Tensor], Tensor],
        device: str | torch.device,
    ) -> None:
        """Build.

        Args:
            heights: h of each dimension; torchgfn's `height` is the largest.
            log_reward: positions (B, n) -> (B,) float64.
            device: where states are.
        """
        # torchgfn warns that height <= 4 can be unsolvable, which concerns its own thresholds for modes
        logging.getLogger("gfn.gym.hypergrid").setLevel(logging.ERROR)
        super().__init__(
            ndim=len(heights), height=max(heights), device=torch.device(device), validate_modes=False
        )
        self.heights = torch.tensor(heights, device=torch.device(device))
        self._log_reward = log_reward

    def make_states_class(self) -> type[DiscreteStates]:
        """The class of states, whose masks know that dimensions end at different heights."""
        env, base = self, super().make_states_class()

        class States(base):  # type: ignore[valid-type, misc]
            def _compute_forward_masks(self) -> Tensor:
                masks = torch.ones(*self.batch_shape, env.n_actions, dtype=torch.bool, device=self.device)
                masks[..., :-1] = self.tensor < env.heights - 1
                return masks

        return States

    def make_random_states(
        self,
        batch_shape: tuple[int, ...],
        conditions: Tensor | None = None,
        device: Any = None,
        debug: bool = False,
    ) -> DiscreteStates:
        """Draw states uniformly."""
        shares = torch.rand(*batch_shape, self.ndim, device=self.device if device is None else device)
        return self.States((shares * self.heights).long(), conditions=conditions, debug=debug)

    @property
    def n_states(self) -> int:
        """How many states there are."""
        return math.prod(self.heights.tolist())

    @property
    def n_terminating_states(self) -> int:
        """How many states a trajectory may end in: all."""
        return self.n_states

    def get_states_indices(self, states: DiscreteStates | Tensor) -> Tensor:
        """The row-major numbers of states, (*batch_shape,)."""
        tensor = states if isinstance(states, Tensor) else states.tensor
        number = torch.zeros(tensor.shape[:-1], dtype=torch.long, device=tensor.device)
        for dimension, height in enumerate(self.heights.tolist()):
            number = number * height + tensor[..., dimension]
        return number

    def get_terminating_states_indices(self, states: DiscreteStates) -> Tensor:
        """The same numbers."""
        return self.get_states_indices(states)

    def log_reward(self, states: DiscreteStates) -> Tensor:
        """Log R of states, (*batch_shape,), of torch's default type."""
        tensor = states.tensor
        values = self._log_reward(tensor.reshape(-1, tensor.shape[-1])).reshape(tensor.shape[:-1])
        return values.to(torch.get_default_dtype())

    def reward(self, states: DiscreteStates) -> Tensor:
        """R of states, (*batch_shape,), of torch's default type."""
        return self.log_reward(states).exp()


class OneHotPositions(Preprocessor):
    """One-hot positions of each dimension, one after the other.

    The same as torchgfn's `KHotPreprocessor` for one height.
    """

    def __init__(self, heights: tuple[int, ...]) -> None:
        """Take the heights of the dimensions."""
        super().__init__(output_dim=sum(heights), target_dtype=torch.get_default_dtype())
        self._heights = heights

    def preprocess(self, states: DiscreteStates) -> Tensor:
        """One-hot positions (*batch_shape, s)."""
        columns = states.tensor.long().unbind(-1)
        parts = [torch.nn.functional.one_hot(c, h) for c, h in zip(columns, self._heights, strict=True)]
        return torch.cat(parts, dim=-1)
