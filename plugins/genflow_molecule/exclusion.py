"""Molecules that are kept out, whatever the reward: those with an alert of a catalogue score the least."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache

from genflow import ByteTable, GenflowError, Reward, brief, did_you_mean, interrupts_for_python

from .descriptors import CATALOGUES, alerts
from .scoring import FLOOR, OVERHEAD, Scorer, read, scorer

#: what stands for no catalogue
NONE = "none"
#: bytes of the verdicts that are kept
VERDICT_BYTES = 2**26


def catalogues_of(text: str) -> tuple[str, ...]:
    """The names of catalogues in a text such as ``unstable+brenk``, in alphabetical order; none for "none".

    Raises:
        GenflowError: there is no such catalogue.
    """
    names = sorted({part.strip().lower() for part in text.split("+")})
    if names == [NONE]:
        return ()
    for name in names:
        if name not in CATALOGUES:
            near = did_you_mean(name, [NONE, *CATALOGUES])
            raise GenflowError(
                f"exclude: there is no catalogue {brief(name, 40)!r}{near}; write several as unstable+brenk"
            )
    return tuple(names)


@cache  # of the few that there are
def _verdicts(catalogue: str) -> ByteTable[str, bool]:
    return ByteTable(VERDICT_BYTES)


@interrupts_for_python()  # what RDKit finds when it is interrupted is no verdict
def _has_alert(smiles: str, catalogue: str) -> bool:
    verdicts = _verdicts(catalogue)
    found = verdicts.get(smiles)
    if found is None:
        mol = read(smiles)
        found = mol is not None and alerts(catalogue)(mol) > 0
        verdicts.add(smiles, found, sys.getsizeof(smiles) + OVERHEAD)
    return found


class Excluding(Scorer):
    """Scores molecules without alerts as another scorer does, which is never asked about the others."""

    def __init__(self, other: Scorer, catalogues: Sequence[str]) -> None:
        super().__init__(other._reward, other.name)
        self._scorer, self._catalogues = other, tuple(catalogues)

    def excludes(self, smiles: str) -> bool:
        """Whether a molecule has an alert of one of the catalogues."""
        return any(_has_alert(smiles, catalogue) for catalogue in self._catalogues)

    def scores(self, smiles: Sequence[str]) -> list[float]:
        """Scores of molecules by their canonical SMILES, `FLOOR` for what is excluded."""
        kept = [each for each in dict.fromkeys(smiles) if not self.excludes(each)]
        found = dict(zip(kept, self._scorer.scores(kept), strict=True))
        return [found.get(each, FLOOR) for each in smiles]

    def modes(self, smiles: Sequence[str]) -> list[bool]:
        """Which molecules are modes; none that is excluded."""
        kept = [each for each in dict.fromkeys(smiles) if not self.excludes(each)]
        found = dict(zip(kept, self._scorer.modes(kept), strict=True))
        return [found.get(each, False) for each in smiles]


def scorer_without(reward: Reward, exclude: str, name: str) -> Scorer:
    """Return the scorer of a reward that is not asked about what catalogues exclude, see `catalogues_of`.

    `name` is that by which the reward is registered.
    """
    catalogues = catalogues_of(exclude)
    found = scorer(reward, name)
    return Excluding(found, catalogues) if catalogues else found
