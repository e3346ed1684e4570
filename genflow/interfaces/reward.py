"""`Reward`: the reward of an environment for a finished object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from genflow.interfaces.configured import Configured


class Reward(Configured, ABC):
    """A reward of one environment, chosen by the environment's field of kind `genflow.reward_name`."""

    #: Registered name of the environment that the reward belongs to.
    environment: ClassVar[str]
    #: Whether a score takes long to compute, so that scores are counted, cached and shared among workers.
    expensive: ClassVar[bool] = False
    #: Whether the score of an object depends on `self.task`. False lets tasks share the scores of the objects
    #: that they have in common; `self.task` may then be None.
    reads_task: ClassVar[bool] = True

    def __init__(self, config: Any = None, task: Any = None) -> None:
        """Create the reward from its options.

        Args:
            config: an instance of this class's `Config`.
            task: the `Config` of the environment that uses the reward.
        """
        super().__init__(config)
        self.task = task

    @abstractmethod
    def score(self, objects: Any) -> Sequence[float] | Tensor:
        """Score a batch of finished objects.

        Args:
            objects: B objects in the form that the environment defines, e.g. RDKit molecules for ``molecule``
                and positions (B, n) int64 for ``hypergrid``.

        Returns:
            B numbers in the range that the environment defines, e.g. from 0 to 1 for ``molecule`` and
            R(x) > 0 for ``hypergrid``.
        """

    def is_mode(self, objects: Any) -> Tensor | None:
        """Return which objects are modes, as (B,) bool, or None if this reward does not define modes."""
        return None
