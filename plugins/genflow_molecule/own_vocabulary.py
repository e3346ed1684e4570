"""A vocabulary of a user's fragments or molecules, and what was left out of it and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from rdkit import Chem, rdBase
from rdkit.Chem import Bond, Mol

from genflow import GenflowError, Progress, brief

from .assembly import joints, may_bond
from .block_check import parsed
from .cleaning import Unusable, cleaned, has_points
from .cutting import CUTS, WHY_NOT_CUT, pieces, spelled, without_crumbs, without_dummies
from .molecule_lines import MoleculeLine
from .vocabulary import MAX_STEMS, Block, checked, entries_of

Kind = Literal["fragments", "molecules"]
#: characters of a block's SMILES
MAX_SMILES = 200
#: ways of a block onto itself that are tried to lay attachment points over those that it has
MAX_WAYS = 1000


@dataclass(frozen=True)
class Dropped:
    """A line, or a piece of its molecule, that made no block.

    Attributes:
        line: its number.
        taken_for: ``fragment`` or ``molecule``.
        smiles: as it stands there.
        piece: the SMILES of the piece; empty: the whole line.
        why: the reason.
        name: its title.
    """

    line: int
    taken_for: str
    smiles: str
    piece: str
    why: str
    name: str = ""

    def __str__(self) -> str:
        name = f" ({brief(self.name, 40)})" if self.name else ""
        whole = f"line {self.line}: {self.taken_for} {brief(self.smiles, 60) or '(none)'}{name}"
        return f"{whole}: piece {brief(self.piece, 60)} {self.why}" if self.piece else f"{whole} {self.why}"


@dataclass(frozen=True)
class Found:
    """A piece with its attachment points: its SMILES, how often each atom is one, and the line."""

    smiles: str
    uses: Counter[int]
    line: int


@dataclass
class OwnVocabulary:
    """What was made of a file.

    Attributes:
        kind: what the file was taken for.
        lines: SMILES that it has; `taken` of them are of this kind.
        blocks: the most frequent ones first.
        dropped: what can be no block, by line.
        left: blocks that are less frequent than asked for, each at its first line.
        changed: what was done to the lines that were taken -> how many lines.
        merged: different fragments that are in the block of another, as they are the same molecule.
        rare: how many of those left are of too few lines; others are beyond the number asked for.
    """

    kind: Kind
    lines: int
    taken: int = 0
    blocks: tuple[Block, ...] = ()
    dropped: list[Dropped] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)
    merged: int = 0
    left: list[Dropped] = field(default_factory=list)
    rare: int = 0


def kind_of(lines: Iterable[str]) -> Kind:
    """What a file is taken for: fragments if at least half of its lines have attachment points."""
    kinds = [has_points(smiles) for smiles in lines]
    return "fragments" if 2 * sum(kinds) >= len(kinds) else "molecules"


class Maker:
    """Makes a vocabulary of the lines of one file.

    Args:
        lines: of the file.
        kind: what they are taken for.
        cut: a name of `CUTS`, for molecules.
        atoms: heavy atoms of a block at least, for molecules, and at most.
        progress: shows the lines that are read.
    """

    def __init__(
        self, lines: Sequence[MoleculeLine], kind: Kind, cut: str, atoms: tuple[int, int], progress: Progress
    ) -> None:
        self._lines = {line.number: line for line in lines}
        self._cut, self._progress = cut, progress
        self._min_atoms, self._max_atoms = atoms
        self._made = OwnVocabulary(kind, len(lines))
        #: of a SMILES and stems
        self._faults: dict[tuple[str, tuple[int, ...]], str | None] = {}
        #: by the SMILES of the block
        self._found: defaultdict[str, list[Found]] = defaultdict(list)

    def make(self, max_blocks: int, min_count: int) -> OwnVocabulary:
        """The vocabulary.

        Args:
            max_blocks: how many blocks are kept, the most frequent first.
            min_count: lines that a block must come from.
        """
        self._read()
        made = self._made
        ranked: list[tuple[int, int, Block]] = []
        for smiles, found in self._found.items():
            block = self._block(smiles, found)
            if block is None:
                continue
            if block.count < min_count:
                made.rare += 1
                why = f"is in {block.count} of the lines, fewer than --min-count"
                made.left.append(self._dropped(found[0].line, why, smiles))
            else:
                ranked.append((-block.count, found[0].line, block))
        ranked.sort(key=lambda each: (*each[:2], each[2].smiles))
        for _, line, block in ranked[max_blocks:]:
            why = "is less frequent than the --max-blocks that are kept"
            made.left.append(self._dropped(line, why, block.smiles))
        made.dropped.sort(key=lambda each: each.line)
        blocks = tuple(block for *_, block in ranked[:max_blocks])
        made.blocks = checked(blocks, "the vocabulary")  # as it will be when it is read
        return made

    def _drop(self, line: int, why: str, piece: str = "") -> None:
        self._made.dropped.append(self._dropped(line, why, piece))

    def _dropped(self, line: int, why: str, piece: str) -> Dropped:
        _, smiles, title = self._lines[line]
        return Dropped(line, "fragment" if has_points(smiles) else "molecule", smiles, piece, why, title)

    def _read(self) -> None:
        made = self._made
        read = self._fragment if made.kind == "fragments" else self._molecule
        seen: dict[str, int] = {}
        with rdBase.BlockLogs(), self._progress.bar("reading", len(self._lines)) as bar:
            for line, smiles, _ in self._lines.values():
                try:
                    done = read(line, smiles, seen)
                except Unusable as error:
                    self._drop(line, str(error))
                else:
                    made.taken += 1
                    made.changed.update(done)
                bar.advance()

    def _molecule(self, line: int, smiles: str, seen: dict[str, int]) -> list[str]:
        """Note the pieces of a molecule that is new."""
        if has_points(smiles):
            raise Unusable("has attachment points, but the file is taken for molecules; see --as")
        mol, done = cleaned(smiles)
        if (first := seen.setdefault(Chem.MolToSmiles(mol), line)) != line:
            raise Unusable(f"is line {first} once more")
        bonds = [bond for bond in CUTS[self._cut](mol) if _can_be_made(mol.GetBondWithIdx(bond))]
        if not bonds:
            raise Unusable(WHY_NOT_CUT[self._cut])
        bonds = without_crumbs(mol, bonds, self._min_atoms)
        if not bonds:
            raise Unusable(f"has no cut that leaves {self._min_atoms} atoms on either side; see --min-atoms")
        faults = {}
        for piece, uses in pieces(mol, bonds):
            try:
                self._note(line, *settled(piece, uses))
            except Unusable as error:
                faults[piece] = str(error)
        for piece, why in faults.items():
            self._drop(line, why, piece)
        return done

    def _fragment(self, line: int, smiles: str, seen: dict[str, int]) -> list[str]:
        """Note a fragment; one that was there before counts and is told."""
        if not smiles or not has_points(smiles):
            cleaned(smiles)  # which may say more
            raise Unusable("has no attachment point (*), but the file is taken for fragments; see --as")
        mol, done = cleaned(smiles)
        plain, uses = settled(*without_dummies(mol))
        self._note(line, plain, uses)
        if (first := seen.setdefault(_marked(plain, uses), line)) != line:
            self._drop(line, f"is line {first} once more, and counts with it")
        return done

    def _note(self, line: int, smiles: str, uses: Counter[int]) -> None:
        """Keep a piece that can be a block.

        Raises:
            Unusable: it cannot.
        """
        if smiles not in self._found:
            mol = _whole(smiles)
            if mol.GetNumHeavyAtoms() > self._max_atoms:
                raise Unusable(f"has {mol.GetNumHeavyAtoms()} atoms besides hydrogen, more than --max-atoms")
            if len(smiles) > MAX_SMILES:
                raise Unusable(f"has a SMILES of {len(smiles)} characters; at most {MAX_SMILES} are taken")
        if uses.total() > MAX_STEMS:
            raise Unusable(f"has {uses.total()} attachment points; a block has at most {MAX_STEMS}")
        stems = tuple(sorted(uses.elements()))
        if (smiles, stems) not in self._faults:
            self._faults[smiles, stems] = Block(smiles=smiles, stems=stems, attachments=stems[:1]).fault()
        if fault := self._faults[smiles, stems]:
            raise Unusable(fault)
        self._found[smiles].append(Found(smiles, uses, line))

    def _block(self, smiles: str, found: list[Found]) -> Block | None:
        """The block of all pieces that are one molecule; None: none of them can be one.

        Those that most lines have are laid over each other first, so that each can be joined by every
        attachment point that it has, with the others open.
        """
        mol = _whole(smiles)
        alike: defaultdict[str, list[Found]] = defaultdict(list)
        for each in found:
            alike[_marked(smiles, each.uses)].append(each)
        kinds = list(Chem.CanonicalRankAtoms(mol, breakTies=False))
        stems: Counter[int] = Counter()
        fit: list[Found] = []
        for group in sorted(
            alike.values(), key=lambda group: (-len({each.line for each in group}), group[0].line)
        ):
            if more := laid_over(mol, kinds, stems, group[0].uses):
                stems = more
                fit += group
            else:
                why = (
                    f"has attachment points besides those of line {fit[0].line}, which has the same molecule;"
                    f" a block has at most {MAX_STEMS}"
                    if fit
                    else "has atoms that rank alike, but no symmetry exchanges them"
                )
                for each in group:
                    self._drop(each.line, why, smiles)
        if not fit:
            return None
        if self._made.kind == "fragments":
            self._made.merged += len({_marked(smiles, each.uses) for each in fit}) - 1
        return Block(
            smiles=smiles,
            stems=tuple(sorted(stems.elements())),
            attachments=tuple(sorted({kinds.index(kinds[atom]) for atom in stems} & set(stems))),
            count=len({each.line for each in fit}),
        )


def _can_be_made(bond: Bond) -> bool:
    """Whether blocks can be joined by a bond, so that it may be cut."""
    return may_bond(bond.GetBeginAtom(), bond.GetEndAtom())


def laid_over(mol: Mol, kinds: list[int], stems: Counter[int], uses: Counter[int]) -> Counter[int] | None:
    """Stems with the attachment points of one more piece; None: they are more than a block may have.

    A block is joined by the first atom of a kind. So the points are turned by symmetries until each of them
    has been the first of its kind, with the fewest stems, as far as there is room.

    Args:
        mol: the block.
        kinds: of its atoms, equal where they are alike by symmetry.
        stems: so far, and how often each.
        uses: how often each atom is an attachment point.
    """
    fits = False
    for entry in sorted(uses):
        ways = (
            stems | Counter({way[atom]: n for atom, n in uses.items()}) for way in _ways(mol, kinds, entry)
        )
        more = min(ways, key=Counter.total, default=None)
        if more is not None and more.total() <= MAX_STEMS:
            stems, fits = more, True
    return stems if fits else None


def _ways(mol: Mol, kinds: list[int], entry: int) -> Iterator[Sequence[int]]:
    """The symmetries of a molecule that put an atom in the place of the first of its kind."""
    moved, still = Chem.Mol(mol), Chem.Mol(mol)
    moved.GetAtomWithIdx(entry).SetIsotope(1)
    still.GetAtomWithIdx(kinds.index(kinds[entry])).SetIsotope(1)
    for way in still.GetSubstructMatches(moved, uniquify=False, maxMatches=MAX_WAYS):
        if all(kinds[atom] == kinds[image] for atom, image in enumerate(way)):
            yield way


def settled(smiles: str, uses: Counter[int]) -> tuple[str, Counter[int]]:
    """A piece as it is spelled once it has been read again, so that one molecule has one SMILES."""
    again, order = _order(smiles)
    return again, Counter({place: uses[atom] for place, atom in enumerate(order) if uses[atom]})


@lru_cache(maxsize=2**14)  # small pieces come again and again
def _order(smiles: str) -> tuple[str, list[int]]:
    return spelled(_whole(smiles))


def _whole(smiles: str) -> Mol:
    mol = parsed(smiles)
    if mol is None:
        raise Unusable(f"is left as {smiles}, which is no molecule")
    return mol


def _marked(smiles: str, uses: Counter[int]) -> str:
    """The SMILES of a block with the number of uses at each atom: equal if the same atoms are open."""
    return _marked_at(smiles, tuple(sorted(uses.items())))


@lru_cache(maxsize=2**14)
def _marked_at(smiles: str, uses: tuple[tuple[int, int], ...]) -> str:
    mol = _whole(smiles)
    for atom, times in uses:
        mol.GetAtomWithIdx(atom).SetAtomMapNum(times)
    return Chem.MolToSmiles(mol)


def require_joinable(blocks: tuple[Block, ...], where: str) -> None:
    """Refuse blocks of which no two can be joined.

    Raises:
        GenflowError: they are joined by hetero atoms alone.
    """
    symbols = {block.mol.GetAtomWithIdx(atom).GetSymbol() for block in blocks for atom in block.attachments}
    # everything is joined to carbon
    if "C" not in symbols and not joints(entries_of(blocks))[1].any():
        raise GenflowError(
            f"no two blocks of {where} can be joined: hetero atoms are not joined to each other; add others"
        )
