"""A user's SMILES as one plain molecule: without salts, charges, radicals, isotopes and stereochemistry."""

from __future__ import annotations

import re

from rdkit import Chem, rdBase
from rdkit.Chem import Atom, BondType, Mol, RWMol
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.rdMolDescriptors import CalcExactMolWt

from genflow import count_of

from .block_check import parsed

#: characters of a SMILES that is read
MAX_CHARACTERS = 1000
TABLE = Chem.GetPeriodicTable()
CARBON = 6
#: elements of blocks, by number: attachment points, then H, B, C, N, O, F, Si, P, S, Cl, Se, Br, I
ELEMENTS = {0, 1, 5, CARBON, 7, 8, 9, 14, 15, 16, 17, 34, 35, 53}
#: an attachment point as other programs write it, which is no SMILES
R_GROUP = re.compile(r"\[R\d*\]")
#: what was done to a molecule, as reports count it
SALT, ISOTOPE, NUMBER = "salts or solvents left out", "isotopes left out", "atom map numbers left out"
RADICAL, CHARGE = "radicals filled with hydrogen", "charges neutralised"
STEREO = "stereochemistry left out"


class Unusable(ValueError):
    """Why a line or a piece of a molecule makes no block."""


def has_points(smiles: str) -> bool:
    """Whether a SMILES has attachment points, which are dummy atoms."""
    return "*" in smiles or "[#0]" in smiles


def cleaned(smiles: str) -> tuple[Mol, list[str]]:
    """The largest organic part of a SMILES as a plain molecule, and what was done to it.

    Dummy atoms stay where they are; of several parts, those with dummy atoms are preferred.

    Raises:
        Unusable: it is no molecule, or one that no block can be made of.
    """
    if not smiles:
        raise Unusable("is empty, or cannot be read")
    if len(smiles) > MAX_CHARACTERS:
        raise Unusable(f"has {len(smiles):,} characters; at most {MAX_CHARACTERS:,} are read")
    mol = parsed(smiles)
    if mol is None:
        raise Unusable(
            "is no molecule; write attachment points as [*:1]" if R_GROUP.search(smiles) else "is no molecule"
        )
    with rdBase.BlockLogs():
        try:
            return _cleaned(mol, any(mark in smiles for mark in "@/\\"))
        except (Chem.MolSanitizeException, Chem.AtomValenceException) as error:
            raise Unusable(f"cannot be cleaned: {error}") from None


def _cleaned(mol: Mol, has_stereo: bool) -> tuple[Mol, list[str]]:
    done = []
    parts = Chem.GetMolFrags(mol, asMols=True)
    if len(parts) > 1:
        done.append(SALT)
    mol = RWMol(max(parts, key=_worth) if len(parts) > 1 else mol)
    if has_stereo:
        before = Chem.MolToSmiles(mol)
        Chem.RemoveStereochemistry(mol)
        if Chem.MolToSmiles(mol) != before:
            done.append(STEREO)
    atoms = list(mol.GetAtoms())
    numbers = [atom.GetAtomicNum() for atom in atoms]
    if max(numbers, default=0) < 2:
        raise Unusable("has no atoms besides hydrogen")
    if strange := sorted({TABLE.GetElementSymbol(number) for number in set(numbers) - ELEMENTS}):
        raise Unusable(f"has {', '.join(strange)}, which no block may have")
    if not {0, CARBON} & set(numbers):
        raise Unusable("has no organic part")
    charged = False
    for atom, number in zip(atoms, numbers, strict=True):
        if number == 0:
            _check_point(atom)
            continue
        charged = charged or bool(atom.GetFormalCharge())
        if atom.GetIsotope():
            atom.SetIsotope(0)
            done.append(ISOTOPE)
        if atom.GetAtomMapNum():
            atom.SetAtomMapNum(0)
            done.append(NUMBER)
        if atom.GetNumRadicalElectrons():
            atom.SetNumRadicalElectrons(0)
            atom.SetNoImplicit(False)
            done.append(RADICAL)
    Chem.SanitizeMol(mol)
    plain = mol.GetMol()
    if 1 in numbers:
        plain = Chem.RemoveHs(plain)  # hydrogen that was an isotope or had a number
    if charged:
        before, plain = plain, rdMolStandardize.Uncharger().uncharge(plain)
        if _charges(before) != _charges(plain):
            done.append(CHARGE)
        Chem.SanitizeMol(plain)
    return plain, list(dict.fromkeys(done))


def _worth(mol: Mol) -> tuple[bool, bool, int, float, str]:
    """What the best part of several has most of."""
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    heavy = sum(number > 1 for number in numbers)
    return 0 in numbers, CARBON in numbers, heavy, CalcExactMolWt(mol), Chem.MolToSmiles(mol)


def _charges(mol: Mol) -> list[int]:
    return [atom.GetFormalCharge() for atom in mol.GetAtoms()]


def _check_point(atom: Atom) -> None:
    """Refuse an attachment point that is not at the end of one single bond."""
    bonds = atom.GetBonds()
    if len(bonds) != 1:
        raise Unusable(
            f"has an attachment point with {count_of(len(bonds), 'bond')}; it needs one, as in *CC"
        )
    if bonds[0].GetBondType() != BondType.SINGLE:
        raise Unusable(
            "has an attachment point that is not at a single bond; blocks are joined by these alone"
        )
    if atom.GetFormalCharge():
        raise Unusable("has a charged attachment point; leave the charge out")
    (other,) = atom.GetNeighbors()
    if other.GetAtomicNum() < 2:
        raise Unusable("has an attachment point at a hydrogen or at another one; join it to a heavier atom")
