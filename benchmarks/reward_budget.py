"""What the benchmarks of molecules under a budget of reward calls share: the counter, and what is measured.

A call is a molecule, by its canonical SMILES, that has not been asked for before. All contenders ask through
genflow's own counter, `RewardCalls`, which the ledger extends by the order of the calls.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from genflow_molecule.metrics import dissimilar, mean_tanimoto
from genflow_molecule.scoring import FLOOR
from torch import Tensor

from genflow import RewardCalls, Structure
from genflow.reward_calls import Again, IsMode, Score

#: Tanimoto similarity from which two molecules are the same mode, as in the metric `molecule_modes`
SAME_MODE = 0.7


class Ledger(RewardCalls):
    """The calls of one run in their order.

    Attributes:
        asked: the score of each molecule, in the order in which they were asked for first.
    """

    def __init__(self, file: Path, limit: int) -> None:
        super().__init__(file, limit)
        self.limit: int = limit
        self.asked: dict[str, float] = {}
        self._reward: str | None = None

    def scores(
        self,
        reward: str,
        names: Sequence[str],
        score: Score,
        failed: MutableMapping[str, str] | None = None,
        is_mode: IsMode | None = None,
        again: Again | None = None,
    ) -> list[float]:
        """Return scores, see `RewardCalls.scores`; nothing is asked for again.

        Raises:
            ValueError: it is another reward than before, so that two would share an account.
        """
        if self._reward not in (None, reward):
            raise ValueError(f"{reward} is asked on the account of {self._reward}")
        self._reward = reward
        found = super().scores(reward, names, score, failed, is_mode)
        for name, value in zip(names, found, strict=True):
            self.asked.setdefault(name, value)
        return found

    @property
    def left(self) -> int:
        """The calls that may still be made."""
        return self.limit - len(self)

    def within(self) -> dict[str, float]:
        """The first `limit` molecules with their scores; what counts as the least score is 0."""
        pairs = list(self.asked.items())[: self.limit]
        return {name: value if value > FLOOR else 0.0 for name, value in pairs}


@contextmanager
def ledger(limit: int) -> Iterator[Ledger]:
    """Count the calls of a run from nothing."""
    with TemporaryDirectory() as folder, Ledger(Path(folder) / "calls.sqlite", limit).as_current() as calls:
        assert isinstance(calls, Ledger)
        yield calls


def ask(structure: Structure, states: Tensor, calls: Ledger) -> tuple[list[str], Tensor]:
    """Score states (B, 3N) as long as calls are left.

    Returns:
        The molecules of the first states, as many as could be paid for, and their scores (b,) float64.
    """
    catalogue = structure.environment.catalogue
    smiles = catalogue.smiles(states)
    left, new, paid = calls.left, set(), 0
    for each in smiles:
        if each not in calls.asked and each not in new:
            if len(new) >= left:
                break
            new.add(each)
        paid += 1
    smiles = smiles[:paid]
    return smiles, torch.tensor(catalogue.score.scores(smiles), dtype=torch.float64)


def auc_top(scores: Sequence[float], limit: int, top: int = 10, every: int = 100) -> float:
    """The area under the mean of the best so far, 0 to 1, as Gao et al. (2022) measure sample efficiency.

    The mean of the `top` best is read after every so many calls, joined by straight lines from 0 at 0 calls,
    and stays as it is from the last call to the limit.
    """
    best: list[float] = []
    area, before, reached = 0.0, 0.0, 0
    scores = scores[:limit]
    for number, score in enumerate(scores, 1):
        (heapq.heappush if len(best) < top else heapq.heappushpop)(best, score)
        if number % every == 0 or number == len(scores):
            now = sum(best) / len(best)
            area += (number - reached) * (now + before) / 2
            before, reached = now, number
    return (area + (limit - reached) * before) / limit


def figures(asked: dict[str, float], modes_from: float) -> dict[str, float]:
    """Modes, top-100 and their diversity of all molecules that a run asked for.

    Args:
        asked: scores by SMILES.
        modes_from: the score from which a molecule counts as a mode; similar ones are one, the best first.
    """
    ranked = sorted(asked, key=lambda each: (-asked[each], each))
    good = [each for each in ranked if asked[each] >= modes_from]
    best = ranked[:100]
    return {
        "calls": len(asked),
        "modes": len(dissimilar(good, SAME_MODE)),
        "top_100": sum(asked[each] for each in best) / len(best),
        "top_10": sum(asked[each] for each in best[:10]) / len(best[:10]),
        "diversity": 1 - mean_tanimoto(best),
    }
