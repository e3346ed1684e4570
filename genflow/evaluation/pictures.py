"""The pictures of the report, as the bytes of PNG files.

Only matplotlib's object interface is used, so that no global state changes.

Shapes: S states, n coordinates of a state, K policies, (R, C) a weight matrix.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

DPI = 150
#: source of policies -> colour and marker; another source gets the next colour of `OTHERS`
SOURCES = {
    "target": ("black", "_"),
    "trained": ("#2166ac", "o"),
    "generated": ("#d6604d", "D"),
    "pretrained": ("#e08214", "P"),
    "random": ("#878787", "x"),
    "uniform": ("#444444", "+"),
    "mean": ("#1b9e77", "s"),
    "nearest": ("#7b3294", "^"),
    "perturbed": ("#b8860b", "v"),
    "finetuned": ("#d6604d", "D"),
    "from_random": ("#2166ac", "o"),
}
OTHERS = (
    "#d6604d",
    "#2166ac",
    "#1b9e77",
    "#7b3294",
    "#b8860b",
    "#e7298a",
    "#17a2b8",
    "#666600",
    "#8c510a",
    "#444444",
)
#: the most values of a coordinate whose marginal distribution is drawn
MAX_VALUES = 512
#: the most points of a rank plot, and the most lines of a plot with a legend
MAX_POINTS, MAX_LEGEND = 1500, len(OTHERS)
#: the most characters of a label
MAX_TEXT = 60
#: the most rows of an overview, sources in it, and pictures of one fine-tuning
MAX_ROWS, MAX_MARKS, MAX_CURVES = 200, 24, 24
#: size of the palette, which keeps files small
COLOURS = 256
#: the most rows and columns of a weight matrix that are drawn
MAX_UNITS = 256


def png(figure: Figure) -> bytes:
    """Render a figure as a PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # matplotlib warns of characters that the font does not have
        warnings.simplefilter("ignore")
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return shrink(buffer.getvalue())


