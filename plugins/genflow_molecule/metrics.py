"""What is measured of sampled molecules, as by Bengio et al. (2021): modes, the best ones, how they differ.

Scores are those before `beta`: they compare with the literature's rewards, and do not depend on the
temperature.

Shapes: M policies, B trajectories each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from genflow import Metric, Population, Schema, Structure

from .environment import Molecule
from .scoring import MODE_SCORE

if TYPE_CHECKING:
    from rdkit.DataStructs import ExplicitBitVect


class _Sampled(Metric):
    """A figure of the molecules that each policy samples."""

    better = "higher"
    fidelity = False

    class Config(Schema):
        """What is sampled."""

        draws: int = Field(default=1024, ge=1, le=100_000, description="Trajectories of each policy.")
        seed: int = Field(default=0, description="The seed of the trajectories.")

    def fits(self, structure: Structure) -> bool:
        """Whether the task makes molecules."""
        return isinstance(structure.environment, Molecule)

    @abstractmethod
    def figure(self, environment: Molecule, smiles: Sequence[str], states: Tensor) -> float:
        """The figure of one policy.

        Args:
            environment: of the policy.
            smiles: the sampled molecules, ``""`` for what is none.
            states: of the molecules (B, 3N).
        """

    def __call__(self, population: Population) -> Tensor:
        """Measure each policy: (M,) float64."""
        environment = population.structure.environment
        assert isinstance(environment, Molecule)
        final = population.rollouts(self.config.draws, self.config.seed).final
        return torch.tensor(
            [self.figure(environment, environment.catalogue.smiles(own), own) for own in final],
            dtype=torch.float64,
        )


def distinct(smiles: Sequence[str]) -> list[str]:
    """Every molecule once, in alphabetical order."""
    return sorted(set(smiles) - {""})


def fingerprints(smiles: Sequence[str]) -> list[ExplicitBitVect]:
    """Their fingerprints, see `descriptors.fingerprint`."""
    from rdkit import Chem

    from .descriptors import fingerprint

    return [fingerprint(Chem.MolFromSmiles(each)) for each in smiles]


def dissimilar(smiles: Sequence[str], similarity: float) -> list[str]:
    """The molecules that are less similar (Tanimoto) than this to every one that is kept before them."""
    from rdkit.SimDivFilters.rdSimDivPickers import LeaderPicker

    if not smiles:
        return []
    # three times as fast as comparing every two
    kept = LeaderPicker().LazyBitVectorPick(fingerprints(smiles), len(smiles), 1 - similarity)
    return [smiles[index] for index in kept]


def mean_tanimoto(smiles: Sequence[str]) -> float:
    """The mean similarity of every two of them; NaN for fewer than two."""
    from rdkit.DataStructs import BulkTanimotoSimilarity

    prints = fingerprints(smiles)
    total = sum(sum(BulkTanimotoSimilarity(one, prints[:number])) for number, one in enumerate(prints))
    pairs = len(prints) * (len(prints) - 1) // 2
    return total / pairs if pairs else float("nan")


class Modes(_Sampled):
    """Molecules with a high score that are unlike each other, the best first."""

    brief = True

    class Config(_Sampled.Config):
        """What is sampled and what counts."""

        score: float = Field(
            default=MODE_SCORE, ge=0, le=1, description="The score from which a molecule counts."
        )
        similarity: float = Field(
            default=0.7, gt=0, le=1, description="The Tanimoto similarity from which two are the same mode."
        )

    def figure(self, environment: Molecule, smiles: Sequence[str], states: Tensor) -> float:
        """How many molecules count."""
        found = distinct(smiles)
        scores = dict(zip(found, environment.catalogue.score.scores(found), strict=True))
        good = [each for each in scores if scores[each] >= self.config.score]
        return float(len(dissimilar(sorted(good, key=lambda each: -scores[each]), self.config.similarity)))


class _Top(_Sampled):
    """The mean score of the best different molecules, or of all where there are fewer."""

    number: int

    def figure(self, environment: Molecule, smiles: Sequence[str], states: Tensor) -> float:
        """Their mean score, 0 to 1; NaN if there is no molecule."""
        scores = sorted(environment.catalogue.score.scores(distinct(smiles)), reverse=True)[: self.number]
        return sum(scores) / len(scores) if scores else float("nan")


class Top10(_Top):
    """The mean score of the ten best different molecules."""

    brief = True
    number = 10


class Top100(_Top):
    """The mean score of the hundred best different molecules."""

    number = 100


class Diversity(_Sampled):
    """One minus the mean Tanimoto similarity of different molecules."""

    def figure(self, environment: Molecule, smiles: Sequence[str], states: Tensor) -> float:
        """The diversity, 0 to 1; NaN for fewer than two molecules."""
        return 1 - mean_tanimoto(distinct(smiles))


class Validity(_Sampled):
    """The share of samples that are molecules, which assembly guarantees: anything below 1 is a mistake."""

    def figure(self, environment: Molecule, smiles: Sequence[str], states: Tensor) -> float:
        """The share, 0 to 1."""
        from rdkit import Chem, rdBase

        with rdBase.BlockLogs():
            valid = {each for each in distinct(smiles) if Chem.MolFromSmiles(each) is not None}
        return sum(each in valid for each in smiles) / len(smiles)


class Uniqueness(_Sampled):
    """The share of different molecules among those sampled."""

    def figure(self, environment: Molecule, smiles: Sequence[str], states: Tensor) -> float:
        """The share, 0 to 1; NaN if there is no molecule."""
        valid = [each for each in smiles if each]
        return len(set(valid)) / len(valid) if valid else float("nan")


class Length(_Sampled):
    """The mean number of blocks."""

    def figure(self, environment: Molecule, smiles: Sequence[str], states: Tensor) -> float:
        """The mean, 2 to N."""
        slots = environment.trees.slots(states)
        return float((slots[..., 0] > 0).sum(-1).double().mean())
