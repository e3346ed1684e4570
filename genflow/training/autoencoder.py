"""Training the autoencoder of weights on a zoo: a loss on weights, and optionally one on behaviour.

Shapes: M policies, D parameters, B states, s inputs, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from genflow.interfaces import Encoder
from genflow.population import Population
from genflow.rollouts import sample
from genflow.training.loop import Schedule, Trainee

#: trajectories a policy, and share of random actions, that fill the pool of states on which behaviour is compared
POOL_TRAJECTORIES = 32
POOL_EPSILON = 0.1


class AutoencoderOptions(Schedule):
    """How the autoencoder is trained.

    `encoder` is a registered name and `options` its own. `batch_size` is policies a step. `behaviour` weighs
    KL(policy || reconstructed policy) on `states` visited states beside the encoder's loss on weights; 0 is the paper's plain recipe.
    """

    encoder: str
    options: dict[str, Any] = Field(default_factory=dict)
    steps: int = Field(default=500, ge=1)
    lr: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    clip: float | None = Field(default=1.0, gt=0)
    batch_size: int = Field(default=32, ge=2)
    behaviour: float = Field(default=0.0, ge=0)
    states: int = Field(default=256, ge=1)


@dataclass(frozen=True, eq=False)
class StatePool:
    """States that a structure's policies visit: inputs (B, s) and allowed actions (B, A)."""

    inputs: Tensor
    masks: Tensor

    @classmethod
    def of(cls, population: Population, rng: torch.Generator, device: str) -> StatePool:
        """Distinct states on exploring trajectories of the population's own policies."""
        environment = population.structure.environment
        shape = (len(population), POOL_TRAJECTORIES)
        rollouts = sample(environment.gfn[0], environment.inputs, population.logits, shape, POOL_EPSILON, rng)
        inputs, masks = rollouts.inputs[rollouts.valid], rollouts.masks[rollouts.valid]
        return cls(inputs.to(device), masks.to(device))

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` states with replacement."""
        index = torch.randint(len(self.inputs), (count,), generator=rng, device=self.inputs.device)
        return self.inputs[index], self.masks[index]


class AutoencoderTrainee(Trainee):
    """An encoder and the zoo it learns."""

    def __init__(self, encoder: Encoder, populations: list[Population], options: AutoencoderOptions, *, seed: int, device: str) -> None:
        self.encoder = encoder.to(device)
        self.populations, self.options = populations, options
        self._modules = [p.structure.module().to(device) for p in populations]
        rng = torch.Generator().manual_seed(seed)
        self._pools = [StatePool.of(p, rng, device) if options.behaviour else None for p in populations]
        self._counts = torch.tensor([len(p) for p in populations])

    def groups(self) -> list[dict[str, Any]]:
        """All of the encoder's parameters."""
        return [{"params": list(self.encoder.parameters())}]

    def tensors(self) -> dict[str, Tensor]:
        """The encoder's state."""
        return self.encoder.state_dict()

    def loss(self, step: int, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The encoder's loss on weights, plus the weighted behaviour loss."""
        picked = self._pick(rng)
        batch = [population for _, population in picked]
        loss, weights = self.encoder.reconstruct(batch, rng)
        figures = {"weights": loss.item()}
        if self.options.behaviour:
            total = sum(len(population) for population in batch)
            behaviour = sum(
                (
                    self._behaviour(index, population, rebuilt, rng).sum()
                    for (index, population), rebuilt in zip(picked, weights, strict=True)
                ),
                start=torch.zeros((), device=loss.device),
            )
            figures["behaviour"] = behaviour.item() / total
            loss = loss + self.options.behaviour * behaviour / total
        return loss, {"loss": loss.item(), **figures}

    def _pick(self, rng: torch.Generator) -> list[tuple[int, Population]]:
        """A batch of policies drawn from the whole zoo without replacement, grouped by structure."""
        total = int(self._counts.sum())
        chosen = torch.randperm(total, generator=rng, device=rng.device).cpu()[: self.options.batch_size].sort().values
        ends = self._counts.cumsum(0)
        owner = torch.bucketize(chosen, ends, right=True)
        picked = []
        for index in owner.unique().tolist():
            population = self.populations[index]
            rows = chosen[owner == index] - (ends[index] - self._counts[index])
            picked.append((index, Population(population.structure, population.weights[rows])))
        return picked

    def _behaviour(self, index: int, population: Population, rebuilt: Tensor, rng: torch.Generator) -> Tensor:
        """(M,) mean over states of KL(member's policy || reconstructed policy)."""
        pool = self._pools[index]
        assert pool is not None
        inputs, masks = pool.draw(self.options.states, rng)
        arch, layout, module = population.structure.arch, population.layout, self._modules[index]
        with torch.no_grad():
            own = arch.forward(module, layout.unflatten(population.weights.to(inputs.device)), inputs)
            own_log = own.masked_fill(~masks, -torch.inf).log_softmax(-1).masked_fill(~masks, 0.0)
        rebuilt_log = arch.forward(module, layout.unflatten(rebuilt), inputs).masked_fill(~masks, -torch.inf).log_softmax(-1)
        rebuilt_log = rebuilt_log.masked_fill(~masks, 0.0)
        return ((own_log.exp() * masks) * (own_log - rebuilt_log)).sum(-1).mean(-1)


def reconstruct(encoder: Encoder, population: Population) -> Population:
    """Encode and decode a population without noise."""
    with torch.no_grad():
        latents = encoder.encode(population)
        weights = encoder.decode(latents, population.layout, population.structure.condition().to(latents.device))
    return Population(population.structure, weights.cpu(), {**population.provenance, "source": "reconstructed"})
