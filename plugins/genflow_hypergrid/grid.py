"""The torchgfn side: HyperGrid with an exact reward.

Imports torchgfn's gym, which takes seconds: import it late.
"""

from __future__ import annotations

import logging

import torch
from gfn.gym import HyperGrid
from gfn.states import DiscreteStates

from . import rewards


class ExactHyperGrid(HyperGrid):
    """torchgfn's HyperGrid; "original" and "paper" rewards are decided exactly, the others are torchgfn's."""

    def __init__(self, config, device: str | torch.device) -> None:
        own = config.reward in rewards.EXACT_REWARDS
        name = "original" if own else config.reward
        values = {"R0": config.R0, "R1": config.R1, "R2": config.R2}
        # torchgfn warns that height <= 4 can be unsolvable, which concerns its own thresholds for modes
        logging.getLogger("gfn.gym.hypergrid").setLevel(logging.ERROR)
        super().__init__(
            ndim=config.ndim,
            height=config.height,
            reward_fn_str=name,
            reward_fn_kwargs=rewards.torchgfn_kwargs(name, config.ndim, config.height, values),
            device=torch.device(device),
            validate_modes=False,
        )
        self._exact = None
        if own:
            outer, band = rewards.indicators(config.height, config.reward, config.outer, config.band)
            self._exact = (outer.to(device), band.to(device), config.R0, config.R1, config.R2)

    def log_reward(self, states: DiscreteStates) -> torch.Tensor:
        """(*batch_shape,) log R, float32."""
        if self._exact is None:
            return super().log_reward(states)
        return rewards.log_reward(states.tensor, *self._exact).to(torch.get_default_dtype())

    def reward(self, states: DiscreteStates) -> torch.Tensor:
        """(*batch_shape,) R, float32."""
        if self._exact is None:
            return super().reward(states)
        return rewards.log_reward(states.tensor, *self._exact).exp().to(torch.get_default_dtype())
