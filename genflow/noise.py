"""Noise schedules and samplers of the latent diffusion model, from diffusers. The denoiser is any network.

Shapes: B latents, Z their size, C conditions.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from genflow.interfaces.denoiser import Denoiser, Prediction
from genflow.schema import Schema

Sampler = Literal["ddpm", "ddim", "dpm++"]


class NoiseOptions(Schema):
    """The forward process and what the denoiser predicts; diffusers' names."""

    timesteps: int = Field(default=1000, ge=2, le=100_000)
    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    prediction: Literal["epsilon", "v_prediction", "sample"] = "v_prediction"


class SamplingOptions(Schema):
    """The reverse process: `steps` of a `sampler`; `guidance` > 1 strengthens the condition (needs training with `drop_condition`)."""

    sampler: Sampler = "ddpm"
    steps: int = Field(default=100, ge=1, le=100_000)
    guidance: float = Field(default=1.0, ge=0)


@lru_cache(maxsize=16)
def scheduler(noise: NoiseOptions, sampler: Sampler = "ddpm") -> Any:
    """The diffusers scheduler of a noise process, built once; latents are normalised, and not clipped to [-1, 1]."""
    import diffusers

    common = {
        "num_train_timesteps": noise.timesteps,
        "beta_schedule": noise.betas,
        "prediction_type": noise.prediction,
    }
    if sampler == "ddpm":
        return diffusers.DDPMScheduler(**common, clip_sample=False)
    if sampler == "ddim":
        return diffusers.DDIMScheduler(**common, clip_sample=False)
    # the cosine schedule ends at log-SNR -inf, where the solver needs a bound; diffusers recommends -5.1
    return diffusers.DPMSolverMultistepScheduler(
        **common, algorithm_type="dpmsolver++", lambda_min_clipped=-5.1
    )


def _levels(process: Any, noise: NoiseOptions) -> int:
    """How many different noise levels a scheduler can step through; asked for more, DPM-Solver++ divides by zero."""
    bound = process.config.get("lambda_min_clipped")
    return noise.timesteps if bound is None else int((process.lambda_t >= bound).sum()) - 1


def sample_latents(
    denoiser: Denoiser,
    condition: Tensor,
    num: int,
    noise: NoiseOptions,
    sampling: SamplingOptions,
    rng: torch.Generator,
) -> Tensor:
    """Draw (num, Z) normalised latents for one condition (C,)."""
    process = copy.copy(
        scheduler(noise, sampling.sampler)
    )  # stepping changes it, and other threads may be sampling
    process.set_timesteps(min(sampling.steps, _levels(process, noise)), device=condition.device)
    extra = {"generator": rng} if sampling.sampler in ("ddpm", "dpm++") else {}
    with torch.inference_mode():
        predictions = denoiser.prepare(process.timesteps, condition)
        if sampling.guidance != 1.0:
            free = denoiser.prepare(process.timesteps, torch.full_like(condition, torch.nan))
            predictions = [_guided(*pair, sampling.guidance) for pair in zip(predictions, free, strict=True)]
        z = (
            torch.randn(num, denoiser.latent_size, generator=rng, device=rng.device, dtype=torch.float32).to(
                condition.device
            )
            * process.init_noise_sigma
        )
        for t, predict in zip(process.timesteps, predictions, strict=True):
            z = process.step(predict(z), t, z, **extra).prev_sample
    return z.clone()  # an ordinary tensor, which autograd can use


def _guided(conditional: Prediction, free: Prediction, guidance: float) -> Prediction:
    return lambda z: free(z).lerp(conditional(z), guidance)
