"""Networks of the coordinate encoder that read descriptions of units.

Shapes: M policies, U units, G amounts of a unit, E embedding, H hidden size, N rows of all policies and their
    units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genflow import GenflowError

from .options import CoordinateOptions

MIN_STD = 1e-3
#: scale of the units' last layers at the start, so that training begins near the smooth family
START = 0.3
#: values of a category that a message lists
LISTED = 12


class Residual(nn.Module):
    """A residual block x + Linear(SiLU(Linear(norm(x)) + Linear(e))), which adds nothing at first."""

    def __init__(self, size: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.first = nn.Linear(size, size)
        self.embed = nn.Linear(embedding, size)
        self.last = nn.Linear(size, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, e: Tensor, owner: Tensor | None = None) -> Tensor:
        """(N, size), (M, E) -> (N, size).

        `owner` (N,) tells which row of `e` is each one's; None: the rows agree.
        """
        embedded = self.embed(e)
        return x + self.last(
            F.silu(self.first(self.norm(x)) + (embedded if owner is None else embedded[owner]))
        )


class Standardise(nn.Module):
    """(x - mean) / std with statistics of the zoo.

    A column that did not vary there has scale 0, which leaves it out, and its value as the mean.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, rows: Tensor, all_rows: Tensor | None = None) -> None:
        """Take the statistics of rows (., size), and of all rows for a column that varies only there."""
        mean, std = rows.mean(0), rows.std(0, correction=0)
        if all_rows is not None:
            rare = ~_varies(mean, std)
            mean = torch.where(rare, all_rows.mean(0), mean)
            std = torch.where(rare, all_rows.std(0, correction=0), std)
        varies = _varies(mean, std)
        self.mean.copy_(torch.where(varies, mean, rows[0]))
        self.scale.copy_(torch.where(varies, 1 / std.clamp(min=1e-9), 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise rows (..., size)."""
        return (x - self.mean) * self.scale

    def check(self, x: Tensor, what: str) -> None:
        """Refuse rows (., size) with another value where the zoo had only one.

        Raises:
            GenflowError: names the column.
        """
        mean, scale = self.mean.cpu(), self.scale.cpu()
        odd = (scale == 0) & ((x - mean).abs() > MIN_STD * mean.abs().clamp(min=1))
        if odd.any():
            row, column = odd.nonzero()[0].tolist()
            raise GenflowError(
                f"amount {column} of {what} units is {float(x[row, column]):g} here and was"
                f" {float(mean[column]):g}"
                " in all training structures: it is not taken as learned"
            )


def _varies(mean: Tensor, std: Tensor) -> Tensor:
    return std > MIN_STD * mean.abs().clamp(min=1)


class UnitNet(nn.Module):
    """Reads a unit's amounts and categories under an embedding; writes its weights to all hidden units."""

    def __init__(
        self,
        n_amounts: int,
        categories: Mapping[str, Sequence[int]],
        options: CoordinateOptions,
        outputs: int,
    ) -> None:
        """Build for so many amounts, and categories: name -> the values of training, in rising order.

        With `options.readouts` the embedding also scales what the last layer reads, and each value of a
        category adds what a last layer of its own writes.
        """
        super().__init__()
        self.values = {name: [int(value) for value in values] for name, values in categories.items()}
        self.standardise = Standardise(n_amounts)
        hidden, embedding = options.hidden, options.embedding
        self.first = nn.Linear(n_amounts, hidden)
        self.categories = nn.ModuleList(nn.Embedding(len(values), hidden) for values in self.values.values())
        self.embed = nn.Linear(embedding, hidden)
        self.blocks = nn.ModuleList(Residual(hidden, embedding) for _ in range(options.depth))
        self.last = nn.Linear(hidden, outputs)
        nn.init.normal_(self.last.weight, 0, START * hidden**-0.5)
        nn.init.zeros_(self.last.bias)
        self.gate = nn.Linear(embedding, hidden) if options.readouts else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        self.readouts = nn.ParameterList(
            nn.Parameter(nn.init.normal_(torch.empty(len(values), hidden, outputs), 0, START * hidden**-0.5))
            for values in (self.values.values() if options.readouts else ())
        )

    def check(self, amounts: Tensor, categories: Mapping[str, Tensor], label: str) -> None:
        """Refuse units that are described in another way, or by what training has not met.

        Raises:
            GenflowError: says what is odd.
        """
        if amounts.shape[1] != self.first.in_features:
            raise GenflowError(
                f"this generator reads {self.first.in_features} amounts of {label} units, the structure has"
                f" {amounts.shape[1]}"
            )
        if categories.keys() != self.values.keys():
            made, asked = (", ".join(sorted(each)) or "no" for each in (self.values, categories))
            raise GenflowError(
                f"this generator reads {made} categories of {label} units, the structure has {asked}"
            )
        for name, known in self.values.items():
            odd = sorted(set(categories[name].tolist()) - set(known))
            if odd:
                raise GenflowError(
                    f"this generator covers {name} {_listed(known)} of {label} units, not {odd[0]}"
                )
        self.standardise.check(amounts, label)

    def places(self, categories: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The places (U,) of the units' values among those of training, for each category."""
        return tuple(
            torch.searchsorted(torch.tensor(known), categories[name].contiguous())
            for name, known in self.values.items()
        )

    def describe(self, amounts: Tensor, *places: Tensor) -> Tensor:
        """The part that depends on the unit alone: amounts (U, G) and `places` to (U, H)."""
        x = self.first(self.standardise(amounts))
        for place, table in zip(places, self.categories, strict=True):
            x = x + table(place)
        return x

    def forward(self, described: Tensor, e: Tensor, owner: Tensor, places: Sequence[Tensor] = ()) -> Tensor:
        """Read units (N, H) under embeddings (M, E), chosen by (N,), and write (N, outputs).

        `places` (N,) of each category choose the readouts.
        """
        x = described + self.embed(e)[owner]
        for block in self.blocks:
            x = block(x, e, owner)
        x = F.silu(x)
        if self.gate is not None:
            x = x * (1 + self.gate(e))[owner]
        written = self.last(x)
        for place, weights in zip(places, self.readouts, strict=bool(self.readouts)):
            order = place.argsort(stable=True)
            counts = place.bincount(minlength=len(weights)).tolist()
            own = [rows @ weight for rows, weight in zip(x[order].split(counts), weights, strict=True)]
            written = written.index_add(0, order, torch.cat(own).to(written.dtype))
        return written


class Pool(nn.Module):
    """Reads the units of an axis together, in any order and number: DeepSets, rho of the mean of phi."""

    def __init__(self, hidden: int, embedding: int) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.rho = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, embedding)
        )

    def forward(self, described: Tensor) -> Tensor:
        """Read units (U, H) together as one embedding (E,)."""
        return self.rho(self.phi(described).mean(0))


def _listed(values: Sequence[int]) -> str:
    """Write values as a range where they are one."""
    if len(values) > 2 and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]} to {values[-1]}"
    return ", ".join([*map(str, values[:LISTED]), *(["..."] if len(values) > LISTED else [])])
