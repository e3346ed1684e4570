"""Training of the autoencoder, with a loss on weights and optionally one on the decoded policies.

Shapes: M policies, D parameters, B states or policies of a batch, s inputs, A actions, Z latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genflow.distributed.world import World, world
from genflow.interfaces.encoder import Encoder
from genflow.interfaces.environment import Rehearsal
from genflow.layout import WeightLayout
from genflow.population import Population
from genflow.rollouts import sample
from genflow.seeding import fork
from genflow.structure import Structure
from genflow.training.averaging import moving_average
from genflow.training.loop import GraphTrainee, Schedule
from genflow.training.objectives import distillation

#: trajectories of each policy, and probability of a random action, that produce the states for the KL
POOL_TRAJECTORIES = 32
POOL_EPSILON = 0.1


class AutoencoderOptions(Schedule):
    """How the autoencoder is trained."""

    renamed: ClassVar[dict[str, str]] = {
        "weights": "autoencoder.weight_loss_scale",
        "behaviour": "autoencoder.kl_scale",
        "reference": "autoencoder.options.reference",
        "swap": "autoencoder.options.swap_probability",
        "length_power": "autoencoder.options.length_power",
        "floor": "autoencoder.options.normaliser_floor",
    }

    encoder: str = Field(description="Registered name of the encoder.")
    options: dict[str, Any] = Field(default_factory=dict, description="The encoder's own options.")
    steps: int = Field(default=500, ge=1, description="The number of optimiser steps.")
    lr: float = Field(default=3e-3, gt=0, allow_inf_nan=False, description="The peak learning rate.")
    clip: float | None = Field(default=1.0, gt=0, description="The norm to which gradients are clipped.")
    batch_size: int = Field(default=32, ge=2, description="The number of policies in a step.")
    per_structure: int | None = Field(
        default=None, ge=1, description="Policies of each structure in a step; None draws from the whole zoo."
    )
    weight_loss_scale: float = Field(
        default=1.0, ge=0, description="The weight of the loss on weights, the only loss of the paper."
    )
    kl_scale: float = Field(
        default=0.0, ge=0, description="The weight of the KL of decoded policies from their references."
    )
    states: int = Field(default=256, ge=1, description="States of each structure in a step for the KL.")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="Decay of averaged parameters; 0 keeps the last parameters."
    )

    @model_validator(mode="after")
    def _losses_fit_together(self) -> AutoencoderOptions:
        if not (self.weight_loss_scale or self.kl_scale):
            raise ValueError("weight_loss_scale and kl_scale are both 0, so there is nothing to learn")
        if self.per_structure is not None and self.per_structure > self.batch_size:
            raise ValueError(
                f"per_structure ({self.per_structure}) is larger than batch_size ({self.batch_size})"
            )
        return self


@dataclass(frozen=True, eq=False)
class StatePool:
    """States that a structure's policies visit, as inputs (B, s) and allowed actions (B, A)."""

    inputs: Tensor
    masks: Tensor

    @classmethod
    def of(cls, population: Population, rng: torch.Generator, device: str) -> StatePool:
        """Sample trajectories of the population's policies with exploration, and keep all their states."""
        transitions = population.structure.transitions()
        shape = (len(population), POOL_TRAJECTORIES)
        rollouts = sample(transitions, population.trace, shape, POOL_EPSILON, rng)
        inputs, masks = rollouts.inputs[rollouts.valid], rollouts.masks[rollouts.valid]
        return cls(inputs.to(device), masks.to(device))

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `count` states with replacement."""
        index = torch.randint(len(self.inputs), (count,), generator=rng, device=rng.device)
        index = index.to(self.inputs.device)
        return self.inputs[index], self.masks[index]


class AutoencoderObjective:
    """The losses of an autoencoder, by default on weights and on the KL of decoded policies.

    An encoder may provide a subclass with other losses, see `Encoder.objective`.
    """

    def __init__(
        self,
        encoder: Encoder,
        populations: Sequence[Population],
        options: AutoencoderOptions,
        *,
        seed: int,
        device: str,
    ) -> None:
        self.encoder, self.populations, self.options, self.device = encoder, populations, options, device
        self.check(encoder.config, options, [p.structure for p in populations])
        self._modules = [p.structure.module().to(device) for p in populations]
        rng = torch.Generator().manual_seed(seed)
        visited = options.kl_scale and self.visits_own_states
        self._pools = [StatePool.of(p, rng, device) for p in populations] if visited else []

    @classmethod
    def check(cls, config: Any, options: AutoencoderOptions, structures: Sequence[Structure]) -> None:
        """Check the options before anything is trained.

        Args:
            config: the encoder's options.
            options: the options of the training.
            structures: the structures of the zoo.

        Raises:
            GenflowError: the options do not fit together; the message says what to change.
        """

    @property
    def world(self) -> World:
        """All workers."""
        return world()

    @property
    def visits_own_states(self) -> bool:
        """Whether policies are compared on states that the zoo's policies visit."""
        return True

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that change in training, beside those of the encoder, for checkpoints."""
        return {}

    def latents(
        self, picked: Sequence[tuple[int, Population]], chance: float, rng: torch.Generator
    ) -> Tensor | None:
        """Return latents (B, Z) to decode instead of those of the batch, or None for the batch's own.

        A step with other latents has no loss on weights.

        Args:
            picked: the batch, as (index of a structure, its policies).
            chance: a uniform random number from 0 to 1, the same on all workers.
            rng: a generator in the same state on all workers.
        """
        return None

    def rehearse(self, population: Population, rng: torch.Generator) -> Rehearsal | None:
        """Return a made-up task in the place of a structure, in a step with other latents, or None."""
        return None

    def reference(
        self,
        index: int,
        population: Population,
        rng: torch.Generator,
        rehearsal: Rehearsal | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return the reference policies that the decoded policies of a structure are compared with.

        Returns:
            Inputs (B, s), allowed actions (B, A), reference policies (B, A) or (M, B, A), and a factor of the
            KL.
        """
        layout = population.layout
        inputs, masks = self._pools[index].draw(self.options.states, rng)
        with torch.no_grad():
            weights = layout.unflatten(population.weights_on(inputs.device))
            own = population.structure.arch.forward(self._modules[index], weights, inputs)
        return inputs, masks, own.masked_fill(~masks, -torch.inf).softmax(-1), 1.0

    def kl(
        self,
        index: int,
        population: Population,
        weights: Tensor,
        rng: torch.Generator,
        rehearsal: Rehearsal | None = None,
    ) -> Tensor:
        """Return the mean over states of KL(reference policy || decoded policy), as (M,)."""
        inputs, masks, reference, scale = self.reference(index, population, rng, rehearsal)
        arch, layout = population.structure.arch, population.layout
        logits = arch.forward(self._modules[index], layout.unflatten(weights), inputs)
        return scale * distillation(logits, masks, reference)

    def normalise(
        self, picked: Sequence[tuple[int, Population]], values: Mapping[int, Tensor]
    ) -> Mapping[int, Tensor]:
        """Rescale the KLs (M,) of this worker's rows by their index in the batch, by default not at all."""
        return values


