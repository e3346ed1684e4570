"""Noise schedules and samplers of the latent diffusion model, which diffusers implements.

Shapes: B latents, Z their size, C conditions.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from genflow.caching import ByteCache
from genflow.interfaces.denoiser import Denoiser, Prediction
from genflow.progress import Progress
from genflow.schema import Schema

Sampler = Literal["ddpm", "ddim", "dpm++"]
#: a scheduler has several numbers a noise level
_schedulers = ByteCache(2**24)


class NoiseOptions(Schema):
    """The forward diffusion process and the target of the denoiser, with the names of diffusers."""

    timesteps: int = Field(
        default=1000, ge=2, le=100_000, description="The number of noise levels of the forward process."
    )
    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        default="squaredcos_cap_v2", description="The schedule of the noise variance over the levels."
    )
    prediction: Literal["epsilon", "v_prediction", "sample"] = Field(
        default="v_prediction",
        description="What the denoiser predicts, i.e. the noise, v or the clean latent.",
    )


class SamplingOptions(Schema):
    """The reverse diffusion process, which samples latents."""

    sampler: Sampler = Field(default="ddpm", description="The sampler of the reverse process.")
    steps: int = Field(default=100, ge=1, le=100_000, description="The number of sampling steps.")
    guidance: float = Field(
        default=1.0,
        ge=0,
        description="The scale of classifier-free guidance. A scale other than 1 needs a model that was"
        " trained with `drop_condition`.",
    )


def scheduler(noise: NoiseOptions, sampler: Sampler = "ddpm") -> Any:
    """Return the diffusers scheduler of a noise process and a sampler, which is built once.

    It does not clip samples to [-1, 1], because latents are normalised to unit variance.
    """
    return _schedulers.get(_scheduler, (noise, sampler), lambda: _scheduler(noise, sampler))


def _scheduler(noise: NoiseOptions, sampler: Sampler) -> Any:
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
    """Return the most steps that a scheduler can take, because DPM-Solver++ divides by zero with more."""
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
    """Draw (num, Z) normalised latents for one condition (C,).

    Args:
        denoiser: the denoiser, on the device of `condition`.
        condition: (C,).
        num: number of latents.
        noise: the forward process of the denoiser's training.
        sampling: sampler, steps and guidance.
        rng: generator of all random numbers. One on the CPU gives the same latents on every device.
    """
    # a copy, because stepping changes the scheduler and other threads may be sampling
    process = copy.copy(scheduler(noise, sampling.sampler))
    process.set_timesteps(min(sampling.steps, _levels(process, noise)), device=condition.device)
    extra = {"generator": rng} if sampling.sampler in ("ddpm", "dpm++") else {}
    with torch.inference_mode():
        predictions = denoiser.prepare(process.timesteps, condition)
        if sampling.guidance != 1.0:
            free = denoiser.prepare(process.timesteps, torch.full_like(condition, torch.nan))
            predictions = [_guided(*pair, sampling.guidance) for pair in zip(predictions, free, strict=True)]
        z = (
            torch.randn(num, denoiser.latent_size, generator=rng, device=rng.device, dtype=condition.dtype)
            .to(condition.device)
            .mul(process.init_noise_sigma)
        )
        with Progress.current().bar("sample latents", len(process.timesteps)) as bar:
            for t, predict in zip(process.timesteps, predictions, strict=True):
                z = process.step(predict(z), t, z, **extra).prev_sample
                bar.advance()
    return z.clone()  # a clone is no inference tensor, so autograd can use it


def _guided(conditional: Prediction, free: Prediction, guidance: float) -> Prediction:
    return lambda z: free(z).lerp(conditional(z), guidance)
