"""The scaling benchmark and the simulation: exact where the answer is known, never better than possible."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

SOURCE = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(SOURCE))  # scripts, not a package

import fleet  # noqa: E402
import scaling  # noqa: E402
import scaling_statistics  # noqa: E402
import scaling_steps  # noqa: E402
import simulate  # noqa: E402

UNEVEN = [float(x) for x in random.Random(3).choices(range(1, 90), k=200)]
TASKS = {
    "machine": {},
    "options": {"zoo_steps": 100},
    "tasks": [
        {"expense": 10.0 * i, "seconds": [float(i), i + 0.5], "occupied": [i + 0.25, i + 1.0]}
        for i in range(1, 9)
    ],
}
SHARE = {"rows": 32, "serial_seconds": 0.01, "parallel_seconds": 0.09, "bytes": 4e6}


@pytest.mark.parametrize("serial", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("workers", [2, 8, 1000])
def test_karp_flatt_finds_amdahls_fraction(serial, workers):
    assert scaling_statistics.karp_flatt(
        scaling_statistics.amdahl(serial, workers), workers
    ) == pytest.approx(serial, abs=1e-12)


def test_a_line_is_found():
    assert scaling_statistics.line([1, 0.5, 0.25], [1.3, 0.8, 0.55]) == pytest.approx((0.3, 1.0))


def test_rank_correlation():
    assert scaling_statistics.ranks([3, 1, 3, 9]) == [1.5, 0, 1.5, 3]
    assert scaling_statistics.rank_correlation([1, 2, 3, 4], [10, 20, 30, 99]) == pytest.approx(1)
    assert scaling_statistics.rank_correlation([1, 2, 3, 4], [9, 5, 2, -7]) == pytest.approx(-1)
    # by hand: 1 - 6 (1 + 1) / (4 * 15), and with a tie Pearson's on [0.5, 0.5, 2] and [0, 1, 2]
    assert scaling_statistics.rank_correlation([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(0.8)
    assert scaling_statistics.rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


def test_a_worker_of_many_sends_what_is_counted():
    import torch

    alone, other = scaling_steps.OneOfMany(0, 1), scaling_steps.OneOfMany(3, 4)
    assert torch.equal(other.all_reduce(torch.ones(5)), torch.ones(5))
    alone.all_reduce(torch.ones(5))
    assert (other.messages, alone.messages) == ([20], [])
    assert [scaling_steps.OneOfMany(rank, 4).rows(10) for rank in (0, 3)] == [slice(0, 2), slice(7, 10)]


def test_new_parts_replace_old_ones(tmp_path):
    path = tmp_path / "scaling.json"
    assert scaling.merged(path, {"store": 1}) == {"store": 1}
    path.write_text(json.dumps({"parts": {"store": 1, "zoo": 2}}))
    assert scaling.merged(path, {"store": 3}) == {"zoo": 2, "store": 3}


@pytest.mark.parametrize(("pieces", "workers"), [(1, 1), (7, 3), (12, 4), (3, 8)])
def test_equal_pieces_end_when_they_must(pieces, workers):
    outcome = fleet.queued([1.0] * pieces, [2.5] * pieces, workers)
    assert outcome.makespan == 2.5 * math.ceil(pieces / workers) == fleet.dealt([2.5] * pieces, workers)
    assert outcome.finished == [1] * pieces


def test_the_costliest_piece_is_taken_first():
    # 5 | 4 + 1 | 3 + 2 on three workers; in ascending order the 5 comes last: 1 + 4, 2 + 5, 3
    assert fleet.queued([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], 3).makespan == 5
    assert fleet.queued([0] * 5, [1, 2, 3, 4, 5], 3).makespan == 7
    assert fleet.dealt([1, 2, 3, 4, 5], 3) == 7


@pytest.mark.parametrize("workers", [1, 3, 16, 64])
def test_no_schedule_beats_the_bound_and_lists_stay_below_twice_it(workers):
    for order in (UNEVEN, [0.0] * len(UNEVEN), [-x for x in UNEVEN]):
        outcome = fleet.queued(order, UNEVEN, workers)
        least = fleet.bound(UNEVEN, workers)
        assert least <= outcome.makespan < 2 * least  # Graham 1966
        assert outcome.finished == [1] * len(UNEVEN)
        assert fleet.efficiency(UNEVEN, workers, outcome.makespan) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_failures_only_cost(seed):
    made = []
    for mtbf in (math.inf, 40_000, 10_000, 4_000):
        outcome = fleet.with_failures(UNEVEN, UNEVEN, 8, mtbf=mtbf, restart=30, checkpoint=10, seed=seed)
        assert outcome.finished == [1] * len(UNEVEN)
        assert fleet.efficiency(UNEVEN, 8, outcome.makespan) <= 1
        made.append((outcome.makespan, outcome.failures))
    calm = fleet.queued(UNEVEN, UNEVEN, 8).makespan
    assert made[0] == (calm, 0)
    assert made == sorted(made)
    for makespan, failures in made:
        assert makespan >= sum(UNEVEN) / 8 + 30 * bool(failures)


def test_a_failure_costs_a_restart_and_what_came_after_the_last_checkpoint():
    class Fixed(random.Random):
        def expovariate(self, _):
            return gaps.pop(0)

    one = fleet.with_failures
    for gap, end in ((25.0, 107.0 + 5), (29.0, 107.0 + 9), (250.0, 100.0)):
        gaps = [gap, 1e9, 1e9]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fleet.random, "Random", Fixed)
            outcome = one([1.0], [100.0], 1, mtbf=1.0, restart=7.0, checkpoint=10.0)
        assert outcome.makespan == pytest.approx(end)
        assert outcome.failures == (end > 100)


def test_a_run_without_hope_is_given_up():
    assert fleet.with_failures([1.0] * 50, [100.0] * 50, 10, mtbf=10.0, restart=60.0).makespan == math.inf


def test_many_failures_come_out_as_the_closed_form():
    seconds = [200.0] * 4000
    outcome = fleet.with_failures(seconds, seconds, 20, mtbf=20 * 100.0, restart=30.0, checkpoint=1.0, seed=1)
    share = fleet.efficiency(seconds, 20, outcome.makespan)
    assert outcome.failures > 400
    assert share == pytest.approx(fleet.availability(20, 20 * 100.0, 30.0), abs=0.03)


def test_closed_forms():
    assert fleet.availability(100, math.inf, 60) == 1
    size = fleet.largest(mtbf=3.6e6, restart=60)
    assert fleet.availability(size, 3.6e6, 60) == pytest.approx(0.9)
    # with few failures half an interval is lost at each
    assert fleet.availability(10, 1e6, 0, interval=60) == pytest.approx(1 - 10 / 1e6 * 30, rel=1e-6)
    assert fleet.calls(1000) == 1000 * (2 / 0.5 + 1 / 5)


def test_a_step_is_calculated():
    facts = {"serial": 0.1, "parallel": 0.9, "rows": 30, "message": 8e6}
    assert fleet.step_seconds(1, **facts, bandwidth=1e6) == pytest.approx(1.0)
    assert fleet.step_seconds(3, **facts) == pytest.approx(0.1 + 0.3)
    assert fleet.step_seconds(4, **facts, bandwidth=1e9, latency=1e-3) == pytest.approx(
        0.1 + 0.9 * 8 / 30 + 1.5 * 8e-3 + 4e-3
    )
    # more workers than rows: one row each is all there is
    assert fleet.step_seconds(500, **facts) == pytest.approx(0.1 + 0.03)


def test_seconds_are_scaled_but_for_what_is_no_training():
    tasks = fleet.recorded(TASKS, steps=1000)
    assert len(tasks) == 16
    assert tasks[0] == fleet.Task(10.0, 10.0 + 0.25) and tasks[1] == fleet.Task(10.0, 15.0 + 0.5)
    assert set(fleet.bootstrap(tasks, 50, seed=1)) <= set(tasks)
    assert fleet.bootstrap(tasks, 50, seed=1) == fleet.bootstrap(tasks, 50, seed=1)


def test_a_small_simulation_is_written(tmp_path):
    (tmp_path / "zoo_tasks.json").write_text(json.dumps(TASKS))
    parts = {
        "share": {"facts": {"trainings": {"one": SHARE}}},
        "store": {"facts": {"mixed_calls_a_second": 9000.0}},
    }
    (tmp_path / "scaling.json").write_text(json.dumps({"parts": parts}))
    words = ["--out", tmp_path, "--workers", "20", "--structures", "20", "--structures", "90", "--each", "1"]
    done = CliRunner().invoke(simulate.main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "simulation.json").read_text())
    assert len(found["orders"]) == 2 * 5
    assert all(entry["over_bound"] >= 1 - 1e-12 and entry["efficiency"] <= 1 for entry in found["orders"])
    assert found["store"] == {"waiting": fleet.calls(20), "measured": 9000.0}
    assert {entry["gpus"] for entry in found["calculated"]} == {8, 512}
    assert all(0 < entry["gain"] <= entry["gpus"] for entry in found["calculated"])
    assert (tmp_path / "simulation.png").read_bytes().startswith(b"\x89PNG")


def test_without_recorded_seconds_it_says_how_to_make_them(tmp_path):
    done = CliRunner().invoke(simulate.main, ["--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "benchmarks/scaling.py records it" in done.output
