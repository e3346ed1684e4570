"""Which trees of blocks are a given molecule: the converse of assembly.

A molecule is cut at acyclic single bonds so that each piece is a block whose cut bonds are stems: an exact
cover of its atoms (Knuth, "Dancing links", 2000, whose choice of the atom with the fewest candidates is
used). Every cover is a tree; every leaf of it may be the root, and every way to number the stems is a state.

Shapes: N slots, K states of 3N numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from rdkit import Chem
from rdkit.Chem import Atom, BondType, Mol
from torch import Tensor

from genflow import GenflowError, count_of, interrupts_for_python

from .trees import Trees
from .vocabulary import Block, Entry

#: candidates that are tried for a molecule, states of a molecule, and matches of a block that are found
MAX_TRIED, MAX_FOUND, MAX_MATCHES = 100_000, 10_000, 100_000

#: a bond that is cut: its atoms, the one of this piece first
Cut = tuple[int, int]
#: (entry + 1, parent slot, parent stem) of each slot
Slots = list[tuple[int, int, int]]


@dataclass(frozen=True)
class Piece:
    """Atoms of a molecule that are a block.

    Attributes:
        block: number of the block.
        atoms: numbers of the atoms in the molecule.
        cuts: its bonds to other pieces.
        matches: every way in which the block's atoms, in order, are those of the molecule.
    """

    block: int
    atoms: frozenset[int]
    cuts: tuple[Cut, ...]
    matches: tuple[tuple[int, ...], ...]


class Decomposer:
    """Finds all trees of some blocks that are a molecule."""

    def __init__(self, entries: Sequence[Entry], trees: Trees) -> None:
        self._trees = trees.to(torch.device("cpu"))
        self._least = {2: "two"}.get(trees.min_blocks, str(trees.min_blocks))
        self._blocks: list[Block] = list(dict.fromkeys(entry.block for entry in entries))
        self._entries = entries
        self._numbers = {(e.block, e.attachment): number for number, e in enumerate(entries)}
        self._largest = max(block.mol.GetNumAtoms() for block in self._blocks)

    @interrupts_for_python()  # RDKit's matches are cut short by an interruption
    def states(self, mol: Mol) -> tuple[Tensor, bool]:
        """All states (K, 3N) that are a molecule by its atoms and bonds, and whether the search was complete.

        Raises:
            GenflowError: there is none, the message says why.
        """
        if len(Chem.GetMolFrags(mol)) != 1:
            raise GenflowError("is more than one molecule")
        pieces, whole = self._pieces(mol)
        covered = frozenset().union(*(piece.atoms for piece in pieces))
        if missing := sorted(set(range(mol.GetNumAtoms())) - covered):
            if whole:
                raise GenflowError(f"is one block, and molecules have {self._least} at least")
            some = ", ".join(_shown(mol.GetAtomWithIdx(atom)) for atom in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise GenflowError(f"has atoms where no block fits: {some}{more}")
        search = _Search(mol.GetNumAtoms(), pieces, self._largest)
        n_slots, least = self._trees.n_slots, self._trees.min_blocks
        found: dict[tuple[int, ...], None] = {}
        covers = 0
        small = 0
        for cover in search.covers(n_slots):
            if len(cover) < least:
                small += 1
                continue
            covers += 1
            for slots in self._orders(cover):
                flat = [number for slot in slots for number in slot]
                found[(*flat, *[0] * (3 * n_slots - len(flat)))] = None
                if len(found) >= MAX_FOUND:
                    return torch.tensor(list(found)), False
        if found:
            return torch.tensor(list(found)), not search.cut_short
        if search.cut_short:
            raise GenflowError(f"has no tree of blocks among the first {MAX_TRIED:,} that were tried")
        if small and not covers:
            raise GenflowError(f"is a sum of fewer than {least} blocks, min_blocks of this structure")
        if covers:
            raise GenflowError("is a sum of blocks, but they cannot be joined in this way")
        if next(search.covers(mol.GetNumAtoms()), None) is not None:
            raise GenflowError(f"needs more than {count_of(n_slots, 'block')}")
        if search.cut_short:
            raise GenflowError(f"is no sum of {n_slots} blocks or less")
        raise GenflowError("is no sum of these blocks: they overlap or leave atoms out")

    def _pieces(self, mol: Mol) -> tuple[list[Piece], bool]:
        """All pieces, of two blocks at least; and whether the whole molecule is one block."""
        found: dict[tuple[int, frozenset[int]], tuple[tuple[Cut, ...], list[tuple[int, ...]]]] = {}
        whole = False
        for number, block in enumerate(self._blocks):
            if block.mol.GetNumAtoms() > mol.GetNumAtoms():
                continue
            for match in mol.GetSubstructMatches(block.mol, uniquify=False, maxMatches=MAX_MATCHES):
                cuts = _cuts(mol, block, match)
                if cuts is None:
                    continue
                whole |= not cuts
                if cuts:
                    found.setdefault((number, frozenset(match)), (cuts, []))[1].append(match)
        return [Piece(*key, cuts, tuple(matches)) for key, (cuts, matches) in found.items()], whole

    def _orders(self, cover: Sequence[Piece]) -> Iterator[Slots]:
        """Every state of a cover, by every leaf as the root."""
        owner = {atom: number for number, piece in enumerate(cover) for atom in piece.atoms}
        for piece in cover:
            if len(piece.cuts) == 1:
                here, there = piece.cuts[0]
                for entry in self._attached(piece, here):
                    for tree in self._subtrees(cover, owner, owner[there], (there, here)):
                        if self._trees.fits_root[entry, tree[0]]:
                            slots: Slots = [(entry + 1, 0, 0)]
                            _write(tree, 0, 0, slots)
                            yield slots

    def _attached(self, piece: Piece, atom: int) -> list[int]:
        """The entries of a piece that is joined by an atom."""
        block = self._blocks[piece.block]
        atoms = {match.index(atom) for match in piece.matches}
        return [self._numbers[block, own] for own in block.attachments if own in atoms]

    def _subtrees(
        self, cover: Sequence[Piece], owner: dict[int, int], number: int, up: Cut
    ) -> Iterator[Tree]:
        """Every tree of a piece that is joined to its parent by a cut bond, and of the pieces below it."""
        piece = cover[number]
        block = self._blocks[piece.block]
        down = [cut for cut in piece.cuts if cut != up]
        below = [list(self._subtrees(cover, owner, owner[there], (there, here))) for here, there in down]
        if not all(below):
            return
        ways = set()
        for match in piece.matches:
            own = match.index(up[0])
            if own not in block.attachments:
                continue
            entry = self._numbers[block, own]
            stems = self._entries[entry].stems
            wanted = [match.index(here) for here, _ in down]
            places = [[stem for stem, atom in enumerate(stems) if atom == one] for one in wanted]
            ways |= {(entry, way) for way in itertools.product(*places) if len(set(way)) == len(way)}
        for entry, way in sorted(ways):
            for children in itertools.product(*below):
                if all(
                    self._trees.fits[entry, stem, child[0]] for stem, child in zip(way, children, strict=True)
                ):
                    yield entry, tuple(sorted(zip(way, children, strict=True)))


#: an entry, and (stem, tree) of each child in the order of the stems
Tree = tuple[int, tuple[tuple[int, "Tree"], ...]]


def _write(tree: Tree, parent: int, stem: int, slots: Slots) -> None:
    """Append a tree in preorder."""
    entry, children = tree
    own = len(slots)
    slots.append((entry + 1, parent, stem))
    for place, child in children:
        _write(child, own, place, slots)


def _cuts(mol: Mol, block: Block, match: tuple[int, ...]) -> tuple[Cut, ...] | None:
    """The bonds at which a match is cut off; None: the atoms are not this block with stems there."""
    inside, cuts = set(match), []
    n_bonds = 0
    for own, place in enumerate(match):
        atom, other = mol.GetAtomWithIdx(place), block.mol.GetAtomWithIdx(own)
        out = [bond for bond in atom.GetBonds() if bond.GetOtherAtomIdx(place) not in inside]
        n_bonds += atom.GetDegree() - len(out)
        if (
            atom.GetFormalCharge() != other.GetFormalCharge()
            or atom.GetIsAromatic() != other.GetIsAromatic()
            or atom.GetIsotope() != other.GetIsotope()
            or atom.GetTotalNumHs() + len(out) != other.GetTotalNumHs()
            or len(out) > block.stems.count(own)
            or any(bond.IsInRing() or bond.GetBondType() != BondType.SINGLE for bond in out)
        ):
            return None
        cuts += [(place, bond.GetOtherAtomIdx(place)) for bond in out]
    return tuple(sorted(cuts)) if n_bonds == 2 * block.mol.GetNumBonds() else None


def _shown(atom: Atom) -> str:
    return f"{atom.GetSymbol()} {atom.GetIdx()}"


class _Search:
    """Exact covers of the atoms of a molecule by pieces.

    Attributes:
        cut_short: whether the last search gave up.
    """

    def __init__(self, n_atoms: int, pieces: Sequence[Piece], largest: int) -> None:
        self._every, self._largest = frozenset(range(n_atoms)), largest
        self._of: list[list[Piece]] = [[] for _ in range(n_atoms)]
        for piece in pieces:
            for atom in piece.atoms:
                self._of[atom].append(piece)
        self.cut_short = False
        self._tried = 0

    def covers(self, most: int) -> Iterator[list[Piece]]:
        """All covers by at most so many pieces, until `MAX_TRIED` pieces have been tried."""
        self.cut_short, self._tried = False, 0
        yield from self._rest(self._every, most)

    def _rest(self, left: frozenset[int], most: int) -> Iterator[list[Piece]]:
        if not left:
            yield []
            return
        if len(left) > most * self._largest:
            return
        candidates = min(
            ([piece for piece in self._of[atom] if piece.atoms <= left] for atom in left), key=len
        )
        for piece in candidates:
            self._tried += 1
            if self._tried > MAX_TRIED:
                self.cut_short = True
                return
            for rest in self._rest(left - piece.atoms, most - 1):
                yield [piece, *rest]
