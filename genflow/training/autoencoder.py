"""Training the autoencoder of weights on a zoo: a loss on weights, and optionally one on behaviour.

Shapes: M policies, D parameters, B states, s inputs, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genflow.interfaces.encoder import Encoder
from genflow.population import Population
from genflow.rollouts import sample
from genflow.training.averaging import moving_average
from genflow.training.loop import GraphTrainee, Schedule
from genflow.training.objectives import UNIFORM, distillation

#: trajectories a policy, and share of random actions, that fill the pool of states on which behaviour is
#: compared
POOL_TRAJECTORIES = 32
POOL_EPSILON = 0.1
#: how fast the level of a structure's loss follows
LEVEL_RATE = 0.1


class AutoencoderOptions(Schedule):
    """How the autoencoder is trained.

    `encoder` is a registered name and `options` its own. A step takes `batch_size` policies, `per_structure`
    of a structure (None: drawn from the whole zoo). The loss is `weights` times the encoder's loss on weights
    plus `behaviour` times a loss on
    behaviour: the mean KL from a reference policy over `states` states. The reference is each member's own
        policy on states that
    it visits, or the "optimal" one. The paper's plain recipe is weights 1, behaviour 0. A share `swap` of the
    steps asks for the optimal behaviour of latents that come from other structures' members, instead of for
    their own weights. With `length_power` p a structure's behaviour counts by its trajectories' expected
    length to the p (optimal reference only). With a `floor` it is taken relative to its own recent level plus
    that floor, so that hard structures do not drown the others. `ema` is the decay of averaged parameters,
    which are the ones kept; 0: the last ones.
    """

    encoder: str
    options: dict[str, Any] = Field(default_factory=dict)
    steps: int = Field(default=500, ge=1)
    lr: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    clip: float | None = Field(default=1.0, gt=0)
    batch_size: int = Field(default=32, ge=2)
    per_structure: int | None = Field(default=None, ge=1)
    weights: float = Field(default=1.0, ge=0)
    behaviour: float = Field(default=0.0, ge=0)
    reference: Literal["member", "optimal"] = "member"
    swap: float = Field(default=0.0, ge=0, lt=1)
    length_power: float = Field(default=0.0, ge=0)
    floor: float | None = Field(default=None, gt=0)
    states: int = Field(default=256, ge=1)
    ema: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _losses_fit_together(self) -> AutoencoderOptions:
        if not (self.weights or self.behaviour):
            raise ValueError("weights and behaviour are both 0, so there is nothing to learn")
        if self.reference == "member" and self.length_power:
            raise ValueError(
                'length_power needs reference = "optimal", which knows how long trajectories are'
            )
        if self.per_structure is not None and self.per_structure > self.batch_size:
            raise ValueError(
                f"per_structure ({self.per_structure}) is larger than batch_size ({self.batch_size})"
            )
        if self.swap and not (self.behaviour and self.reference == "optimal"):
            raise ValueError(
                'swap needs behaviour > 0 and reference = "optimal": a swapped latent has no member to copy'
            )
        return self


@dataclass(frozen=True, eq=False)
class StatePool:
    """States that a structure's policies visit: inputs (B, s) and allowed actions (B, A)."""

    inputs: Tensor
    masks: Tensor

    @classmethod
    def of(cls, population: Population, rng: torch.Generator, device: str) -> StatePool:
        """The states on exploring trajectories of the population's own policies, as often as they are visited."""
        transitions = population.structure.transitions()
        shape = (len(population), POOL_TRAJECTORIES)
        rollouts = sample(transitions, population.trace, shape, POOL_EPSILON, rng)
        inputs, masks = rollouts.inputs[rollouts.valid], rollouts.masks[rollouts.valid]
        return cls(inputs.to(device), masks.to(device))

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` states with replacement."""
        index = torch.randint(len(self.inputs), (count,), generator=rng, device=self.inputs.device)
        return self.inputs[index], self.masks[index]


class AutoencoderTrainee(GraphTrainee):
    """An encoder and the zoo it learns."""

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
        self._modules = [p.structure.module().to(device) for p in populations]
        rng = torch.Generator().manual_seed(seed)
        visited = options.behaviour and options.reference == "member"
        if options.behaviour and options.reference == "optimal":
            for population in populations:
                population.structure.solution.require_expert()
        self._pools = [StatePool.of(p, rng, device) if visited else None for p in populations]
        self._conditions = [p.structure.condition().to(device) for p in populations]
        self._counts = torch.tensor([len(p) for p in populations])
        # a structure's recent loss on behaviour; 0: not met yet
        self._levels = torch.zeros(len(populations), device=device)
        self.average = moving_average(self.encoder, options.ema) if options.ema else None

    def groups(self) -> list[dict[str, Any]]:
        """All of the encoder's parameters."""
        return [{"params": list(self.encoder.parameters())}]

    def tensors(self) -> dict[str, Tensor]:
        """The encoder's state, and its average."""
        now = {f"now.{name}": tensor for name, tensor in self.encoder.state_dict().items()} | {
            "levels": self._levels
        }
        return now | (
            {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
            if self.average
            else {}
        )

    def result(self) -> Encoder:
        """The encoder with the parameters that are kept."""
        if self.average:
            self.encoder.load_state_dict(self.average.module.state_dict())
        return self.encoder.eval()

    def loss(self, step: int, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the encoder's loss on weights and the loss on behaviour."""
        options = self.options
        picked = self._pick(rng)
        batch = sum(len(population) for _, population in picked)
        rows = self.world.rows(batch)
        own = _rows_of(picked, rows)
        # numbers that only one worker needs come from generators of their own, so that `rng` goes on alike on
        # all
        forks = [_fork(rng) for _ in range(1 + len(picked))]
        noise = partial(_normal, batch=batch, rows=rows, rng=forks[0])
        latents = (
            self._swapped(picked, rng)
            if float(torch.rand(1, generator=rng, device=rng.device)) < options.swap
            else None
        )
        figures = {"weights": 0.0} if latents is None else {}
        loss = torch.zeros((), device=self._device, requires_grad=True)
        made: list[Tensor] = []
        if own and latents is None:
            losses, made = self.encoder.reconstruct([population for _, population in own.values()], noise)
            shares = torch.cat(
                [losses.new_full((len(p),), self.encoder.share(p.layout)) for _, p in own.values()]
            )
            mean = (losses * shares).sum() / sum(self.encoder.share(p.layout) * len(p) for _, p in picked)
            figures["weights"] = mean.item()
            loss = loss + options.weights * mean
        elif own and latents is not None:
            parts = self.encoder.noisy(latents[rows], noise).split([len(p) for _, p in own.values()])
            made = self.encoder.decode_all(
                [(z, p.layout, self._conditions[i]) for z, (i, p) in zip(parts, own.values(), strict=True)]
            )
        if options.behaviour:
            values = {
                place: self._behaviour(*own[place], w, forks[1 + place])
                for place, w in zip(own, made, strict=True)
            }
            figures["behaviour"] = sum(value.sum().item() for value in values.values()) / batch
            if options.floor is not None:
                levels = self._updated_levels(picked, values)
                values = {place: value / levels[place] for place, value in values.items()}
            loss = loss + options.behaviour * sum(value.sum() for value in values.values()) / batch
        return loss, {"loss": loss.item(), **figures}

    def _updated_levels(self, picked: list[tuple[int, Population]], values: Mapping[int, Tensor]) -> Tensor:
        """The recent levels of a batch's structures' losses on behaviour, with today's values taken in, plus the floor."""
        sums = torch.zeros(len(picked), device=self._device)
        for place, value in values.items():
            sums[place] = value.detach().sum()
        counts = torch.tensor([len(population) for _, population in picked], device=self._device)
        today = self.world.all_reduce(sums) / counts
        index = torch.tensor([i for i, _ in picked], device=self._device)
        known = self._levels[index]
        self._levels[index] = torch.where(known > 0, known.lerp(today, LEVEL_RATE), today)
        return self._levels[index] + (self.options.floor or 0.0)

    def after_step(self, step: int) -> None:
        """Average the parameters."""
        if self.average:
            self.average.update_parameters(self.encoder)

    def _pick(self, rng: torch.Generator) -> list[tuple[int, Population]]:
        """A batch of policies without replacement, grouped by structure."""
        size, each = self.options.batch_size, self.options.per_structure
        ends = self._counts.cumsum(0)
        if each is None:
            chosen = (
                torch.randperm(int(ends[-1]), generator=rng, device=rng.device).cpu()[:size].sort().values
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

    def _swapped(self, picked: list[tuple[int, Population]], rng: torch.Generator) -> Tensor:
        """(B, Z) the latents of a batch, dealt out anew over all of it."""
        latents = torch.cat([self.encoder.encode(population) for _, population in picked])
        return latents[torch.randperm(len(latents), generator=rng, device=rng.device).to(latents.device)]

    def _behaviour(self, index: int, population: Population, weights: Tensor, rng: torch.Generator) -> Tensor:
        """(M,) mean over states of KL(reference policy || policy with the given weights)."""
        structure, options = population.structure, self.options
        arch, layout, module = structure.arch, structure.layout, self._modules[index]
        pool = self._pools[index]
        if pool is None:
            expert = structure.solution.expert
            states, masks, optimal = (t.to(self._device) for t in expert.draw(options.states, UNIFORM, rng))
            logits = arch.forward(module, layout.unflatten(weights), structure.transitions().inputs(states))
            return expert.length**options.length_power * distillation(logits, masks, optimal)
        inputs, masks = pool.draw(options.states, rng)
        with torch.no_grad():
            own = arch.forward(
                module, layout.unflatten(population.weights.to(inputs.device)), inputs
            ).masked_fill(~masks, -torch.inf)
        return distillation(arch.forward(module, layout.unflatten(weights), inputs), masks, own.softmax(-1))


def _rows_of(picked: list[tuple[int, Population]], rows: slice) -> dict[int, tuple[int, Population]]:
    """Those rows of a batch: place of a structure in the batch -> what it is, and its policies among them."""
    own, first = {}, 0
    for place, (index, population) in enumerate(picked):
        start, stop = max(rows.start - first, 0), min(rows.stop - first, len(population))
        if start < stop:
            own[place] = (index, population[start:stop])
        first += len(population)
    return own


def _fork(rng: torch.Generator) -> torch.Generator:
    """A generator that is seeded by another one."""
    return torch.Generator(rng.device).manual_seed(
        int(torch.randint(2**62, (), generator=rng, device=rng.device))
    )


def _normal(like: Tensor, *, batch: int, rows: slice, rng: torch.Generator) -> Tensor:
    """Standard normal numbers of some rows of a batch, drawn for all of it."""
    return torch.randn(batch, *like.shape[1:], generator=rng, device=rng.device)[rows].to(like.device)


def reconstruct(encoder: Encoder, population: Population) -> Population:
    """Encode and decode a population without noise."""
    with torch.no_grad():
        latents = encoder.encode(population)
        weights = encoder.decode(
            latents, population.layout, population.structure.condition().to(latents.device)
        )
    return Population(
        population.structure, weights.cpu(), {**population.provenance, "source": "reconstructed"}
    )
