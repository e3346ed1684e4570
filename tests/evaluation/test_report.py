"""The report: what a reader finds in it, and what it must never hold."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

import genflow
from genflow import Gallery, GenflowError, Population, Structure, load_config
from genflow.evaluation import report_sections
from genflow.evaluation.evaluate import choose_metrics, format_number
from genflow.evaluation.report import write_report
from genflow.progress import Progress
from genflow.stages.generate import finetune_both

SEEN = ("ndim=2,height=3,width=8", "ndim=1,height=4,width=8")
UNSEEN = "ndim=2,height=2,width=8"
TINY = {
    "zoo.num": 2, "zoo.steps": 20, "autoencoder.steps": 5, "diffusion.steps": 5,
    "diffusion.options": {"channels": [8]},
    "generate.num": 3, "evaluation.num": 2, "finetune.steps": 8,
}  # fmt: skip


class Page(HTMLParser):
    """The tags, the text, and the rows of the comparison table."""

    def __init__(self, page: Path | str) -> None:
        super().__init__()
        self.html = page if isinstance(page, str) else page.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[dict]] = []
        self._cell: dict | None = None
        self._small = False
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = {"text": "", "small": "", **dict(attributes)}
            self.rows[-1].append(self._cell)
        elif tag == "small":
            self._small = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None
        elif tag == "small":
            self._small = False

    def handle_data(self, data):
        self.text += data
        if self._cell is not None:
            self._cell["small" if self._small else "text"] += data

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    config = load_config(env="hypergrid", structures=list(SEEN), test_structures=[UNSEEN], **TINY)
    genflow.run(config, folder)
    return folder


@pytest.fixture(scope="module")
def page(run):
    return Page(run / "report.html")


def evaluation(*entries, **more):
    return json.dumps({"entries": list(entries), **more})


def entry(**fields):
    metrics = fields.pop("metrics", {"js": {"mean": 0.25, "min": 0.125, "max": 0.5}})
    return {
        "env": "hypergrid", "structure": {}, "name": "one", "source": "generated", "seen": False, "num": 4,
        "metrics": metrics, "seconds": 0.5,
    } | fields  # fmt: skip


def pictures_of(page):
    return [
        Image.open(io.BytesIO(base64.b64decode(str(image["src"]).partition(",")[2]))) for image in page.images
    ]


def test_names_every_structure_and_tells_seen_from_unseen(page):
    groups = [row[0]["text"] for row in page.rows if len(row) == 1]
    assert [text for text in groups if "unseen" in text] == [
        text for text in groups if text.startswith(UNSEEN)
    ]
    assert all(any(text.startswith(name) for text in groups) for name in (*SEEN, UNSEEN))


def test_pictures_are_pngs_with_alt_text_and_caption(page):
    assert all(
        str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in page.images
    )
    drawn = pictures_of(page)
    for picture in drawn:
        picture.load()
        assert picture.format == "PNG" and min(picture.size) > 100
        assert len(picture.convert("RGB").getcolors(10**6)) > 3, "an empty picture"
    assert page.html.count("<figcaption>") == len(drawn)


def test_every_kind_of_picture_is_there(page):
    alts = " | ".join(str(image["alt"]) for image in page.images)
    for name in (*SEEN, UNSEEN):
        assert f"Marginal distributions for {name}: target, trained, generated, random" in alts
        assert f"Probability by rank for {name}: target, trained, generated, random" in alts
    for wanted in (
        "loss over the steps",
        "autoencoder loss over",
        "diffusion loss over",
        f"Weight matrices net.0.weight of {UNSEEN}",
    ):
        assert wanted in alts


def test_needs_nothing_from_outside(page):
    assert not re.search(r"https?:|url\(|@import", page.html)
    targets = [
        a.get(name) or "" for _, a in page.tags for name in ("href", "src", "srcset", "action") if name in a
    ]
    assert targets and all(target.startswith(("#", "data:image/png;")) for target in targets)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base"})
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert len(page.html) < 3_000_000


def test_table_holds_the_numbers_of_the_evaluation(run, page):
    entries = json.loads((run / "evaluation.json").read_text())["entries"]
    header = [cell["text"] for cell in page.rows[0]]
    rows = [row for row in page.rows[1:] if len(row) > 1]
    assert header[:3] == ["source", "num", "js"] and header[-1] == "seconds" and len(rows) == len(entries)
    for row, expected in zip(rows, entries, strict=True):
        shown = dict(zip(header, row, strict=True))
        assert (shown["source"]["text"], shown["num"]["text"]) == (expected["source"], str(expected["num"]))
        assert shown["seconds"]["text"] == format_number(expected["seconds"])
        assert set(header[2:-1]) >= set(expected["metrics"])
        for name, figures in expected["metrics"].items():
            assert shown[name]["text"] == format_number(figures["mean"])
            assert (
                shown[name]["title"] == f"mean {figures['mean']}, min {figures['min']}, max {figures['max']}"
            )


def test_marks_the_best_of_each_structure_in_the_metrics_own_direction(tmp_path):
    good, bad = {"mean": 0.1, "min": 0.1, "max": 0.1}, {"mean": 0.4, "min": 0.4, "max": 0.4}
    infinite = {"mean": None, "min": 0.01, "max": None}
    (tmp_path / "evaluation.json").write_text(
        evaluation(
            entry(source="trained", metrics={"js": good, "mean_reward": good, "kl": infinite}),
            entry(source="random", metrics={"js": bad, "mean_reward": bad, "kl": bad}),
        )
    )
    rows = Page(write_report(tmp_path)).rows
    header = [cell["text"] for cell in rows[0]]
    best = {
        row[0]["text"]: {header[i] for i, cell in enumerate(row) if cell.get("class") == "best"}
        for row in rows[2:]
    }
    assert best == {"trained": {"js"}, "random": {"mean_reward", "kl"}}
    assert rows[2][header.index("kl")]["text"] == "-"


def test_explains_each_column_with_the_metrics_own_words(page):
    for name, metric in choose_metrics(Structure.parse("hypergrid", UNSEEN), reference=True).items():
        side = f"; {metric.better} is better" if metric.better else ""
        assert f"{type(metric).__doc__.splitlines()[0].rstrip('.')}{side}" in page.text, name


def test_summary_tells_the_means_and_who_wins(tmp_path):
    def measured(source, name, seen, mean, seconds):
        return entry(
            source=source,
            name=name,
            seen=seen,
            metrics={"js": {"mean": mean, "min": 0, "max": 1}},
            seconds=seconds,
        )

    (tmp_path / "evaluation.json").write_text(
        evaluation(
            measured("generated", "a", False, 0.02, 0.2), measured("trained", "a", False, 0.03, 9),
            measured("random", "a", False, 0.5, 0),
            measured("generated", "b", False, 0.04, 0.4), measured("trained", "b", False, 0.01, 11),
            measured("random", "b", False, 0.7, 0),
            measured("generated", "c", True, 0.125, 0.3), measured("random", "c", True, 0.25, 0),
        )
    )  # fmt: skip
    text = Page(write_report(tmp_path)).text
    assert (
        "On 2 structures that the generator was not trained on: generated 0.03, trained from scratch 0.02"
        " (generated is better on 1 of 2)" in text
    )
    assert "untrained 0.6 (generated is better on 2 of 2)" in text
    assert (
        "On 1 structure that the generator was trained on: generated 0.125, untrained 0.25 (generated is"
        " better on 1 of 1)." in text
    )
    assert "0.3 s (4 policies) to generate, 10 s (4 policies) to train from scratch" in text


def test_tells_versions_seed_and_configuration(run, page):
    facts = json.loads((run / "evaluation.json").read_text())
    assert f"torchgfn {facts['versions']['torchgfn']}" in page.text and "seed 0" in page.text
    assert '"channels": [' in page.text
    assert ("details", {}) in page.tags


def test_hostile_text_is_only_text(tmp_path):
    evil = '<script>alert("x")</script>"\'><img src=x onerror=alert(1)>&amp;$\\frac{$ \ud800 é_\n'
    metrics = {evil: {"mean": 1.5, "min": 1, "max": 2}}
    hostile = entry(env=evil, name=evil, source=evil, metrics=metrics)
    (tmp_path / "evaluation.json").write_text(evaluation(hostile, config={evil: evil}, versions={evil: evil}))
    page = Page(write_report(tmp_path))
    assert "<script" not in page.html and page.text.count("<script>") >= 5
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.images)
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert "a metric that is not installed here" in page.text


def test_long_names_and_many_structures_still_fit(tmp_path):
    (tmp_path / "evaluation.json").write_text(
        evaluation(*(entry(name=f"{i} {'long ' * 60}") for i in range(60)))
    )
    (overview,) = pictures_of(Page(write_report(tmp_path)))
    assert overview.size[0] < 2000


def test_an_empty_folder_is_refused_and_left_empty(tmp_path):
    with pytest.raises(GenflowError, match="nothing to report"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(GenflowError, match="is no folder"):
        write_report(tmp_path / "missing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"entries": [{"env": "hypergrid"}]}', r"evaluation\.json: 'entries\.0\.name' is missing"),
        ('{"entries": 3}', r"evaluation\.json: entries must be"),
        (
            evaluation(entry(metrics={"js": {"mean": "high"}})),
            r"evaluation\.json: entries\.0\.metrics\.js\.mean must be",
        ),
    ],
)
def test_a_broken_evaluation_is_refused(tmp_path, content, message):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(GenflowError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "broken", ['{"env": "hypergrid"}', '{"env": "nowhere", "policy": "mlp3", "structure": {}}']
)
def test_a_broken_population_is_refused_by_name(tmp_path, broken):
    (tmp_path / "population.json").write_text(broken)
    with pytest.raises(GenflowError, match=r"population\.json: "):
        write_report(tmp_path)


def test_populations_alone_are_enough(tmp_path):
    structure = Structure.parse("hypergrid", SEEN[0])
    Population.initialised(structure, 2, 0).save(tmp_path / "some")
    page = Page(write_report(tmp_path))
    assert "no measured comparison" in page.text and structure.name in page.text
    assert len(page.images) == 2 and not page.rows


def test_a_task_too_large_to_enumerate_still_has_curves(tmp_path):
    structure = Structure.parse("hypergrid", "ndim=9,height=9,width=8")
    population = Population.initialised(structure, 2, 0)
    history = {"loss": [[1, 2.0], [2, None], [3, 1.0]]}
    Population(structure, population.weights, {"source": "trained", "history": history}).save(tmp_path)
    (image,) = Page(write_report(tmp_path)).images
    assert str(image["alt"]).startswith("loss over the steps")


def test_a_finetuning_is_shown_against_a_random_start(run, tmp_path):

    config = load_config(env="hypergrid", **TINY)
    finetune_both(config, Population.load(run / "generated" / UNSEEN), tmp_path / "tuned", Progress())
    page = Page(write_report(tmp_path / "tuned"))
    alts = [str(image["alt"]) for image in page.images]
    for figure in ("loss", "reward", "js"):
        assert f"{figure} over the steps: finetuned, from_random" in alts
    history = json.loads((tmp_path / "tuned" / "finetuned" / "population.json").read_text())["provenance"][
        "history"
    ]
    assert f"loss {history['loss'][0][1]:.3g} → {history['loss'][-1][1]:.3g}" in page.text


def test_out_names_another_file_and_writing_twice_gives_the_same(run, tmp_path):
    target = tmp_path / "new" / "other.html"
    assert write_report(run, target) == target
    assert target.read_bytes() == (run / "report.html").read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["other.html"]


# --- objects, of an environment that draws them: hypergrid with a gallery


class Pairs(Gallery):
    """Unordered pairs of coordinates, except for (0, 0); painted in a colour of their own."""

    score = "<i>the larger, then the smaller</i>"
    pictures = True

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def names(self, states):
        return [
            f'<script>alert("{a}")</script>\'&{b}' if b else ""
            for a, b in (sorted(state) for state in states.tolist())
        ]

    def scores(self, states):
        return (states.amax(-1) + states.amin(-1) / 100).double()

    def draw(self, states):
        self.drawn.append(len(states))
        pictures = []
        for state in states.tolist():
            buffer = io.BytesIO()
            Image.new("RGB", (8, 6), (min(state), max(state), 99)).save(buffer, format="PNG")
            pictures.append(buffer.getvalue())
        return pictures


@pytest.fixture
def gallery(monkeypatch):
    """What every hypergrid of this test draws with."""
    pairs = Pairs()
    monkeypatch.setattr(Structure, "gallery", property(lambda self: pairs))
    return pairs


WIDE = "ndim=2,height=40,width=8"


def objects(page):
    """[[(name, smaller, larger), ...], ...]: what is drawn in each row of the chapter."""
    chapter = page.html[page.html.index("<h2>Best objects") :].partition("</section>")[0]
    rows = []
    for row in chapter.split("<h4>")[1:]:
        part = Page(row)
        pixels = [picture.convert("RGB").getpixel((0, 0)) for picture in pictures_of(part)]
        rows.append(
            [
                (str(image["alt"]), pixel[0], pixel[1])
                for image, pixel in zip(part.images, pixels, strict=True)
            ]
        )
    return rows


def test_draws_the_best_different_objects_of_what_each_source_samples(gallery, tmp_path):
    structure = Structure.parse("hypergrid", WIDE)
    for source in ("trained", "generated"):
        population = Population.initialised(structure, 3, 4 if source == "trained" else 5)
        Population(structure, population.weights, {"source": source}).save(tmp_path / source)
    page = Page(write_report(tmp_path))
    rows = objects(page)
    assert len(rows) == 3 and gallery.drawn == [24], "one drawing for what is seen together"
    for seed, num, row in ((4, 3, rows[0]), (5, 3, rows[1]), (0, 4, rows[2])):
        final = Population.initialised(structure, num, seed).rollouts(-(-512 // num), 0).final.tolist()
        sampled = [final[policy][number] for number in range(len(final[0])) for policy in range(num)][:512]
        pairs = {(min(state), max(state)) for state in sampled} - {(0, 0)}
        best = sorted(pairs, key=lambda pair: (-pair[1], -pair[0]))[:8]
        assert [pair[1:] for pair in row] == best
        assert [name for name, *_ in row] == [f'<script>alert("{a}")</script>\'&{b}' for a, b in best]
        assert f"{num} policies, {len(pairs)} different objects" in page.text
        mean = sum(max(state) + min(state) / 100 for state in sampled) / 512
        assert f"mean score of all samples {format_number(mean)}" in page.text
        assert all(format_number(b + a / 100) in page.text for a, b in best)
        assert best[-1][1] < 38, "a weak test if the best of all are always found"


def test_hostile_names_of_objects_are_only_text(gallery, tmp_path):
    Population.initialised(Structure.parse("hypergrid", WIDE), 2, 0).save(tmp_path)
    page = Page(write_report(tmp_path))
    assert "<script" not in page.html and "<i>" not in page.html.partition("Score:")[2].partition("</p>")[0]
    assert page.text.count("<script>alert(") == sum(map(len, objects(page))) == 8
    assert "Score: <i>the larger, then the smaller</i>." in page.text


def test_a_source_of_nothing_that_can_be_shown_has_an_empty_row(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(Pairs, "names", lambda self, states: [""] * len(states))
    Population.initialised(Structure.parse("hypergrid", WIDE), 2, 0).save(tmp_path)
    page = Page(write_report(tmp_path))
    assert objects(page) == [[]] and "0 different objects" in page.text


def test_a_bounded_number_of_structures_is_drawn_and_the_report_says_so(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(report_sections, "MAX_STRUCTURES", 2)
    for name in (SEEN[0], UNSEEN, WIDE):
        Population.initialised(Structure.parse("hypergrid", name), 1, 0).save(tmp_path / name)
    page = Page(write_report(tmp_path))
    assert len(gallery.drawn) == 2 and "2 of 3 structures are shown. Each source" in page.text


def test_tasks_that_draw_nothing_have_no_chapter_of_objects(page):
    assert "Best objects" not in page.html and ".objects" not in page.html


def test_states_that_are_no_places_have_no_marginals(tmp_path, monkeypatch):
    structure = Structure.parse("hypergrid", SEEN[0])
    monkeypatch.setattr(type(structure.gallery), "places", lambda self, states: None)
    Population.initialised(structure, 2, 0).save(tmp_path)
    page = Page(write_report(tmp_path))
    (image,) = page.images
    assert str(image["alt"]).startswith("Probability by rank") and "js: " in page.text


@pytest.mark.parametrize("more", [23, 24])
def test_a_wide_table_leads_with_what_matters_and_folds_the_rest(tmp_path, more):
    figures = {"mean": 0.1, "min": 0.1, "max": 0.1}
    names = [f"other_{i:02}" for i in range(more)]
    (tmp_path / "evaluation.json").write_text(
        evaluation(entry(metrics=dict.fromkeys(["js", *names], figures)))
    )
    page = Page(write_report(tmp_path))
    headers = [[cell["text"] for cell in row] for row in page.rows if row[0]["text"] == "source"]
    every = ["source", "num", "js", *names, "seconds"]
    assert headers == ([every] if more < 24 else [["source", "num", "js", "seconds"], every])
    assert ("All 25 columns" in page.text) == (more == 24)


def test_the_first_lines_say_who_is_best_and_why(tmp_path):
    figures = {"generated": 0.12, "pretrained": 0.0002, "random": 0.125, "trained": 0.001}
    rows = [
        entry(name=name, source=source, metrics={"js": {"mean": js}})
        for name in ("one", "two")
        for source, js in figures.items()
    ]
    (tmp_path / "evaluation.json").write_text(evaluation(*rows))
    made = Structure.parse("hypergrid", UNSEEN)
    for source, encoder in (("generated", "conv1d"), ("pretrained", "coordinate"), ("trained", None)):
        population = Population.initialised(made, 1, 0)
        Population(made, population.weights, {"source": source, "encoder": encoder}).save(tmp_path / source)
    text = Page(write_report(tmp_path)).text
    best = "Best on 2 structures that the generator was not trained on: pretrained 0.0002; then trained 0.001"
    assert best in text and text.index(best) < text.index("Sources")
    assert "There, generated policies are no better than untrained ones." in text
    assert "The encoder of generated policies is conv1d: Convolutions over the flat vector" in text
    assert "The encoder of pretrained policies is coordinate: " in text


def test_where_generated_policies_hold_no_reason_is_sought(tmp_path):
    rows = [entry(metrics={"js": {"mean": 0.01}}), entry(source="random", metrics={"js": {"mean": 0.125}})]
    (tmp_path / "evaluation.json").write_text(evaluation(*rows))
    text = Page(write_report(tmp_path)).text
    assert "Best on 1 structure that the generator was not trained on: generated 0.01" in text
    assert "no better than" not in text
