"""What a molecule is worth: drug-likeness, lipophilicity or affinity to a protein, times how easily it is made.

QED: Bickerton et al., "Quantifying the chemical beauty of drugs" (2012). SA: Ertl and Schuffenhauer (2009), 1
easy to 10 hard, from RDKit's contributions. logP: Wildman and Crippen (1999).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache, lru_cache, partial

from rdkit import Chem, rdBase
from rdkit.Chem import QED, Mol, rdMolDescriptors

#: the least score, which keeps every reward positive
FLOOR = 1e-3
#: affinity, kcal/mol, that is worth a half, and the width of the slope: of random molecules about one in six
#: is better
HALF_AFFINITY, AFFINITY_WIDTH = -9.0, 1.0
#: molecules whose scores are remembered
MAX_KNOWN = 2**20


@cache
def _sa_score() -> Callable[[Mol], float]:
    from rdkit.Contrib.SA_Score import sascorer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file of its table open
        sascorer.readFragmentScores()
    return sascorer.calculateScore


def ease(mol: Mol) -> float:
    """(10 - SA) / 9: 1 for what is easy to make, 0 for what is hard."""
    return (10 - _sa_score()(mol)) / 9


def drug_likeness(mol: Mol) -> float:
    """QED, 0 to 1."""
    return QED.qed(mol)


def log_p(mol: Mol) -> float:
    """Octanol-water partition coefficient."""
    return rdMolDescriptors.CalcCrippenDescriptors(mol)[0]


def qed_sa(mol: Mol) -> float:
    """QED times ease."""
    return drug_likeness(mol) * ease(mol)


def logp_window(mol: Mol, centre: float, width: float) -> float:
    """A Gaussian on logP times ease. Bounded: plain penalised logP grows with every carbon."""
    return math.exp(-0.5 * ((log_p(mol) - centre) / width) ** 2) * ease(mol)


def docking_score(mol: Mol) -> float:
    """1 / (1 + exp(a + 9)) times ease, a the affinity to DRD2 in kcal/mol that the proxy predicts.

    Ease keeps size alone from paying.
    """
    from .proxy.network import shipped

    return ease(mol) / (1 + math.exp((shipped().affinity_of(mol) - HALF_AFFINITY) / AFFINITY_WIDTH))


class Scorer:
    """Scores of molecules by their canonical SMILES, so that they do not depend on how a molecule was built; each is computed once."""

    def __init__(self, score: Callable[[Mol], float]) -> None:
        self._score = score
        self._known: dict[str, float] = {}

    def __call__(self, smiles: str) -> float:
        """`FLOOR` to 1; `FLOOR` for what is no molecule."""
        if smiles not in self._known:
            if len(self._known) > MAX_KNOWN:
                self._known.clear()
            with rdBase.BlockLogs():
                mol = Chem.MolFromSmiles(smiles) if smiles else None
            self._known[smiles] = max(FLOOR, self._score(mol)) if mol is not None else FLOOR
        return self._known[smiles]


@lru_cache(maxsize=32)
def scorer(reward: str, centre: float, width: float) -> Scorer:
    """The scorer of a reward by its name, one for all tasks that pay it: vocabularies share molecules."""
    window = partial(logp_window, centre=centre, width=width)
    scores: dict[str, Callable[[Mol], float]] = {
        "qed_sa": qed_sa,
        "logp_window": window,
        "docking": docking_score,
    }
    return Scorer(scores[reward])
