"""Pictures as SVG: distributions over a grid, with what is drawn from them, and molecules.

Shapes: n dimensions, h positions of the first and k of the second.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

#: units of a picture: a side of the panel, and its margins left and below
SIDE, LEFT, BELOW = 100.0, 9.0, 10.0
#: what is shown of a molecule, the bonds of all equally long, and the colour of marked atoms
BOND, MARKED = 22, (1.0, 0.82, 0.5)


def panel(table: np.ndarray, highest: float, title: str, drawn: Sequence[Sequence[int]] = ()) -> str:
    """Draw a distribution over one or two dimensions.

    Args:
        table: (h, k), or (h,) for one dimension.
        highest: the probability that has the brightest colour or the highest bar.
        title: what it is, for those who do not see it.
        drawn: positions (B, n), which appear one after the other.
    """
    inside = _bars(table, highest) if table.ndim == 1 else _heat(table, highest)
    return (
        f'<svg role="img" aria-label="{title}" viewBox="{-LEFT} -1 {LEFT + SIDE + 1} {SIDE + BELOW + 1}">'
        f'{inside}<rect width="{SIDE}" height="{SIDE}" class="edge"/>'
        f"{_ticks(table.shape)}{_dots(table.shape, drawn)}</svg>"
    )


def scale(highest: float, bars: bool) -> str:
    """The colours of probabilities, and the numbers at both ends; or what the highest of bars would be."""
    if bars:
        return f"<span>up to {highest:.2g} at the upper edge</span>"
    colours = ", ".join(f"rgb{tuple(int(255 * c) for c in colormaps['viridis'](x)[:3])}" for x in _ends(9))
    return (
        f'<span>0</span><span class="colours" style="background:linear-gradient(to right, {colours})"></span>'
        f"<span>{highest:.2g}</span>"
    )


def _ends(num: int) -> list[float]:
    return np.linspace(0, 1, num).tolist()


def _heat(table: np.ndarray, highest: float) -> str:
    pixels = colormaps["viridis"](np.clip(table / highest, 0, 1), bytes=True)[..., :3]
    content = io.BytesIO()
    # rows of an image go down, the second coordinate up
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2)[::-1])).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    return (
        f'<image width="{SIDE}" height="{SIDE}" preserveAspectRatio="none" style="image-rendering:pixelated"'
        f' href="data:image/png;base64,{data}"/>'
    )


def _bars(table: np.ndarray, highest: float) -> str:
    width = SIDE / len(table)
    heights = SIDE * np.clip(table / highest, 0, 1)
    return "".join(
        f'<rect class="bar" x="{i * width:.3f}" y="{SIDE - height:.3f}" width="{0.9 * width:.3f}"'
        f' height="{height:.3f}"/>'
        for i, height in enumerate(heights)
    )


def _ticks(shape: tuple[int, ...]) -> str:
    found = []
    for axis, height in enumerate(shape):
        for place in sorted({0, (height - 1) // 2, height - 1}):
            at = (place + 0.5) * SIDE / height
            where = f'x="{at:.2f}" y="{SIDE + 7}"' if axis == 0 else f'x="-2" y="{SIDE - at + 2:.2f}"'
            found.append(f'<text {where} class="{"under" if axis == 0 else "beside"}">{place}</text>')
    return "".join(found)


def _dots(shape: tuple[int, ...], drawn: Sequence[Sequence[int]]) -> str:
    found, seen = [], dict[tuple[int, ...], int]()
    for number, place in enumerate(drawn):
        key = tuple(place[: len(shape)])
        count = seen[key] = seen.get(key, -1) + 1
        if len(key) == 1:  # below each other, from the upper edge down
            x, y = (key[0] + 0.5) * SIDE / shape[0], 4.0 + 3 * count
        else:  # in a spiral, so that those of one cell lie side by side
            reach, turn = 0.42 * math.sqrt(count / (count + 3)), 2.4 * count
            x = (key[0] + 0.5 + reach * math.cos(turn)) * SIDE / shape[0]
            y = SIDE - (key[1] + 0.5 + reach * math.sin(turn)) * SIDE / shape[1]
        found.append(f'<circle class="drawn" cx="{x:.2f}" cy="{y:.2f}" r="1.5" style="--k:{number}"/>')
    return "".join(found)


def molecule(smiles: str, size: tuple[int, int], atoms: Sequence[int] = ()) -> str:
    """Draw a molecule in a picture of this size, some of its atoms marked."""
    canvas = rdMolDraw2D.MolDraw2DSVG(*size)
    options: Any = canvas.drawOptions()  # whose types are wrong in RDKit's stubs
    options.clearBackground = False
    options.fixedBondLength = BOND
    options.setHighlightColour(MARKED)
    options.includeMetadata = False
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, Chem.MolFromSmiles(smiles), highlightAtoms=list(atoms))
    canvas.FinishDrawing()
    text = canvas.GetDrawingText()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{smiles}"', 1)
