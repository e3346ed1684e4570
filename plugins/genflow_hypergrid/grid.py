"""The torchgfn side: HyperGrid with a reward of ours.

Imports torchgfn's gym, which takes seconds: import it late.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from gfn.gym import HyperGrid
from gfn.states import DiscreteStates
from torch import Tensor


class RewardedHyperGrid(HyperGrid):
    """torchgfn's HyperGrid whose reward is a function of positions."""

    def __init__(
        self, ndim: int, height: int, log_reward: Callable[[Tensor], Tensor], device: str | torch.device
    ) -> None:
        """Build.

        Args:
            ndim: n.
            height: h.
            log_reward: positions (B, n) -> (B,) float64.
            device: where states are.
        """
        # torchgfn warns that height <= 4 can be unsolvable, which concerns its own thresholds for modes
        logging.getLogger("gfn.gym.hypergrid").setLevel(logging.ERROR)
        super().__init__(ndim=ndim, height=height, device=torch.device(device), validate_modes=False)
        self._log_reward = log_reward

    def log_reward(self, states: DiscreteStates) -> Tensor:
        """Log R of states, (*batch_shape,), of torch's default type."""
        tensor = states.tensor
        values = self._log_reward(tensor.reshape(-1, tensor.shape[-1])).reshape(tensor.shape[:-1])
        return values.to(torch.get_default_dtype())

    def reward(self, states: DiscreteStates) -> Tensor:
        """R of states, (*batch_shape,), of torch's default type."""
        return self.log_reward(states).exp()
