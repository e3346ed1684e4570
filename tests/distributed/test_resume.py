"""One process that is stopped or killed at any stage goes on, to the same numbers bit for bit."""

from __future__ import annotations

import shutil
import signal

import pytest
from processes import leftovers, newest, quickly, refused, same, warm

STAGES = {
    "zoo": (["train-zoo"], "zoo.checkpoint_seconds=1e-9"),
    "autoencoder": (["train-ae", "--zoo", "zoo"], "autoencoder.checkpoint_seconds=1e-9"),
    "generator": (
        ["train-ldm", "--zoo", "zoo", "--autoencoder", "autoencoder"],
        "diffusion.checkpoint_seconds=1e-9",
    ),
}


@pytest.mark.parametrize(
    ("stage", "number"),
    [("zoo", signal.SIGTERM), ("autoencoder", signal.SIGINT), ("generator", signal.SIGTERM)],
)
def test_a_training_that_is_killed_and_stopped_ends_with_the_same_numbers(
    alone, small, tmp_path, stage, number
):
    words, often = STAGES[stage]
    args = [alone / word if word in ("zoo", "autoencoder") else word for word in words]
    out = tmp_path / ("zoo" if stage == "zoo" else "")
    again = [*args, "--config", small, "--out", out, "-o", often]
    with warm(*again, folder=tmp_path / "said") as killed:
        step = killed.until(lambda: newest(out) > 5 and newest(out), "a checkpoint")
        killed.send(signal.SIGKILL)
        killed.wait(-signal.SIGKILL)
    with warm(*again, folder=tmp_path / "said", name="stopped") as stopped:
        # the zoo's next structure begins at 0 again
        stopped.until(lambda: newest(out) not in (0, step, step + 1), "another checkpoint")
        stopped.send(number)
        stopped.wait(130)
    first, *_, last = stopped.said("stderr").splitlines()
    assert "; run the same command again to continue" in stopped.said("stderr")
    assert last == "genflow: interrupted; give the same command again to go on"
    assert newest(out) > 0
    if stage != "zoo":
        assert int(first.partition("after step ")[2].split()[0]) > step
    done = quickly(*again, folder=tmp_path / "said", name="done")
    assert "warning" not in done.said("stderr")
    same(tmp_path / stage, alone / stage)
    assert leftovers(tmp_path) == []


def test_a_command_that_was_killed_while_it_wrote_its_manifest_can_be_given_again(alone, small, tmp_path):
    out = tmp_path / "zoo"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".run.json.tmp4711").write_text('{"stage": "zo')
    quickly("train-zoo", "--config", small, "--out", out, folder=tmp_path / "said")
    same(out, alone / "zoo")
    assert leftovers(out) == []


def test_half_a_population_is_made_anew(alone, small, tmp_path):
    """Killed between a population's tensors and its facts, or while it wrote either."""
    out = tmp_path / "zoo"
    shutil.copytree(alone / "zoo", out)
    one, two, three = sorted(folder for folder in out.iterdir() if folder.is_dir())
    (one / "population.json").unlink()
    (two / "population.json").unlink()
    (two / "population.safetensors").rename(two / ".population.safetensors.tmp4711")
    (three / "checkpoint-000000060-0123456789abcdef.safetensors").write_bytes(
        b"of a run that was killed before it removed it"
    )
    (out / "run.json").write_text(
        (out / "run.json").read_text().replace('"complete": true', '"complete": false')
    )
    done = quickly("train-zoo", "--config", small, "--out", out, folder=tmp_path / "said")
    same(out, alone / "zoo")
    assert leftovers(out) == []
    assert done.said("stderr").count("zoo: ndim=") == 2


def test_a_folder_that_is_in_use_is_refused(alone, small, tmp_path):
    args = ["train-ae", "--zoo", alone / "zoo", "--config", small, "--out", tmp_path]
    args += ["-o", "autoencoder.steps=100000", "-o", "autoencoder.checkpoint_seconds=0.01"]
    with warm(*args, folder=tmp_path / "said") as running:
        running.until(lambda: newest(tmp_path), "a checkpoint")
        line = refused(*args, folder=tmp_path / "said-too")
        assert (
            line == f"genflow: {tmp_path / 'autoencoder'} is in use by another genflow command; "
            "wait for it or choose another --out"
        )
        assert running.status is None
    step = newest(tmp_path)  # it was killed, and locks nobody out
    with warm(*args, folder=tmp_path / "said") as running:
        running.until(lambda: newest(tmp_path) > step, "a checkpoint")
