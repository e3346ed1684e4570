"""Rewards that are sums of products over dimensions, R(x) = sum_k c_k prod_i f_ki(x_i), and exact samples.

Shapes: n dimensions, h_i positions of dimension i, K terms, B positions (B, n) int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from genflow import GenflowError

#: positions of each subtracted term at which the reward must not be negative
LOOKS = 256
#: the most positions that are drawn for one where terms are subtracted
MAX_REJECTED = 10_000


class Term(NamedTuple):
    """One product over the dimensions.

    Attributes:
        coefficient: c, which may be negative.
        profiles: f of each dimension, (h_i,) float64, at least 0.
    """

    coefficient: float
    profiles: tuple[Tensor, ...]


class SeparableTarget:
    """The distribution R(x) / Z of a reward that is a sum of products.

    Attributes:
        kept: which of the terms pay anything, (K,) int64.
        signs: of their coefficients, (K,) float64.
        log_scale: log of |c|, for profiles whose largest value is 1, (K,) float64.
        profiles: f of these terms, (K, h_i) float64 for each dimension.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        """Take the terms that pay something.

        Raises:
            GenflowError: a term is no product of numbers of at least 0 for each position, no term pays
                anything, or what is subtracted is more than all else, in total or where it is largest.
        """
        _require_products(terms)
        # a profile is brought to a largest value of 1, so that products neither overflow nor vanish
        scales = [[float(profile.max()) for profile in term.profiles] for term in terms]
        signs = [
            float(term.coefficient * math.prod(s > 0 for s in own))
            for term, own in zip(terms, scales, strict=True)
        ]
        kept = [k for k, sign in enumerate(signs) if sign]
        self.kept = torch.tensor(kept)
        if not any(signs[k] > 0 for k in kept):
            raise GenflowError(
                "no term of the reward pays anything; give one a coefficient and values above 0"
            )
        self.log_scale = torch.tensor(
            [math.log(abs(terms[k].coefficient)) + sum(map(math.log, scales[k])) for k in kept],
            dtype=torch.float64,
        )
        self.signs = torch.tensor([math.copysign(1.0, signs[k]) for k in kept], dtype=torch.float64)
        self.profiles = [
            torch.stack([terms[k].profiles[i].double() / scales[k][i] for k in kept])
            for i in range(len(terms[0].profiles))
        ]
        if bool((self.signs < 0).any()):
            self._require_positive()

    def _require_positive(self) -> None:
        """Refuse a reward that is negative in total, or where a term takes most or is likely to take."""
        if not math.isfinite(self.log_z):
            raise GenflowError("what is subtracted is more than all else that the reward pays")
        rng = torch.Generator().manual_seed(0)
        for k in (self.signs < 0).nonzero()[:, 0].tolist():
            drawn = [profile[k].multinomial(LOOKS, True, generator=rng) for profile in self.profiles]
            most = [profile[k].argmax()[None] for profile in self.profiles]
            states = torch.stack([torch.cat(pair) for pair in zip(most, drawn, strict=True)], dim=1)
            wrong = self.log_reward(states).isnan()
            if wrong.any():
                place = states[wrong][0].tolist()
                raise GenflowError(f"the reward is negative at positions {place}: less is to be subtracted")

    @property
    def heights(self) -> tuple[int, ...]:
        """How many positions each dimension has."""
        return tuple(profile.shape[1] for profile in self.profiles)

    @cached_property
    def log_masses(self) -> Tensor:
        """The log of what each term pays in total, without its sign, (K,) float64."""
        return self.log_scale + sum(profile.sum(1).log() for profile in self.profiles)

    @cached_property
    def log_z(self) -> float:
        """The log of the sum of all rewards."""
        return float(_signed_logsumexp(self.log_masses[None], self.signs))

    @cached_property
    def shares(self) -> Tensor:
        """What each term pays of all that is paid, (K,) float64; below 0 for one that is subtracted."""
        return self.signs * (self.log_masses - self.log_z).exp()

    def log_terms(self, states: Tensor) -> Tensor:
        """The log of what each term pays at positions (B, n), without its sign, (B, K) float64."""
        total = self.log_scale.to(states.device).expand(len(states), -1)
        for i, profile in enumerate(self.profiles):
            total = total + profile.to(states.device).log().T[states[:, i]]
        return total

    def log_reward(self, states: Tensor) -> Tensor:
        """log R of positions (B, n), (B,) float64; NaN where it is negative."""
        return _signed_logsumexp(self.log_terms(states), self.signs.to(states.device))

    @cached_property
    def length(self) -> float:
        """The mean number of states on a trajectory to an object, 1 + E|x|."""
        means = sum((p * torch.arange(p.shape[1])).sum(1) / p.sum(1) for p in self.profiles)
        return 1.0 + float((self.shares * means).sum())

    def draw(self, num: int, rng: torch.Generator, by_length: bool = False) -> Tensor:
        """Draw positions (num, n) of the target exactly.

        A term is drawn by its mass, then each position by the term's profile. Where terms are subtracted, the
        others propose, and R over what they pay accepts.

        Args:
            num: how many.
            rng: generator of the random numbers, on the CPU.
            by_length: whether x is drawn in proportion to R(x) (|x| + 1), as often as a state of a trajectory
                to x is met.

        Raises:
            GenflowError: hardly anything that is proposed is accepted.
        """
        found: list[Tensor] = [torch.zeros(0, len(self.profiles), dtype=torch.long)]
        missing, proposed = num, 0
        while missing:
            proposals = self._propose(missing, rng, by_length)
            proposed += missing
            if bool((self.signs < 0).any()):
                terms = self.log_terms(proposals)
                paid = terms.masked_fill(self.signs < 0, -torch.inf).logsumexp(1)
                accept = (_signed_logsumexp(terms, self.signs) - paid).exp()
                proposals = proposals[torch.rand(missing, generator=rng, dtype=torch.float64) < accept]
            found.append(proposals)
            missing -= len(proposals)
            if proposed > MAX_REJECTED * max(num, 1):
                raise GenflowError(
                    "terms that are subtracted leave nearly nothing of the reward to draw from"
                )
        return torch.cat(found)

    def _propose(self, num: int, rng: torch.Generator, by_length: bool) -> Tensor:
        """Draw from the terms that are added."""
        added = (self.signs > 0).nonzero()[:, 0]
        mass = (self.log_masses[added] - self.log_masses[added].max()).exp()[:, None]
        if by_length:  # |x| + 1 = 1 + sum_j x_j: one summand is drawn, and dimension j weighs its position
            means = [(p * torch.arange(p.shape[1])).sum(1) / p.sum(1) for p in self.profiles]
            mass = mass * torch.stack([torch.ones_like(means[0]), *means], dim=1)[added]
        choice = mass.flatten().multinomial(num, replacement=True, generator=rng)
        term = added[choice // mass.shape[1]]
        weighed = choice % mass.shape[1] - 1  # the dimension, -1 for none
        columns = []
        for i, profile in enumerate(self.profiles):
            plain = profile.cumsum(1)
            tables = torch.cat([plain, (profile * torch.arange(profile.shape[1])).cumsum(1)])
            rows = tables[term + len(plain) * (weighed == i)]
            place = torch.rand(num, 1, generator=rng, dtype=torch.float64) * rows[:, -1:]
            columns.append(torch.searchsorted(rows, place, right=True)[:, 0].clamp(max=profile.shape[1] - 1))
        return torch.stack(columns, dim=1)


def _signed_logsumexp(logs: Tensor, signs: Tensor) -> Tensor:
    """log sum_k sign_k exp(log_k), (B, K) -> (B,); NaN where the sum is negative."""
    top = logs.amax(-1, keepdim=True).clamp(min=-1e300)
    return ((logs - top).exp() * signs).sum(-1).log() + top[..., 0]


def _require_products(terms: Sequence[Term]) -> None:
    """Refuse terms that are not a finite coefficient and a profile of numbers for each dimension."""
    if not terms:
        raise GenflowError("the reward has no terms")
    lengths = [len(profile) for profile in terms[0].profiles]
    for number, term in enumerate(terms, start=1):
        if not math.isfinite(term.coefficient):
            raise GenflowError(f"the coefficient of term {number} is {term.coefficient}")
        if [len(profile) for profile in term.profiles] != lengths:
            raise GenflowError(f"the profiles of term {number} are not as long as those of term 1")
        for dimension, profile in enumerate(term.profiles):
            if not bool((profile.isfinite() & (profile >= 0)).all()):
                raise GenflowError(
                    f"the profile of term {number} in dimension {dimension} has a number that is below 0 or"
                    " not finite"
                )
