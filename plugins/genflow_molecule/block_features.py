"""The chemistry of one block as numbers of about unit size."""

from __future__ import annotations

import torch
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from . import rewards
from .kept import kept
from .vocabulary import Block

ELEMENTS = ("C", "N", "O", "S")
#: Pauling's electronegativity above carbon's
POLARITY = {"N": 0.49, "O": 0.89, "S": 0.03, "F": 1.43, "Cl": 0.61, "Br": 0.41}
#: what properties, counts (of what there are few, some or many of), valences, distances in bonds, slots and
#: stems are divided by to be of about unit size; the generator that ships has learned them as they are
HEAVY_ATOMS, WEIGHT, LOG_P, SURFACE = 8.5, 120, 2, 40
FEW, SOME, MANY = 2.5, 3.5, 4.5
VALENCE, DISTANCE, SLOTS, STEMS = 6.5, 6.5, 8.5, 3.5


@kept
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


@kept
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
