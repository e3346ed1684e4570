"""Trackers: what they are told, once each, what becomes of one that fails, and that results do not notice."""

from __future__ import annotations

import json
import math
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from processes import group, refused
from test_loop import Regression

from genflow import GenflowError, Schema, Tracker, load_config, train_zoo
from genflow.pipeline import evaluate_folder, run
from genflow.progress import Progress
from genflow.storage.zoo import Zoo
from genflow.tracking import Followed, TrackingOptions, track, tracked
from genflow.training.loop import Schedule, train

SMALL = {"env": "hypergrid", "zoo.steps": 40, "zoo.num": 2, "zoo.seeds": 2, "device": "cpu"}
TASKS = ["ndim=2,height=3,width=4", "ndim=2,height=6,width=4"]


class Recorder(Tracker):
    """Keeps what it is told, by the training's folder, as a log on disk would."""

    class Config(Schema):
        broken: str = ""

    logs: dict[str, list[tuple[int, dict[str, float]]]] = {}  # noqa: RUF012
    facts: dict[str, dict] = {}  # noqa: RUF012
    calls: list[str] = []  # noqa: RUF012

    def open(self, folder, facts):
        self.calls.append("open")
        self.fail("open")
        self.log_ = self.logs.setdefault(folder.name, [])
        self.facts.setdefault(folder.name, dict(facts))
        return {name: step for step, figures in self.log_ for name in figures}

    def log(self, step, figures):
        self.fail("log")
        self.log_.append((step, dict(figures)))

    def close(self):
        self.calls.append("close")
        self.fail("close")

    def fail(self, where):
        if self.config.broken == where:
            raise OSError(28, "No space\nleft on device")


@pytest.fixture
def recorder(third_party):
    for each in (Recorder.logs, Recorder.facts, Recorder.calls):
        each.clear()
    third_party("register_trackers", "recorder", f"{__name__}:Recorder")
    return Recorder


def learn(folder: Path, trainee: Regression | None = None, steps: int = 230, **options) -> dict:
    schedule = Schedule(steps=steps, lr=0.01, **options)
    progress = Progress(quiet=True)
    trainee = trainee or Regression()
    return train(trainee, schedule, folder=folder, seed=0, progress=progress, label="toy").history


def points(log: list[tuple[int, dict[str, float]]]) -> dict[str, list[list[float]]]:
    """A log as learning curves, which fails if a step is there twice or out of order."""
    found: dict[str, list[list[float]]] = {}
    for step, figures in log:
        for name, value in figures.items():
            found.setdefault(name, []).append([step, value])
    assert all(a[0] < b[0] for curve in found.values() for a, b in pairwise(curve)), found
    return found


def by(*names: str, **options) -> TrackingOptions:
    return TrackingOptions(trackers=names or ("recorder",), options=options)


def test_what_is_logged_is_the_history_and_without_asking_nothing(recorder, tmp_path):
    plain = learn(tmp_path / "plain")
    assert not recorder.logs and not recorder.calls
    with tracked(by()):
        history = learn(tmp_path / "toy")
    assert history == plain and points(recorder.logs["toy"]) == history
    assert len(history["loss"]) > 100 and len(history["norm"]) > 10
    assert recorder.facts["toy"]["label"] == "toy" and recorder.facts["toy"]["lr"] == 0.01
    assert recorder.calls == ["open", "close"]


def test_an_interrupted_training_goes_on_in_its_log_without_double_steps(recorder, tmp_path):
    trainee = Regression()
    trainee.at = {120: lambda: signal.raise_signal(signal.SIGINT)}
    with tracked(by()):
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path / "toy", trainee)
        assert 100 < recorder.logs["toy"][-1][0] <= 121
        history = learn(tmp_path / "toy")
    assert points(recorder.logs["toy"]) == history == learn(tmp_path / "plain")


def test_after_a_kill_what_is_there_stays_and_what_is_missing_is_caught_up(recorder, tmp_path):
    """The log may be beyond the last checkpoint, or behind it if logging was off or is lost."""
    trainee = Regression()
    trainee.at = {120: lambda: signal.raise_signal(signal.SIGINT)}
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "toy", trainee)
    recorder.logs["toy"] = [(1, {"loss": 7.0}), (150, {"loss": 8.0})]
    with tracked(by()):
        history = learn(tmp_path / "toy")
    found = points([entry for entry in recorder.logs["toy"] if "loss" in entry[1]])["loss"]
    assert found == [[1, 7.0], [150, 8.0], *(point for point in history["loss"] if point[0] > 150)]
    # those of the other figure, of which the log had none, are all there
    norms = {step: figures["norm"] for step, figures in recorder.logs["toy"] if "norm" in figures}
    assert norms == dict(history["norm"])


