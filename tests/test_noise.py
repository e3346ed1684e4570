"""Schedules and samplers against the closed form.

With the exact denoiser of a known distribution, sampling returns it.
"""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from genflow import Denoiser
from genflow.caching import bytes_of
from genflow.noise import NoiseOptions, SamplingOptions, alphas_cumprod, sample_latents, scheduler
from genflow.training.diffusion import DiffusionOptions, DiffusionTrainee

TIMESTEPS = 200


class Exact(Denoiser):
    """The optimal denoiser when the latents are N(mean(c), std^2), for each of the three predictions."""

    def __init__(self, noise, std):
        super().__init__(latent_size=5, condition_size=2)
        self.noise, self.std = noise, std
        self.alphas = scheduler(noise).alphas_cumprod

    def forward(self, z, t, condition):
        a = self.alphas[t.long()][:, None]
        mean = condition[:, :1].nan_to_num(0.0)
        # posterior mean of x0 under a Gaussian prior
        x0 = mean + a.sqrt() * self.std**2 / (a * self.std**2 + 1 - a) * (z - a.sqrt() * mean)
        epsilon = (z - a.sqrt() * x0) / (1 - a).sqrt()
        v = a.sqrt() * epsilon - (1 - a).sqrt() * x0
        return {"epsilon": epsilon, "sample": x0, "v_prediction": v}[self.noise.prediction]


def draw(prediction="epsilon", sampler="ddpm", betas="squaredcos_cap_v2", std=0.5, num=400, **more):
    noise = NoiseOptions(timesteps=TIMESTEPS, betas=betas, prediction=prediction)
    sampling = SamplingOptions(sampler=sampler, steps=more.pop("steps", TIMESTEPS), **more)
    rng = torch.Generator().manual_seed(0)
    return sample_latents(Exact(noise, std), torch.tensor([3.0, 1.0]), num, noise, sampling, rng)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_sampler_and_prediction_recovers_a_gaussian(sampler, prediction):
    z = draw(prediction, sampler)
    assert z.shape == (400, 5)
    assert z.mean().item() == pytest.approx(3.0, abs=0.06)
    assert z.std().item() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_few_steps_are_enough_for_the_fast_samplers(sampler):
    assert draw("v_prediction", sampler, steps=20).mean().item() == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_one_seed_gives_the_same_latents_whatever_the_default_dtype_is(sampler, default):
    expected = draw(sampler=sampler, num=3, steps=20)
    torch.set_default_dtype(default)
    try:
        process, sampling = NoiseOptions(timesteps=TIMESTEPS), SamplingOptions(sampler=sampler, steps=20)
        denoiser = Exact(NoiseOptions(timesteps=TIMESTEPS, prediction="epsilon"), 0.5)
        condition = torch.tensor([3.0, 1.0], dtype=torch.float32)
        rng = torch.Generator().manual_seed(0)
        process = process.model_copy(update={"prediction": "epsilon"})
        found = sample_latents(denoiser, condition, 3, process, sampling, rng)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_one_seed_gives_the_same_latents_on_every_device(sampler):
    noise = NoiseOptions(timesteps=TIMESTEPS, prediction="epsilon")
    drawn = []
    for device in ("cpu", "cuda"):
        denoiser = Exact(noise, 0.5)
        denoiser.alphas = denoiser.alphas.to(device)
        rng, condition = torch.Generator().manual_seed(0), torch.tensor([3.0, 1.0], device=device)
        sampling = SamplingOptions(sampler=sampler, steps=20)
        drawn.append(sample_latents(denoiser, condition, 3, noise, sampling, rng).cpu())
    torch.testing.assert_close(*drawn, rtol=1e-4, atol=1e-4)


def test_more_steps_than_the_schedule_has_are_cut():
    assert torch.equal(draw(steps=TIMESTEPS), draw(steps=10 * TIMESTEPS))


def test_guidance_extrapolates_away_from_the_unconditional_mean():
    # the unconditional mean of `Exact` is 0, the conditional one 3
    weak, plain, strong = (draw("sample", "ddim", guidance=g).mean().item() for g in (0.5, 1.0, 1.5))
    assert weak < plain - 0.5 < plain + 0.5 < strong


