"""Ising models on a torus too large to list, with an exact log Z and exact samples by transfer matrices.

A row of the torus has 2^c configurations, and log Z = log tr T^r for the transfer matrix T between rows.
Objects of the target are drawn row by row from powers of T.

Shapes: r rows and c columns, n = r c sites row by row, N = 2^c configurations of a row, B states (B, n) of -1
(not set), 0 (spin -1) or 1 (spin +1).
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

import genflow
from genflow_gym import filling

#: waves of the descriptions of sites, along either axis
WAVES = 3
#: spins of what a site holds, and couplings that are made up: odd multiples of `STEP` up to `STRONGEST`
SPINS, STEP, STRONGEST = torch.tensor([0.0, -1.0, 1.0]), 0.01, 0.29
#: objects of a made-up task that are drawn once, and states of them
KEPT, DRAWN = 2048, 1024


class Torus:
    """The transfer matrix of an Ising model on a torus: log R = `bond` x sum of s s' over bonds."""

    def __init__(self, rows: int, columns: int, bond: float) -> None:
        self.rows, self.bond = rows, bond
        self.spins = 2.0 * filling.completed(columns, 2).double() - 1  # (N, c)
        within = bond * (self.spins * self.spins.roll(1, 1)).sum(1)
        log_t = bond * self.spins @ self.spins.T + (within[:, None] + within) / 2
        self._scale = float(log_t.max())
        self._first = (log_t - self._scale).exp()

    @cached_property
    def _powers(self) -> list[tuple[Tensor, float]]:
        """T^k for k = 1 .. r with its largest entry as 1, and the log of that entry."""
        power, scale = self._first, self._scale
        found = [(power, scale)]
        for _ in range(self.rows - 1):
            power = power @ self._first
            largest = float(power.max())
            power, scale = power / largest, scale + self._scale + math.log(largest)
            found.append((power, scale))
        return found

    def log_partition(self) -> float:
        """log Z."""
        power, scale = self._powers[-1]
        return math.log(float(power.trace())) + scale

    def draw(self, num: int, rng: torch.Generator) -> Tensor:
        """Objects (num, n) of the target: 0 and 1."""
        first = torch.multinomial(self._powers[-1][0].diagonal(), num, replacement=True, generator=rng)
        drawn = [first]
        for left in range(self.rows - 1, 0, -1):
            weights = self._first[drawn[-1]] * self._powers[left - 1][0][:, first].T
            drawn.append(torch.multinomial(weights, 1, generator=rng).squeeze(1))
        return (self.spins[torch.stack(drawn, dim=1)].flatten(1) > 0).long()


@lru_cache(maxsize=512)
def _objects(rows: int, columns: int, bond: float) -> Tensor:
    """`KEPT` objects of a target."""
    rng = torch.Generator().manual_seed(round(bond * 1e6))
    return Torus(rows, columns, bond).draw(KEPT, rng).to(torch.int8)


class LatticeSolution(filling.FillingSolution):
    """Exact log Z and samples of any torus; states are listed only where they are few."""

    def __init__(self, transitions: Any, lattice: Lattice) -> None:
        super().__init__(transitions, lattice.sites, 2, lattice.action)
        self._lattice = lattice

    @property
    def _torus(self) -> Torus:
        c = self._lattice.config
        return self.kept("torus", lambda: Torus(c.rows, c.columns, self._lattice.bond))

    @property
    def knows_log_partition(self) -> bool:
        """Always."""
        return True

    def log_partition(self) -> float:
        """log Z by the transfer matrix."""
        return self._torus.log_partition()

    @property
    def can_draw(self) -> bool:
        """Always."""
        return True

    def draw(self, num: int, rng: torch.Generator) -> Tensor:
        """Objects by the transfer matrix."""
        return self._torus.draw(num, rng)

    def require_expert(self) -> None:
        """Nothing: samples of the target teach a policy of any size."""

    @property
    def expert(self) -> genflow.Expert:
        """The teacher of a large task, and the optimal policy of one that can be listed."""
        if self.n_states <= filling.LISTED:
            return super().expert
        rng = torch.Generator().manual_seed(0)
        return self.kept("expert", lambda: self._lattice.teacher(4 * DRAWN, rng))