def test_a_training_that_its_budget_ends_logs_its_last_point_once(recorder, tmp_path):
    with tracked(by()):
        history = learn(tmp_path / "toy", steps=10**6, budget=0.05)
    assert points(recorder.logs["toy"]) == history and history["loss"]


def test_figures_that_are_no_numbers_are_left_out(recorder, tmp_path):
    curves = {"js": [[1, math.nan], [2, 0.5], [3, None]], "kl": [[2, math.inf]]}
    with tracked(by()), Followed(tmp_path, {}, Progress(quiet=True)) as followed:
        followed.tell({})
        assert not recorder.calls  # a log of nothing is not begun
        followed.tell(curves)
        followed.tell({**curves, "js": [*curves["js"], [4, 0.25]]})
        track(tmp_path / "other", {}, {"js": 0.125}, 9)
    assert recorder.logs[tmp_path.name] == [(2, {"js": 0.5}), (4, {"js": 0.25})]
    assert recorder.logs["other"] == [(9, {"js": 0.125})]


@pytest.mark.parametrize("where", ["open", "log", "close"])
def test_a_tracker_that_fails_is_one_line_and_hurts_nothing(recorder, tmp_path, capsys, where):
    with tracked(by(recorder={"broken": where})):
        first, second = learn(tmp_path / "a"), learn(tmp_path / "b")
    assert first == second == learn(tmp_path / "plain")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: tracker 'recorder' has failed") and "No space left on device" in line


def test_a_tracker_that_cannot_be_built_again_is_one_line(recorder, tmp_path, capsys, monkeypatch):
    built = []

    def once(self, config):
        Tracker.__init__(self, config)
        built.append(self)
        if len(built) == 2:
            raise OSError("gone")

    monkeypatch.setattr(Recorder, "__init__", once)
    with tracked(by()):
        first, second = learn(tmp_path / "a"), learn(tmp_path / "b")
    assert len(built) == 2 and first == second == learn(tmp_path / "plain")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: tracker 'recorder' has failed") and "OSError: gone" in line


def test_a_tracker_that_has_failed_stays_left_out_of_later_stages(recorder, tmp_path, capsys):
    failing = by(recorder={"broken": "log"})
    config = load_config(**SMALL, structures=TASKS[:1]).model_copy(update={"tracking": failing})
    structures = config.training_structures()
    with tracked(config.tracking):
        for stage in ("zoo", "trained"):
            train_zoo(config, structures, config.zoo, tmp_path / stage, Progress(quiet=True))
        assert recorder.calls == ["open", "close"]
        with tracked(by()):  # other options are another choice
            learn(tmp_path / "toy")
    assert capsys.readouterr().err.count("warning") == 1 and set(recorder.logs) == {TASKS[0], "toy"}


def test_a_tracker_that_fails_in_two_logs_at_once_is_one_line(recorder, tmp_path, capsys):
    quiet = Progress(quiet=True)
    with (
        tracked(by(recorder={"broken": "close"})),
        Followed(tmp_path / "a", {}, quiet) as first,
        Followed(tmp_path / "b", {}, quiet) as second,
    ):
        for followed in (first, second):
            followed.tell({"loss": [[1, 0.5]]})
    assert capsys.readouterr().err.count("warning") == 1


