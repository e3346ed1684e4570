"""Detection of policies that have diverged in training, which are then frozen while the others continue.

Shapes: M policies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class DivergedMembers:
    """Keeps track of which of M policies had a loss or a gradient that was not finite.

    Attributes:
        at: (M,) int64, the step (1-based) at which each policy diverged, or 0.
    """

    def __init__(self, members: int, device: str | torch.device) -> None:
        self.at = torch.zeros(members, dtype=torch.long, device=device)
        self._frozen: tuple[Tensor, list[Tensor]] | None = None

    @property
    def learning(self) -> Tensor:
        """(M,) bool, True for policies that have not diverged."""
        return self.at == 0

    def find(self, step: int, losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Mark the policies that diverge at a step, before the optimiser takes it.

        Args:
            step: number of the step (1-based).
            losses: (M,).
            parameters: (M, ...) each, with their gradients.

        Returns:
            (M,) bool, True for policies that have diverged at this step.
        """
        finite = losses.isfinite()
        for parameter in parameters:
            if parameter.grad is not None:
                finite &= parameter.grad.reshape(len(finite), -1).sum(1).isfinite()
        new = ~finite & self.learning
        self.at.masked_fill_(new, step)
        return new

    def freeze(self, parameters: Sequence[Tensor]) -> None:
        """Save the parameters of diverged policies, and set their gradients to 0."""
        rows = self.at.nonzero()[:, 0]
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad[rows] = 0.0
        self._frozen = rows, [parameter.detach()[rows] for parameter in parameters]

    def restore(self, parameters: Sequence[Tensor]) -> None:
        """Restore the parameters that `freeze` saved, because the optimiser's momentum has changed them."""
        if self._frozen is not None:
            rows, values = self._frozen
            for parameter, value in zip(parameters, values, strict=True):
                parameter.detach()[rows] = value
            self._frozen = None
