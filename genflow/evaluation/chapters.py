"""The chapters of the report that are made of pictures.

Each returns HTML, empty if there is nothing to show.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from genflow.evaluation import pictures
from genflow.evaluation.evaluate import number
from genflow.evaluation.findings import Findings, Saved
from genflow.interfaces.gallery import Gallery
from genflow.measure import primary_metrics
from genflow.population import Population
from genflow.structure import Structure

#: structures larger than this, and structures beyond this many, are not drawn
MAX_STATES, MAX_STRUCTURES = 100_000, 8
#: policies among which the median one is sought
MAX_POLICIES = 16
#: structures whose weights are drawn, tensors of each, policies of each source
MAX_WEIGHTS, MAX_TENSORS, MATRICES = 2, 4, 4
#: trajectories from each source, among which the best objects are sought, and how many of these are drawn
MAX_SAMPLED, MAX_OBJECTS = 512, 8


def distributions(findings: Findings) -> str:
    """What the policies sample, beside the target."""

    def small(structure: Structure, _: Mapping[str, Saved]) -> bool:
        return structure.solution.enumerable and (structure.solution.n_states or 0) <= MAX_STATES

    chosen = findings.choose(MAX_STRUCTURES, small)
    if not chosen:
        return ""
    judge = next(iter(primary_metrics()), None)
    choice = (
        f"the one with the median {escape(judge)} of its population"
        if judge
        else "the first of its population"
    )
    total = len(findings.populations())
    count = f"{len(chosen)} of {total} structures are shown. " if len(chosen) < total else ""
    intro = f"<p>{count}Exact probabilities. From each source one policy is shown, {choice}.</p>"
    return intro + "".join(_distribution(findings, structure, saved) for structure, saved in chosen)


def _distribution(findings: Findings, structure: Structure, saved: Mapping[str, Saved]) -> str:
    policies = {label: s.load(MAX_POLICIES) for label, s in saved.items()}
    policies["random"] = Population.initialised(structure, MATRICES, findings.seed or 0)
    shown = {"target": structure.solution.target()}
    figures: list[str] = []
    for label, population in policies.items():
        index = 0
        for name, metric in list(primary_metrics().items())[:1]:
            values = metric(population)
            # the lower median, so that it is a policy's own value
            index = int(values.argsort()[(len(population) - 1) // 2])
            figures.append(
                f"{label} {number(float(values[index]))}"
                if figures
                else f"{name}: {label} {number(float(values[index]))}"
            )
        shown[label] = population.terminal_distribution()[index]
    names = ", ".join(shown)
    measured = f" {', '.join(figures)}." if figures else ""
    places = structure.gallery.places(structure.solution.graph.states)
    marginals = pictures.marginals(places, shown) if places is not None else None
    left = marginals and figure(
        marginals,
        f"Marginal distributions for {structure.name}: {names}",
        f"Where trajectories end, seen along the first coordinates. Each panel should look like the"
        f" target.{measured}",
    )
    right = figure(
        pictures.ranks(shown),
        f"Probability by rank for {structure.name}: {names}",
        "Every state, the one with the most target probability first. A mark on the black line is right,"
        " above it a state comes too often,"
        f" below it too seldom; at the lower edge it hardly comes at all.{'' if left else measured}",
    )
    return f"<h3>{heading(findings, structure)}</h3><div class='pictures'>{left or ''}{right}</div>"


def best_objects(findings: Findings) -> str:
    """The objects with the highest scores of those that the policies sample."""
    chosen = findings.choose(MAX_STRUCTURES, lambda structure, _: structure.gallery.pictures)
    if not chosen:
        return ""
    total = sum(structure.gallery.pictures for structure in findings.populations())
    count = f"{len(chosen)} of {total} structures are shown. " if len(chosen) < total else ""
    intro = (
        f"<p>{count}Each source samples {MAX_SAMPLED} trajectories with a fixed seed, as many from each of"
        " its policies. Of the different"
        f" objects among them the {MAX_OBJECTS} with the highest score are drawn, each above its score and"
        " its name.</p>"
    )
    return intro + "".join(_best_objects(findings, structure, saved) for structure, saved in chosen)


def _best_objects(findings: Findings, structure: Structure, saved: Mapping[str, Saved]) -> str:
    gallery, seed = structure.gallery, findings.seed or 0
    rows = {label: pick_best(gallery, s.load(MAX_POLICIES), seed) for label, s in saved.items()}
    if "random" not in rows:
        rows["random"] = pick_best(gallery, Population.initialised(structure, MATRICES, seed), seed)
    drawn = iter(gallery.draw(torch.cat([row.states for row in rows.values()])))
    blocks = []
    for label, row in rows.items():
        figures = [
            f'<figure><img alt="{escape(name)}" src="{_data(pictures.shrink(next(drawn)))}">'
            f"<figcaption><b>{number(score)}</b> {escape(name)}</figcaption></figure>\n"
            for name, score in zip(row.names, row.scores, strict=True)
        ]
        policies = f"{row.num} {'policy' if row.num == 1 else 'policies'}"
        caption = (
            f"{policies}, {row.different} different objects, mean score of all samples {number(row.mean)}"
        )
        blocks.append(
            f'<h4>{escape(label)} <span class="tag">{caption}</span></h4>'
            f'<div class="objects">{"".join(figures)}</div>'
        )
    return f"<h3>{heading(findings, structure)}</h3><p>Score: {escape(gallery.score)}.</p>{''.join(blocks)}"


class Best(NamedTuple):
    """The best objects of `num` policies, best first; their states (K, *state_shape).

    Of all samples: how many differ, the mean score.
    """

    names: list[str]
    scores: list[float]
    states: Tensor
    num: int
    different: int
    mean: float


def pick_best(gallery: Gallery, population: Population, seed: int) -> Best:
    """The `MAX_OBJECTS` best different objects among `MAX_SAMPLED`."""
    final = population.rollouts(math.ceil(MAX_SAMPLED / len(population)), seed).final
    # the first ones of every policy
    states = final.transpose(0, 1).flatten(0, 1)[:MAX_SAMPLED]
    names, scores = gallery.names(states), gallery.scores(states)
    found: dict[str, int] = {}
    for index in scores.argsort(descending=True, stable=True).tolist():
        if names[index]:
            found.setdefault(names[index], index)
    best = list(found.values())[:MAX_OBJECTS]
    shown = [names[index] for index in best]
    return Best(shown, scores[best].tolist(), states[best], len(population), len(found), float(scores.mean()))


def training(findings: Findings) -> str:
    """Loss curves of the zoo, the autoencoder and the diffusion model."""
    zoo = [s for s in findings.saved if not s.finetuned and s.training.history]
    caption = "Policies trained from scratch: {} over the steps, mean of a structure's policies."
    parts = [
        _curves({s.structure.name: s.training.points(name) for s in zoo}, name, caption.format(name))
        for name in ("loss", *primary_metrics())
    ]
    for label, model, caption in (
        (
            "autoencoder loss",
            findings.autoencoder,
            "Autoencoder of the weights: loss and its parts over the steps. It should have levelled out.",
        ),
        (
            "diffusion loss",
            findings.generator,
            "Latent diffusion model: loss over the steps. It should have levelled out.",
        ),
    ):
        parts.append(_curves({name: model.points(name) for name in model.history}, label, caption))
    return f'<div class="pictures">{"".join(parts)}</div>' if any(parts) else ""


def finetunings(findings: Findings) -> dict[tuple[Path, str], list[Saved]]:
    """The results of fine-tuning, those that belong together in one list."""
    grouped: dict[tuple[Path, str], list[Saved]] = {}
    for saved in findings.saved:
        if saved.finetuned and saved.training.history:
            grouped.setdefault((saved.folder.parent, saved.structure.name), []).append(saved)
    return grouped


def finetuning(findings: Findings) -> str:
    """Curves of fine-tuning against a random start."""
    blocks = []
    for (_, name), group in finetunings(findings).items():
        drawn = []
        for key in list(dict.fromkeys(key for saved in group for key in saved.training.history))[
            : pictures.MAX_CURVES
        ]:
            better = (
                "lower" if key == "loss" else findings.metrics[key].better if key in findings.metrics else ""
            )
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


def weights(findings: Findings) -> str:
    """Weight matrices of several policies of each source."""
    blocks = []
    for structure, saved in findings.choose(
        MAX_WEIGHTS, lambda _, saved: "generated" in saved or len(saved) > 1
    ):
        states = {label: s.load(MATRICES).state_dict() for label, s in saved.items()}
        shapes = {name: shape for name, shape in structure.layout.shapes.items() if len(shape) == 2}
        drawn = [
            figure(
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
        blocks.append(f"<h3>{heading(findings, structure)}</h3>{''.join(drawn)}")
    intro = (
        "<p>Each picture has one colour scale, symmetric around 0. Compare the strength and the texture of"
        " the rows;"
        " panels of a row that are alike in every detail would be copies of one policy.</p>"
    )
    return intro + "".join(blocks) if blocks else ""


def figure(png: bytes, alt: str, caption: str, wide: bool = False) -> str:
    """A picture with its caption; `alt` is read out where the picture is not seen."""
    return (
        f'<figure{" class=wide" if wide else ""}><div><img alt="{escape(alt)}" src="{_data(png)}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def heading(findings: Findings, structure: Structure) -> str:
    """A structure's name, and whether it was seen."""
    seen = {True: "seen", False: "unseen", None: ""}[findings.seen(structure)]
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
    return figure(pictures.curves(kept, ylabel, logarithmic), alt, caption + more)
