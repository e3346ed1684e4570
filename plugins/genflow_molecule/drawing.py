"""Molecules named, read, compared and drawn as structures, for reports and tables.

Shapes: B terminal states, (B, 3N).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import Mol, rdCoordGen, rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D
from torch import Tensor

from genflow import Gallery, GenflowError

from .catalogue import Catalogue
from .decomposition import Decomposer
from .descriptors import DESCRIPTORS
from .metrics import mean_tanimoto
from .scoring import read

#: pixels of a picture, twice what a page shows, so that it is sharp on fine screens
WIDTH, HEIGHT = 480, 360
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
        """The canonical SMILES of a SMILES, which a title may follow after a space.

        Raises:
            GenflowError: it is no molecule.
        """
        mol = read(text.split(maxsplit=1)[0]) if text.strip() else None
        if mol is None or not mol.GetNumAtoms():
            raise GenflowError("is no molecule")
        return Chem.MolToSmiles(mol)

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


def draw(mols: Sequence[Mol]) -> list[bytes]:
    """A PNG of `WIDTH` by `HEIGHT` pixels of each molecule.

    Bonds of all are equally long, `BOND` pixels or what the largest leaves room for; one that leaves less
    than `LEAST` is drawn smaller.
    """
    laid = [_lay_out(mol) for mol in mols]
    bond = max(LEAST, min([BOND, *(_room(mol) for mol in laid)]))
    return [_png(mol, min(bond, _room(mol))) for mol in laid]


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


def _room(mol: Mol) -> float:
    """Pixels of a bond with which it fills the picture, but for labels as wide as a bond."""
    width, height, _ = np.ptp(mol.GetConformer().GetPositions(), axis=0) / UNIT + 2
    return float(min(WIDTH / width, HEIGHT / height))


def _png(mol: Mol, bond: float) -> bytes:
    canvas = rdMolDraw2D.MolDraw2DCairo(WIDTH, HEIGHT)
    options: Any = canvas.drawOptions()  # whose types are wrong in RDKit's stubs
    options.fixedBondLength = bond / UNIT  # pixels of a unit, whatever its name says
    options.padding = 0.0
    options.minFontSize = LETTER
    options.prepareMolsBeforeDrawing = False
    options.includeMetadata = False  # the molecule itself, which outweighs the picture
    options.updateAtomPalette(DARKER)
    canvas.DrawMolecule(mol)
    canvas.FinishDrawing()
    return canvas.GetDrawingText()
