"""The molecules that states stand for, and their scores; each is assembled once, whatever vocabulary it is met in.

Shapes: B states, N slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from rdkit import Chem, rdBase
from torch import Tensor

from .assembly import assemble
from .rewards import MAX_KNOWN, Scorer
from .vocabulary import Entry


class Known:
    """SMILES of trees by (number of the entry, parent slot, stem) of each block; vocabularies that share entries share them."""

    def __init__(self) -> None:
        self.numbers: dict[Entry, int] = {}
        self.smiles: dict[bytes, str] = {}

    def number(self, entry: Entry) -> int:
        """From 1 on, the same for equal entries."""
        return self.numbers.setdefault(entry, len(self.numbers) + 1)


@cache
def known() -> Known:
    """The one table of this process."""
    return Known()


class Catalogue:
    """Looks up states of trees over some entries.

    Attributes:
        score: of a molecule by its canonical SMILES.
    """

    def __init__(self, entries: Sequence[Entry], score: Scorer) -> None:
        self.score = score
        self._entries, self._known = entries, known()
        self._numbers = torch.tensor([0, *(self._known.number(entry) for entry in entries)])

    def smiles(self, states: Tensor) -> list[str]:
        """Canonical SMILES of states (B, 3N); empty where there are fewer than two blocks, or no molecule."""
        smiles = self._known.smiles
        if len(smiles) > MAX_KNOWN:
            smiles.clear()
        trees = states.cpu().unflatten(-1, (-1, 3))
        named = torch.cat([self._numbers[trees[..., :1]], trees[..., 1:]], dim=-1)
        keys = [row.tobytes() for row in named.numpy()]
        for key, row in zip(keys, trees.numpy(), strict=True):
            if key not in smiles:
                smiles[key] = self._write(row.tolist())
        return [smiles[key] for key in keys]

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
