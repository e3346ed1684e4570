"""The molecules that states stand for, and their scores; each is assembled once.

Shapes: B states, N slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from rdkit import Chem, rdBase
from torch import Tensor

from .assembly import assemble
from .rewards import MAX_KNOWN, Scorer
from .vocabulary import Entry

#: sets of entries whose molecules are remembered
MAX_VOCABULARIES = 512


@lru_cache(maxsize=MAX_VOCABULARIES)
def _known(entries: tuple[Entry, ...]) -> dict[bytes, str]:
    """SMILES by state, one table for all tasks of the same entries, whatever they pay."""
    return {}


class Catalogue:
    """Looks up states of trees over some entries.

    Attributes:
        score: of a molecule by its canonical SMILES.
    """

    def __init__(self, entries: Sequence[Entry], score: Scorer) -> None:
        self.score = score
        self._entries = entries
        self._smiles = _known(tuple(entries))

    def smiles(self, states: Tensor) -> list[str]:
        """Canonical SMILES of states (B, 3N); empty where there are fewer than two blocks, or no molecule."""
        if len(self._smiles) > MAX_KNOWN:
            self._smiles.clear()
        rows = states.cpu().contiguous().numpy()
        keys = [row.tobytes() for row in rows]
        for key, row in zip(keys, rows, strict=True):
            if key not in self._smiles:
                self._smiles[key] = self._write(row.reshape(-1, 3).tolist())
        return [self._smiles[key] for key in keys]

    def _write(self, slots: list[list[int]]) -> str:
        tree = [(entry, parent, stem) for entry, parent, stem in slots if entry > 0]
        if len(tree) < 2:
            return ""
        with rdBase.BlockLogs():
            try:
                return Chem.MolToSmiles(assemble(self._entries, tree))
            except ValueError:  # what RDKit says of an impossible molecule
                return ""

    def scores(self, states: Tensor) -> Tensor:
        """(B, 3N) -> (B,) float64."""
        return torch.tensor([self.score(smiles) for smiles in self.smiles(states)], dtype=torch.float64)
