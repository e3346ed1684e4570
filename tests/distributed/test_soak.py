"""The whole job under fire: killed at random moments, it ends as an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter

import pytest
from processes import Job, Warm, group, leftovers, lives, quickly, same, until

pytestmark = pytest.mark.slow

#: what a run does one after the other, and the seconds that each lasts about
STAGES = {
    "zoo": 2.0,
    "autoencoder": 2.0,
    "generator": 3.0,
    "generated": 0.3,
    "trained": 0.5,
    "evaluation": 4.0,
}
#: kills a stage and run: of all processes of a command; of a worker, the agent or all
ALONE, TOGETHER = 3, 2
RUNS = 2
JOB = """
env = "hypergrid"
structures = ["ndim=2,height=4,width=16", "ndim=3,height=4,width=16", "ndim=2,height=7,width=16"]
selection_structures = ["ndim=2,height=6,width=16"]
test_structures = ["ndim=2,height=5,width=16", "ndim=2,height=3,width=16"]
[zoo]
num = 4
seeds = 2
steps = 250
batch_size = 16
checkpoint_seconds = 0.3
[autoencoder]
steps = 200
options = {latent_size = 16}
checkpoint_seconds = 0.3
[diffusion]
steps = 250
options = {channels = [8, 8]}
checkpoint_seconds = 0.3
[diffusion.sampling]
sampler = "dpm++"
steps = 8
[generate]
num = 3
[evaluation]
num = 2
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "job.toml"
    path.write_text(JOB)
    return path


def stage_of(out):
    """What a run is at."""
    for stage in list(STAGES)[:-1]:
        try:
            complete = json.loads((out / stage / "run.json").read_text())["complete"]
        except FileNotFoundError:
            complete = False
        if not complete:
            return stage
    return "evaluation"


def reached(out, stage, since):
    """Whether a command that began after a moment works at a stage, or at a later one."""
    names = list(STAGES)
    at = names.index(stage_of(out))
    lock = out / ("trained" if stage == "evaluation" else stage) / ".lock"
    return at > names.index(stage) or (
        at == names.index(stage) and lock.exists() and lock.stat().st_mtime > since
    )


def test_one_process_that_is_killed_again_and_again(job, tmp_path):
    command = ["run", job, "--out"]
    quickly(*command, tmp_path / "undisturbed", folder=tmp_path / "said")
    draw, hits, began = random.Random(20), Counter(), time.monotonic()
    for run in range(RUNS):
        out = tmp_path / f"run-{run}"
        for stage in [stage for stage in STAGES for _ in range(ALONE)]:
            since = time.time()
            killed = Warm(*command, out, folder=tmp_path / "said")
            try:
                killed.until(lambda: reached(out, stage, since), stage)  # noqa: B023
                time.sleep(draw.uniform(0, STAGES[stage]))
                at = stage_of(out)
                killed.send(signal.SIGKILL)
                killed.wait(-signal.SIGKILL)
                hits[at] += 1
            finally:
                killed.end()
        quickly(*command, out, folder=tmp_path / "said")
        same(out, tmp_path / "undisturbed")
        assert leftovers(out) == [] and (out / "report.html").exists()
    print(
        f"one process: {sum(hits.values())} kills {dict(hits)}, {RUNS} runs, {time.monotonic() - began:.0f} s"
    )
    assert sum(hits.values()) == RUNS * ALONE * len(STAGES)
    assert all(hits[stage] for stage in STAGES), hits


def test_two_workers_that_are_killed_again_and_again(job, tmp_path):
    command = ["run", job, "--out"]
    group(2, *command, tmp_path / "undisturbed", folder=tmp_path / "said")
    draw, hits, began = random.Random(21), Counter(), time.monotonic()
    options = ["--nproc-per-node", 2, "--max-restarts", 100]
    for run in range(RUNS):
        out, running, since = tmp_path / f"run-{run}", None, 0.0
        kinds = [kind for kind in ("worker", "agent", "all") for _ in range(len(STAGES) * TOGETHER // 3)]
        draw.shuffle(kinds)
        plan = list(zip([stage for stage in STAGES for _ in range(TOGETHER)], kinds, strict=True))
        try:
            for stage, kind in plan:
                if running is None:
                    since = time.time()
                    running = Job(*command, out, *options, TMPDIR=tmp_path)
                running.until(lambda: reached(out, stage, since) and len(running.workers()) == 2, stage)  # noqa: B023
                time.sleep(draw.uniform(0, STAGES[stage]))
                workers = until(lambda: running.status is not None or running.workers(), "workers")  # noqa: B023
                if running.status is not None:  # it came to its end first
                    running.wait(0)
                    break
                at, since = stage_of(out), time.time()
                if kind == "worker":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(draw.choice(workers), signal.SIGKILL)
                        hits[at, kind] += 1
                    continue
                hits[at, kind] += 1
                running.send(signal.SIGKILL)
                if kind == "all":
                    for pid in workers:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                running.wait(None)
                until(lambda: not any(lives(pid) for pid in workers), "the end of the workers", patience=60)  # noqa: B023
                running = None
            if running is None:
                running = Job(*command, out, *options, TMPDIR=tmp_path)
            if running.process.returncode is None:
                running.wait(0)
        finally:
            if running is not None:
                running.end()
        same(out, tmp_path / "undisturbed")
        assert leftovers(out) == [] and (out / "report.html").exists()
    stages = Counter({stage: sum(hits[at, kind] for at, kind in hits if at == stage) for stage in STAGES})
    kinds = Counter(
        {
            kind: sum(hits[at, other] for at, other in hits if other == kind)
            for kind in ("worker", "agent", "all")
        }
    )
    print(
        f"two workers: {sum(hits.values())} kills {dict(stages)} {dict(kinds)}, {RUNS} runs, "
        f"{time.monotonic() - began:.0f} s"
    )
    assert sum(hits.values()) >= RUNS * TOGETHER * len(STAGES) - RUNS  # one may come too late
    assert all(stages[stage] for stage in STAGES) and all(kinds.values()), hits
