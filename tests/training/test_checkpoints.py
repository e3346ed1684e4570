"""Checkpoints: the last few are kept, and training goes on from the newest that is whole."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save

from genflow import GenflowError
from genflow.progress import Progress
from genflow.training.checkpoints import FORMAT, PATTERN, Checkpoints, remove_checkpoints
from genflow.training.loop import GraphTrainee, Schedule, train

STEPS, STOPPED = 60, 40


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {
        "a": torch.full((3, 5), float(step)),
        "b": torch.arange(step % 97, dtype=torch.uint8),
        "c": torch.tensor(step),
    }


def saved(folder, *steps, keep=9) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, tensors(step), {"seconds": step / 2})
    return checkpoints


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def steps_of(folder) -> list[int]:
    return [int(name.split("-")[1]) for name in names(folder)]


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    saved(tmp_path, 7)
    checkpoints = Checkpoints(tmp_path, 1)
    assert checkpoints.last is None
    name, refused = checkpoints.find()
    assert refused == [] and [name] == names(tmp_path) and name.startswith("checkpoint-000000007-")
    assert checkpoints.last == tmp_path / name
    held, facts = checkpoints.read(name)
    assert facts == {"seconds": 3.5, "step": 7}
    assert held.keys() == tensors(7).keys()
    assert all(
        tensor.dtype == tensors(7)[key].dtype and tensor.equal(tensors(7)[key])
        for key, tensor in held.items()
    )


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_few_are_kept(tmp_path, keep):
    saved(tmp_path, 10, 20, 30, 1_000_000_000, 2_000_000_000, keep=keep)
    assert steps_of(tmp_path) == [10, 20, 30, 1_000_000_000, 2_000_000_000][-keep:]


def test_those_of_an_earlier_process_count(tmp_path):
    saved(tmp_path, 10, 20)
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.find()
    checkpoints.save(30, tensors(30), {})
    assert steps_of(tmp_path) == [20, 30]


def test_a_checkpoint_that_cannot_be_written_costs_none(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 10, 20, keep=2)
    before = names(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genflow.storage.files.os.fsync", full)
    with pytest.raises(GenflowError, match="No space left on device"):
        checkpoints.save(30, tensors(30), {})
    assert names(tmp_path) == before
    assert checkpoints.last.name == before[-1] == Checkpoints(tmp_path, 2).find()[0]


def test_checkpoints_are_removed_and_nothing_else(tmp_path):
    saved(tmp_path, 10, 20)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"of an earlier version")
    (tmp_path / "population.safetensors").write_bytes(b"a result")
    remove_checkpoints(tmp_path)
    remove_checkpoints(tmp_path)
    assert names(tmp_path) == ["population.safetensors"]


def test_there_may_be_none(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert Checkpoints(folder, 2).find() == (None, [])
        remove_checkpoints(folder)


# what can happen to one


def flipped(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def header_size(path) -> int:
    return 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]


def of_format(path, name):
    """Whole by its name, but written by somebody else."""
    import hashlib

    data = save(tensors(1), {"format": name, "facts": "{}"} if name else None)
    path.unlink()
    path.with_name(
        f"{path.name.rpartition('-')[0]}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    ).write_bytes(data)


def emptied(path, size):
    path.write_bytes(path.read_bytes()[:size])


DAMAGES = {
    "empty": (lambda path: emptied(path, 0), "checksum"),
    "cut in the length": (lambda path: emptied(path, 5), "checksum"),
    "cut in the header": (lambda path: emptied(path, header_size(path) - 10), "checksum"),
    "cut behind the header": (lambda path: emptied(path, header_size(path)), "checksum"),
    "cut by one byte": (lambda path: emptied(path, -1), "checksum"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "checksum"),
    "a bit of the length": (lambda path: flipped(path, 0), "checksum"),
    "a high bit of the length": (lambda path: flipped(path, 7), "checksum"),
    "a bit of the header's start": (lambda path: flipped(path, 8), "checksum"),
    "a bit of the header's end": (lambda path: flipped(path, header_size(path) - 1), "checksum"),
    "a bit of the facts": (lambda path: flipped(path, path.read_bytes().index(b"facts") + 20), "checksum"),
    "a bit of the first tensor": (lambda path: flipped(path, header_size(path)), "checksum"),
    "a bit amid the tensors": (
        lambda path: flipped(path, (header_size(path) + path.stat().st_size) // 2),
        "checksum",
    ),
    "the last bit": (lambda path: flipped(path, -1), "checksum"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "checksum"),
    "renamed to another step": (
        lambda path: path.rename(path.with_name(path.name.replace("-0000000", "-9000000"))),
        None,
    ),
    "renamed to another digest": (
        lambda path: path.rename(path.with_name(path.name[:21] + "0" * 16 + ".safetensors")),
        "checksum",
    ),
    "renamed to another form": (
        lambda path: path.rename(path.with_name("checkpoint-last.safetensors")),
        "not of this version",
    ),
    "of the version before": (
        lambda path: path.rename(path.with_name("checkpoint.safetensors")),
        "not of this version",
    ),
    "of another format": (
        lambda path: of_format(path, "genflow-checkpoint-99"),
        "has format 'genflow-checkpoint-99'",
    ),
    "of no format": (lambda path: of_format(path, None), "has format None"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
}


@pytest.mark.parametrize("kind", [kind for kind, (_, says) in DAMAGES.items() if says])
def test_the_newest_that_is_whole_is_found(tmp_path, kind):
    saved(tmp_path, 10, 20, 30)
    newest, middle = names(tmp_path)[-1], names(tmp_path)[-2]
    damage, says = DAMAGES[kind]
    damage(tmp_path / newest)
    checkpoints = Checkpoints(tmp_path, 2)
    name, refused = checkpoints.find()
    assert name == middle
    assert len(refused) == 1 and says in refused[0] and str(tmp_path / "checkpoint") in refused[0]
    # the next one pushes out the oldest that is whole, never the one that was used
    checkpoints.save(40, tensors(40), {})
    kept = [path for path in tmp_path.glob(PATTERN) if not any(str(path) in line for line in refused)]
    assert sorted(int(path.name.split("-")[1]) for path in kept) == [20, 40]


def test_each_newer_one_that_is_not_whole_is_told_of(tmp_path):
    saved(tmp_path, 10, 20, 30, 40)
    first, second, third, fourth = names(tmp_path)
    for name in (first, third, fourth):
        flipped(tmp_path / name, -1)
    name, refused = Checkpoints(tmp_path, 2).find()
    assert name == second
    assert [fourth in refused[0], third in refused[1]] == [True, True] and len(refused) == 2
    flipped(tmp_path / second, -1)
    name, refused = Checkpoints(tmp_path, 2).find()
    assert name is None and len(refused) == 4


# what becomes of a training


class Regression(GraphTrainee):
    """A noisy regression with a state that is not a parameter."""

    def __init__(self) -> None:
        self.w = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        self.average = torch.zeros(5, 3)
        self.begun: list[int] = []
        self.last = STEPS

    def groups(self):
        return [{"params": [self.w]}]

    def tensors(self):
        return {"w": self.w, "average": self.average}

    def loss(self, step, rng):
        if step == self.last:
            raise RuntimeError("power cut")
        self.begun.append(step)
        x = torch.randn(4, 5, generator=rng)
        loss = (x @ self.w - x.sum(1, keepdim=True)).square().mean()
        return loss, {"loss": loss.item()}

    def after_step(self, step):
        self.average.lerp_(self.w.detach(), 0.1)


def run(folder, last=STEPS):
    trainee = Regression()
    trainee.last = last
    schedule = Schedule(steps=STEPS, lr=0.05, checkpoint_seconds=1e-9, keep_checkpoints=3)
    history = train(
        trainee, schedule, folder=folder, seed=3, progress=Progress(quiet=True), label="toy"
    ).history
    return trainee, history


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def cut(tmp_path):
    """What a power cut leaves: checkpoints of steps 38, 39 and 40."""
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, STOPPED)
    assert steps_of(tmp_path) == [STOPPED - 2, STOPPED - 1, STOPPED]
    return tmp_path


def goes_on(folder, undisturbed, step):
    """The run ends as if nothing had happened, from a step on."""
    (expected, history), (found, again) = undisturbed, run(folder)
    assert found.begun[0] == step
    assert found.w.equal(expected.w) and found.average.equal(expected.average)
    assert again == history


def test_a_whole_checkpoint_is_gone_on_from(cut, undisturbed, capfd):
    goes_on(cut, undisturbed, STOPPED)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [kind for kind, (_, says) in DAMAGES.items() if says])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(cut, undisturbed, capfd, kind):
    newest, middle = names(cut)[-1], names(cut)[-2]
    damage, says = DAMAGES[kind]
    damage(cut / newest)
    goes_on(cut, undisturbed, STOPPED - 1)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"warning: {cut / 'checkpoint'}")
    assert says in lines[0] and lines[0].endswith(f"; going on from {middle}, the one before it")


def test_a_file_that_took_another_steps_name_still_counts_by_what_it_holds(cut, undisturbed, capfd):
    """The digest is of the bytes, which say the step."""
    DAMAGES["renamed to another step"][0](cut / names(cut)[-1])
    goes_on(cut, undisturbed, STOPPED)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["empty", "a bit amid the tensors", "of the version before"])
def test_without_a_whole_one_the_run_starts_again_and_says_so(cut, undisturbed, capfd, kind):
    for name in names(cut):
        if kind == "of the version before" and name != names(cut)[-1]:
            (cut / name).unlink()
        else:
            DAMAGES[kind][0](cut / name)
    count = len(names(cut))
    goes_on(cut, undisturbed, 0)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == count
    assert all(line.startswith("warning: ") and line.endswith("; starting again") for line in lines)


def test_a_damaged_one_is_not_met_again(cut, undisturbed):
    """A run that goes on beyond a damaged checkpoint and is cut again uses its own, newer ones."""
    flipped(cut / names(cut)[-1], -1)
    with pytest.raises(RuntimeError, match="power cut"):
        run(cut, STOPPED + 5)
    goes_on(cut, undisturbed, STOPPED + 5)


def test_facts_are_json(tmp_path):
    saved(tmp_path, 4)
    data = (tmp_path / names(tmp_path)[0]).read_bytes()
    header = json.loads(data[8 : header_size(tmp_path / names(tmp_path)[0])])
    assert header["__metadata__"]["format"] == FORMAT
    assert json.loads(header["__metadata__"]["facts"]) == {"seconds": 2.0, "step": 4}
