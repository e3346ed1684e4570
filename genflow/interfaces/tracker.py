"""`Tracker`: a log outside of the run, such as TensorBoard's, to which figures go as they are measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genflow.interfaces.configured import Configured


class Tracker(Configured, ABC):
    """Writes the figures of one training to a log.

    An object is made for each training that has figures, once before it begins to learn that it can be made.
    What it needs beyond genflow is imported in `__init__`, which raises a `GenflowError` if it is missing.
    """

    @abstractmethod
    def open(self, folder: Path, facts: Mapping[str, Any]) -> Mapping[str, int]:
        """Begin the log of a training, or go on with it.

        Args:
            folder: the training's own, which tells it from all others and is there again when it resumes.
            facts: its ``label`` and its options, as JSON.

        Returns:
            The last step of each figure that the log has, from before an interruption. Up to there the
            figure is not logged again.
        """

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write finite figures of a step, the number of steps that are done; steps come in order."""

    def close(self) -> None:
        """End the log, or interrupt it."""
