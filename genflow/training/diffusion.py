"""Training the denoiser of the conditional latent diffusion model.

Shapes: B latents, Z their size, C conditions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from genflow.interfaces.denoiser import Denoiser
from genflow.noise import NoiseOptions, SamplingOptions, scheduler
from genflow.training.averaging import moving_average
from genflow.training.loop import GraphTrainee, Schedule


class DiffusionOptions(Schedule):
    """How the denoiser is trained."""

    denoiser: str = Field(description="Registered name of the denoiser.")
    options: dict[str, Any] = Field(default_factory=dict, description="The denoiser's own options.")
    steps: int = Field(default=2000, ge=1, description="The number of optimiser steps.")
    lr: float = Field(default=2e-3, gt=0, allow_inf_nan=False, description="The peak learning rate.")
    clip: float | None = Field(
        default=1.0, gt=0, description="The norm to which gradients are clipped; None does not clip them."
    )
    batch_size: int = Field(default=32, ge=1, description="The number of latents in a step.")
    ema: float = Field(
        default=0.995,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average of the weights, which is kept.",
    )
    drop_condition: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Probability of dropping the condition in training, for classifier-free guidance.",
    )
    noise: NoiseOptions = Field(default=NoiseOptions(), description="Options of the forward process.")
    sampling: SamplingOptions = Field(
        default=SamplingOptions(), description="Options of the reverse process."
    )


class DiffusionTrainee(GraphTrainee):
    """A denoiser in training, with its moving average and the normalised latents."""

    def __init__(
        self,
        denoiser: Denoiser,
        latents: Tensor,
        conditions: Tensor,
        options: DiffusionOptions,
        *,
        device: str,
    ) -> None:
        self.denoiser = denoiser.to(device)
        self.latents, self.conditions = latents.to(device), conditions.to(device)
        self.options = options
        self._scheduler = copy.copy(scheduler(options.noise))  # add_noise moves its tables to the device
        self.average = moving_average(self.denoiser, options.ema)

    def groups(self) -> list[dict[str, Any]]:
        """Return one group of all parameters of the denoiser."""
        return [{"params": list(self.denoiser.parameters())}]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the denoiser and of its average."""
        return {f"now.{n}": t for n, t in self.denoiser.state_dict().items()} | {
            f"average.{n}": t for n, t in self.average.state_dict().items()
        }

    def loss(self, step: int, rng: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Compute the simple loss of Ho et al. 2020, the paper's eq. 3, at uniformly drawn steps t."""
        device, size = self.latents.device, self.options.batch_size
        # what is drawn is small beside the network's work, so it is drawn where `rng` is and moved
        index = torch.randint(len(self.latents), (size,), generator=rng, device=rng.device).to(device)
        z, condition = self.latents[index], self.conditions[index]
        noise = torch.randn(z.shape, generator=rng, device=rng.device).to(device)
        t = torch.randint(self.options.noise.timesteps, (size,), generator=rng, device=rng.device).to(device)
        if self.options.drop_condition:
            chance = torch.rand(size, generator=rng, device=rng.device).to(device)
            dropped = chance < self.options.drop_condition
            condition = condition.masked_fill(dropped[:, None], torch.nan)
        own = self.world.rows(len(z))
        if own.start == own.stop:  # more workers than rows
            return torch.zeros((), device=device, requires_grad=True), {}
        z, noise, t, condition = z[own], noise[own], t[own], condition[own]
        predicted = self.denoiser(self._scheduler.add_noise(z, noise, t), t, condition)
        loss = (predicted - self._wanted(z, noise, t)).square().sum() / (self.options.batch_size * z.shape[1])
        return loss, {}

    def _wanted(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.options.noise.prediction == "epsilon":
            return noise
        return z if self.options.noise.prediction == "sample" else self._scheduler.get_velocity(z, noise, t)

    def after_step(self, step: int) -> None:
        """Update the average of the weights."""
        self.average.update_parameters(self.denoiser)
