"""Noise schedules and samplers of the latent diffusion model, which diffusers defines.

Training uses diffusers' schedules themselves. Sampling takes the same steps in code of its own, without the
seconds that importing diffusers takes (docs/decisions/0010-first-policy.md).

Shapes: B latents, Z their size, C conditions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
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


#: log(alpha / sigma) that DPM-Solver++ starts at, as diffusers recommends: the cosine schedule ends at -inf
LAMBDA_MIN = -5.1
#: a step of the reverse process: z and the output of the denoiser -> the next z
Step = Callable[[Tensor, Tensor], Tensor]


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
    return diffusers.DPMSolverMultistepScheduler(
        **common, algorithm_type="dpmsolver++", lambda_min_clipped=LAMBDA_MIN
    )


def alphas_cumprod(timesteps: int, betas: str) -> Tensor:
    """Return the (timesteps,) float32 products of 1 - beta, which are computed once."""
    return _schedulers.get(_alphas_cumprod, (timesteps, betas), lambda: _alphas_cumprod(timesteps, betas))


def _alphas_cumprod(timesteps: int, betas: str) -> Tensor:
    first, last = 1e-4, 0.02
    if betas == "linear":
        beta = torch.linspace(first, last, timesteps, dtype=torch.float32)
    elif betas == "scaled_linear":
        beta = torch.linspace(first**0.5, last**0.5, timesteps, dtype=torch.float32) ** 2
    else:  # the cosine of Nichol and Dhariwal 2021
        left = [math.cos((i / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(timesteps + 1)]
        beta = torch.tensor([min(1 - b / a, 0.999) for a, b in pairwise(left)], dtype=torch.float32)
    return (1.0 - beta).cumprod(0)


def reverse_process(
    noise: NoiseOptions, sampling: SamplingOptions, rng: torch.Generator
) -> tuple[list[int], list[Step]]:
    """Return the noise levels that sampling steps through, and a function for each that takes the step.

    The same operations in the same order as diffusers' schedulers, see `scheduler`; there are as many steps
    as asked for, or as the schedule has levels.
    """
    kept = alphas_cumprod(noise.timesteps, noise.betas)
    if sampling.sampler == "dpm++":
        lambdas = kept.sqrt().log() - (1 - kept).sqrt().log()
        last = int((lambdas >= LAMBDA_MIN).sum()) - 1
        places = np.linspace(0, last, min(sampling.steps, last) + 1).round()[:0:-1]
        levels = [int(place) for place in places]
        return levels, _dpm_solver_steps(kept[levels], noise.prediction)
    steps = min(sampling.steps, noise.timesteps)
    levels = [index * (noise.timesteps // steps) for index in reversed(range(steps))]
    # after the last step nothing of the noise is left
    pairs = list(pairwise([*kept[levels], torch.ones((), dtype=torch.float32)]))
    if sampling.sampler == "ddim":
        return levels, [partial(_ddim, noise.prediction, *pair) for pair in pairs]
    rngs = [rng] * (steps - 1) + [None]  # the last step adds no noise
    return levels, [partial(_ddpm, noise.prediction, *pair, r) for pair, r in zip(pairs, rngs, strict=True)]


def _clean(prediction: str, z: Tensor, said: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return x0 of z = alpha x0 + sigma epsilon, from what the denoiser predicts."""
    if prediction == "epsilon":
        return (z - sigma * said) / alpha
    return said if prediction == "sample" else alpha * z - sigma * said


def _ddim(prediction: str, kept: Tensor, kept_next: Tensor, z: Tensor, said: Tensor) -> Tensor:
    """Song et al. 2021, eq. 12, without noise."""
    alpha, sigma = kept**0.5, (1 - kept) ** 0.5
    x0 = _clean(prediction, z, said, alpha, sigma)
    if prediction == "epsilon":
        epsilon = said
    else:
        epsilon = (z - alpha * x0) / sigma if prediction == "sample" else alpha * said + sigma * z
    return kept_next**0.5 * x0 + (1 - kept_next) ** 0.5 * epsilon


def _ddpm(
    prediction: str, kept: Tensor, kept_next: Tensor, rng: torch.Generator | None, z: Tensor, said: Tensor
) -> Tensor:
    """Ho et al. 2020, eq. 7, with noise of its variance where there is an `rng`."""
    x0 = _clean(prediction, z, said, kept**0.5, (1 - kept) ** 0.5)
    ratio = kept / kept_next
    mean = (kept_next**0.5 * (1 - ratio)) / (1 - kept) * x0 + ratio**0.5 * (1 - kept_next) / (1 - kept) * z
    if rng is None:
        return mean
    variance = ((1 - kept_next) / (1 - kept) * (1 - ratio)).clamp(min=1e-20)
    drawn = torch.randn(z.shape, generator=rng, device=rng.device, dtype=z.dtype).to(z.device)
    return mean + variance**0.5 * drawn


def _dpm_solver_steps(kept: Tensor, prediction: str) -> list[Step]:
    """DPM-Solver++(2M) of Lu et al. 2022: second order from the x0 of the step before, first at both ends."""
    # the last is no noise at all
    sigmas = [*((1 - kept) / kept) ** 0.5, torch.zeros((), dtype=torch.float32)]
    alpha = [1 / ((sigma**2 + 1) ** 0.5) for sigma in sigmas]
    sigma = [each * scale for each, scale in zip(sigmas, alpha, strict=True)]
    log_snr = [a.log() - s.log() for a, s in zip(alpha, sigma, strict=True)]
    h = [after - before for before, after in pairwise(log_snr)]
    earlier: list[Tensor] = []

    def step(index: int, z: Tensor, said: Tensor) -> Tensor:
        x0 = _clean(prediction, z, said, alpha[index], sigma[index])
        weight = alpha[index + 1] * ((-h[index]).exp() - 1.0)
        moved = (sigma[index + 1] / sigma[index]) * z - weight * x0
        if 0 < index < len(h) - 1:
            moved = moved - 0.5 * weight * ((1.0 / (h[index - 1] / h[index])) * (x0 - earlier[0]))
        earlier[:] = [x0]
        return moved

    return [partial(step, index) for index in range(len(h))]


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
    levels, steps = reverse_process(noise, sampling, rng)
    t = torch.tensor(levels, device=condition.device)
    with torch.inference_mode():
        predictions = denoiser.prepare(t, condition)
        if sampling.guidance != 1.0:
            free = denoiser.prepare(t, torch.full_like(condition, torch.nan))
            predictions = [_guided(*pair, sampling.guidance) for pair in zip(predictions, free, strict=True)]
        z = torch.randn(
            num, denoiser.latent_size, generator=rng, device=rng.device, dtype=condition.dtype
        ).to(condition.device)
        with Progress.current().bar("sample latents", len(steps)) as bar:
            for predict, step in zip(predictions, steps, strict=True):
                z = step(z, predict(z))
                bar.advance()
    return z.clone()  # a clone is no inference tensor, so autograd can use it


def _guided(conditional: Prediction, free: Prediction, guidance: float) -> Prediction:
    return lambda z: free(z).lerp(conditional(z), guidance)