def shrink(picture: bytes) -> bytes:
    """Reduce a PNG to a palette, which makes it smaller."""
    small = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(
        COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(small, format="PNG", optimize=True)
    return small.getvalue()


def overview(rows: Sequence[tuple[str, Mapping[str, float]]], metric: str) -> bytes:
    """Draw a metric with a row for each structure and a mark for each source of policies.

    The scale is logarithmic if all values are positive.

    Args:
        rows: (label, {source: value}) of each structure.
        metric: label of the axis.
    """
    sources = list(dict.fromkeys(source for _, values in rows for source in values))[:MAX_MARKS]
    figure = Figure(figsize=(6.2, 1.3 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for rank, source in enumerate(
        sorted(sources, key=lambda s: list(SOURCES).index(s) if s in SOURCES else len(SOURCES))
    ):
        x, y = zip(
            *((values[source], row) for row, (_, values) in enumerate(rows) if source in values), strict=True
        )
        colour, marker = SOURCES.get(source, (OTHERS[-1], "."))
        axes.scatter(x, y, color=colour, marker=marker, s=38, label=_plain(source), zorder=9 - rank)
    if all(value > 0 for _, values in rows for value in values.values()):
        axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [_plain(label) for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(_plain(metric))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", which="both", color="#e6e6e6")
    axes.grid(axis="y", color="#f2f2f2")
    _frame(axes)
    figure.legend(
        loc="outside upper center", ncols=6, frameon=False, fontsize=9, handletextpad=0, columnspacing=0.8
    )
    return png(figure)


def marginals(states: Tensor, distributions: Mapping[str, Tensor]) -> bytes | None:
    """Draw the marginal of each distribution over the first two coordinates, or over the only one.

    Args:
        states: (S, n) integers.
        distributions: label -> (S,). The first one, the target, sets the colour scale.

    Returns:
        A PNG, or None if the states have no integer coordinates or too many values of one.
    """
    if states.ndim != 2 or states.is_floating_point() or not states.shape[1]:
        return None
    places = states[:, :2].long() - states[:, :2].long().amin(0)
    sizes = (places.amax(0) + 1).tolist()
    if max(sizes) > MAX_VALUES:
        return None
    first = states[:, :2].amin(0).tolist()
    columns = 2 if len(distributions) in (1, 2, 4) else 3
    rows = math.ceil(len(distributions) / columns)
    figure = Figure(figsize=(5.2, 0.5 + 4.6 * rows / columns), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    tables = {}
    for label, distribution in distributions.items():
        index = places[:, 0] * sizes[1] + places[:, 1] if len(sizes) == 2 else places[:, 0]
        tables[label] = (
            torch.zeros(math.prod(sizes), dtype=torch.float64)
            .index_add_(0, index, distribution.double())
            .reshape(sizes)
        )
    # the margin shows probabilities that are above the peak of the target
    highest = 1.25 * float(next(iter(tables.values())).max())
    image = None
    for axes, (label, table) in zip(grid.flat, tables.items(), strict=False):
        axes.set_title(_plain(label), fontsize=10)
        if table.ndim == 1:
            colour = SOURCES.get(label, (OTHERS[0], ""))[0]
            axes.bar(
                range(first[0], first[0] + sizes[0]),
                table.tolist(),
                width=0.9,
                color=colour if label != "target" else "#444444",
            )
        else:
            extent = (first[0] - 0.5, first[0] + sizes[0] - 0.5, first[1] - 0.5, first[1] + sizes[1] - 0.5)
            image = axes.imshow(
                table.T, origin="lower", extent=extent, vmin=0, vmax=highest, cmap="viridis", aspect="auto"
            )
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    figure.supxlabel("first coordinate", fontsize=10)
    figure.supylabel("probability" if image is None else "second coordinate", fontsize=10)
    if image is not None:
        figure.colorbar(image, ax=grid, label="probability", extend="max", shrink=0.9)
    return png(figure)


def ranks(distributions: Mapping[str, Tensor]) -> bytes:
    """Draw probability against the rank of a state under the target, on logarithmic axes.

    Args:
        distributions: label -> (S,). The first one is the target.
    """
    target = next(iter(distributions.values()))
    order = torch.argsort(target, descending=True, stable=True)
    order = order[target[order] > 0]
    picked = (
        torch.logspace(0, math.log10(max(len(order), 1)), MAX_POINTS, dtype=torch.float64)
        .round()
        .long()
        .unique()
        - 1
    )
    floor, top = float(target[order].min()) / 1000, 1.0
    figure = Figure(figsize=(5.2, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for label, distribution in reversed(list(distributions.items())):
        values = distribution[order][picked].clamp(min=floor)
        colour, marker = SOURCES.get(label, (OTHERS[len(axes.lines) % len(OTHERS)], "."))
        if distribution is target:
            axes.plot(picked + 1, values, color=colour, linewidth=2, label=_plain(label), zorder=4)
        else:
            size = 5 if len(picked) < 60 else 3
            axes.plot(
                picked + 1,
                values,
                marker,
                color=colour,
                markersize=size,
                alpha=0.6,
                markeredgewidth=0.8,
                label=_plain(label),
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="state, ranked by target probability",
        ylabel="probability",
        ylim=(floor * 0.8, top),
    )
    axes.grid(color="#e6e6e6")
    _frame(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside upper center",
        ncols=4,
        frameon=False,
        handletextpad=0.3,
        columnspacing=1.0,
    )
    return png(figure)


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], ylabel: str, logarithmic: bool = True
) -> bytes:
    """Draw learning curves, with a legend if there are at most `MAX_LEGEND` of them.

    Args:
        lines: label -> (step, value) pairs.
        ylabel: label of the vertical axis.
        logarithmic: use a logarithmic scale, provided that all values are positive.
    """
    figure = Figure(figsize=(5.2, 3.7), layout="constrained")
    axes = figure.add_subplot()
    many = len(lines) > MAX_LEGEND
    for index, (label, points) in enumerate(lines.items()):
        colour = to_hex(matplotlib.colormaps["viridis"](index / len(lines))) if many else OTHERS[index]
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linewidth=1.3,
            label=_plain(label),
            marker="o" if len(points) == 1 else None,
        )
    if logarithmic and all(value > 0 for points in lines.values() for _, value in points):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=_plain(ylabel))
    axes.grid(color="#e6e6e6")
    _frame(axes)
    if len(lines) > 1 and not many:
        widest = max(map(len, lines))
        figure.legend(
            loc="outside upper center",
            ncols=1 if widest > 36 else 2 if widest > 12 else 3,
            frameon=False,
            fontsize=8.5,
        )
    return png(figure)


def matrices(groups: Mapping[str, Tensor], ylabel: str, xlabel: str) -> bytes:
    """Draw weight matrices on one symmetric colour scale, with a row for each group of policies.

    Args:
        groups: label -> (K, R, C).
        ylabel: label of the rows of a matrix.
        xlabel: label of its columns.
    """
    columns = max(len(group) for group in groups.values())
    width, height = 8.2, 0.9 + 1.75 * len(groups)
    # fixed margins, in inches: to find them by trial takes longer than all else
    left, right, bottom, top = 0.95 / width, 1 - 1.05 / width, 0.65 / height, 1 - 0.15 / height
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(
        len(groups),
        columns,
        squeeze=False,
        sharex=True,
        sharey=True,
        gridspec_kw={
            "left": left,
            "right": right,
            "bottom": bottom,
            "top": top,
            "wspace": 0.12,
            "hspace": 0.12,
        },
    )
    # a quantile, because a few large weights would make all others look pale
    shown = {label: group[:, :MAX_UNITS, :MAX_UNITS].float() for label, group in groups.items()}
    reach = max(float(group.abs().flatten().quantile(0.995)) for group in shown.values()) or 1.0
    image = None
    for row, (label, group) in zip(grid, shown.items(), strict=True):
        row[0].set_ylabel(_plain(label), fontsize=11)
        for axes in row[len(group) :]:
            axes.set_axis_off()
        for axes, matrix in zip(row, group, strict=False):
            image = axes.imshow(
                matrix, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest"
            )
            axes.tick_params(labelsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supxlabel(_plain(xlabel), x=(left + right) / 2, y=0.1 / height, va="bottom", fontsize=10)
    figure.supylabel(_plain(ylabel), x=0.1 / width, y=(bottom + top) / 2, ha="left", fontsize=10)
    if image is not None:
        beside = figure.add_axes((right + 0.2 / width, bottom, 0.15 / width, top - bottom))
        figure.colorbar(image, cax=beside, label="weight", extend="both")
    return png(figure)


def _frame(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _plain(text: str) -> str:
    """Shorten a label, and escape what matplotlib would read as a formula or leave out of a legend."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    text = text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
    return " " * text.startswith("_") + text.replace("$", r"\$")
