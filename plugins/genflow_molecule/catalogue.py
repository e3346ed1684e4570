"""The molecules that states stand for, and their scores; each is assembled once, in whatever vocabulary.

Shapes: B states, N slots.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from functools import cache

import torch
from rdkit import Chem, rdBase
from torch import Tensor

from genflow import ByteTable

from .assembly import assemble
from .scoring import OVERHEAD, Scorer, counted
from .vocabulary import Entry

#: bytes of the SMILES that are kept, and entries that are numbered at once
SMILES_BYTES, MAX_ENTRIES = 2**28, 2**16
#: molecules after which a bar moves
SHOWN = 100


class Known:
    """The SMILES of trees by numbers of entries, so that vocabularies that share entries share them."""

    def __init__(self) -> None:
        self.smiles: ByteTable[bytes, str] = ByteTable(SMILES_BYTES)
        self._numbers: dict[Entry, int] = {}
        self._next = itertools.count(1)

    def numbers(self, entries: Sequence[Entry]) -> list[int]:
        """Numbers from 1 on, the same for equal entries; none is ever given to another entry."""
        if len(self._numbers) > MAX_ENTRIES:
            self._numbers.clear()
        return [self._numbers.setdefault(entry, next(self._next)) for entry in entries]


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
        self._numbers = torch.tensor([0, *self._known.numbers(entries)])

    def smiles(self, states: Tensor) -> list[str]:
        """Canonical SMILES of states (B, 3N); empty where there are fewer than two blocks, or no molecule."""
        trees = states.cpu().unflatten(-1, (-1, 3))
        named = torch.cat([self._numbers[trees[..., :1]], trees[..., 1:]], dim=-1)
        found: list[str] = []
        with counted("molecules", len(states)) as show:
            for row, slots in zip(named.numpy(), trees.numpy(), strict=True):
                key = row.tobytes()
                smiles = self._known.smiles.get(key)
                if smiles is None:
                    smiles = self._write(slots.tolist())
                    self._known.smiles.add(key, smiles, len(key) + sys.getsizeof(smiles) + OVERHEAD)
                found.append(smiles)
                if not len(found) % SHOWN:
                    show(len(found))
        return found

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
        """The scores of states (B, 3N), before `beta`, as (B,) float64."""
        return torch.tensor(self.score.scores(self.smiles(states)), dtype=torch.float64)

    def modes(self, states: Tensor) -> Tensor:
        """Which states (B, 3N) are modes, as (B,) bool."""
        return torch.tensor(self.score.modes(self.smiles(states)), dtype=torch.bool)
