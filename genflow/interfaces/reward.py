"""`Reward`: what an environment pays for a finished object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from genflow.interfaces.configured import Configured


class Reward(Configured, ABC):
    """A reward of one environment; the environment's `reward` field names it."""

    #: Registered name of the environment that it belongs to.
    environment: ClassVar[str]
    #: Whether a score takes long, so that scores are counted, kept and dealt out to workers.
    expensive: ClassVar[bool] = False

    def __init__(self, config: Any = None, task: Any = None) -> None:
        """Build from options.

        Args:
            config: of this class's `Config`.
            task: the `Config` of the environment that it is paid in.
        """
        super().__init__(config)
        self.task = task

    @abstractmethod
    def score(self, objects: Any) -> Sequence[float] | Tensor:
        """Scores of a batch of finished objects in their natural form, one number each.

        Args:
            objects: what the environment makes: RDKit molecules for ``molecule``, positions (B, n) int64 for
                ``hypergrid``.

        Returns:
            B numbers in the environment's range: R(x) > 0 for ``hypergrid``, 0 to 1 for ``molecule``.
        """

    def is_mode(self, objects: Any) -> Tensor | None:
        """(B,) bool: which of these objects are modes, or None: this reward does not say."""
        return None
