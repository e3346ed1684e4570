"""`Zoo`: the trained populations of many structures on disk, in a folder each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from genflow.errors import GenflowError
from genflow.population import Population
from genflow.schema import brief
from genflow.storage.files import read_tensors
from genflow.storage.populations import find_populations, inside
from genflow.structure import Structure
from genflow.value_text import count_of

STARTS = "starts.safetensors"


class Zoo:
    """The trained populations of many structures on disk, loaded when they are first read."""

    def __init__(self, folder: Path | str) -> None:
        """Open a zoo, or the ``zoo`` folder of a run directory.

        Raises:
            GenflowError: the folder has no population.
        """
        folder = Path(folder)
        self.folder = inside(folder, "zoo") if os.path.isdir(folder / "zoo") else folder
        self._folders = find_populations(self.folder)
        if not self._folders:
            raise GenflowError(
                f"{folder} holds no populations; make a zoo with `genflow train-zoo --out {folder}`"
            )
        self._loaded: list[Population] | None = None

    def __repr__(self) -> str:
        num = len(self._folders if self._loaded is None else self._loaded)
        return f"Zoo({count_of(num, 'population')} in {self.folder})"

    @property
    def populations(self) -> list[Population]:
        """The populations, one for each structure, in the order of their folders.

        Raises:
            GenflowError: a population cannot be read.
        """
        if self._loaded is None:
            self._loaded = [Population.load(folder) for folder in self._folders]
        return self._loaded

    @property
    def structures(self) -> list[Structure]:
        """The structures of the populations."""
        return [population.structure for population in self.populations]

    @property
    def starts(self) -> dict[str, Tensor]:
        """The stored `Starts.tensors` of the zoo, empty for one of the first edition."""
        return read_starts(self.folder)

    def get(self, structure: Structure) -> Population | None:
        """Return the population of a structure, or None."""
        return next((p for p in self.populations if p.structure == structure), None)

    def without_diverged(self, note: Callable[[str], None] | None = None) -> Zoo:
        """Return the same zoo without the policies that diverged in training.

        Args:
            note: called with one line about them, if there are any.

        Raises:
            GenflowError: all policies of a structure diverged.
        """
        sound = [population.without_diverged() for population in self.populations]
        before, after = (sum(map(len, each)) for each in (self.populations, sound))
        if before == after:
            return self
        if note is not None:
            where = [s.structure.name for s, p in zip(sound, self.populations, strict=True) if s is not p]
            note(
                f"zoo: {before - after} of {before} policies diverged in training and are left out, of"
                f" {brief(', '.join(where), 400)}"
            )
        return self.of(sound)

    def only(self, structures: Sequence[Structure]) -> Zoo:
        """Return the same zoo restricted to some structures."""
        return self.of([p for p in self.populations if p.structure in structures])

    def of(self, populations: Sequence[Population]) -> Zoo:
        """Return a zoo with the stored starts of this one and the given populations in place of its own."""
        zoo = Zoo(self.folder)
        zoo._loaded = list(populations)
        return zoo


def read_starts(folder: Path) -> dict[str, Tensor]:
    """Read the stored `Starts.tensors` of a zoo, empty if there are none."""
    return read_tensors(inside(folder, STARTS))[0] if os.path.exists(folder / STARTS) else {}
