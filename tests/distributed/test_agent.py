"""Workers under the elastic agent: numbers, signals and kills, as a user meets them."""

from __future__ import annotations

import json
import signal
import sys

import pytest
from processes import genflow, group, leftovers, lives, newest, refused, same, started, until

TWO = ["--nproc-per-node", 2]


def log(folder, rank=0):
    """What a worker has written to its log."""
    path = folder / "logs" / f"rank-{rank}.log"
    return path.read_text() if path.exists() else ""


def collect(small, out, *more):
    """The command that collects the small job's zoo, with a checkpoint after every step."""
    return ["train-zoo", "--config", small, "--out", out, "-o", "zoo.checkpoint_seconds=1e-9", *more]


def test_a_zoo_survives_the_death_of_a_worker_and_of_the_agent(alone, small, tmp_path):
    out = tmp_path / "zoo"
    command = collect(small, out, "--json", *TWO)
    with started(*command) as job:
        job.until(lambda: newest(out) > 3, "a checkpoint")
        before = job.workers()
        assert len(before) == 2
        job.kill(before[1])
        job.until(lambda: "restart 1" in log(out, 0) and "restart 1" in log(out, 1), "a restart")
        after = job.workers()
        assert len(after) == 2 and not set(after) & set(before)
        job.send(signal.SIGKILL)
        job.wait(-signal.SIGKILL)
        assert (
            "genflow: a worker failed; all were started again and go on (restart 1 of 3)"
            in job.stderr.splitlines()
        )
        until(lambda: not any(lives(pid) for pid in after), "the end of the workers", patience=30)
    assert not all((path / "population.json").exists() for path in out.glob("ndim*")), (
        "it was killed too late"
    )
    done = genflow(*command)
    assert done.stderr == ""
    assert [entry["num"] for entry in json.loads(done.stdout)] == [4, 4, 4]
    same(out, alone / "zoo")
    assert leftovers(out) == []
    # each structure was finished once, by whichever attempt
    told = (log(out, 0) + log(out, 1)).splitlines()
    finished = {line.split("zoo: ")[1].split(":")[0] for line in told if "policies in" in line}
    assert finished == {path.name for path in out.glob("ndim*")}


@pytest.fixture(scope="module")
def undisturbed(alone, small, tmp_path_factory):
    """An autoencoder by two workers that nobody disturbs."""
    out = tmp_path_factory.mktemp("undisturbed")
    group(2, *learn(alone, small, out), folder=out / "said")
    return out / "autoencoder"


def learn(alone, small, out):
    return ["train-ae", "--zoo", alone / "zoo", "--config", small, "--out", out,
            "-o", "autoencoder.steps=100", "-o", "autoencoder.checkpoint_seconds=1e-9"]  # fmt: skip


@pytest.mark.slow
def test_a_batch_that_is_dealt_out_survives_kills_and_signals(alone, small, undisturbed, tmp_path):
    command = learn(alone, small, tmp_path)
    out = tmp_path / "autoencoder"
    # a worker that nobody starts again
    with started(*command, *TWO, "--max-restarts", 0) as job:
        job.until(lambda: newest(out) > 3, "a checkpoint")
        workers = job.workers()
        for pid in workers:  # so that they are still at it when the others come
            job.kill(pid, signal.SIGSTOP)
        in_use = f"genflow: {out} is in use by another genflow command; wait for it or choose another --out"
        assert refused(*command, folder=tmp_path / "said") == in_use
        first, second = group(2, *command, folder=tmp_path / "said-too", status=2)
        assert (first.said("stderr"), second.said("stderr")) == (f"{in_use}\n", "")
        for pid in workers:
            job.kill(pid, signal.SIGCONT)
        job.kill(workers[0])
        job.wait(1)
        (line,) = job.stderr.splitlines()[-1:]
        assert "worker 0 was killed by signal 9" in line
        assert line.startswith("genflow: ") and line.endswith(
            ", after 0 restarts; give the same command again to go on"
        )
    step = newest(out)
    assert 3 < step < 100
    # the agent is asked to stop
    with started(*command, *TWO) as job:
        job.until(lambda: newest(out) > step, "another checkpoint")
        job.send(signal.SIGTERM)
        job.wait(130)
        assert job.stderr.splitlines()[-1] == "genflow: interrupted; give the same command again to go on"
        assert job.stderr.count("interrupted") == 1 and "Traceback" not in job.stderr
        assert not any(lives(pid) for pid in job.workers())
    stopped = int(log(out).rpartition("stopped after step ")[2].split()[0])
    assert newest(out) == stopped > step
    genflow(*command, *TWO)
    same(out, undisturbed)
    assert leftovers(tmp_path) == []


