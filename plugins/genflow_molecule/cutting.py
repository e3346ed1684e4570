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
WHY_NOT_CUT = {
    "brics": "has no single bond that BRICS cuts",
    "rings": "has no acyclic single bond at a ring but between hetero atoms, which are not joined",
}
#: least heavy atoms of a piece where nothing is said: BRICS leaves many of one or two between others, while
#: what stands at a ring, such as a halogen, is a block in its own right
LEAST = {"brics": 3, "rings": 1}


def without_crumbs(mol: Mol, bonds: Sequence[int], least: int) -> list[int]:
    """Those of some bonds at which a molecule is cut so that no piece has fewer heavy atoms.

    As long as a piece is too small, the smallest stays with the smallest beside it; of equal ones the
    canonical order of atoms decides. So nothing is lost, and the pieces of a molecule still make it up.

    Args:
        mol: a molecule.
        bonds: acyclic ones.
        least: heavy atoms of a piece.
    """
    if not bonds or least < 2:
        return list(bonds)
    rank = list(Chem.CanonicalRankAtoms(mol))
    heavy = [atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()]
    parts = Chem.GetMolFrags(Chem.FragmentOnBonds(mol, bonds, addDummies=False))
    owner = {atom: number for number, part in enumerate(parts) for atom in part}
    size = {number: sum(heavy[atom] for atom in part) for number, part in enumerate(parts)}
    first = {number: min(rank[atom] for atom in part) for number, part in enumerate(parts)}
    ends = {
        bond: (mol.GetBondWithIdx(bond).GetBeginAtomIdx(), mol.GetBondWithIdx(bond).GetEndAtomIdx())
        for bond in bonds
    }
    beside = {bond: (owner[a], owner[b]) for bond, (a, b) in ends.items()}
    while beside and min(size.values()) < least:
        small = min(size, key=lambda number: (size[number], first[number]))
        joined = min(
            (bond for bond, pair in beside.items() if small in pair),
            key=lambda bond: (
                sum(size[each] for each in beside[bond]),
                sorted(rank[atom] for atom in ends[bond]),
            ),
        )
        other = sum(beside.pop(joined)) - small
        size[other] += size.pop(small)
        first[other] = min(first[other], first[small])
        beside = {
            bond: (other if a == small else a, other if b == small else b) for bond, (a, b) in beside.items()
        }
    return list(beside)


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
