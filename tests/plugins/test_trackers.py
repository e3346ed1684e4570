"""The built-in trackers: what they write, read back by their own libraries."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

from genflow import GenflowError, Population, load_config, train_zoo
from genflow.progress import Progress
from genflow.tracking import TrackingOptions, track, tracked

TASK = "ndim=2,height=3,width=4"


def curves(folder: Path) -> dict[str, list[list[float]]]:
    """Every scalar in the event files of a folder, as TensorBoard reads them."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [[e.step, e.value] for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def zoo(folder: Path, tracker: str, **options) -> Population:
    given = {"zoo.steps": 40, "zoo.num": 2, "tracking.trackers": [tracker], **options}
    config = load_config(env="hypergrid", structures=[TASK], device="cpu", **given)
    structures = config.training_structures()
    return train_zoo(config, structures, config.zoo, folder, Progress(quiet=True)).populations[0]


def close(found: dict, expected: dict) -> None:
    """Learning curves are equal but for float32, which TensorBoard stores."""
    assert found.keys() == expected.keys()
    for name, curve in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in curve]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in curve])


def test_event_files_hold_the_history_and_the_options(tmp_path):
    population = zoo(tmp_path, "tensorboard")
    folder = tmp_path / TASK
    close(curves(folder), population.provenance["history"])
    (file,) = folder.glob("events.out.tfevents.*")
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (text,) = [
        value.tensor.string_val[0].decode()
        for event in loader.LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "text"
    ]
    facts = json.loads(text)
    assert facts["label"] == TASK and facts["steps"] == 40 and facts["objective"] == "tb"


def test_a_log_that_is_gone_on_with_has_every_step_once_also_after_half_a_record(tmp_path):
    def go_on(*steps: int) -> None:
        with tracked(TrackingOptions(trackers=("tensorboard",))):
            for step in steps:
                track(tmp_path, {"label": "x"}, {"js": 1 / step}, step)

    go_on(1, 2, 4)
    first, *_ = sorted(tmp_path.glob("events.*"))
    files = len(list(tmp_path.glob("events.*")))
    go_on(4, 2)  # nothing new: no new file
    assert len(list(tmp_path.glob("events.*"))) == files
    with open(first, "ab") as file:  # a process was killed as it wrote
        file.write(b"\x20\0\0\0")
    go_on(4, 8)
    assert curves(tmp_path) == {"js": [[1, 1], [2, 0.5], [4, 0.25], [8, 0.125]]}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full disk")
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    real = open

    def full(path, mode="r", *args, **kwargs):
        return real("/dev/full" if "tfevents" in str(path) else path, mode.replace("x", "w"), *args, **kwargs)

    monkeypatch.setattr("builtins.open", full)
    assert len(zoo(tmp_path, "tensorboard")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: tracker 'tensorboard' has failed") and "No space left" in line


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_library_is_said_before_anything_is_written(tmp_path, monkeypatch, name):
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(GenflowError, match=f"tracker '{name}' needs {name}.*pip install {name}"):
        zoo(tmp_path / "zoo", name)
    assert not (tmp_path / "zoo").exists()


def test_the_tracker_of_the_guide_keeps_a_log_and_goes_on_with_it(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text()
    names: dict = {}
    exec(re.search(r"```python\n(# lines.py\n.*?)```", text, re.DOTALL)[1], names)
    registered = []
    names["register_trackers"](lambda name, target: registered.append((name, target)))
    assert registered == [("lines", "lines:Lines")]
    log = names["Lines"]()
    assert log.open(tmp_path / "toy", {}) == {}
    for step in (1, 3):
        log.log(step, {"loss": 1 / step} | ({"js": 0.5} if step == 1 else {}))
    log.close()
    file = tmp_path / "toy" / "figures.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"step": 4, "lo')  # a process was killed as it wrote
    log = names["Lines"]()
    assert log.open(tmp_path / "toy", {}) == {"loss": 3, "js": 1}
    assert file.read_bytes() == whole
    log.log(4, {"loss": 0.25})
    assert names["Lines"]().open(tmp_path / "toy", {}) == {"loss": 4, "js": 1}
    file.write_bytes(b'{"st')  # as it wrote the first
    assert names["Lines"]().open(tmp_path / "toy", {}) == {} and not file.read_bytes()


TRACKIO = f"""
import json, os, sys
import trackio
from trackio.sqlite_storage import SQLiteStorage
import genflow
from genflow.progress import Progress
from genflow.tracking import TrackingOptions, track, tracked

given = {{"zoo.steps": 40, "zoo.num": 2, "tracking.trackers": ["trackio"],
         "tracking.options": {{"trackio": {{"project": "mine"}}}}}}
config = genflow.load_config(env="hypergrid", structures=[{TASK!r}], device="cpu", **given)
structures = config.training_structures()
zoo = genflow.train_zoo(config, structures, config.zoo, "zoo", Progress(quiet=True))
with tracked(config.tracking):
    for step in (40, 50):  # goes on in the same run
        track(zoo.folder / {TASK!r}, {{}}, {{"loss": 0.5}}, step)
(run,) = trackio.Api().runs("mine")
assert run.config["steps"] == 40, run.config
rows = SQLiteStorage.get_logs("mine", run.name)
curves = {{}}
for row in rows:
    for name in row.keys() - {{"step", "timestamp"}}:
        curves.setdefault(name, []).append([row["step"], row[name]])
history = zoo.populations[0].provenance["history"]
history["loss"].append([50, 0.5])
assert curves == history, (curves, history)
assert run.name.startswith("zoo/{TASK} "), run.name
"""


def test_trackio_keeps_the_history_in_one_run_on_this_machine(tmp_path):
    pytest.importorskip("trackio")
    where = environment(TRACKIO_DIR=tmp_path / "trackio", HF_HUB_OFFLINE="1")
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO], env=where, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout and not done.stderr
    assert (tmp_path / "trackio").is_dir()
