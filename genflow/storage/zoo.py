"""`Zoo`: many populations on disk, one folder a structure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from genflow.errors import GenflowError
from genflow.population import Population
from genflow.storage.files import read_tensors
from genflow.storage.populations import find_populations, inside, load_population
from genflow.structure import Structure

STARTS = "starts.safetensors"


class Zoo:
    """Many populations on disk, loaded when they are asked for."""

    def __init__(self, folder: Path | str) -> None:
        """Open a zoo, or the ``zoo`` inside a run directory.

        Raises:
            GenflowError: there is no population in it.
        """
        folder = Path(folder)
        self.folder = inside(folder, "zoo") if os.path.isdir(folder / "zoo") else folder
        self._folders = find_populations(self.folder)
        if not self._folders:
            raise GenflowError(
                f"{folder} holds no populations; make a zoo with `genflow train-zoo --out {folder}`"
            )
        self._loaded: list[Population] | None = None

    @property
    def populations(self) -> list[Population]:
        """All populations, one a structure, in the order of their folders.

        Raises:
            GenflowError: a population cannot be read.
        """
        if self._loaded is None:
            self._loaded = [load_population(folder) for folder in self._folders]
        return self._loaded

    @property
    def structures(self) -> list[Structure]:
        """The structures that have a population."""
        return [population.structure for population in self.populations]

    @property
    def starts(self) -> dict[str, Tensor]:
        """What its members' starts were made of, see `Starts.tensors`; empty for one of the first edition."""
        return read_starts(self.folder)

    def get(self, structure: Structure) -> Population | None:
        """The population of a structure, or None."""
        return next((p for p in self.populations if p.structure == structure), None)

    def only(self, structures: Sequence[Structure]) -> Zoo:
        """The same zoo, restricted to some structures."""
        zoo = Zoo(self.folder)
        zoo._loaded = [p for p in self.populations if p.structure in structures]
        return zoo


def read_starts(folder: Path) -> dict[str, Tensor]:
    """The tensors that a zoo's starts are made of, if any are stored."""
    return read_tensors(inside(folder, STARTS))[0] if os.path.exists(folder / STARTS) else {}
