"""A word where a reward pays for nothing: all of the first molecules score the least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from genflow import Progress, Reward, interrupts_for_python

from .exclusion import Excluding
from .profile import Profile
from .scoring import FLOOR, Scorer, read

#: molecules, counted as often as they are sampled, after which it is said, and terms that are named
FIRST, TERMS = 300, 3


class FloorWatch:
    """Looks at the scores of molecules until one is above the least, or it has been said that none is."""

    def __init__(self, name: str, reward: Reward, scorer: Scorer) -> None:
        """Begin.

        Args:
            name: of the reward.
            reward: what is paid.
            scorer: what gives its scores.
        """
        self._name, self._reward, self._scorer = name, reward, scorer
        self._seen: Counter[str] = Counter()
        self._done = False

    def see(self, smiles: Sequence[str], scores: Sequence[float]) -> None:
        """Look at molecules by canonical SMILES, "" for none."""
        if self._done:
            return
        self._seen.update(each for each in smiles if each)
        if any(score > FLOOR for each, score in zip(smiles, scores, strict=True) if each):
            self._done = True
        elif self._seen.total() >= FIRST:
            Progress.current().warn(self._said())
            self._done = True
        if self._done:
            self._seen.clear()

    def _said(self) -> str:
        different = list(self._seen)
        return (
            f"reward {self._name} pays for nothing: the first {self._seen.total():,} molecules,"
            f" {len(different):,} different ones, all score {FLOOR:g} or less, so there is nothing to learn;"
            f" {self._why(different)}"
        )

    @interrupts_for_python()
    def _why(self, smiles: Sequence[str]) -> str:
        if isinstance(self._scorer, Excluding):
            kept = [each for each in smiles if not self._scorer.excludes(each)]
            if not kept:
                return "all have an alert of a catalogue of `exclude`: name another one, or other blocks"
            smiles = kept
        if not isinstance(self._reward, Profile):
            return "ask less of a molecule, or take other blocks or more of them"
        unmet: Counter[str] = Counter()
        for each in smiles:
            mol = read(each)
            if mol is not None:
                wishes = self._reward.desirabilities(mol).items()
                unmet.update(term for term, value in wishes if not value)
        named = ", ".join(f"{term} ({n / len(smiles):.0%} of them)" for term, n in unmet.most_common(TERMS))
        return f"they fail {named}: widen these ranges, give them a wider edge (~), or take other blocks"