class AutoencoderTrainee(GraphTrainee):
    """An encoder in training, with its zoo and its objective."""

    def __init__(
        self,
        encoder: Encoder,
        populations: list[Population],
        options: AutoencoderOptions,
        *,
        seed: int,
        device: str,
    ) -> None:
        self.encoder = encoder.to(device)
        self.populations, self.options, self._device = populations, options, device
        self.objective = objective_of(type(encoder))(
            self.encoder, populations, options, seed=seed, device=device
        )
        self._conditions = [p.structure.condition().to(device) for p in populations]
        self._counts = torch.tensor([len(p) for p in populations])
        self.average = moving_average(self.encoder, options.ema) if options.ema else None

    def groups(self) -> list[dict[str, Any]]:
        """Return one group of all parameters of the encoder that learn."""
        return [{"params": [each for each in self.encoder.parameters() if each.requires_grad]}]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the encoder, of its average and of the objective."""
        average = self.average.state_dict() if self.average else {}
        parts = {"now": self.encoder.state_dict(), "objective": self.objective.tensors(), "average": average}
        return {
            f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()
        }

    def result(self) -> Encoder:
        """Return the trained encoder, with averaged parameters if they are configured."""
        if self.average:
            self.encoder.load_state_dict(self.average.module.state_dict())
        return self.encoder.eval()

    def loss(self, step: int, rng: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Compute the weighted sum of the loss on weights and the KL of the decoded policies."""
        options, objective = self.options, self.objective
        picked = self._pick(rng)
        batch = sum(len(population) for _, population in picked)
        rows = self.world.rows(batch)
        own = _rows_of(picked, rows)
        # separate generators for numbers that differ between workers, so that `rng` stays the same on all
        forks = [fork(rng) for _ in range(1 + len(picked))]
        noise = partial(_normal, batch=batch, rows=rows, rng=forks[0])
        latents = objective.latents(picked, float(torch.rand(1, generator=rng, device=rng.device)), rng)
        figures: dict[str, Tensor | float] = {"weight_loss": 0.0} if latents is None else {}
        loss = torch.zeros((), device=self._device, requires_grad=True)
        made, made_up = list[Tensor](), dict[int, Rehearsal | None]()
        if own and latents is None:
            losses, made = self.encoder.reconstruct([population for _, population in own.values()], noise)
            weight_of = self.encoder.loss_weight
            counts = torch.cat([losses.new_full((len(p),), weight_of(p.layout)) for _, p in own.values()])
            mean = (losses * counts).sum() / sum(weight_of(p.layout) * len(p) for _, p in picked)
            figures["weight_loss"] = mean
            loss = loss + options.weight_loss_scale * mean
        elif own and latents is not None:
            parts = self.encoder.noisy(latents[rows], noise).split([len(p) for _, p in own.values()])
            made_up = {place: objective.rehearse(p, forks[1 + place]) for place, (_, p) in own.items()}
            made = self.encoder.decode_all(
                [
                    (z, _layout(p, made_up[place]), self._conditions[i])
                    for z, (place, (i, p)) in zip(parts, own.items(), strict=True)
                ]
            )
        if options.kl_scale:
            values: Mapping[int, Tensor] = {
                place: objective.kl(*own[place], w, forks[1 + place], made_up.get(place))
                for place, w in zip(own, made, strict=True)
            }
            figures["kl"] = sum(value.sum() for value in values.values()) / batch
            values = objective.normalise(picked, values)
            loss = loss + options.kl_scale * sum(value.sum() for value in values.values()) / batch
        return loss, figures

    def after_step(self, step: int) -> None:
        """Update the average of the parameters."""
        if self.average:
            self.average.update_parameters(self.encoder)

    def _pick(self, rng: torch.Generator) -> list[tuple[int, Population]]:
        """Draw a batch of policies without replacement, grouped by structure."""
        size, each = self.options.batch_size, self.options.per_structure
        ends = self._counts.cumsum(0)
        if each is None:
            chosen = (
                torch.randperm(int(ends[-1]), generator=rng, device=rng.device)[:size].sort().values.cpu()
            )
            owner = torch.bucketize(chosen, ends, right=True)
            groups = [(i, chosen[owner == i] - (ends[i] - self._counts[i])) for i in owner.unique().tolist()]
        else:
            owners = torch.randperm(len(ends), generator=rng, device=rng.device)[
                : max(1, size // each)
            ].tolist()
            groups = [
                (i, torch.randperm(int(self._counts[i]), generator=rng, device=rng.device).cpu()[:each])
                for i in owners
            ]
        return [
            (i, Population(self.populations[i].structure, self.populations[i].weights[rows]))
            for i, rows in groups
        ]


def objective_of(encoder_cls: type[Encoder]) -> type[AutoencoderObjective]:
    """Return the class of the objective that an encoder is trained with."""
    return encoder_cls.objective() or AutoencoderObjective


def _layout(population: Population, rehearsal: Rehearsal | None) -> WeightLayout:
    """Return the layout of a population, with the units of a task that is made up in its place."""
    if rehearsal is None:
        return population.layout
    return population.layout.with_amounts({"input": rehearsal.inputs, "action": rehearsal.actions})


def _rows_of(picked: list[tuple[int, Population]], rows: slice) -> dict[int, tuple[int, Population]]:
    """Return the part of a batch in a range of rows, by the position of each structure in the batch."""
    own, first = {}, 0
    for place, (index, population) in enumerate(picked):
        start, stop = max(rows.start - first, 0), min(rows.stop - first, len(population))
        if start < stop:
            own[place] = (index, population[start:stop])
        first += len(population)
    return own


def _normal(like: Tensor, *, batch: int, rows: slice, rng: torch.Generator) -> Tensor:
    """Draw standard normal noise for a whole batch, and return that of some rows."""
    return torch.randn(batch, *like.shape[1:], generator=rng, device=rng.device)[rows].to(like.device)


def reconstruct(encoder: Encoder, population: Population) -> Population:
    """Encode and decode a population without noise."""
    with torch.no_grad():
        latents = encoder.encode(population)
        condition = population.structure.condition().to(latents.device)
        weights = encoder.decode(latents, population.layout, condition).cpu()
    return Population(population.structure, weights, {**population.provenance, "source": "reconstructed"})
