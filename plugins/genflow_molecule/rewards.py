"""What a molecule is worth: drug-likeness, lipophilicity or affinity to a protein, times ease of synthesis.

QED: Bickerton et al., "Quantifying the chemical beauty of drugs" (2012). SA: Ertl and Schuffenhauer (2009),
1 easy to 10 hard, from RDKit's contributions. logP: Wildman and Crippen (1999).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache

from rdkit.Chem import QED, Mol, rdMolDescriptors

from genflow import Reward, Schema, described

#: affinity, kcal/mol, that is worth a half, which one in six random molecules reaches, and the width of the
#: slope
HALF_AFFINITY, AFFINITY_WIDTH = -9.0, 1.0


@cache
def _sa_score() -> Callable[[Mol], float]:
    from rdkit.Contrib.SA_Score import sascorer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file of its table open
        sascorer.readFragmentScores()
    return sascorer.calculateScore


def sa_score(mol: Mol) -> float:
    """SA, from 1, easy, to 10."""
    return _sa_score()(mol)


def ease(mol: Mol) -> float:
    """How easily a molecule is made, (10 - SA) / 9: 1 is easy, 0 hard."""
    return (10 - sa_score(mol)) / 9


def drug_likeness(mol: Mol) -> float:
    """QED, from 0 to 1."""
    return QED.qed(mol)


def log_p(mol: Mol) -> float:
    """The octanol-water partition coefficient."""
    return rdMolDescriptors.CalcCrippenDescriptors(mol)[0]


class QedSa(Reward):
    """QED times ease of synthesis."""

    environment = "molecule"
    reads_task = False

    def score(self, objects: Sequence[Mol]) -> list[float]:
        """QED times ease of each molecule."""
        return [drug_likeness(mol) * ease(mol) for mol in objects]


class LogPWindow(Reward):
    """A Gaussian on logP times ease of synthesis; plain penalised logP would grow with every carbon."""

    environment = "molecule"
    reads_task = False

    class Config(Schema):
        """The Gaussian."""

        logp_centre: float = described(2.5, ge=-20, le=20, description="The logP that pays most.")
        logp_width: float = described(1.0, gt=0, le=20, description="The standard deviation of the Gaussian.")

    def score(self, objects: Sequence[Mol]) -> list[float]:
        """The Gaussian times ease of each molecule."""
        centre, width = self.config.logp_centre, self.config.logp_width
        return [math.exp(-0.5 * ((log_p(mol) - centre) / width) ** 2) * ease(mol) for mol in objects]


class Docking(Reward):
    """Affinity to DRD2 as the proxy predicts it, as a number from 0 to 1, times ease of synthesis.

    1 / (1 + exp(a + 9)) of the affinity a in kcal/mol. Ease keeps size alone from paying.
    """

    environment = "molecule"
    reads_task = False

    def score(self, objects: Sequence[Mol]) -> list[float]:
        """The logistic of the affinity times ease of each molecule."""
        from .proxy.network import shipped

        proxy = shipped()
        return [
            ease(mol) / (1 + math.exp((proxy.affinity_of(mol) - HALF_AFFINITY) / AFFINITY_WIDTH))
            for mol in objects
        ]
