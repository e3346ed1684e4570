"""What a profile can ask of a molecule: RDKit's descriptors, catalogues of alerts and fingerprints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from rdkit.Chem import (
    Descriptors,
    GetFormalCharge,
    Mol,
    MolFromSmarts,
    rdFingerprintGenerator,
    rdMolDescriptors,
)
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from .rewards import drug_likeness, log_p, sa_score
from .unstable import UNSTABLE

if TYPE_CHECKING:
    from rdkit.DataStructs import ExplicitBitVect

#: of Morgan fingerprints
RADIUS, BITS = 2, 2048


@dataclass(frozen=True)
class Descriptor:
    """A number of a molecule.

    Attributes:
        of: computes it.
        edge: how far outside of a range the desirability falls to 0, where the profile does not say.
        whole: whether it is a whole number.
        least, most: what it can be.
    """

    of: Callable[[Mol], float]
    edge: float
    whole: bool = False
    least: float = 0.0
    most: float = math.inf


def _weight(mol: Mol) -> float:
    return Descriptors.MolWt(mol)  # type: ignore[attr-defined]


def _refractivity(mol: Mol) -> float:
    return rdMolDescriptors.CalcCrippenDescriptors(mol)[1]


def _unstable(mol: Mol) -> int:
    return alerts("unstable")(mol)


#: name -> descriptor; docs/molecule.md has the table
DESCRIPTORS = {
    "mw": Descriptor(_weight, 100.0),
    "logp": Descriptor(log_p, 1.0, least=-math.inf),
    "tpsa": Descriptor(rdMolDescriptors.CalcTPSA, 30.0),
    "mr": Descriptor(_refractivity, 25.0, least=-math.inf),
    "hbd": Descriptor(rdMolDescriptors.CalcNumHBD, 2.0, whole=True),
    "hba": Descriptor(rdMolDescriptors.CalcNumHBA, 3.0, whole=True),
    "rotb": Descriptor(rdMolDescriptors.CalcNumRotatableBonds, 3.0, whole=True),
    "rings": Descriptor(rdMolDescriptors.CalcNumRings, 2.0, whole=True),
    "arom": Descriptor(rdMolDescriptors.CalcNumAromaticRings, 2.0, whole=True),
    "fsp3": Descriptor(rdMolDescriptors.CalcFractionCSP3, 0.2, most=1.0),
    "heavy": Descriptor(Mol.GetNumHeavyAtoms, 6.0, whole=True),
    "hetero": Descriptor(rdMolDescriptors.CalcNumHeteroatoms, 3.0, whole=True),
    "charge": Descriptor(GetFormalCharge, 1.0, whole=True, least=-math.inf),
    "stereo": Descriptor(rdMolDescriptors.CalcNumAtomStereoCenters, 2.0, whole=True),
    "qed": Descriptor(drug_likeness, 0.3, most=1.0),
    "sa": Descriptor(sa_score, 1.5, least=1.0, most=10.0),
    "unstable": Descriptor(_unstable, 2.0, whole=True),
}
#: RDKit's catalogues, by their names in lower case
_RDKIT = {name.lower(): value for name, value in FilterCatalogParams.FilterCatalogs.names.items()}
#: names of catalogues: RDKit's and this project's own
CATALOGUES = (*sorted(_RDKIT), "unstable")
#: similarity to the nearest of some molecules, and counts of matches
SIMILARITY = Descriptor(lambda mol: math.nan, 0.2, most=1.0)
MATCHES = Descriptor(lambda mol: math.nan, 2.0, whole=True)


@cache  # some twenty
def alerts(catalogue: str) -> Callable[[Mol], int]:
    """The function that counts which entries of a catalogue a molecule has.

    Args:
        catalogue: one of `CATALOGUES`.
    """
    if catalogue == "unstable":
        patterns = [MolFromSmarts(smarts) for smarts in UNSTABLE.values()]
        return lambda mol: sum(mol.HasSubstructMatch(pattern) for pattern in patterns)
    params = FilterCatalogParams()
    params.AddCatalog(_RDKIT[catalogue])
    entries = FilterCatalog(params)
    return lambda mol: len(entries.GetMatches(mol))


@cache
def _generator() -> rdFingerprintGenerator.FingerprintGenerator64:
    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def fingerprint(mol: Mol) -> ExplicitBitVect:
    """The Morgan fingerprint of radius 2 and 2,048 bits."""
    return _generator().GetFingerprint(mol)
