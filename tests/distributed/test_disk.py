"""A full disk: one line, and the last checkpoint stays whole.

Once there is room the same command ends with the same numbers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from processes import genflow, group, leftovers, newest, quickly, refused, same, started, warm

from genflow.training.checkpoints import Checkpoints


def learn(alone, small, out):
    return [
        "train-ae",
        "--zoo",
        alone / "zoo",
        "--config",
        small,
        "--out",
        out,
        "-o",
        "autoencoder.checkpoint_seconds=1e-9",
    ]


@pytest.mark.parametrize("size", [1, 2])
def test_no_room_for_the_next_checkpoint(alone, small, tmp_path, size):
    """A limit on the size of files stands for the disk: below a checkpoint, above anything else."""
    command, out = learn(alone, small, tmp_path / "job"), tmp_path / "job" / "autoencoder"
    with warm(*command, folder=tmp_path / "said") as killed:
        killed.until(lambda: newest(out) > 3, "a checkpoint")
    name, _ = Checkpoints(out, 2).find()
    before = (out / name).read_bytes()
    limit = {"FILE_LIMIT": len(before) // 2}
    if size == 1:
        line = refused(*command, folder=tmp_path / "full", **limit)
    else:
        first, second = group(2, *command, folder=tmp_path / "full", status=2, **limit)
        (line,) = first.said("stderr").splitlines()
        assert second.said("stderr") == ""
    assert line.startswith(f"genflow: cannot write {out / 'checkpoint-'}") and line.endswith(
        ": File too large"
    )
    assert (out / name).read_bytes() == before
    assert Checkpoints(out, 2).find() == (name, [])
    assert not list(out.glob(".*tmp*"))
    quickly(*command, folder=tmp_path / "roomy")
    if size == 1:
        same(out, alone / "autoencoder")
    assert leftovers(tmp_path) == []


def test_no_room_for_the_result(alone, small, tmp_path):
    """The limit holds for the populations alone: they have no checkpoints."""
    out = tmp_path / "zoo"
    line = refused(
        "train-zoo", "--config", small, "--out", out, "--json", folder=tmp_path / "full", FILE_LIMIT=4096
    )
    assert line.startswith(f"genflow: cannot write {out}") and line.endswith(": File too large")
    quickly("train-zoo", "--config", small, "--out", out, folder=tmp_path / "roomy")
    same(out, alone / "zoo")
    assert leftovers(out) == []


@pytest.fixture
def tiny(tmp_path):
    """A disk of two megabytes."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["--nproc-per-node", 2]], ids=["alone", "two"])
def test_a_disk_that_is_full(alone, small, tiny, tmp_path, workers):
    command, out = [*learn(alone, small, tiny / "job"), *workers], tiny / "job" / "autoencoder"
    with started(*command) as killed:
        killed.until(lambda: newest(out) > 3, "a checkpoint")
    name, _ = Checkpoints(out, 2).find()
    before = (out / name).read_bytes()
    room = shutil.disk_usage(tiny).free - len(before) // 2
    if room > 0:
        (tiny / "others").write_bytes(bytes(room))
    full = genflow(*command, status=2)
    assert full.stdout == ""
    (line,) = full.stderr.splitlines()
    assert line.startswith(f"genflow: cannot write {out / 'checkpoint-'}") and line.endswith(
        ": No space left on device"
    )
    assert (out / name).read_bytes() == before and Checkpoints(out, 2).find() == (name, [])
    (tiny / "others").unlink(missing_ok=True)
    genflow(*command)
    if not workers:
        same(out, alone / "autoencoder")
    assert leftovers(tiny) == []
