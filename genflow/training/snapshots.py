"""The dense checkpoints of a run's last steps, which may turn out to be fewer steps than were planned.

Shapes: K snapshots, M policies, D parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Snapshots:
    """The weights after the last step, and at K - 1 steps before it that lie `every` apart.

    They are counted back from the step that is planned to be the last. Where the training ends before that,
    the last step is up to `every` from the one before it.
    """

    def __init__(self, number: int, every: int, planned: int, members: int, size: int) -> None:
        self.tensor = torch.zeros(number, members, size, dtype=torch.float32)
        self._every, self._planned = every, planned

    @property
    def least_steps(self) -> int:
        """The fewest steps that have so many of them."""
        return (len(self.tensor) - 1) * self._every + 1

    def take(self, steps: int, weights: Callable[[], Tensor]) -> None:
        """Keep the (M, D) weights after so many steps, if they may be one of the last."""
        left = self._planned - steps
        if len(self.tensor) > 1 and left % self._every == 0:
            self.tensor[left // self._every % len(self.tensor)] = weights()  # in the place of the oldest

    def finish(self, steps: int, weights: Tensor) -> tuple[Tensor, list[int]]:
        """All of them, the last step's first, after so many steps with these (M, D) weights.

        Returns:
            (K, M, D) weights, and the steps after which they were so.
        """
        number, last = len(self.tensor), (self._planned - steps) // self._every
        self.tensor[last % number] = weights
        rows = [(last + back) % number for back in range(number)]
        return self.tensor[rows], [
            steps if not back else self._planned - (last + back) * self._every for back in range(number)
        ]
