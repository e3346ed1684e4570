"""How many trees of blocks there are, and what can be joined to them, exactly and without listing them.

Subtrees are counted by generating functions: f_e = x prod_t (r_t + sum_d f_d) over the stems t of an entry e
and the entries d that fit there, where r_t stands for a stem that is left open. Entries whose stems take the
same entries have the same f.

Shapes: E entries, T stems of a slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

#: (blocks, blocks that it can grow to, ways to join one more: 0 or 1) -> number; trees of one block are left
#: out of the second, of two or more of the third. The last marks one of the ways, or none
Series = Counter[tuple[int, int, int]]


class Counts:
    """Numbers of trees by their blocks."""

    def __init__(self, fits: Tensor, fits_root: Tensor, open_stems: Tensor, enough: int, most: int) -> None:
        """Count.

        Args:
            fits: (E, T, E), which entries can be joined to a stem of another.
            fits_root: (E, E), which can be joined to the root.
            open_stems: (E, T), how many blocks an open stem can bear, at most `enough`.
            enough: blocks from which on it is not told how far a tree can grow.
            most: blocks of a tree.
        """
        sets, which = fits.flatten(0, 1).unique(dim=0, return_inverse=True)
        rooms = torch.zeros(len(sets), dtype=torch.long)
        rooms[which] = open_stems.flatten()
        kinds, kind = which.view(fits.shape[:2]).unique(dim=0, return_inverse=True)
        self._enough, self._most = enough, most
        # how many entries of each kind each set of stems, and all roots together, take
        members = torch.zeros(len(sets), len(kinds), dtype=torch.long).index_add_(1, kind, sets.long())
        roots = torch.zeros(len(kinds), dtype=torch.long).index_add_(0, kind, fits_root.sum(0))
        self._open = [
            Series({(0, room, 0): 1, (0, room, 1): choices})
            for room, choices in zip(rooms.tolist(), members.sum(1).tolist(), strict=True)
        ]
        below = [Series() for _ in kinds]
        for _ in range(most - 1):
            taken = [
                self._sum(own, zip(numbers, below, strict=True))
                for own, numbers in zip(self._open, members.tolist(), strict=True)
            ]
            below = [self._product([taken[each] for each in row]) for row in kinds.tolist()]
        self._pairs = self._sum(Series(), zip(roots.tolist(), below, strict=True))

    def trees(self) -> int:
        """The trees of two blocks and more that have, or can grow to, `enough` blocks."""
        return sum(n for (_, room, way), n in self._pairs.items() if not way and 1 + room >= self._enough)

    def mean_choices(self, blocks: int) -> float:
        """How many blocks can be joined to a tree of so many blocks, on average; 0 if there is none."""
        found = [
            sum(n for (size, _, way), n in self._pairs.items() if 1 + size == blocks and way == marked)
            for marked in (0, 1)
        ]
        return found[1] / found[0] if found[0] else 0.0

    def _sum(self, first: Series, others: Iterable[tuple[int, Series]]) -> Series:
        total = Series(first)
        for number, series in others:
            if number:
                for key, n in series.items():
                    total[key] += number * n
        return total

    def _product(self, factors: Sequence[Series]) -> Series:
        """A block and what its stems bear."""
        product = Series({(1, 1, 0): 1})
        for factor in factors:
            longer = Series()
            for (size, room, way), n in product.items():
                for (more, rooms, ways), m in factor.items():
                    if m and size + more < self._most and way + ways < 2:
                        longer[size + more, min(self._enough, room + rooms), way + ways] += n * m
            product = longer
        return product
