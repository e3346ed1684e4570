"""`Denoiser`: the network of the conditional latent diffusion model.

Shapes: B latents, Z their size, C conditions, N steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from genflow.interfaces.configured import Configured

#: latents (B, Z) -> prediction of the denoiser (B, Z), at a given step and condition
Prediction = Callable[[Tensor], Tensor]


class Denoiser(Configured, nn.Module, ABC):
    """Network of the conditional latent diffusion model, independent of noise schedules and samplers."""

    def __init__(self, config: Any = None, *, latent_size: int, condition_size: int) -> None:
        super().__init__(config)
        self.latent_size = latent_size
        self.condition_size = condition_size

    @abstractmethod
    def forward(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict epsilon, v or x0 (B, Z) from noised latents (B, Z), steps (B,) and conditions (B, C).

        A row of NaN in `condition` means "no condition" (classifier-free guidance).
        """

    def prepare(self, t: Tensor, condition: Tensor) -> Sequence[Prediction]:
        """Return `forward` at each of the steps t (N,) and one condition (C,), as N functions of the latents.

        Sampling calls these functions. Override this method to compute once what does not depend on the
        latents.
        """
        return [partial(self._predict, t=step, condition=condition) for step in t]

    def _predict(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self(z_t, t.expand(len(z_t)), condition.expand(len(z_t), -1))
