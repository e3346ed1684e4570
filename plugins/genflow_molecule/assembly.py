"""From a tree of blocks to a molecule, and which atoms may be joined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rdkit import Chem
from rdkit.Chem import Atom, BondType, Mol, RWMol
from torch import Tensor

from .vocabulary import Entry


def may_bond(a: Atom, b: Atom) -> bool:
    """Whether two atoms may be joined: not two hetero atoms, but sulfonyl with nitrogen or oxygen."""
    symbols = {a.GetSymbol(), b.GetSymbol()}
    if "C" in symbols:
        return True
    return any(_is_sulfonyl(x) and y.GetSymbol() in ("N", "O") for x, y in ((a, b), (b, a)))


def _is_sulfonyl(atom: Atom) -> bool:
    return atom.GetSymbol() == "S" and atom.GetTotalValence() == 6


def joints(entries: Sequence[Entry]) -> tuple[Tensor, Tensor]:
    """Which entries can be joined to which others.

    Returns:
        (E, T, E) bool: to a stem of another; and (E, E) bool: to the attachment atom of another.
    """
    n_stems = max(1, *(len(entry.stems) for entry in entries))
    attached = [entry.block.mol.GetAtomWithIdx(entry.attachment) for entry in entries]
    # few kinds of atoms differ
    rows: dict[tuple[str, int], Tensor] = {}

    def row(atom: Atom) -> Tensor:
        kind = atom.GetSymbol(), atom.GetTotalValence()
        if kind not in rows:
            rows[kind] = torch.tensor([may_bond(atom, other) for other in attached])
        return rows[kind]

    fits = torch.zeros(len(entries), n_stems, len(entries), dtype=torch.bool)
    for number, entry in enumerate(entries):
        for stem, atom in enumerate(entry.stems):
            fits[number, stem] = row(entry.block.mol.GetAtomWithIdx(atom))
    return fits, torch.stack([row(atom) for atom in attached])


def assemble(entries: Sequence[Entry], slots: Sequence[tuple[int, int, int]]) -> Mol:
    """The molecule of a tree, sanitised.

    Args:
        entries: of the vocabulary.
        slots: (entry + 1, parent slot, parent stem) of each block, the root first.
    """
    mol, first = RWMol(), []
    for slot, (number, parent, stem) in enumerate(slots):
        entry = entries[number - 1]
        first.append(mol.GetNumAtoms())
        mol.InsertMol(entry.block.mol)
        if slot:
            above = entries[slots[parent][0] - 1]
            site = above.stems[stem] if parent else above.attachment  # the root is a leaf
            _join(mol, first[parent] + site, first[slot] + entry.attachment)
    Chem.SanitizeMol(mol)
    return mol.GetMol()


def join(one: Mol, a: int, other: Mol, b: int) -> Mol:
    """Two molecules joined by an atom of each, sanitised."""
    mol = RWMol(one)
    mol.InsertMol(other)
    _join(mol, a, one.GetNumAtoms() + b)
    Chem.SanitizeMol(mol)
    return mol.GetMol()


def _join(mol: RWMol, a: int, b: int) -> None:
    """A single bond in place of two hydrogen atoms, which some atoms count themselves."""
    mol.AddBond(a, b, BondType.SINGLE)
    for index in (a, b):
        atom = mol.GetAtomWithIdx(index)
        if hydrogens := atom.GetNumExplicitHs():
            atom.SetNumExplicitHs(hydrogens - 1)
