"""The charts of the items, as PNG: dots by source, and heat maps.

Shapes: L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from genflow import draw_png

#: colour and marker of each series, in the order in which they first occur
STYLES = (
    ("#878787", "x"),
    ("#2166ac", "o"),
    ("#b8860b", "^"),
    ("#7b3294", "s"),
    ("#d6604d", "D"),
    ("#1b9e77", "v"),
    ("#e7298a", "P"),
    ("#17a2b8", "*"),
)
#: what is smaller is drawn here
LEAST = 1e-6
#: the perfect sampler, or whatever else is the best there can be
BEST = ("black", "|")


def dots(panels: Mapping[str, Mapping[str, Mapping[str, float]]], label: str, best: str = "") -> bytes:
    """Draw figures as dots, a panel each for groups of figures and a row for each structure.

    Args:
        panels: {title: {row: {series: value}}}, on one logarithmic axis.
        label: of that axis.
        best: the series that is drawn as a line of its row.
    """
    names = list(dict.fromkeys(s for rows in panels.values() for row in rows.values() for s in row))
    others = [name for name in names if name != best]
    styles = dict(zip(others, STYLES * (1 + len(others) // len(STYLES)), strict=False)) | {best: BEST}
    rows = max(len(each) for each in panels.values())
    figure = Figure(figsize=(4.4 * len(panels) + 0.6, 1.3 + 0.28 * rows), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        for name in names:
            found = [(row.get(name, 0.0), y) for y, row in enumerate(values.values())]
            points = [(max(value, LEAST), y) for value, y in found if value > 0]
            if points:
                colour, marker = styles[name]
                size = 150 if name == best else 34
                axes.scatter(
                    *zip(*points, strict=True), color=colour, marker=marker, s=size, label=name, zorder=3
                )
        axes.set_xscale("log")
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label)
        axes.grid(color="#e6e6e6")
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles = {
        name: handle for axes in grid for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False, fontsize=8.5
    )
    return draw_png(figure)


def heat_maps(maps: Mapping[str, Tensor], names: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> bytes:
    """Draw matrices of CKA as heat maps from 0 to 1, as a PNG.

    Args:
        maps: title -> (L, L).
        names: title -> the names of the rows and of the columns.
    """
    columns = len(maps) if len(maps) <= 3 else 5
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.6, 3.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    image = None
    for axes, (title, values) in zip(grid.flat, maps.items(), strict=False):
        image = axes.imshow(values, vmin=0, vmax=1, cmap="magma", origin="lower")
        axes.set_title(title, fontsize=9)
        for place, labels in zip((axes.set_yticks, axes.set_xticks), names[title], strict=True):
            if len(labels) <= 8:
                place(range(len(labels)), labels, fontsize=7)
        axes.tick_params(axis="x", rotation=60, labelsize=7)
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    if image is not None:
        figure.colorbar(image, ax=grid, label="CKA", shrink=0.8)
    return draw_png(figure)
