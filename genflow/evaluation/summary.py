"""The first lines of the report: which policies are best, why, and what they cost."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from html import escape

from genflow.evaluation import report_sections
from genflow.evaluation.report_data import Entry, ReportData
from genflow.measure import primary_metrics
from genflow.registry import registry
from genflow.value_text import count_of


def summary(data: ReportData) -> str:
    """Write the summary in sentences, with the most important figures."""
    metric, groups = summary_metric(data), data.evaluation.groups()
    if metric is None:
        structures = {s.structure.name for s in data.saved}
        what = (
            f"policies for {count_of(len(structures), 'structure')}"
            if structures
            else "the history of a training"
        )
        hint = "<code>genflow evaluate DIR --zoo DIR --out DIR</code> makes one"
        lead = f"<p>This folder holds {what} and no measured comparison; {hint}.</p>"
        lines = []
    else:
        lead = (
            f"<p>Policies for {count_of(len(groups), 'structure')}, compared by <b>{escape(metric)}</b>:"
            f" {escape(describe_metric(data, metric))}. Figures are means over structures.</p>"
        )
        unseen = [entries for entries in groups.values() if not entries[0].seen]
        seen = [entries for entries in groups.values() if entries[0].seen]
        lines = [
            _winner(data, metric, unseen or seen),
            _reason(data, metric, unseen),
            _generated_beside_baselines(data, metric, unseen, "that the generator was <b>not</b> trained on"),
            _generated_beside_baselines(data, metric, seen, "that the generator was trained on"),
            _generation_and_training_time(data),
        ]
    for (_, name), group in report_sections.finetuned_by_structure(data).items():
        for saved in group:
            ends = {key: points for key in saved.training.history if (points := saved.training.points(key))}
            figures = [
                f"{escape(key)} {three_digits(points[0][1])} → <b>{three_digits(points[-1][1])}</b>"
                for key, points in ends.items()
            ]
            steps = count_of(max((int(points[-1][0]) for points in ends.values()), default=0), "step")
            lines.append(
                f"{escape(name)}, {escape(saved.label)}, {steps}, first → last value: {', '.join(figures)}."
            )
    return lead + "<ul>" + "".join(f"<li>{line}</li>" for line in lines if line) + "</ul>\n"


def _means(groups: Sequence[Sequence[Entry]], metric: str) -> dict[str, float]:
    """Mean of a metric by source, over the structures where every source of the first one has it."""
    values = [{e.source: v for e in entries if (v := e.value(metric)) is not None} for entries in groups]
    common = [source for source in (values[0] if values else ()) if all(source in each for each in values)]
    return {source: sum(each[source] for each in values) / len(values) for source in common}


def _winner(data: ReportData, metric: str, groups: Sequence[Sequence[Entry]]) -> str:
    """The sources of policies from the best to the worst."""
    means = _means(groups, metric)
    if len(means) < 2 or metric not in data.metrics:
        return ""
    ranked = sorted(means, key=lambda s: means[s], reverse=data.metrics[metric].better == "higher")
    best, *others = (f"{escape(source)} {three_digits(means[source])}" for source in ranked)
    unseen = " that the generator was <b>not</b> trained on" if not groups[0][0].seen else ""
    return f"Best on {count_of(len(groups), 'structure')}{unseen}: <b>{best}</b>; then {', '.join(others)}."


def _reason(data: ReportData, metric: str, unseen: Sequence[Sequence[Entry]]) -> str:
    """What each generator knows of a weight, where one does no better than untrained policies."""
    means = _means(unseen, metric)
    made = [source for source in ("generated", "pretrained") if source in means]
    if not made or "random" not in means or metric not in data.metrics:
        return ""
    sign = 1 if data.metrics[metric].better == "lower" else -1
    # a tenth better than nothing is no success
    failed = [s for s in made if sign * means[s] > sign * means["random"] - 0.1 * abs(means["random"])]
    if not failed:
        return ""
    told = {s.label: s.provenance.get("encoder") for s in data.saved}
    encoders = registry().names("encoder")
    what = [
        f"The encoder of {source} policies is <code>{escape(name)}</code>:"
        f" {escape(_first_line(registry().load('encoder', name)))}"
        for source in made
        if isinstance(name := told.get(source), str) and name in encoders
    ]
    return " ".join(
        [f"There, {' and '.join(failed)} policies are <b>no better than untrained ones</b>.", *what]
    )


def _generated_beside_baselines(
    data: ReportData, metric: str, groups: Sequence[Sequence[Entry]], words: str
) -> str:
    """Compare the mean metric of generated policies with that of the baselines, in one sentence."""
    chosen = [{e.source: v for e in entries if (v := e.value(metric)) is not None} for entries in groups]
    chosen = [values for values in chosen if "generated" in values]
    if not chosen:
        return ""
    lower = metric in data.metrics and data.metrics[metric].better == "lower"
    others = []
    for source, phrase in (
        ("trained", "trained from scratch"),
        ("pretrained", "by the generator that ships"),
        ("nearest", "copied from the nearest structure"),
        ("random", "untrained"),
    ):
        pairs = [(values["generated"], values[source]) for values in chosen if source in values]
        if pairs:
            wins = sum(own < other if lower else own > other for own, other in pairs)
            beaten = f" (generated is better on {wins} of {len(pairs)})" if metric in data.metrics else ""
            others.append(
                f"{phrase} <b>{three_digits(sum(other for _, other in pairs) / len(pairs))}</b>{beaten}"
            )
    own = sum(values["generated"] for values in chosen) / len(chosen)
    figures = ", ".join([f"generated <b>{three_digits(own)}</b>", *others])
    return f"On {count_of(len(chosen), 'structure')} {words}: {figures}."


def _generation_and_training_time(data: ReportData) -> str:
    """Compare the seconds to generate policies with the seconds to train them, in one sentence."""
    made = {}
    for source in ("generated", "trained"):
        timed = [
            (e.seconds, e.num)
            for e in data.evaluation.entries
            if e.source == source and e.seconds is not None
        ]
        if not timed:
            return ""
        low, high = min(num for _, num in timed), max(num for _, num in timed)
        policies = count_of(high, "policy", "policies") if low == high else f"{low} to {high} policies"
        made[source] = (
            f"<b>{three_digits(sum(seconds for seconds, _ in timed) / len(timed))} s</b> ({policies})"
        )
    once = {"zoo": sum(s.training.seconds or 0 for s in data.saved if s.folder.parent.name == "zoo")}
    once |= {
        "autoencoder": data.autoencoder.seconds or 0,
        "diffusion model": data.generator.seconds or 0,
    }
    spent = ", ".join(f"{name} {three_digits(seconds)} s" for name, seconds in once.items() if seconds)
    more = f" Not counted is what the generator itself cost, once: {spent}." if spent else ""
    times = f"{made['generated']} to generate, {made['trained']} to train from scratch"
    return f"Time for one structure, mean: {times}.{more}"


def summary_metric(data: ReportData) -> str | None:
    """Return the metric of the summary, which is the first primary one that was measured.

    Without such a metric it is the first one that was measured, or None.
    """
    present = {name for e in data.evaluation.entries for name in e.metrics if e.value(name) is not None}
    measured = [name for name in data.metrics if name in present] + sorted(present - set(data.metrics))
    return next((name for name in primary_metrics() if name in measured), next(iter(measured), None))


def describe_metric(data: ReportData, name: str) -> str:
    """Return the first line of a metric's docstring, and which direction is better."""
    if name not in data.metrics:
        return "a metric that is not installed here"
    metric = data.metrics[name]
    direction = f"; {metric.better} is better" if metric.better else ""
    return f"{_first_line(type(metric)).rstrip('.')}{direction}"


def _first_line(described: type) -> str:
    """Return the first line of a class's docstring, else its name."""
    return (inspect.getdoc(described) or described.__name__).splitlines()[0]


def three_digits(value: float) -> str:
    return f"{value:.3g}"
