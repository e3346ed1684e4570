"""The chemistry of one block, alone and with probes joined to it, as numbers of about unit size."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from rdkit import Chem, rdBase
from rdkit.Chem import QED, Mol, rdMolDescriptors

from genflow import ByteCache, interrupts_for_python

from . import rewards
from .assembly import join
from .scoring import Scorer
from .vocabulary import Block

P = ParamSpec("P")
V = TypeVar("V")
ELEMENTS = ("C", "N", "O", "S")
#: Pauling's electronegativity above carbon's
POLARITY = {"N": 0.49, "O": 0.89, "S": 0.03, "F": 1.43, "Cl": 0.61, "Br": 0.41}
#: SMILES of what is joined to every atom that can be joined, and the atom of it that bears the bond: from a
#: methyl group to what brings a block to the size of the molecules that the reward is about, greasy and
#: polar, by carbon and by hetero atoms
PROBES = (
    ("C", 0), ("c1ccccc1", 0), ("NC=O", 1), ("C1CCNCC1", 0), ("CC(C)C", 1), ("C=O", 0), ("CCCCCC", 0),
    ("OCCO", 1), ("OC(=O)CC", 4), ("COc1ccccc1", 5), ("Clc1ccc(Cl)cc1", 2), ("O=[N+]([O-])c1ccccc1", 6),
    ("O=C1CSC(=S)N1", 2), ("c1ccc2ccccc2c1", 0),
    ("c1ccc2[nH]ccc2c1", 0), ("c1ccc(-c2ccncc2)cc1", 0), ("CC(=O)Nc1ccccc1", 7),
    ("O=C(Nc1ccccc1)c1ccccc1", 12),
    ("CCN(CC)S(=O)(=O)c1ccc(C)cc1", 0), ("CN1CCN(c2ccccc2)CC1", 8), ("CNC", 1), ("Nc1ccccc1", 0), ("CO", 1),
    ("Oc1ccccc1", 0),
)  # fmt: skip
METHYL, PHENYL = 0, 1
#: RDKit's structural alerts that a hundredth of the entries of the vocabulary that ships have, by their
#: number in `QED.StructuralAlerts`
ALERTS = (10, 12, 14, 18, 19, 22, 32, 42, 65, 90, 101, 102, 103, 104, 105, 106)
#: numbers that `properties` gives
PROPERTIES = 12 + len(ALERTS)
#: what properties, counts (of what there are few, some or many of), valences, distances in bonds, slots and
#: stems are divided by to be of about unit size; the generator that ships has learned them as they are
HEAVY_ATOMS, WEIGHT, LOG_P, SURFACE = 8.5, 120, 2, 40
FEW, SOME, MANY = 2.5, 3.5, 4.5
VALENCE, DISTANCE, SLOTS, STEMS = 6.5, 6.5, 8.5, 3.5
#: what is known of blocks; equal blocks of different vocabularies share it
_cache = ByteCache(2**25)


def _kept(function: Callable[P, V]) -> Callable[P, V]:
    """Keep what a function of hashable arguments returns; RDKit, whose word is kept, is not interrupted."""

    make = interrupts_for_python()(function)

    @wraps(function)
    def get(*args: P.args, **kwargs: P.kwargs) -> V:
        return _cache.get(function, (args, *kwargs.items()), lambda: make(*args, **kwargs))

    return get


@_kept
def outline_block(block: Block) -> dict[str, float]:
    """Outline a block by numbers of about unit size, most of which add up when blocks are joined."""
    mol = block.mol
    heavy = mol.GetNumHeavyAtoms()
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    return {
        "size": heavy / HEAVY_ATOMS,
        "weight": rdMolDescriptors.CalcExactMolWt(mol) / WEIGHT,
        "rings": rdMolDescriptors.CalcNumRings(mol) / FEW,
        "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings(mol) / FEW,
        "hetero": sum(symbol != "C" for symbol in symbols) / heavy,
        "halogens": sum(symbol in ("F", "Cl", "Br") for symbol in symbols) / SOME,
        "log_p": rewards.log_p(mol) / LOG_P,
        "surface": rdMolDescriptors.CalcTPSA(mol) / SURFACE,
        "donors": rdMolDescriptors.CalcNumHBD(mol) / FEW,
        "acceptors": rdMolDescriptors.CalcNumHBA(mol) / FEW,
        "charges": sum(abs(atom.GetFormalCharge()) for atom in mol.GetAtoms()) / MANY,
        "rotatable": rdMolDescriptors.CalcNumRotatableBonds(mol) / SOME,
        "strained": (rdMolDescriptors.CalcNumBridgeheadAtoms(mol) + rdMolDescriptors.CalcNumSpiroAtoms(mol))
        / FEW,
    }


def properties(mol: Mol) -> list[float]:
    """What drug-likeness and ease of synthesis are made of.

    RDKit's properties of QED, ease, stereocentres, and which alerts.
    """
    found = QED.properties(mol)
    which = [float(mol.HasSubstructMatch(QED.StructuralAlerts[number])) for number in ALERTS]
    centres = len(Chem.FindMolChiralCenters(mol, includeUnassigned=True, useLegacyImplementation=False))
    counted = [
        found.HBA / FEW,
        found.HBD / FEW,
        found.ROTB / SOME,
        found.AROM / FEW,
        found.ALERTS / FEW,
        centres / FEW,
    ]
    rest = (found.ALERTS - sum(which)) / FEW  # of several alerts that two blocks have, each counts once
    return [
        found.MW / WEIGHT,
        found.ALOGP / LOG_P,
        found.PSA / SURFACE,
        *counted,
        rest,
        rewards.drug_likeness(mol),
        rewards.ease(mol),
        *which,
    ]


@_kept
def cap_properties(block: Block, caps: tuple[tuple[int, int], ...]) -> list[float]:
    """The `properties` of a block with probes in place of its neighbours, its caps.

    Args:
        block: the block.
        caps: (atom, number of the probe) each.
    """
    mol = block.mol
    with rdBase.BlockLogs():
        for atom, number in caps:
            smiles, other = PROBES[number]
            mol = join(mol, atom, Chem.MolFromSmiles(smiles), other)
        return properties(mol)


@_kept
def describe_atom(block: Block, index: int) -> dict[str, float]:
    """An atom and what surrounds it.

    `polarity`, `donation` and `bulk` sum electronegativity, hydrogens of hetero atoms, and atoms, over the
    block, the nearer the more.
    """
    mol = block.mol
    atom = mol.GetAtomWithIdx(index)
    neighbours = list(atom.GetNeighbors())
    near = 1 / (1 + torch.tensor(Chem.GetDistanceMatrix(mol)[index]).clamp(max=100))
    atoms = list(mol.GetAtoms())
    polarity = torch.tensor([POLARITY.get(other.GetSymbol(), 0.0) for other in atoms], dtype=torch.float32)
    hydrogens = torch.tensor(
        [float(other.GetTotalNumHs()) * (other.GetSymbol() != "C") for other in atoms], dtype=torch.float32
    )
    elements = {f"is_{symbol}": float(atom.GetSymbol() == symbol) for symbol in ELEMENTS}
    return elements | {
        "carbon": float(atom.GetSymbol() == "C"),
        "aromatic": float(atom.GetIsAromatic()),
        "in_ring": float(atom.IsInRing()),
        "in_five": float(atom.IsInRingSize(5)),
        "charge": atom.GetFormalCharge() / FEW,
        "degree": atom.GetDegree() / MANY,
        "hydrogens": atom.GetTotalNumHs() / MANY,
        "valence": atom.GetTotalValence() / VALENCE,
        "hetero_neighbours": sum(other.GetSymbol() != "C" for other in neighbours) / SOME,
        "aromatic_neighbours": sum(other.GetIsAromatic() for other in neighbours) / SOME,
        "unsaturated": float(
            any(bond.GetBondTypeAsDouble() >= 2 for other in neighbours for bond in other.GetBonds())
        ),
        "polarity": float((near * polarity).sum()),
        "donation": float((near * hydrogens).sum()) / FEW,
        "bulk": float(near.sum()) / 4,
    }


@_kept
def probe_smiles(block: Block, index: int, number: int) -> str:
    """The canonical SMILES of a block with a probe bonded to one of its atoms."""
    smiles, atom = PROBES[number]
    with rdBase.BlockLogs():
        return Chem.MolToSmiles(join(block.mol, index, Chem.MolFromSmiles(smiles), atom))


def probe_score(block: Block, index: int, number: int, score: Scorer) -> float:
    """Half the logarithm of the score of a block with a probe bonded to one of its atoms."""
    return math.log(score(probe_smiles(block, index, number))) / 2
