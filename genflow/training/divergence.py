"""Members of a stacked population that have diverged: found, and kept as they were; the others learn on.

Shapes: M policies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Divergence:
    """Who of M members has diverged: its loss or its gradient was not finite.

    Attributes:
        at: (M,) int64 the step (1-based) at which each diverged; 0: it has not.
    """

    def __init__(self, members: int, device: str | torch.device) -> None:
        self.at = torch.zeros(members, dtype=torch.long, device=device)
        self._frozen: tuple[Tensor, list[Tensor]] | None = None

    @property
    def learning(self) -> Tensor:
        """(M,) bool: who has not diverged."""
        return self.at == 0

    def find(self, step: int, losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Mark those that diverge at a step (1-based), before the optimiser takes it.

        Args:
            step: its number.
            losses: (M,).
            parameters: (M, ...) each, with their gradients.

        Returns:
            (M,) bool: who is new among them.
        """
        finite = losses.isfinite()
        for parameter in parameters:
            if parameter.grad is not None:
                finite &= parameter.grad.reshape(len(finite), -1).sum(1).isfinite()
        new = ~finite & self.learning
        self.at.masked_fill_(new, step)
        return new

    def freeze(self, parameters: Sequence[Tensor]) -> None:
        """Remember those that have diverged as they are; their gradients become 0."""
        rows = self.at.nonzero()[:, 0]
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad[rows] = 0.0
        self._frozen = rows, [parameter.detach()[rows] for parameter in parameters]

    def restore(self, parameters: Sequence[Tensor]) -> None:
        """Put back what `freeze` remembered: the optimiser's momentum has moved it."""
        if self._frozen is not None:
            rows, values = self._frozen
            for parameter, value in zip(parameters, values, strict=True):
                parameter.detach()[rows] = value
            self._frozen = None