def test_a_mistake_is_one_line_and_nobody_starts_again(tmp_path):
    line = refused("train-zoo", "--env", "hypergrid", "--structure", "ndim=2,hieght=4", *TWO, cwd=tmp_path)
    assert "'hieght'" in line and "did you mean 'height'" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "option"),
    [("train-zoo", "zoo.lr=1e30"), ("train-ae", "autoencoder.lr=1e30"), ("train-ldm", "diffusion.lr=1e30")],
)
def test_a_loss_that_is_not_finite_names_the_step_once(alone, small, tmp_path, stage, option):
    given = {"train-zoo": [], "train-ae": ["--zoo", alone / "zoo"]}
    given["train-ldm"] = [*given["train-ae"], "--autoencoder", alone / "autoencoder"]
    command = [stage, "--config", small, *given[stage], "--out", tmp_path / "out", "-o", option]
    first, second = group(2, *command, folder=tmp_path / "said", status=2)
    (line,) = [line for line in first.said("stderr").splitlines() if line.startswith("genflow: ")]
    assert "the loss became " in line and " at step " in line and "lower the learning rate" in line
    assert first.said("stdout") == second.said("stdout") == ""
    assert "genflow: " not in second.said("stderr")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_agent_without_a_restart(alone, small, tmp_path):
    command = [
        "train-ae",
        "--config",
        small,
        "--zoo",
        alone / "zoo",
        "--out",
        tmp_path / "out",
        "-o",
        "autoencoder.lr=1e30",
    ]
    line = refused(*command, *TWO)
    assert "autoencoder: the loss became " in line and " at step " in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_is_served_as_well(alone, small, undisturbed, tmp_path):
    command = [*learn(alone, small, tmp_path), *TWO]
    with started(*command) as job:
        job.until(lambda: newest(tmp_path) > 3, "a checkpoint")
        job.send(signal.SIGINT)
        job.wait(130)
        assert job.stderr.splitlines()[-1] == "genflow: interrupted; give the same command again to go on"
    genflow(*command)
    same(tmp_path / "autoencoder", undisturbed)


@pytest.mark.slow
def test_workers_of_torchrun_work_together(alone, small, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "genflow"]
    command = ["train-zoo", "--config", small, "--out", tmp_path / "zoo", "--json"]
    done = genflow(*command, command=torchrun)
    assert [entry["num"] for entry in json.loads(done.stdout)] == [4, 4, 4]
    same(tmp_path / "zoo", alone / "zoo")
    # a mistake: torchrun has its own words, ours come once
    failed = genflow(*command, "-o", "zoo.steps=0", command=torchrun, status=1)
    assert failed.stdout == "" and failed.stderr.count("genflow: ") == 1
    # a killed worker is started again by torchrun, too
    torchrun[3:3] = ["--max-restarts", "2"]
    command[4] = tmp_path / "again"
    with started(*command, "-o", "zoo.checkpoint_seconds=1e-9", command=torchrun) as job:
        job.until(lambda: newest(tmp_path / "again") > 3, "a checkpoint")
        job.kill(job.workers()[0])
        job.wait()
        assert [entry["num"] for entry in json.loads(job.stdout)] == [4, 4, 4]
    same(tmp_path / "again", alone / "zoo")
    assert "restart 1" in log(tmp_path / "again")


@pytest.mark.slow
def test_one_worker_under_the_agent_is_alone(alone, small, tmp_path):
    """It is started again all the same."""
    out = tmp_path / "zoo"
    with started(*collect(small, out, "--max-restarts", 1)) as job:
        job.until(lambda: newest(out) > 3, "a checkpoint")
        job.kill(job.workers()[0])
        job.wait()
        assert "restart 1 of 1" in job.stderr
    same(out, alone / "zoo")


def test_workers_are_asked_for_with_sound_options(tmp_path):
    line = refused("train-zoo", "--env", "hypergrid", "--nnodes", "2", folder=tmp_path)
    assert (
        line
        == "genflow: --nnodes of more than one needs --rdzv-endpoint HOST:PORT, the same on every machine"
    )
    assert "--nproc-per-node must be" in refused(
        "train-zoo", "--env", "hypergrid", "--nproc-per-node", "x", folder=tmp_path / "b"
    )
