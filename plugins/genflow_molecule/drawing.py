"""Molecules named, read, compared and drawn as structures, for reports and tables.

Shapes: B terminal states, (B, 3N).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rdkit import Chem
from rdkit.Chem import Mol, rdCoordGen, rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D
from torch import Tensor

from genflow import Gallery, GenflowError, Named

from .catalogue import Catalogue
from .cleaning import CHARGE, Unusable, cleaned
from .decomposition import Decomposer
from .descriptors import DESCRIPTORS
from .metrics import mean_tanimoto
from .molecule_lines import read_lines, titled
from .scoring import read

#: pixels of a picture, twice what a page shows, so that it is sharp on fine screens
WIDTH, HEIGHT = 480, 360
#: the same of a molecule of many on one sheet, pixels of the lines below it, and of one line
SMALL, LEGEND, LINE = (320, 200), 72, 24
#: most and least pixels of a bond, and least pixels of a letter
BOND, LEAST, LETTER = 48.0, 30.0, 18
#: the length of a bond in coordinates, which is RDKit's own
UNIT = 1.5
#: red, green and blue of sulfur and fluorine, which are too pale on white
DARKER = {16: (0.62, 0.5, 0.0), 9: (0.1, 0.6, 0.6)}


class Molecules(Gallery):
    """Named by canonical SMILES, ranked by the score before `beta`, drawn."""

    pictures = True
    name_kind = "smiles"
    suffixes = (".sdf",)
    descriptors = tuple(DESCRIPTORS)

    def __init__(self, catalogue: Catalogue, reward: str, decomposer: Callable[[], Decomposer]) -> None:
        self.score = f"{reward}, 0 to 1, before it is raised to the power of beta"
        self._catalogue, self._decomposer = catalogue, decomposer

    def names(self, states: Tensor) -> list[str]:
        """The canonical SMILES of states (B, 3N), ``""`` for what is no molecule."""
        return self._catalogue.smiles(states)

    def scores(self, states: Tensor) -> Tensor:
        """The scores of states, (B, 3N) -> (B,) float64, 0 to 1."""
        return self._catalogue.scores(states)

    def describe(self, names: Sequence[str], descriptor: str) -> list[float]:
        """One of `DESCRIPTORS` of molecules by SMILES."""
        return [float(DESCRIPTORS[descriptor].of(Chem.MolFromSmiles(name))) for name in names]

    def diversity(self, states: Tensor) -> float:
        """One minus the mean Tanimoto similarity of every two molecules."""
        return 1 - mean_tanimoto(self.names(states))

    def read_name(self, text: str) -> str:
        """The canonical SMILES of a SMILES, see `read_line`."""
        return self.read_line(text).name

    def read_line(self, text: str) -> Named:
        """The molecule of a SMILES, as plain as those that blocks are cut from, and the title after a space.

        What cleaning refuses, and what blocks make with its charges, stays as it is written.

        Raises:
            GenflowError: it is no molecule.
        """
        smiles, title = titled(text)
        mol = read(smiles)
        if mol is None or not mol.GetNumAtoms():
            raise GenflowError("is no molecule")
        written = Chem.MolToSmiles(mol)
        try:
            plain, done = cleaned(smiles)
        except Unusable:
            return Named(written, title)
        if done == [CHARGE] and not Chem.GetFormalCharge(mol):
            with suppress(GenflowError):  # no sum of blocks, or of charged ones
                self.states_named(written)
                return Named(written, title)
        return Named(Chem.MolToSmiles(plain) if done else written, title, "; ".join(done))

    def read_file(self, path: str | Path) -> list[tuple[int, str, str]]:
        """The SMILES of the molecules that an .sdf draws, and their titles."""
        return [(number, smiles, title) for number, smiles, title in read_lines(Path(path))]

    def score_named(self, name: str) -> float:
        """The score of any molecule, whether it can be made of the blocks or not."""
        return self._catalogue.score(name)

    def states_named(self, name: str) -> tuple[Tensor, bool]:
        """The states (K, 3N) that are a molecule, and whether they are all.

        Raises:
            GenflowError: it cannot be made of these blocks; the message says why.
        """
        states, complete = self._decomposer().states(Chem.MolFromSmiles(name))
        same = [spelt == name for spelt in self.names(states)]
        if not any(same):
            raise GenflowError("differs from what its blocks make by its stereochemistry alone")
        return states[same], complete

    def draw(self, states: Tensor) -> list[bytes]:
        """A PNG of each of the states (B, 3N)."""
        return draw([Chem.MolFromSmiles(smiles) for smiles in self.names(states)])


@dataclass(frozen=True)
class Marks:
    """What is marked on the picture of a molecule.

    Attributes:
        colours: atom -> red, green and blue, 0 to 1, of a disc behind it.
        legend: the lines below it, at most two.
    """

    colours: Mapping[int, tuple[float, float, float]]
    legend: tuple[str, ...]


def draw(mols: Sequence[Mol]) -> list[bytes]:
    """A PNG of `WIDTH` by `HEIGHT` pixels of each molecule."""
    return _pngs(mols, [None] * len(mols), (WIDTH, HEIGHT))


def sheet(mols: Sequence[Mol], marks: Sequence[Marks], columns: int, key: str) -> bytes:
    """One PNG of molecules side by side, each of `SMALL` pixels with its lines of text below.

    Args:
        mols: the molecules.
        marks: of each.
        columns: how many side by side.
        key: what the marks mean, a line at the top.
    """
    font = ImageFont.load_default(LETTER)
    columns = max(min(columns, len(mols)), -(-int(font.getlength(key)) // SMALL[0]))
    width, height = SMALL[0], SMALL[1] + LEGEND
    page = Image.new("RGB", (columns * width, -(-len(mols) // columns) * height + 2 * LINE), "white")
    write = ImageDraw.Draw(page)
    write.text((LINE, LINE), key, "black", font, anchor="lm")
    for number, (png, own) in enumerate(zip(_pngs(mols, marks, SMALL), marks, strict=True)):
        row, column = divmod(number, columns)
        left, top = column * width, row * height + 2 * LINE
        page.paste(Image.open(io.BytesIO(png)), (left, top))
        for place, text in enumerate(own.legend):
            below = top + SMALL[1] + (place + 0.5) * LINE
            write.text((left + width / 2, below), text, "black", font, anchor="mm")
    content = io.BytesIO()
    page.save(content, "PNG", optimize=True)
    return content.getvalue()


def _pngs(mols: Sequence[Mol], marks: Sequence[Marks | None], size: tuple[int, int]) -> list[bytes]:
    """Bonds of all are equally long, `BOND` pixels or what the largest leaves room for.

    One that leaves less than `LEAST` is drawn smaller.
    """
    laid = [_lay_out(mol) for mol in mols]
    rooms = [_room(mol, size) for mol in laid]
    bond = max(LEAST, min([BOND, *rooms]))
    return [_png(mol, min(bond, room), own, size) for mol, room, own in zip(laid, rooms, marks, strict=True)]


def _lay_out(mol: Mol) -> Mol:
    """A molecule with coordinates, a bond `UNIT` long, the longer side across."""
    mol = rdMolDraw2D.PrepareMolForDrawing(mol)
    rdCoordGen.AddCoords(mol)  # of large molecules, overlaps in an eighth as many as RDKit's own
    rdDepictor.NormalizeDepiction(mol, canonicalize=0)
    rdDepictor.StraightenDepiction(mol)
    conformer = mol.GetConformer()
    places = conformer.GetPositions()
    width, height, _ = np.ptp(places, axis=0)
    if height > width:
        conformer.SetPositions(np.stack([places[:, 1], -places[:, 0], places[:, 2]], axis=1))
    return mol


def _room(mol: Mol, size: tuple[int, int]) -> float:
    """Pixels of a bond with which it fills the picture, but for labels as wide as a bond."""
    width, height, _ = np.ptp(mol.GetConformer().GetPositions(), axis=0) / UNIT + 2
    return float(min(size[0] / width, size[1] / height))


def _png(mol: Mol, bond: float, marks: Marks | None, size: tuple[int, int]) -> bytes:
    canvas = rdMolDraw2D.MolDraw2DCairo(*size)
    options: Any = canvas.drawOptions()  # whose types are wrong in RDKit's stubs
    options.fixedBondLength = bond / UNIT  # pixels of a unit, whatever its name says
    options.padding = 0.0
    options.minFontSize = LETTER
    options.prepareMolsBeforeDrawing = False
    options.includeMetadata = False  # the molecule itself, which outweighs the picture
    options.updateAtomPalette(DARKER)
    colours = dict(marks.colours) if marks else {}
    canvas.DrawMolecule(mol, highlightAtoms=list(colours), highlightAtomColors=colours, highlightBonds=[])
    canvas.FinishDrawing()
    return canvas.GetDrawingText()