def test_the_seed_decides():
    assert torch.equal(draw(), draw())


class Ahead(Exact):
    """The same, prepared."""

    def prepare(self, t, condition):
        return [lambda z, step=step: self(z, step.expand(len(z)), condition.expand(len(z), -1)) for step in t]


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_a_denoiser_may_prepare_itself(sampler, guidance):
    noise, condition = NoiseOptions(timesteps=50), torch.tensor([3.0, 1.0])
    sampling = SamplingOptions(sampler=sampler, steps=10, guidance=guidance)
    plain, ahead = (
        sample_latents(kind(noise, 0.5), condition, 5, noise, sampling, torch.Generator().manual_seed(0))
        for kind in (Exact, Ahead)
    )
    assert torch.equal(plain, ahead)


def test_latents_can_be_used_in_autograd():
    z = draw(sampler="dpm++", steps=3)
    weight = torch.ones(5, requires_grad=True)
    (z * weight).sum().backward()
    assert torch.equal(weight.grad, z.sum(0))


def test_threads_do_not_disturb_each_other():
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: draw(sampler="dpm++", steps=12), range(8)))
    assert all(torch.equal(latents, draw(sampler="dpm++", steps=12)) for latents in drawn)


def test_schedulers_are_built_once_and_kept_up_to_a_bound_in_bytes():
    """A scheduler of 100 000 levels takes megabytes, one of ten takes none."""
    small = scheduler(NoiseOptions(timesteps=10))
    assert scheduler(NoiseOptions(timesteps=10)) is small
    assert bytes_of(scheduler(NoiseOptions(timesteps=100_000))) > 10**6
    for levels in range(90_000, 90_016):
        scheduler(NoiseOptions(timesteps=levels))
    again = scheduler(NoiseOptions(timesteps=10))
    assert again is not small and again.alphas_cumprod.equal(small.alphas_cumprod)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_every_step_is_that_of_diffusers(sampler, prediction, betas):
    for timesteps, steps in [(2, 1), (50, 7), (50, 50), (1000, 1), (1000, 2), (1000, 14), (1000, 15)]:
        noise = NoiseOptions(timesteps=timesteps, betas=betas, prediction=prediction)
        process = copy.copy(scheduler(noise, sampler))
        # as many as DPM-Solver++ can take without dividing by zero
        most = int((process.lambda_t >= -5.1).sum()) - 1 if sampler == "dpm++" else timesteps
        process.set_timesteps(min(steps, most))
        condition, rng = torch.tensor([3.0, 1.0]), torch.Generator().manual_seed(0)
        denoiser = Exact(noise, 0.5)
        z = torch.randn(4, 5, generator=rng)
        for t in process.timesteps:
            said = denoiser(z, t.expand(4), condition.expand(4, -1))
            z = process.step(said, t, z, **({} if sampler == "ddim" else {"generator": rng})).prev_sample
        sampling = SamplingOptions(sampler=sampler, steps=steps)
        found = sample_latents(denoiser, condition, 4, noise, sampling, torch.Generator().manual_seed(0))
        torch.testing.assert_close(found, z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_schedule_is_that_of_diffusers(betas):
    assert torch.equal(alphas_cumprod(1000, betas), scheduler(NoiseOptions(betas=betas)).alphas_cumprod)


def test_a_training_elsewhere_leaves_the_schedule_that_others_share():
    """diffusers moves the tables of a schedule to where the samples are, and leaves them there."""
    noise = NoiseOptions(timesteps=12)
    trainee = DiffusionTrainee(
        Exact(noise, 0.5),
        torch.zeros(4, 5),
        torch.zeros(4, 2),
        DiffusionOptions(denoiser="unet1d", noise=noise),
        device="cpu",
    )
    meta = torch.zeros(4, 5, device="meta")
    trainee._scheduler.add_noise(meta, meta, torch.zeros(4, dtype=torch.long))
    assert scheduler(noise).alphas_cumprod.device.type == "cpu"
