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

#: latents (B, Z) -> what the denoiser says of them (B, Z), at one step and under one condition
Prediction = Callable[[Tensor], Tensor]


class Denoiser(Configured, nn.Module, ABC):
    """Network of the conditional latent diffusion model.

    Noise schedules and samplers are not its business.
    """

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
        """`forward` at each of the steps t (N,) under one condition (C,), as N functions (B, Z) -> (B, Z).

        Sampling calls these; override it where something does not depend on the latents and is better done
        once.
        """
        return [partial(self._predict, t=step, condition=condition) for step in t]

    def _predict(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self(z_t, t.expand(len(z_t)), condition.expand(len(z_t), -1))
