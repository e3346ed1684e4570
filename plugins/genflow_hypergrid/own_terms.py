"""A separable reward of a user's own: terms as expressions or tables, as text, TOML or Python.

Shapes: h positions of a dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from genflow import GenflowError, Schema, brief, fixed

from .expression import evaluate
from .rewards import MAX_REWARD, SeparableReward
from .separable import Term

#: terms of a separable reward
MAX_TERMS = 4


class Product(Schema):
    """One term of a separable reward, a coefficient times a product of profiles.

    A profile is an expression of the position (`expression.py`), or a table of a number for each position.
    One profile stands for every dimension.
    """

    coefficient: float = Field(default=1.0, ge=-MAX_REWARD, le=MAX_REWARD)
    profiles: tuple[str | tuple[float, ...], ...] = Field(default=("1",), min_length=1, max_length=64)

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        """Read ``0.1``, ``profile``, ``coefficient: profile | profile | ...``."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"coefficient": value}
        if not isinstance(value, str):
            return value
        before, colon, after = value.strip().rpartition(":")
        try:
            if not colon:
                return {"coefficient": float(value)}
            found: dict[str, Any] = {"coefficient": float(before)}
        except ValueError:
            if colon:
                raise ValueError(f"{brief(before)!r} before the colon is no number") from None
            found = {}
        return {**found, "profiles": [_profile(part) for part in after.split("|")]}

    @field_validator("profiles")
    @classmethod
    def _understood(cls, profiles: Any) -> Any:
        for profile in profiles:
            if isinstance(profile, str):
                evaluate(profile, _places(2, 0, 1))
        return profiles

    def of(self, heights: Sequence[int]) -> Term:
        """The term on a grid.

        Raises:
            GenflowError: it does not fit the heights, or a profile is below 0 or no number somewhere.
        """
        if len(self.profiles) not in (1, len(heights)):
            raise GenflowError(f"a term has {len(self.profiles)} profiles for {len(heights)} dimensions")
        own = self.profiles * len(heights) if len(self.profiles) == 1 else self.profiles
        found = []
        for dimension, (profile, height) in enumerate(zip(own, heights, strict=True)):
            if not isinstance(profile, str):
                values = torch.tensor(profile, dtype=torch.float64)
                if len(values) != height:
                    raise GenflowError(
                        f"a table of {len(values)} numbers for dimension {dimension}, which has {height}"
                        " positions"
                    )
            else:
                computed = evaluate(profile, _places(height, dimension, len(heights)))
                values = torch.from_numpy(computed).expand(height).clone()
            bad = ~(values.isfinite() & (values >= 0))
            if bad.any():
                place = int(bad.nonzero()[0, 0])
                raise GenflowError(
                    f"profile {brief(profile)} is {float(values[place]):g} at position {place} of dimension"
                    f" {dimension}; it must be a number of at least 0"
                )
            found.append(values)
        return Term(self.coefficient, tuple(found))


def _profile(text: str) -> str | list[float]:
    """Read a profile, a table in brackets or an expression."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        table = [float(number) for number in text[1:-1].split(",")]
    except ValueError:
        raise ValueError(f"{brief(text)} is no table of numbers") from None
    if not all(map(math.isfinite, table)):
        raise ValueError(f"{brief(text)} has a number that is not finite")
    return table


def _places(height: int, dimension: int, ndim: int) -> dict[str, Any]:
    """What an expression may use: x, u = x / (h - 1), the dimension i, and the sizes h and n."""
    x = np.arange(height, dtype=np.float64)
    return {"x": x, "u": x / (height - 1), "i": dimension, "h": height, "n": ndim}


class Separable(SeparableReward):
    """A reward of one's own as a sum of up to four products of profiles, given as expressions or tables."""

    class Config(Schema):
        """The terms."""

        terms: tuple[Product, ...] = fixed(
            min_length=1,
            max_length=MAX_TERMS,
            description='The terms, as in "0.1; 0.5: abs(u - .5) > .25; 2: exp(-x) | [1,0,2]": a coefficient,'
            " and a profile for every dimension or one for each, an expression of the position x (or u, from"
            " 0 to 1) or a table.",
        )

        @field_validator("terms", mode="before")
        @classmethod
        def _separate(cls, value: Any) -> Any:
            return value.split(";") if isinstance(value, str) else value

    def terms(self) -> list[Term]:
        """The terms on this grid."""
        return [term.of(self.task.heights) for term in self.config.terms]
