"""A word where a reward teaches nothing: all of the first molecules score the least, or the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from genflow import Progress, Reward, RewardCalls, interrupts_for_python

from .exclusion import Excluding
from .profile import Profile
from .scoring import FLOOR, Scorer, read

#: molecules, counted as often as they are sampled, after which it is said, different ones that tell of a
#: constant score, and terms that are named
FIRST, DIFFERENT, TERMS = 300, 10, 3


class FloorWatch:
    """Looks at the scores of molecules until two differ, or it has been said that none does."""

    def __init__(self, name: str, reward: Reward, scorer: Scorer) -> None:
        """Begin.

        Args:
            name: of the reward.
            reward: what is paid.
            scorer: what gives its scores.
        """
        self._name, self._reward, self._scorer = name, reward, scorer
        self._seen: Counter[str] = Counter()
        self._scores = set[float]()
        self._done = False

    def see(self, smiles: Sequence[str], scores: Sequence[float]) -> None:
        """Look at molecules by canonical SMILES, "" for none."""
        calls = RewardCalls.current()
        if self._done or (calls is not None and calls.measuring):
            return
        self._seen.update(each for each in smiles if each)
        self._scores.update(score for each, score in zip(smiles, scores, strict=True) if each)
        if len(self._scores) > 1:
            self._done = True
        elif self._seen.total() >= FIRST and (self._scores == {FLOOR} or len(self._seen) >= DIFFERENT):
            Progress.current().warn(self._said())
            self._done = True
        if self._done:
            self._seen.clear()

    def _said(self) -> str:
        different, (score,) = list(self._seen), self._scores
        first = f"the first {self._seen.total():,} molecules, {len(different):,} different ones, all score"
        if score > FLOOR:
            return (
                f"reward {self._name} pays the same for everything: {first} {score:.6g}, so there is nothing"
                " to learn; check the function, or ask for what tells molecules apart"
            )
        return (
            f"reward {self._name} pays for nothing: {first} {FLOOR:g} or less, so there is nothing to learn;"
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
