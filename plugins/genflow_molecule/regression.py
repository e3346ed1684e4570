"""What a few hundred scores say of all molecules of a vocabulary: kernel ridge regression on what adds up.

Shapes: B trees, P properties, C molecules that were asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

#: molecules whose scores are asked for, in so many rounds; see docs/decisions/0011-any-reward.md
CALLS, ROUNDS = 600, 4
#: a score counts at most so many nats, times beta, below the best
CUT = 12.0
#: a regression may err by so many nats where scores are cut; what is so near the cut pays nothing of note
NEAR_CUT = 3.0
#: of the kernel: length over standardised properties, weight of its linear part, and the ridge
LENGTH, LINEAR, RIDGE = 4.0, 0.02, 1e-2
#: how much of a round follows the regression so far, softened by this power; the rest is drawn at random
GREEDY, SOFT = 0.85, 0.7
TINY = 1e-20


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Between standardised properties (A, P) and (B, P): (A, B), a Gaussian and a linear part."""
    near = (torch.cdist(a, b).square() / (-2 * LENGTH**2)).exp()
    return near + LINEAR * (a @ b.T)


class Regression:
    """The logarithm of the reward, in nats; scores far below the best that was seen count alike."""

    def __init__(self, design: Tensor, log_rewards: Tensor, solved: Tensor | None = None) -> None:
        """Fit.

        Args:
            design: standardised properties of what was asked, (C, P).
            log_rewards: beta times the logarithm of their scores, (C,).
            solved: the inverse (C, C) of the kernel with its ridge, if it is known.
        """
        self._design = design
        cut = log_rewards.clamp(min=float(log_rewards.max()) - CUT)
        self._mean, self._spread = cut.mean(), cut.std(correction=0).clamp(min=1e-3)
        target = (cut - self._mean) / self._spread
        if solved is None:
            self._weights = torch.linalg.solve(_ridged(design), target.double()).float()
        else:
            self._weights = solved @ target

    def __call__(self, x: Tensor) -> Tensor:
        """Beta times the log score that is expected of standardised properties (B, P): (B,)."""
        return self.of_kernel(kernel(x, self._design))

    def of_kernel(self, near: Tensor) -> Tensor:
        """The same for `kernel` (B, C) between them and the design."""
        return self._mean + self._spread * (near @ self._weights)


def inverse(design: Tensor) -> Tensor:
    """The inverse (C, C) of the kernel with its ridge, by which many rewards are fitted to one design."""
    return torch.linalg.inv(_ridged(design)).float()


def _ridged(design: Tensor) -> Tensor:
    """The kernel with its ridge, (C, C) float64."""
    return kernel(design, design).double() + RIDGE * torch.eye(len(design), dtype=torch.float64)


class Candidates(Protocol):
    """Trees that may be asked for.

    Attributes:
        x: their standardised properties, (B, P).
        weights: how many trees each stands for, (B,).
    """

    x: Tensor
    weights: Tensor

    def follow(self, log_rewards: Tensor) -> None:
        """Add trees, behind those that are there, where log rewards (B,) are high."""


def ask(trees: Candidates, log_reward: Callable[[Tensor], Tensor], rng: torch.Generator) -> Regression:
    """Ask for the scores of `CALLS` trees, or of all, where the regression so far holds them for probable.

    Args:
        trees: what may be asked for; it is told what the regression expects after each round.
        log_reward: beta times the log score of candidates by number, (C,) -> (C,).
        rng: draws the candidates.
    """
    size = min(CALLS, len(trees.x)) // ROUNDS or 1
    chosen, known = torch.zeros(0, dtype=torch.long), torch.zeros(0)
    new = torch.multinomial(_share(trees.weights), size, generator=rng)
    while True:
        chosen, known = torch.cat([chosen, new]), torch.cat([known, log_reward(new)])
        found = Regression(trees.x[chosen], known)
        if len(chosen) == min(CALLS, len(trees.x)):
            return found
        trees.follow(found(trees.x))
        free = _share(trees.weights)
        free[chosen] = 0
        size = min(size, int((free > 0).sum()), CALLS - len(chosen))
        expected = found(trees.x)
        likely = free * (SOFT * (expected - expected.max())).exp().clamp(min=TINY)
        new = torch.multinomial(likely, max(1, round(GREEDY * size)), generator=rng)
        if len(new) < size:
            free[new] = 0
            new = torch.cat([new, torch.multinomial(free, size - len(new), generator=rng)])


def _share(weights: Tensor) -> Tensor:
    """How likely candidates are at random: half by what they stand for, half alike, (B,)."""
    return 0.5 * weights / weights.sum() + 0.5 / len(weights)


def cut(log_rewards: Tensor) -> Tensor:
    """Log rewards (B,) relative to the best, which count at most `CUT` nats below it."""
    return (log_rewards - log_rewards.max()).clamp(min=-CUT)


def above_cut(log_rewards: Tensor) -> Tensor:
    """Rewards (B,) of log rewards relative to the best, 0 where they are cut.

    There they are any number below, and of trees beyond counting their sum would drown the good ones.
    """
    return log_rewards.exp() * (log_rewards > NEAR_CUT - CUT)