class Lattice(genflow.Environment):
    """torchgfn's `DiscreteEBM` with J = coupling x adjacency of a torus, so that log R = s^T J s."""

    presets: ClassVar = {
        "small": {"rows": 3, "columns": 3, "coupling": 0.1},
        "six": {"rows": 6, "columns": 6, "coupling": 0.2},
        "ten": {"rows": 10, "columns": 10, "coupling": 0.1},
    }
    default_structures: ClassVar = ("small",)
    pretrained: ClassVar = ("genflow_gym:pretrained/ising_lattice",)

    class Config(genflow.Schema):
        """The size of the torus, and the coupling of neighbours, which each bond pays twice."""

        rows: int = genflow.size(ge=3, le=12, description="Rows of the torus.")
        columns: int = genflow.size(ge=3, le=10, description="Columns of the torus.")
        coupling: float = genflow.told(ge=-1, le=1, description="J of neighbours; 0.22 is critical.")

    @property
    def sites(self) -> int:
        """The number of sites n."""
        return self.config.rows * self.config.columns

    @property
    def bond(self) -> float:
        """What a bond of equal spins pays, in nats: s^T J s counts it twice."""
        return 2 * self.config.coupling

    @cached_property
    def neighbours(self) -> Tensor:
        """The four neighbours of each site, (n, 4) int64."""
        sites = torch.arange(self.sites).reshape(self.config.rows, self.config.columns)
        return torch.stack([sites.roll(shift, axis) for axis in (0, 1) for shift in (1, -1)]).flatten(1).T

    def make(self, device: Any = "cpu") -> Any:
        """torchgfn's environment, with steps of our own."""
        from genflow_gym.torchgfn_others import Energy, Filled

        couplings = torch.zeros(self.sites, self.sites, dtype=torch.float64)
        couplings[torch.arange(self.sites)[:, None], self.neighbours] = self.config.coupling
        energy = Energy(couplings.to(device), torch.zeros(self.sites, dtype=torch.float64, device=device))
        return Filled(self.sites, energy, device=device), filling.OneHotPlaces(self.sites, 2)

    def condition(self) -> dict[str, float]:
        """The sizes; units tell the coupling."""
        return {"rows": float(self.config.rows), "columns": float(self.config.columns)}

    def action(self, place: int, value: int) -> int:
        """The number of torchgfn's action that sets a site."""
        return value * self.sites + place

    def units(self) -> genflow.Units:
        """An input is a site and what it holds, an action a site and a spin, by waves over the torus."""
        c, n = self.config, self.sites
        angles = [2 * math.pi * torch.arange(size) / size for size in (c.rows, c.columns)]
        axes = [
            torch.stack([f(k * a) for k in range(WAVES + 1) for f in (torch.cos, torch.sin)], 1)
            for a in angles
        ]
        # without the sine of 0, products of the waves of both axes
        axes = [torch.cat([waves[:, :1], waves[:, 2:]], dim=1) for waves in axes]
        waves = torch.einsum("rp,cq->rcpq", *axes).flatten(2).flatten(0, 1)  # (n, F)
        paid = torch.tensor([[self.bond, math.tanh(self.bond)]])
        unset = (SPINS == 0).float()[None, :, None]
        inputs = torch.cat(
            [SPINS[None, :, None] * waves[:, None], unset * waves[:, None], paid.expand(n, 3, 2)], dim=2
        ).flatten(0, 1)
        spins = SPINS[1:].repeat_interleave(n)[:, None]
        actions = torch.cat([spins * waves.repeat(2, 1), paid.expand(2 * n, 2), torch.zeros(2 * n, 1)], 1)
        leave = torch.zeros(1, actions.shape[1])
        leave[0, -3:-1], leave[0, -1] = paid[0], 1.0
        return genflow.Units(
            genflow.UnitDescriptions(inputs), genflow.UnitDescriptions(torch.cat([actions, leave]))
        )

    def exact_solution(self, transitions: Any) -> LatticeSolution:
        """log Z and samples by transfer matrices, all 3^n states where they are few."""
        return LatticeSolution(transitions, self)

    def teacher(self, num: int, rng: torch.Generator) -> genflow.Expert:
        """States of objects of the target, each with how likely a spin is given all the others.

        Over all objects that complete a state, the mean of that is the optimal policy, so that a policy that
        learns from these learns the optimal one.
        """
        objects = _objects(self.config.rows, self.config.columns, self.bond).long()
        objects = objects[torch.randint(len(objects), (num,), generator=rng)]
        around = (2.0 * objects - 1)[:, self.neighbours].sum(2)
        up = torch.sigmoid(2 * self.bond * around)
        states = filling.emptied(objects, rng)
        empty = states < 0
        share = empty.float() / empty.sum(1, keepdim=True).clamp(min=1)
        return filling.expert_at(states, torch.stack([share * (1 - up), share * up], dim=2), self.action)

    def rehearse(self, rng: torch.Generator) -> genflow.Rehearsal:
        """Another coupling, an odd multiple of `STEP`."""
        count = round((STRONGEST / STEP + 1) / 2)
        coupling = STEP * (2 * int(torch.randint(count, (), generator=rng)) + 1)
        other = Lattice(self.config.model_copy(update={"coupling": coupling}))
        units = other.units()
        return genflow.Rehearsal(units.inputs.amounts, units.actions.amounts, other.teacher(DRAWN, rng))
