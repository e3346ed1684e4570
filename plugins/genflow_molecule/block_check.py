"""Whether a block is one plain molecule whose stems can be joined, and what it is the same as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rdkit import Chem, rdBase
from rdkit.Chem import BondType

from genflow import count_of

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: heavy atoms of a block
MAX_ATOMS = 50
BONDS = {BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.AROMATIC}


def parsed(smiles: str) -> Mol | None:
    """The molecule of a SMILES without a word to standard error; None: it is none."""
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(smiles)


def molecule_fault(smiles: str) -> str | None:
    """Why a SMILES is no block, whatever its stems are; None: it may be one.

    What a molecule of blocks would inherit is refused: what is no element, is open, charged or marked.
    """
    mol = parsed(smiles)
    if mol is None:
        return "is no molecule"
    if not mol.GetNumAtoms():
        return "has no atoms"
    if any(char.isspace() for char in smiles):
        return "has text beside its SMILES; leave it out"
    if len(Chem.GetMolFrags(mol)) > 1:
        return "is more than one molecule; keep the one that is to be joined"
    # the numbers of atoms are those of the SMILES only if no atom of it is left out
    as_written = Chem.MolFromSmiles(smiles, sanitize=False)
    for number, atom in enumerate(as_written.GetAtoms()):
        where = f"atom {number}"
        if atom.GetAtomicNum() == 0:
            return f"has a dummy atom, {where}; write hydrogen in its place and list its neighbour as a stem"
        if atom.GetIsotope():
            return f"has an isotope, {where}; leave its mass out"
        if atom.GetAtomicNum() == 1:
            return f"writes hydrogen as an atom, {where}; count it in brackets, as in [CH3], or leave it out"
        if atom.GetAtomMapNum():
            return f"has an atom map number, {where}; leave it out"
    for atom in mol.GetAtoms():
        if atom.GetNumRadicalElectrons():
            return (
                f"is a radical at atom {atom.GetIdx()}; fill it with hydrogen, which a block that is joined"
                " replaces"
            )
    if any(bond.GetBondType() not in BONDS for bond in mol.GetBonds()):
        return "has a bond that is not single, double, triple or aromatic"
    if charge := Chem.GetFormalCharge(mol):
        return f"has a charge of {charge:+d}; write it neutral, or with charges that cancel"
    if mol.GetNumHeavyAtoms() > MAX_ATOMS:
        return f"has {mol.GetNumHeavyAtoms()} atoms besides hydrogen; at most {MAX_ATOMS} are taken"
    return None


def joint_fault(mol: Mol, stems: Sequence[int], attachments: Sequence[int]) -> str | None:
    """Why a molecule cannot be joined by these atoms; None: it can."""
    for stem, uses in Counter(stems).items():
        if not 0 <= stem < mol.GetNumAtoms():
            return f"has no atom {stem}; they are 0 to {mol.GetNumAtoms() - 1}"
        if uses > (hydrogens := mol.GetAtomWithIdx(stem).GetTotalNumHs()):
            return (
                f"lists atom {stem} as a stem {count_of(uses, 'time')}, but it has"
                f" {count_of(hydrogens, 'hydrogen atom')} to replace"
            )
    if len(set(attachments)) < len(attachments) or not set(attachments) <= set(stems):
        return f"has attachments {list(attachments)}, which must be different stems of {list(stems)}"
    kinds: dict[int, int] = {}
    ranks = list(Chem.CanonicalRankAtoms(mol, breakTies=False)) if len(attachments) > 1 else []
    for atom in attachments if ranks else ():
        if (other := kinds.setdefault(ranks[atom], atom)) != atom:
            return (
                f"has attachments {other} and {atom}, which are alike by symmetry, and its molecules would"
                " count twice; list one of them"
            )
    return None


def joined_by(mol: Mol, atoms: Iterable[int]) -> list[str]:
    """For each atom the SMILES of the molecule with this atom marked: equal if they are joined alike."""
    keys = []
    for number in atoms:
        marked = Chem.Mol(mol)
        marked.GetAtomWithIdx(number).SetAtomMapNum(1)
        keys.append(Chem.MolToSmiles(marked))
    return keys
