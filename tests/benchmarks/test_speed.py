"""The speed benchmark: its protocol, what it makes of answers, and that all sides do the same."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from genflow import Population, Structure

SOURCE = Path(__file__).parents[2] / "benchmarks"
for folder in (SOURCE / "peers", SOURCE):
    sys.path.insert(0, str(folder))  # scripts, not a package

import growth  # noqa: E402
import harness  # noqa: E402
import report  # noqa: E402
import sides  # noqa: E402
import speed  # noqa: E402
import torchgfn_side  # noqa: E402
import works  # noqa: E402
from genflow_side import Genflow  # noqa: E402

PLANE = {"ndim": 2, "height": 5, "width": 8}
RECIPE = {"batch_size": 8, "lr": 1e-2, "epsilon": 0.05, "log_z_rate": 20.0}
#: a side that needs nothing: it prints, sums, fails and dies
SMALL = """
import os, sys
from sides import Handlers, serve
class Small(Handlers):
    def add(self, a, b):
        print("what a library says")
        return a + b
    def threads(self): return [os.environ["OMP_NUM_THREADS"], len(os.sched_getaffinity(0))]
    def fail(self): raise ValueError("no such thing\\nat all")
    def die(self): os._exit(3)
serve(Small())
"""


def small(threads: int = 1) -> sides.Side:
    return sides.Side("small", [sys.executable, "-c", SMALL], threads)


def test_a_side_answers_in_turn():
    with small() as one, small() as other:
        assert one.ask("add", a=1, b=2) == 3
        assert other.ask("add", a=[1], b=[2]) == [1, 2]
        assert one.ask("threads") == ["1", 1]
        assert one.ask("versions")["python"] == sys.version.split()[0]
        assert one.ask("memory") >= one.ask("memory", restart=True) > 0


def test_a_failure_says_which_side_and_why(capsys):
    with small() as side:
        with pytest.raises(
            sides.SideError, match=r"^side 'small' failed during 'fail': ValueError: no such thing$"
        ):
            side.ask("fail")
        assert "Traceback" in capsys.readouterr().err
        assert side.ask("add", a=1, b=1) == 2  # it lives on
        with pytest.raises(sides.SideError, match=r"^side 'small' ended with code 3 during 'die'$"):
            side.ask("die")


def test_pacing_stops_at_the_limit():
    assert sides.paced(lambda: 4, limit=10)["iterations"] == 12
    assert sides.paced(lambda: 1, seconds=0.0)["iterations"] == 0
    with pytest.raises(ValueError, match="never ends"):
        sides.paced(lambda: 1)


def test_torchgfns_loss_is_ours(tmp_path):
    side = torchgfn_side.Torchgfn()
    side.prepare(PLANE, RECIPE, seed=0)
    with torch.no_grad():
        side.gflownet.logZ.fill_(0.7)
    trajectories = side.sampler.sample_trajectories(side.env, n=6, save_logprobs=False, epsilon=0.05)
    theirs = side.gflownet.loss_from_trajectories(side.env, trajectories, recalculate_all_logprobs=True)
    side.save(str(tmp_path / "weights"))
    population = harness.load(PLANE, str(tmp_path / "weights"))
    transitions = Structure.build("hypergrid", PLANE).transitions()
    states, actions = trajectories.states.tensor, trajectories.actions.tensor[..., 0]
    squares = []
    for column, steps in enumerate(trajectories.terminating_idx.tolist()):
        score = torch.tensor(0.7, dtype=torch.float64)
        for step in range(steps):
            state = states[step, column]
            allowed = torch.tensor([*(position < PLANE["height"] - 1 for position in state), True])
            logits = population.logits(transitions.inputs(state[None]))[0, 0].double()
            score = score + logits.masked_fill(~allowed, -torch.inf).log_softmax(0)[actions[step, column]]
            score = score + math.log(max(1, int((state > 0).sum())))  # the first state has no parents
        last = states[steps - 1, column]
        squares.append((score - transitions.log_reward(last[None])[0]) ** 2)
    torch.testing.assert_close(theirs.double(), torch.stack(squares).mean(), rtol=1e-4, atol=1e-5)


def test_both_sides_evaluate_alike(tmp_path):
    weights, out = str(tmp_path / "weights"), str(tmp_path / "out")
    Genflow().initialise(PLANE, weights)
    torchgfn_side.Torchgfn().exact(PLANE, weights, out)
    theirs = torchgfn_side.load_file(out)["distribution"].double()
    for bound in (None, 16):
        Genflow().exact(PLANE, weights, out, max_floats=bound)
        torch.testing.assert_close(torchgfn_side.load_file(out)["distribution"], theirs, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="two dimensions"):
        torchgfn_side.Torchgfn().exact(PLANE | {"ndim": 3}, weights, out)


@pytest.mark.parametrize(
    ("side", "recipe"),
    [(Genflow, RECIPE | harness.FLAT), (Genflow, works.PLANNED), (torchgfn_side.Torchgfn, RECIPE)],
)
def test_training_changes_the_weights_that_are_saved(tmp_path, side, recipe):
    side = side()
    assert side.prepare(PLANE, recipe, seed=1)["seconds"] > 0
    path = tmp_path / "weights"
    side.save(str(path))
    before = harness.divergence(PLANE, path)
    assert side.iterate(limit=60)["iterations"] == 60
    side.save(str(path))
    assert harness.divergence(PLANE, path) < before


def test_expected_steps_are_those_of_trajectories(tmp_path):
    Genflow().initialise(PLANE, str(tmp_path / "weights"))
    population = Population.initialised(harness.build(PLANE), 1, 0)
    final = population.rollouts(20_000).final[0].double()
    assert harness.length(PLANE, tmp_path / "weights") == pytest.approx(
        float(final.sum(1).mean()) + 1, abs=0.05
    )


def test_learning_ends_when_it_is_good_at_its_cap_or_with_its_slices(tmp_path):
    class Inside:
        """A side in this process; its clock says a second an iteration."""

        def __init__(self, spent):
            self.side, self.spent = Genflow(), spent

        def ask(self, do, **arguments):
            answer = getattr(self.side, do)(
                **{**arguments, **({"seconds": None, "limit": 20} if "seconds" in arguments else {})}
            )
            return answer | {"seconds": self.spent} if do == "iterate" else answer

    planned = list(harness.learn(Inside(1.0), PLANE, works.PLANNED, 0, 5.0, tmp_path, limit=15, count=10))
    assert len(planned) == 10 and planned[-1][1] < harness.GOOD
    capped = list(harness.learn(Inside(2.0), PLANE, RECIPE | harness.FLAT | {"lr": 1e-9}, 0, 5.0, tmp_path))
    assert [round(seconds) for seconds, _, _ in capped] == [2, 4, 6]
    assert [iterations for _, _, iterations in capped] == [20, 40, 60]
    good = list(harness.learn(Inside(0.1), PLANE, works.PLANNED | {"decay": 0.0}, 0, 1e9, tmp_path))
    assert all(js > harness.GOOD for _, js, _ in good[:-1]) and good[-1][1] <= harness.GOOD


def test_unknown_tasks_are_new_but_alike():
    one, other = harness.unknown(PLANE), harness.unknown(PLANE)
    assert harness.build(one) != harness.build(other)
    target = harness.build(PLANE).solution.target()
    torch.testing.assert_close(harness.build(one).solution.target(), target, rtol=1e-6, atol=0)


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 2.0])
def test_an_exponent_is_found_over_the_upper_half(power):
    x = [1, 2, 4, 8, 16, 32]
    y = [7.0, 7.0, 7.0, *(3 * value**power for value in x[3:])]
    assert growth.exponent(x, y) == pytest.approx(power)
    assert growth.exponent(x[::-1], y[::-1]) == pytest.approx(power)
    assert math.isnan(growth.exponent([1, 2, 4], [1.0, 0.0, 2.0]))


@pytest.fixture
def result():
    result = report.Result("kind", "a title")
    result.add("2 threads", "it/s", {"ours": [20.0, 40.0, 30.0], "theirs": [10.0, 10.0]})
    result.add("alone", "s", {"ours": [1.0], "theirs": [8.0]})
    result.compare("2 threads", "ours", "theirs", more=True, target=2.5)
    result.compare("alone", "ours", "theirs", more=False, target=9.0)
    result.compare("alone", "ours", "theirs", more=False, target=9.0, bound=True)
    result.compare("alone", "ours", "nobody", more=False)
    return result


def test_ratios_are_taken_round_by_round(result):
    assert [ratio.values for ratio in result.ratios] == [[2.0, 4.0], [8.0], [8.0]]
    assert [ratio.verdict for ratio in result.ratios] == ["met", "missed", "open"]
    data = json.loads(json.dumps(result.to_json()))
    assert data["ratios"][0] | {"median": 3.0, "min": 2.0, "max": 4.0, "verdict": "met"} == data["ratios"][0]
    assert data["figures"][0]["values"] == [20.0, 40.0, 30.0]


def test_tables_are_aligned_and_say_what_is_a_bound(result):
    lines = [" ".join(line.split()) for line in result.text().splitlines()]
    assert "2 threads ours / theirs 3x 2 to 4 2.5x met" in lines
    assert "alone ours / theirs > 8x 8 to 8 9x open" in lines
    assert report.table(("a", "bb"), [("ccc", "d")]) == ["a    bb", "ccc  d"]


def test_pictures_are_drawn(result):
    curved = report.Result(
        "kind", "a title", curves={"a: 1": [(1.0, 2.0), (2.0, 1.0)], "b: 1": [(1.0, 1.0)]}, axes=("x", "y")
    )
    one = {"job": "train", "axis": "width", "x": [1, 2], "seconds": [1.0, 2.0], "mib": [0.0, 0.0]}
    grown = growth.Growth(
        "growth", "a title", series=[one | {"exponents": {"seconds": 1.0, "mib": math.nan}}]
    )
    for each in (result, curved, grown):
        assert each.picture().startswith(b"\x89PNG")


def test_growth_is_measured_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "GRIDS", {"exact": {"height": (4, 16)}})
    monkeypatch.setattr(growth, "BASE", {"ndim": 2, "height": 4, "width": 8, "members": 1, "structures": 2})
    found = growth.growth(harness.Bench(tmp_path, turn=0.0))
    assert found.series[0]["states"] == [16, 256]
    assert all(seconds > 0 for seconds in found.series[0]["seconds"])
    assert "exact  height  4 to 16" in found.text()


def test_a_run_writes_its_table_json_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(works, "EMPTY", "pass")
    done = CliRunner().invoke(
        speed.main, ["--work", "start", "--rounds", "1", "--out", str(tmp_path)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "genflow --help" in done.output
    data = json.loads((tmp_path / "start.json").read_text())
    assert len(data["figures"]) == 3 and data["machine"]["cores"] >= 1
    assert (
        str(Path.home()) not in (tmp_path / "start.json").read_text()
        and str(SOURCE) not in (tmp_path / "start.json").read_text()
    )
    assert (tmp_path / "start.png").exists()


def test_a_missing_peer_is_said(tmp_path):
    done = CliRunner().invoke(
        speed.main, ["--work", "exact", "--peers", str(tmp_path / "none"), "--out", str(tmp_path)]
    )
    assert done.exit_code == 1
    assert "there is no environment for gfnx" in done.output and "make bench" in done.output
