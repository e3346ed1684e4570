"""What the coordinate encoder is trained on: the optimal policies of latents from anywhere in the zoo.

Shapes: M policies, B states, A actions, Z latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genflow import AutoencoderObjective, GenflowError, Population, Rehearsal, Structure

#: share of the states that is drawn uniformly; the rest by the optimal policy's visits
UNIFORM = 0.25
#: how fast the level of a structure's KL follows
LEVEL_RATE = 0.1


class CoordinateObjective(AutoencoderObjective):
    """The plain losses, and what the encoder's options add to them.

    These are `reference`, `swap_probability`, `length_power` and `normaliser_floor`, see `CoordinateOptions`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # a structure's recent KL; 0: not met yet
        self._levels = torch.zeros(len(self.populations), device=self.device)

    @classmethod
    def check(cls, config: Any, options: Any, structures: Sequence[Structure]) -> None:
        """Refuse swapped latents without a loss on policies, and structures without an optimal policy."""
        if config.swap_probability and not options.kl_scale:
            raise GenflowError(
                "swap_probability needs autoencoder.kl_scale > 0: a swapped latent has no weights to copy"
            )
        own = structures[0].arch if structures else None
        if config.rehearsal_probability and own is not None and own.reads_units:
            raise GenflowError(
                f"{type(own).__name__} reads the units of its own task, and not of one that is made up; leave"
                " out rehearsal_probability"
            )
        if options.kl_scale and config.reference == "optimal":
            for structure in structures:
                structure.solution.require_expert()

    @property
    def visits_own_states(self) -> bool:
        """Whether states are the member's own: where its own policy is the reference."""
        return bool(self.encoder.config.reference == "member")

    def tensors(self) -> dict[str, Tensor]:
        """The recent level of each structure's KL, which checkpoints keep."""
        return {"levels": self._levels}

    def latents(
        self, picked: Sequence[tuple[int, Population]], chance: float, rng: torch.Generator
    ) -> Tensor | None:
        """The latents (B, Z) of the batch in another order, so that structures swap them; None: no swap."""
        if chance >= self.encoder.config.swap_probability:
            return None
        latents = torch.cat([self.encoder.encode(population) for _, population in picked])
        return latents[torch.randperm(len(latents), generator=rng, device=rng.device).to(latents.device)]

    def rehearse(self, population: Population, rng: torch.Generator) -> Rehearsal | None:
        """A task with a made-up reward, as often as the options say."""
        share = self.encoder.config.rehearsal_probability
        if not share or float(torch.rand(1, generator=rng, device=rng.device)) >= share:
            return None
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        return population.structure.environment.rehearse(torch.Generator().manual_seed(seed))

    def reference(
        self,
        index: int,
        population: Population,
        rng: torch.Generator,
        rehearsal: Rehearsal | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """The optimal policy on the states that it visits, or each member's own."""
        if self.visits_own_states:
            return super().reference(index, population, rng)
        structure, config = population.structure, self.encoder.config
        expert = structure.solution.expert if rehearsal is None else rehearsal.expert
        states, masks, optimal = expert.draw(self.options.states, UNIFORM, rng, self.device)
        inputs = structure.transitions(states.device).inputs(states)
        return inputs, masks, optimal, expert.length**config.length_power

    def normalise(
        self, picked: Sequence[tuple[int, Population]], values: Mapping[int, Tensor]
    ) -> Mapping[int, Tensor]:
        """Relative to the structure's recent level, with today's values taken in, plus the floor.

        So hard structures do not drown the others.
        """
        floor = self.encoder.config.normaliser_floor
        if floor is None:
            return values
        sums = torch.zeros(len(picked), device=self.device)
        for place, value in values.items():
            sums[place] = value.detach().sum()
        counts = torch.tensor([len(population) for _, population in picked], device=self.device)
        today = self.world.all_reduce(sums) / counts
        index = torch.tensor([i for i, _ in picked], device=self.device)
        known = self._levels[index]
        self._levels[index] = torch.where(known > 0, known.lerp(today, LEVEL_RATE), today)
        levels = self._levels[index] + floor
        return {place: value / levels[place] for place, value in values.items()}