def test_of_several_trackers_only_the_one_that_fails_is_left_out(third_party, recorder, tmp_path, capsys):
    third_party("register_trackers", "broken", f"{__name__}:Recorder")
    with tracked(by("broken", "recorder", broken={"broken": "open"})):
        history = learn(tmp_path / "toy")
    assert points(recorder.logs["toy"]) == history
    assert capsys.readouterr().err.count("warning") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (by("recorde"), r"unknown tracker 'recorde'; did you mean 'recorder'\?"),
        (by(recorder={"colour": 1}), r"tracking.options of tracker 'recorder'.*colour"),
        (by(recorde={}), r"tracking.options: unknown tracker 'recorde'; did you mean 'recorder'\?"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(recorder, tmp_path, options, words):
    config = load_config(**SMALL, structures=TASKS).model_copy(update={"tracking": options})
    with pytest.raises(GenflowError, match=words):
        train_zoo(config, config.training_structures(), config.zoo, tmp_path / "zoo", Progress(quiet=True))
    assert not (tmp_path / "zoo").exists()


def test_a_whole_job_logs_every_training_and_its_evaluation(recorder, tmp_path):
    given = {
        **SMALL, "structures": TASKS, "test_structures": ["ndim=2,height=5,width=4"], "train_tests": False,
        "selection_structures": ["ndim=2,height=4,width=4"], "autoencoder.steps": 5,
        "autoencoder.options": {"latent_size": 8, "levels": 2}, "diffusion.steps": 5, "generate.num": 2,
        "diffusion.options": {"channels": [8, 8], "patch": 1, "embedding": 8}, "diffusion.sampling.steps": 2,
        "diffusion.noise.timesteps": 5, "evaluation.num": 2, "evaluation.metrics": ["js"],
        "evaluation.baselines": [],
    }  # fmt: skip
    out, quiet = tmp_path / "b", Progress(quiet=True)
    entries = run(load_config(**given, **{"tracking.trackers": ["recorder"]}), out, quiet)
    logs = recorder.logs
    zoo = Zoo(out / "zoo")
    assert {*(s.name for s in zoo.structures), "autoencoder", "generator", "b"} == set(logs)
    for population in zoo.populations:
        assert points(logs[population.structure.name]) == population.provenance["history"]
    card = json.loads((out / "generator" / "generator.json").read_text())
    learned = points(logs["generator"])
    assert {k: v for k, v in learned.items() if "/" not in k} == card["provenance"]["history"]
    (selected,) = card["quality"]
    assert learned[f"generated/{selected['name']}/js"] == [[5, selected["metrics"]["js"]]]
    assert any(name.startswith("reconstructed/") for name in points(logs["autoencoder"]))
    ((step, means),) = logs["b"]
    assert step == 1
    assert means == {f"{e['source']}/{e['name']}/js": e["metrics"]["js"]["mean"] for e in entries}
    # tracking is no part of what a run is: without it, the folder holds the same run
    before = {name: list(log) for name, log in logs.items()}
    again = run(load_config(**given), out, quiet)
    assert [e["metrics"] for e in again] == [e["metrics"] for e in entries] and logs == before


def test_an_evaluation_needs_a_folder_for_its_log(recorder, tmp_path):
    config = load_config(**SMALL, structures=TASKS[:1])
    structures = config.training_structures()
    zoo = train_zoo(config, structures, config.zoo, tmp_path / "zoo", Progress(quiet=True))
    config = config.model_copy(update={"tracking": by()})
    with pytest.raises(GenflowError, match="name one with --out"):
        evaluate_folder(config, zoo.populations, None, None, Progress(quiet=True))
    evaluate_folder(config, zoo.populations, None, tmp_path / "measured", Progress(quiet=True))
    assert "js" in {name.rpartition("/")[2] for name in recorder.logs["measured"][0][1]}


def test_several_workers_log_each_training_once(tmp_path):
    tasks = [word for task in TASKS for word in ("--structure", task)]
    small = ["-o", "zoo.steps=40", "-o", "zoo.num=2", "-o", "autoencoder.steps=20", "-o", "device=cpu"]
    tracked = ["--track", "tensorboard", "--out", tmp_path / "out"]
    group(2, "train-ae", "--env", "hypergrid", *tasks, *small, *tracked, folder=tmp_path)
    files = [path.parent.relative_to(tmp_path / "out") for path in tmp_path.rglob("events.out.tfevents.*")]
    assert sorted(map(str, files)) == ["autoencoder", "autoencoder", *(f"zoo/{task}" for task in TASKS)]


def test_the_command_line_names_what_is_wrong(tmp_path):
    task = ["train-zoo", "--env", "hypergrid", "--structure", TASKS[0], "--out", tmp_path / "zoo"]
    assert "unknown tracker 'tensorbord'; did you mean 'tensorboard'?" in refused(
        *task, "--track", "tensorbord", folder=tmp_path
    )
