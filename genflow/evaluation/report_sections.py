"""The sections of the report that consist of pictures.

The function of a section returns HTML, which is empty if there is nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from genflow.evaluation import pictures
from genflow.evaluation.evaluate import format_number
from genflow.evaluation.page import data_url, html_figure
from genflow.evaluation.report_data import ReportData, SavedPopulation
from genflow.interfaces.gallery import Gallery
from genflow.measure import primary_metrics
from genflow.population import Population
from genflow.structure import Structure

#: the most states of a structure that is drawn, and the most structures that are drawn
MAX_STATES, MAX_STRUCTURES = 100_000, 8
#: the most policies of a population among which the median policy is chosen
MAX_POLICIES = 16
#: the most structures whose weights are drawn, tensors of a structure, and policies of a source
MAX_WEIGHTS, MAX_TENSORS, MAX_MATRICES = 2, 4, 4
#: trajectories that are sampled from each source, and how many of their best objects are drawn
MAX_SAMPLED, MAX_OBJECTS = 512, 8


def distributions(data: ReportData) -> str:
    """Show the distributions that the policies sample from, beside the target."""

    def small(structure: Structure, _: Mapping[str, SavedPopulation]) -> bool:
        return structure.solution.enumerable and (structure.solution.n_states or 0) <= MAX_STATES

    chosen = data.choose(MAX_STRUCTURES, small)
    if not chosen:
        return ""
    metric_name = next(iter(primary_metrics()), None)
    choice = (
        f"the one with the median {escape(metric_name)} of its population"
        if metric_name
        else "the first of its population"
    )
    total = len(data.populations())
    count = f"{len(chosen)} of {total} structures are shown. " if len(chosen) < total else ""
    intro = f"<p>{count}Exact probabilities. From each source one policy is shown, {choice}.</p>"
    return intro + "".join(_distribution(data, structure, saved) for structure, saved in chosen)


def _distribution(data: ReportData, structure: Structure, saved: Mapping[str, SavedPopulation]) -> str:
    policies = {label: s.load(MAX_POLICIES) for label, s in saved.items()}
    policies["random"] = Population.initialised(structure, MAX_MATRICES, data.seed or 0)
    shown = {"target": structure.solution.target()}
    figures: list[str] = []
    for label, population in policies.items():
        index = 0
        for name, metric in list(primary_metrics().items())[:1]:
            values = metric(population)
            # the lower median, which is the value of an actual policy
            index = int(values.argsort()[(len(population) - 1) // 2])
            figures.append(
                f"{label} {format_number(float(values[index]))}"
                if figures
                else f"{name}: {label} {format_number(float(values[index]))}"
            )
        shown[label] = population.terminal_distribution()[index]
    names = ", ".join(shown)
    measured = f" {', '.join(figures)}." if figures else ""
    places = structure.gallery.places(structure.solution.graph.states)
    marginals = pictures.marginals(places, shown) if places is not None else None
    left = marginals and html_figure(
        marginals,
        f"Marginal distributions for {structure.name}: {names}",
        f"Where trajectories end, seen along the first coordinates. Each panel should look like the"
        f" target.{measured}",
    )
    right = html_figure(
        pictures.ranks(shown),
        f"Probability by rank for {structure.name}: {names}",
        "Every state, the one with the most target probability first. A mark on the black line is right,"
        " above it a state comes too often,"
        f" below it too seldom; at the lower edge it hardly comes at all.{'' if left else measured}",
    )
    return f"<h3>{heading(data, structure)}</h3><div class='pictures'>{left or ''}{right}</div>"


def best_objects(data: ReportData) -> str:
    """Show the sampled objects with the highest scores."""
    chosen = data.choose(MAX_STRUCTURES, lambda structure, _: structure.gallery.pictures)
    if not chosen:
        return ""
    total = sum(structure.gallery.pictures for structure in data.populations())
    count = f"{len(chosen)} of {total} structures are shown. " if len(chosen) < total else ""
    intro = (
        f"<p>{count}Each source samples {MAX_SAMPLED} trajectories with a fixed seed, as many from each of"
        " its policies. Of the different"
        f" objects among them the {MAX_OBJECTS} with the highest score are drawn, each above its score and"
        " its name.</p>"
    )
    return intro + "".join(_best_objects(data, structure, saved) for structure, saved in chosen)


def _best_objects(data: ReportData, structure: Structure, saved: Mapping[str, SavedPopulation]) -> str:
    gallery, seed = structure.gallery, data.seed or 0
    rows = {label: pick_best(gallery, s.load(MAX_POLICIES), seed) for label, s in saved.items()}
    if "random" not in rows:
        rows["random"] = pick_best(gallery, Population.initialised(structure, MAX_MATRICES, seed), seed)
    drawn = iter(gallery.draw(torch.cat([row.states for row in rows.values()])))
    blocks = []
    for label, row in rows.items():
        figures = [
            f'<figure><img alt="{escape(name)}" src="{data_url(pictures.shrink(next(drawn)))}">'
            f"<figcaption><b>{format_number(score)}</b> {escape(name)}</figcaption></figure>\n"
            for name, score in zip(row.names, row.scores, strict=True)
        ]
        policies = f"{row.num} {'policy' if row.num == 1 else 'policies'}"
        mean = format_number(row.mean)
        caption = f"{policies}, {row.different} different objects, mean score of all samples {mean}"
        blocks.append(
            f'<h4>{escape(label)} <span class="tag">{caption}</span></h4>'
            f'<div class="objects">{"".join(figures)}</div>'
        )
    return f"<h3>{heading(data, structure)}</h3><p>Score: {escape(gallery.score)}.</p>{''.join(blocks)}"


class BestObjects(NamedTuple):
    """The best objects that a population samples, in falling order of score.

    Attributes:
        names: names of the K best objects.
        scores: their scores.
        states: their terminal states (K, *state_shape).
        num: number of policies.
        different: number of different objects among all samples.
        mean: mean score of all samples.
    """

    names: list[str]
    scores: list[float]
    states: Tensor
    num: int
    different: int
    mean: float


def pick_best(gallery: Gallery, population: Population, seed: int) -> BestObjects:
    """Find the `MAX_OBJECTS` best distinct objects among `MAX_SAMPLED` samples of a population."""
    final = population.rollouts(math.ceil(MAX_SAMPLED / len(population)), seed).final
    # as many trajectories from each policy
    states = final.transpose(0, 1).flatten(0, 1)[:MAX_SAMPLED]
    names, scores = gallery.names(states), gallery.scores(states)
    found: dict[str, int] = {}
    for index in scores.argsort(descending=True, stable=True).tolist():
        if names[index]:
            found.setdefault(names[index], index)
    best = list(found.values())[:MAX_OBJECTS]
    shown = [names[index] for index in best]
    return BestObjects(
        shown, scores[best].tolist(), states[best], len(population), len(found), float(scores.mean())
    )


def training(data: ReportData) -> str:
    """Show the learning curves of the zoo, the autoencoder and the diffusion model."""
    zoo = [s for s in data.saved if not s.finetuned and s.training.history]
    caption = "Policies trained from scratch: {} over the steps, mean of a structure's policies."
    parts = [
        _curves({s.structure.name: s.training.points(name) for s in zoo}, name, caption.format(name))
        for name in ("loss", *primary_metrics())
    ]
    for label, model, caption in (
        (
            "autoencoder loss",
            data.autoencoder,
            "Autoencoder of the weights: loss and its parts over the steps. It should have levelled out.",
        ),
        (
            "diffusion loss",
            data.generator,
            "Latent diffusion model: loss over the steps. It should have levelled out.",
        ),
    ):
        parts.append(_curves({name: model.points(name) for name in model.history}, label, caption))
    return f'<div class="pictures">{"".join(parts)}</div>' if any(parts) else ""


def finetuned_by_structure(data: ReportData) -> dict[tuple[Path, str], list[SavedPopulation]]:
    """Group the populations of fine-tuning by their common folder and structure name."""
    grouped: dict[tuple[Path, str], list[SavedPopulation]] = {}
    for saved in data.saved:
        if saved.finetuned and saved.training.history:
            grouped.setdefault((saved.folder.parent, saved.structure.name), []).append(saved)
    return grouped


def finetuning(data: ReportData) -> str:
    """Show the learning curves of fine-tuning beside those from a random start."""
    blocks = []
    for (_, name), group in finetuned_by_structure(data).items():
        drawn = []
        for key in list(dict.fromkeys(key for saved in group for key in saved.training.history))[
            : pictures.MAX_CURVES
        ]:
            better = "lower" if key == "loss" else data.metrics[key].better if key in data.metrics else ""
            side = f" {better.capitalize()} is better." if better else ""
            caption = (
                f"{key} over the steps, mean of the policies, with the same budget from each start.{side}"
            )
            drawn.append(
                _curves(
                    {s.label: s.training.points(key) for s in group},
                    key,
                    caption,
                    logarithmic=better == "lower",
                )
            )
        blocks.append(f'<h3>{escape(name)}</h3><div class="pictures">{"".join(drawn)}</div>')
    return "".join(blocks)


def weights(data: ReportData) -> str:
    """Show weight matrices of several policies of each source."""
    blocks = []
    for structure, saved in data.choose(MAX_WEIGHTS, lambda _, saved: "generated" in saved or len(saved) > 1):
        states = {label: s.load(MAX_MATRICES).state_dict() for label, s in saved.items()}
        shapes = {name: shape for name, shape in structure.layout.shapes.items() if len(shape) == 2}
        drawn = [
            html_figure(
                pictures.matrices(
                    {label: state[name] for label, state in states.items()}, *structure.layout.axes[name]
                ),
                f"Weight matrices {name} of {structure.name}: {', '.join(states)}",
                f"{name}, {shape[0]} by {shape[1]}: a panel for each policy, a row for each source"
                f" ({', '.join(states)})."
                + (
                    f" Only the first {pictures.MAX_UNITS} units of an axis are shown."
                    if max(shape) > pictures.MAX_UNITS
                    else ""
                ),
                wide=True,
            )
            for name, shape in list(shapes.items())[:MAX_TENSORS]
        ]
        blocks.append(f"<h3>{heading(data, structure)}</h3>{''.join(drawn)}")
    intro = (
        "<p>Each picture has one colour scale, symmetric around 0. Compare the strength and the texture of"
        " the rows;"
        " panels of a row that are alike in every detail would be copies of one policy.</p>"
    )
    return intro + "".join(blocks) if blocks else ""


def heading(data: ReportData, structure: Structure) -> str:
    """Return a structure's name as HTML, with a tag that says whether the generator was trained on it."""
    seen = {True: "seen", False: "unseen", None: ""}[data.seen(structure)]
    return f'{escape(structure.name)} <span class="tag">{seen}</span>'


def _curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], ylabel: str, caption: str, logarithmic: bool = True
) -> str:
    kept = {label: points for label, points in lines.items() if points}
    if not kept:
        return ""
    more = (
        f" {len(kept)} lines, dark to light in the order of their names."
        if len(kept) > pictures.MAX_LEGEND
        else ""
    )
    alt = f"{ylabel} over the steps: {', '.join(list(kept)[: pictures.MAX_LEGEND])}"
    return html_figure(pictures.curves(kept, ylabel, logarithmic), alt, caption + more)
