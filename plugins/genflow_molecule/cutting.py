"""Molecules cut at some of their bonds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rdkit import Chem
from rdkit.Chem import BondType, Mol

#: acyclic single bonds that touch a ring
AT_RING = Chem.MolFromSmarts("[R]-!@[*]")


def ring_bonds(mol: Mol) -> list[int]:
    """The acyclic single bonds that touch a ring."""
    return sorted({mol.GetBondBetweenAtoms(*pair).GetIdx() for pair in mol.GetSubstructMatches(AT_RING)})


def brics_bonds(mol: Mol) -> list[int]:
    """The bonds of BRICS (Degen et al. 2008) but its double ones, as blocks are joined by single bonds."""
    from rdkit.Chem import BRICS

    bonds = (mol.GetBondBetweenAtoms(*pair) for pair, _ in BRICS.FindBRICSBonds(mol))
    return sorted({bond.GetIdx() for bond in bonds if bond.GetBondType() == BondType.SINGLE})


#: name -> the bonds at which it cuts a molecule
CUTS: dict[str, Callable[[Mol], list[int]]] = {"brics": brics_bonds, "rings": ring_bonds}


def pieces(mol: Mol, bonds: Sequence[int]) -> Iterator[tuple[str, Counter[int]]]:
    """The SMILES of each piece, and how often each of its atoms was bonded to another piece."""
    if bonds:
        for part in Chem.GetMolFrags(Chem.FragmentOnBonds(mol, bonds), asMols=True):
            yield without_dummies(part)


def without_dummies(mol: Mol) -> tuple[str, Counter[int]]:
    """A molecule with hydrogen for its dummy atoms: the SMILES, and how often each atom of it had one.

    Each dummy atom has one neighbour. Those of `mol` are changed.
    """
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() == 0:
            (other,) = atom.GetNeighbors()
            other.SetIntProp("uses", (other.GetIntProp("uses") if other.HasProp("uses") else 0) + 1)
            atom.SetAtomicNum(1)  # each cut leaves a hydrogen, which a bond can replace
            atom.SetIsotope(0)
            atom.SetAtomMapNum(0)
    mol = Chem.RemoveHs(mol)
    smiles, order = spelled(mol)
    atoms = [mol.GetAtomWithIdx(index) for index in order]
    return smiles, Counter(
        {place: atom.GetIntProp("uses") for place, atom in enumerate(atoms) if atom.HasProp("uses")}
    )


def spelled(mol: Mol) -> tuple[str, list[int]]:
    """The canonical SMILES of a molecule, and its atoms in the order of the SMILES."""
    smiles = Chem.MolToSmiles(mol)
    return smiles, json.loads(mol.GetProp("_smilesAtomOutputOrder").replace(",]", "]"))
