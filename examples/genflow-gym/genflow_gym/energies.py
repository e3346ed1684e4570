"""Ising models, spin glasses and other pairwise energies of spins that are set in any order.

Shapes: n sites, B states (B, n) of -1 (not set), 0 (spin -1) or 1 (spin +1), A = 2 n + 1 actions.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import ValidationInfo, model_validator
from torch import Tensor

import genflow
from genflow_gym import filling
from genflow_gym.tables import (
    Matrix,
    Numbers,
    drawn,
    padded,
    random_symmetric,
    read_matrix,
    require_symmetric,
)

#: sites that units have columns for
MAX_SITES = 12
#: of energies that are made up: the spread of couplings and fields, in nats
COUPLING, FIELD = (0.2, 2.5), (0.1, 1.0)
#: what a site holds: not set, and the two spins
SPINS = torch.tensor([0.0, -1.0, 1.0])


class Energies(genflow.Environment):
    """torchgfn's `DiscreteEBM` with log R(s) = alpha (s^T J s + h s): each pair of sites counts twice."""

    presets: ClassVar = {
        "ring": {"couplings": ((0, 0.3, 0, 0.3), (0.3, 0, 0.3, 0), (0, 0.3, 0, 0.3), (0.3, 0, 0.3, 0))},
        "glass": {
            "couplings": (
                (0, 0.4, -0.3, 0.1, 0.2),
                (0.4, 0, 0.2, -0.5, 0),
                (-0.3, 0.2, 0, 0.3, -0.2),
                (0.1, -0.5, 0.3, 0, 0.4),
                (0.2, 0, -0.2, 0.4, 0),
            )
        },
    }
    default_structures: ClassVar = ("ring", "glass")
    pretrained: ClassVar = ("genflow_gym:pretrained/discrete_ebm",)

    class Config(genflow.Schema):
        """The couplings J, the fields h and the strength alpha."""

        ndim: int = genflow.size(ge=2, le=MAX_SITES, description="The number of sites; J tells it.")
        couplings: Matrix = genflow.told(description="J, a symmetric matrix, or a file of it.")
        fields: Numbers | None = genflow.told(None, description="h of each site, or a file of it.")
        alpha: float = genflow.told(1.0, description="What the energy is multiplied by.")

        @model_validator(mode="before")
        @classmethod
        def _counted(cls, values: Any, info: ValidationInfo) -> Any:
            """The couplings, or those of a file, say how many sites there are."""
            if "couplings" not in values:
                raise ValueError("couplings is missing: give J as rows of numbers, or a file of them")
            rows = read_matrix(values["couplings"], info)
            return (
                {"ndim": len(rows), **values, "couplings": rows} if isinstance(rows, list | tuple) else values
            )

        @model_validator(mode="after")
        def _fits(self) -> Energies.Config:
            require_symmetric("couplings", self.couplings, self.ndim)
            if self.fields is not None and len(self.fields) != self.ndim:
                raise ValueError(f"fields has {len(self.fields)} numbers for ndim={self.ndim}")
            return self

    def model(self) -> tuple[Tensor, Tensor]:
        """J (n, n) and h (n,), in float64."""
        couplings = torch.tensor(self.config.couplings, dtype=torch.float64)
        fields = torch.zeros(len(couplings), dtype=torch.float64)
        return couplings, fields if self.config.fields is None else fields + torch.tensor(self.config.fields)

    def log_reward(self, states: Tensor) -> Tensor:
        """log R (B,) float64 of states (B, n) of 0 and 1."""
        (couplings, fields), spins = self.model(), 2.0 * states - 1
        spins = spins.double()
        return self.config.alpha * (((spins @ couplings) * spins).sum(1) + spins @ fields)

    def make(self, device: Any = "cpu") -> Any:
        """torchgfn's environment, with steps of our own."""
        from genflow_gym.torchgfn_others import Energy, Filled

        couplings, fields = self.model()
        energy = Energy(couplings.to(device), fields.to(device))
        env = Filled(self.config.ndim, energy, self.config.alpha, device)
        return env, filling.OneHotPlaces(self.config.ndim, 2)

    def condition(self) -> dict[str, float]:
        """The number of sites; units tell the energy."""
        return {"ndim": float(self.config.ndim)}

    def units(self) -> genflow.Units:
        """An input is a site and what it holds, an action a site and a spin, by couplings and field.

        What a site does to others through a third one is told too, by the square of tanh(2 alpha J).
        """
        (couplings, fields), n = self.model(), self.config.ndim
        pairs = 2 * self.config.alpha * couplings.clone().fill_diagonal_(0)
        through = (pairs.tanh() @ pairs.tanh()).fill_diagonal_(0)
        rows = [padded(each.float(), MAX_SITES) for each in (pairs, through, torch.eye(n))]
        told = torch.cat([*rows, self.config.alpha * fields[:, None].float()], dim=1)  # (n, F)
        held = SPINS[None, :, None].expand(n, -1, 1)
        inputs = torch.cat([held * told[:, None], (1 - held.abs()) * told[:, None]], dim=2).flatten(0, 1)
        spins = SPINS[1:].repeat_interleave(n)
        actions = torch.cat([spins[:, None] * told.repeat(2, 1), told.repeat(2, 1)], dim=1)
        actions = torch.cat([actions, torch.zeros(1, actions.shape[1])])  # exit
        content, spin = torch.arange(3).repeat(n), torch.cat([(spins > 0).long(), torch.tensor([2])])
        return genflow.Units(
            genflow.UnitDescriptions(inputs, {"content": content}),
            genflow.UnitDescriptions(actions, {"spin": spin}),
        )

    def action(self, place: int, value: int) -> int:
        """The number of torchgfn's action that fills a place."""
        return value * self.config.ndim + place

    def exact_solution(self, transitions: Any) -> genflow.ExactSolution:
        """All 3^n states."""
        return filling.FillingSolution(transitions, self.config.ndim, 2, self.action)

    def rehearse(self, rng: torch.Generator) -> genflow.Rehearsal:
        """Other couplings and fields."""
        n = self.config.ndim
        couplings = random_symmetric(n, drawn(rng, *COUPLING) / 2, rng)
        fields = torch.randn(n, generator=rng, dtype=torch.float64) * drawn(rng, *FIELD)
        fields = fields * int(torch.randint(2, (), generator=rng))
        config = self.config.model_copy(
            update={"couplings": couplings.tolist(), "fields": fields.tolist(), "alpha": 1.0}
        )
        other = Energies(config)
        log_reward = other.log_reward(filling.completed(n, 2))
        expert = filling.drawn_expert(log_reward, n, 2, self.action, rng)
        units = other.units()
        return genflow.Rehearsal(units.inputs.amounts, units.actions.amounts, expert)
