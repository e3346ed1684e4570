"""The report of a run, which is one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from genflow.evaluation import pictures, report_sections
from genflow.evaluation.evaluate import format_number
from genflow.evaluation.page import html_figure, html_page
from genflow.evaluation.report_data import SOURCES, Entry, MetricSummary, ReportData, read_report_data
from genflow.evaluation.summary import describe_metric, summary, summary_metric, three_digits
from genflow.storage.files import write_bytes

REPORT = "report.html"
#: a table with more columns shows the primary and brief metrics, and all columns when it is unfolded
MAX_COLUMNS = 24

#: the style of the section of best objects, left out without that section
OBJECTS_STYLE = """
h4 { margin: 1.2rem 0 .5rem; font-size: .9rem; font-weight: 600; }
.objects { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .8rem; }
.objects figure { margin: 0; padding: .4rem .6rem .5rem; max-width: 20rem; border: 1px solid #ddd;
  border-radius: 4px; }
.objects img { width: 100%; }
.objects figcaption { font-size: .75rem; line-height: 1.35; } .objects b { display: block;
  font-size: .9rem; color: #1a1a1a; }
"""


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run, of a fine-tuning, or of a folder with populations or an evaluation.

    Args:
        folder: the output of `genflow run`, `finetune`, `train-zoo`, `generate` or `evaluate`.
        out: the file to write if it ends in ``.html``, or else the folder for ``report.html``. None means
            `folder`.

    Returns:
        The path of the report.

    Raises:
        GenflowError: the folder has nothing to report, or a file is invalid.
    """
    data = read_report_data(Path(folder))
    objects = report_sections.best_objects(data)
    envs = sorted({e.env for e in data.evaluation.entries} | {s.structure.env for s in data.saved})
    page = html_page(
        f"GFlowNet policies: {', '.join(envs)}" if envs else "GFlowNet policies",
        f"{summary(data)}{_versions_and_configuration(data)}",
        [
            ("Comparison", _comparison(data)),
            ("Best objects", objects),
            ("Target and learned distributions", report_sections.distributions(data)),
            ("Fine-tuning", report_sections.finetuning(data)),
            ("Training", report_sections.training(data)),
            ("Weights", report_sections.weights(data)),
        ],
        OBJECTS_STYLE if objects else "",
    )
    path = Path(folder if out is None else out)
    path = path if path.suffix == ".html" else path / REPORT
    write_bytes(path, page)
    return path


def _versions_and_configuration(data: ReportData) -> str:
    """Write the versions, the seed and the configuration in a folded element."""
    versions = data.evaluation.versions or data.manifest.get("versions") or {}
    config = data.evaluation.config or data.manifest.get("config") or {}
    if not (versions or config):
        return ""
    listed = (
        ", ".join(f"{name} {value}" for name, value in versions.items())
        if isinstance(versions, dict)
        else str(versions)
    )
    return (
        f"<details><summary>Versions, seed and configuration</summary><p>{escape(listed)}; seed"
        f" {data.seed}</p>"
        f"<pre>{escape(json.dumps(config, indent=1, ensure_ascii=False))}</pre></details>\n"
    )


def _comparison(data: ReportData) -> str:
    """Write the overview picture, the table of all entries and the explanation of its columns."""
    metric, groups, entries = summary_metric(data), data.evaluation.groups(), data.evaluation.entries
    if metric is None:
        return ""
    rows = []
    for group in sorted(groups.values(), key=lambda group: group[0].seen):
        values = {data.evaluation.label(e): v for e in group if (v := e.value(metric)) is not None}
        if values:
            rows.append((f"{group[0].name}{'' if group[0].seen else ' (unseen)'}", values))
    better = data.metrics[metric].better if metric in data.metrics else ""
    side = {"lower": " Further left is better.", "higher": " Further right is better."}.get(better or "", "")
    more = (
        f" The first {pictures.MAX_ROWS} of {len(rows)} are drawn." if len(rows) > pictures.MAX_ROWS else ""
    )
    caption = f"Mean {metric} of the policies from each source, one line for each structure.{more}{side}"
    picture = html_figure(pictures.overview(rows[: pictures.MAX_ROWS], metric), caption, caption)

    present = {name for e in entries for name in e.metrics}
    columns = [name for name in data.metrics if name in present] + sorted(present - set(data.metrics))
    table = _table(data, columns)
    leading = [
        name
        for name in columns
        if name in data.metrics and (data.metrics[name].primary or data.metrics[name].brief)
    ]
    if leading and len(columns) > MAX_COLUMNS:
        folded = (
            f"<details style='margin: .5rem 0'><summary>All {len(columns)} columns</summary>{table}</details>"
        )
        table = _table(data, leading) + folded
    note = (
        "<p>Mean over the policies; below it the smallest and the largest value. The best mean for a"
        " structure is bold on green."
        " A structure is <i>seen</i> if the generator was trained on it. A dash stands for a value that is"
        " missing or not finite.</p>"
    )
    sources = {source: text for source, text in SOURCES.items() if any(e.source == source for e in entries)}
    hint = (
        "<p>For a structure that the zoo lacks, mean and perturbed start from the nearest one's policies.</p>"
    )
    terms = {
        "num": "number of policies",
        **{name: describe_metric(data, name) for name in columns},
        "seconds": "what it took to make these policies; for trained ones the training",
    }
    legend = f"<h3>Sources</h3>{_definition_list(sources)}{hint}<h3>Columns</h3>{_definition_list(terms)}"
    return f"{picture}{note}{table}{legend}"


def _table(data: ReportData, columns: Sequence[str]) -> str:
    """Write the table of all entries with the given metrics as columns."""
    header = "".join(
        f'<th scope="col">{escape(name)}</th>' for name in ("source", "num", *columns, "seconds")
    )
    bodies = "".join(_rows(data, group, columns) for group in data.evaluation.groups().values())
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{header}</tr></thead>{bodies}</table></div>'


def _rows(data: ReportData, group: Sequence[Entry], columns: Sequence[str]) -> str:
    """Write the rows of one structure in the table."""
    best = {}
    for name in columns:
        values = [v for e in group if (v := e.value(name)) is not None]
        if values and name in data.metrics and data.metrics[name].better:
            best[name] = min(values) if data.metrics[name].better == "lower" else max(values)
    tag = f'<span class="tag">{escape(group[0].env)}, {"seen" if group[0].seen else "unseen"}</span>'
    lines = [
        f'<tr class="group"><th colspan="{len(columns) + 3}" scope="rowgroup">'
        f"<span>{escape(group[0].name)} {tag}</span></th></tr>"
    ]
    for e in group:
        cells = []
        for name in columns:
            figures, value = e.metrics.get(name, MetricSummary()), e.value(name)
            low, high = ("-" if v is None else three_digits(v) for v in (figures.min, figures.max))
            spread = f"<small>{low} to {high}</small>" if e.num > 1 and value is not None else ""
            title = f"mean {figures.mean}, min {figures.min}, max {figures.max}"
            mark = ' class="best"' if value is not None and value == best.get(name) else ""
            cells.append(f'<td{mark} title="{escape(title)}">{format_number(value)}{spread}</td>')
        lines.append(
            f'<tr><th scope="row">{escape(data.evaluation.label(e))}</th><td>{e.num}</td>{"".join(cells)}'
            f"<td>{format_number(e.seconds)}</td></tr>"
        )
    return f"<tbody>{''.join(lines)}</tbody>\n"


def _definition_list(terms: dict[str, str]) -> str:
    pairs = (f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
    return f"<dl>{''.join(pairs)}</dl>"
