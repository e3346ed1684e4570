"""Checks of a denoiser, on latents of one size.

A check takes a `DenoiserUnderTest`. Shapes: B latents, Z their size, C conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from genflow.interfaces.denoiser import Denoiser
from genflow.interfaces.validation import kind_of
from genflow.precision import float32_default
from genflow.seeding import seeded_cpu

#: latents of a batch, numbers of a condition, and the steps that are asked for
BATCH, CONDITIONS, TIMES = 4, 5, (0, 1, 10, 999)
NEAR = 1e-4


class DenoiserUnderTest:
    """A denoiser for latents of a size, whose parameters are moved away from their start."""

    def __init__(self, cls: type[Denoiser], latent_size: int) -> None:
        self.cls, self.name, self.latent_size = cls, cls.__name__, latent_size
        rng = torch.Generator().manual_seed(0)
        self.latents = torch.randn(BATCH, latent_size, generator=rng)
        self.condition = 1 + 4 * torch.rand(BATCH, CONDITIONS, generator=rng)
        self.times = torch.tensor(TIMES)

    def build(self, seed: int) -> Denoiser:
        """Build the network."""
        with seeded_cpu(seed), float32_default():
            sizes = {"latent_size": self.latent_size, "condition_size": CONDITIONS}
            return self.cls(self.cls.Config(), **sizes)

    @cached_property
    def network(self) -> Denoiser:
        """The network; what begins at 0, as last layers often do, does not hide what it depends on."""
        network = self.build(0)
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for each in network.parameters():
                each.add_(0.05 * torch.randn(each.shape, generator=rng))
        return network

    @cached_property
    @torch.no_grad()
    def predicted(self) -> Tensor:
        """The prediction (B, Z)."""
        return self.network(self.latents, self.times, self.condition)

    @torch.no_grad()
    def ask(
        self, latents: Tensor | None = None, times: Tensor | None = None, condition: Tensor | None = None
    ):
        """Return the prediction (B, Z) for other latents, steps or conditions."""
        given = (latents, times, condition)
        own = (self.latents, self.times, self.condition)
        return self.network(*(mine if it is None else it for it, mine in zip(given, own, strict=True)))


def check_shape(task: DenoiserUnderTest) -> Iterator[str]:
    """Latents (B, Z), steps (B,) and conditions (B, C) make a finite prediction (B, Z), each row alone."""
    shape, found = (BATCH, task.latent_size), task.predicted
    where = f"{task.name}.forward()"
    if found.shape != shape or found.dtype != torch.float32:
        yield f"{where}: makes {kind_of(found)} of latents {shape}; return their shape, float32"
    elif not found.isfinite().all():
        yield f"{where}: is not finite for steps {TIMES}; steps go from 0 to the number of noise levels"
    elif not torch.equal(found, task.ask()):
        yield f"{where}: predicts otherwise each time; leave out what is random, such as dropout"
    else:
        alone = torch.cat([task.ask(*each) for each in _rows(task)])
        if not torch.allclose(found, alone, NEAR, NEAR):
            yield f"{where}: a latent's prediction depends on the others of its batch; leave out what mixes"


def check_dependence(task: DenoiserUnderTest) -> Iterator[str]:
    """The prediction depends on the latents, the step and the condition."""
    changed = {
        "latents": task.ask(latents=task.latents + 1),
        "steps": task.ask(times=task.times + 100),
        "condition": task.ask(condition=2 * task.condition),
    }
    for what, found in changed.items():
        if torch.equal(found, task.predicted):
            yield f"{task.name}.forward(): does not depend on the {what}; let the network read them"


def check_no_condition(task: DenoiserUnderTest) -> Iterator[str]:
    """A row of NaN means no condition, and touches no other row."""
    missing = task.condition.clone()
    missing[0] = torch.nan
    found = task.ask(condition=missing)
    if not found.isfinite().all():
        yield (
            f"{task.name}.forward(): a condition of NaN, which means none, makes numbers that are not finite;"
            " replace such rows, e.g. by a learned embedding"
        )
    elif not torch.allclose(found[1:], task.predicted[1:], NEAR, NEAR):
        yield f"{task.name}.forward(): a row without condition changes other rows; treat each row alone"


def check_prepare(task: DenoiserUnderTest) -> Iterator[str]:
    """`prepare` makes what `forward` makes, at each step."""
    with torch.no_grad():
        prepared = task.network.prepare(task.times, task.condition[0])
        for predict, step in zip(prepared, task.times, strict=True):
            expected = task.ask(times=step.expand(BATCH), condition=task.condition[:1].expand(BATCH, -1))
            if not torch.allclose(predict(task.latents), expected, NEAR, NEAR):
                yield (
                    f"{task.name}.prepare(): at step {int(step)} it is not what forward() makes; compute the"
                    " same, or leave it out"
                )
                return


def check_spec(task: DenoiserUnderTest) -> Iterator[str]:
    """A network of the same options and sizes takes the tensors of state_dict() and predicts the same."""
    other = task.build(2)
    try:
        other.load_state_dict(task.network.state_dict())
    except RuntimeError as error:
        yield f"{task.name}: its tensors do not fit another of the same options ({error}); let options decide"
        return
    with torch.no_grad():
        found = other(task.latents, task.times, task.condition)
    if not torch.allclose(found, task.predicted, NEAR, NEAR):
        yield (
            f"{task.name}: predicts otherwise after its state_dict() was saved and read; keep all that it"
            " needs in parameters and buffers"
        )


def check_gradients(task: DenoiserUnderTest) -> Iterator[str]:
    """Every parameter learns."""
    network = task.network
    network.zero_grad()
    # a batch without and with a condition, as in training with guidance
    condition = task.condition.clone()
    condition[0] = torch.nan
    network(task.latents, task.times, condition).square().sum().backward()
    idle = [name for name, each in network.named_parameters() if each.requires_grad and each.grad is None]
    if idle:
        yield f"{task.name}: parameter {idle[0]} has no gradient; use it, or make it a buffer"


def _rows(task: DenoiserUnderTest) -> Iterator[tuple[Tensor, ...]]:
    yield from zip(task.latents.split(1), task.times.split(1), task.condition.split(1), strict=True)
