"""Progress: lines where there is no terminal, a bar in a notebook, nothing when it is to be quiet."""

from __future__ import annotations

import builtins
import io
import re
import sys
import threading
import types

import pytest

from genflow import Structure, evaluate, finetune, progress
from genflow.population import Population
from genflow.progress import Bar, Progress


class Log(io.StringIO):
    """A stderr that is no terminal and says when a line with some text has come."""

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self._wanted, self.came = wanted, threading.Event()

    def write(self, text: str) -> int:
        if self._wanted in text:
            self.came.set()
        return super().write(text)


def log(monkeypatch, wanted):
    """Lines come at once, and the log waits for one."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.001)
    stderr = Log(wanted)
    monkeypatch.setattr(sys, "stderr", stderr)
    return stderr


@pytest.mark.parametrize(
    ("start", "advanced", "seconds", "line"),
    [
        (0, 0, 60, "zoo 0/200"),
        (0, 50, 60, "zoo 50/200, loss 0.1235, 0:03:00 left"),
        (100, 50, 60, "zoo 150/200, loss 0.1235, 0:01:00 left"),
        (0, 200, 60, "zoo 200/200, loss 0.1235"),
    ],
)
def test_a_line_says_the_step_the_figures_and_the_time_left(monkeypatch, start, advanced, seconds, line):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 1000.0)
    bar = Bar("zoo", 200, start, show=lambda bar: None)
    for _ in range(advanced):
        bar.advance(loss=0.123456)
    assert bar.line(1000.0 + seconds) == line


def test_the_time_left_is_that_of_what_ends_the_work_first(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    steps, calls = (Bar("task", 200, 0, lambda bar: None, timed) for timed in (True, False))
    steps.begin(0.25)  # of a budget, before the first step
    now[0] += 60.0
    steps.share = 0.75
    steps.set(10)
    calls.set(150)
    assert steps.line(now[0]) == "task 10/200, 0:00:30 left"
    assert calls.line(now[0]) == "task 150/200"
    steps.share = 1.0
    assert steps.line(now[0]) == "task 10/200"


def test_a_training_with_a_budget_tells_one_time(monkeypatch):
    lines = []

    class View(progress._Lines):
        def update(self, bar):
            lines.append([each.line(bar._began + 60.0) for each in self.bars])

    monkeypatch.setattr(progress, "_view", lambda delay: View())
    start = Population.initialised(
        Structure.build("molecule", {"blocks": 5, "max_blocks": 3, "width": 8}), 1, 0
    )
    finetune(start, reward_calls=40, steps=20, batch_size=4)
    both = [line for line in lines if len(line) == 2 and not line[1].startswith("reward")]
    assert any(" left" in steps for _, steps in both) and not any(" left" in calls for calls, _ in both)


def test_without_a_terminal_lines_come_also_while_no_step_ends(monkeypatch):
    stderr = log(monkeypatch, "A 2/9, loss 0.5")
    with Progress().bar("zoo", 3) as outer:
        outer.advance()
        with Progress.current().bar("A", 9) as inner:
            inner.advance(loss=0.25)
            inner.advance(loss=0.5)
            assert stderr.came.wait(30), stderr.getvalue()
    (line, *_) = [line for line in stderr.getvalue().splitlines() if "A 2/9" in line]
    assert re.fullmatch(r"zoo 1/3, 0:00:\d\d left; A 2/9, loss 0.5, 0:0\d:\d\d left", line)
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_ends_the_lines(error):
    with pytest.raises(error), Progress().bar("zoo", 3):
        raise error
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_quiet_is_quiet_for_what_is_deep_inside_too(monkeypatch):
    stderr = log(monkeypatch, "")
    with Progress(quiet=True).as_current(), Progress.current().bar("measure", 3) as bar:
        assert Progress.current().quiet
        bar.advance()
        assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
    assert not Progress.current().quiet
    assert stderr.getvalue() == ""


class ZMQInteractiveShell:
    """What rich tells a notebook by."""


@pytest.fixture
def notebook(monkeypatch):
    """IPython as a notebook's kernel has it; what is displayed, one list of pictures an output."""
    outputs: list[list[str]] = []

    class Handle:
        def __init__(self, own):
            self._own = own

        def update(self, shown):
            self._own.append(shown._repr_mimebundle_([], [])["text/html"])

    def display(shown, display_id):
        outputs.append([])
        handle = Handle(outputs[-1])
        handle.update(shown)
        return handle

    for name in ("IPython", "IPython.display"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["IPython.display"], "display", display, raising=False)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr(progress, "PICTURE_SECONDS", 0.0)
    return outputs


def test_a_notebook_shows_one_bar_that_moves(notebook, capsys):
    with Progress().bar("zoo", 2) as outer:
        with Progress.current().bar("A [bold]", 4) as inner:
            inner.advance(loss=0.5)
        outer.advance()
        outer.advance()
    (pictures,) = notebook
    assert "zoo" in pictures[0] and "0/2" in pictures[0]
    assert any("A [bold]" in each and "1/4" in each and "loss 0.5" in each for each in pictures)
    assert "2/2" in pictures[-1] and "A [bold]" not in pictures[-1]
    assert capsys.readouterr().err == ""


def test_a_call_from_a_notebook_shows_a_bar_when_it_takes_long(notebook, monkeypatch):
    population = Population.initialised(Structure.build("hypergrid", {"ndim": 2, "height": 4}), 3, 0)
    evaluate(population, ["js", "tv"])
    assert notebook == []
    monkeypatch.setattr(progress, "CALL_SECONDS", 0.0)
    evaluate(population, ["js", "tv"])
    (pictures,) = notebook
    assert "measure" in pictures[0] and "0/6" in pictures[0] and "6/6" in pictures[-1]
