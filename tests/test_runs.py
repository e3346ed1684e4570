"""Run directories: atomic files, one owner, refusal of foreign folders."""

import json

import pytest
import torch
from filelock import FileLock, Timeout

from genflow import GenflowError
from genflow.storage.files import read_json, read_tensors, write_bytes, write_json, write_tensors
from genflow.storage.runs import LOCK_WAIT_SECONDS, MANIFEST, RunDirectory


def test_files_are_replaced_whole_and_leave_no_temporary(tmp_path):
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file_and_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genflow.storage.files.os.fsync", full)
    with pytest.raises(GenflowError, match="No space left on device"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_path_may_be_text(tmp_path):
    json_path, tensor_path, run_path = (str(tmp_path / name) for name in ("a.json", "t.safetensors", "run"))
    write_json(json_path, {"x": 1})
    assert read_json(json_path) == {"x": 1}
    write_tensors(tensor_path, {"a": torch.ones(2)})
    assert read_tensors(tensor_path)[0]["a"].tolist() == [1, 1]
    write_bytes(json_path, b"{}")
    assert read_json(json_path) == {}
    with RunDirectory.open(run_path, "zoo", {}, seed=0) as run:
        assert run.path == tmp_path / "run"
    for read, path in (
        (read_json, str(tmp_path / "no.json")),
        (read_tensors, str(tmp_path / "no.safetensors")),
    ):
        with pytest.raises(GenflowError, match=r"cannot read .*/no"):
            read(path)


def test_json_writes_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": [1.5, float("inf")]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [1.5, None]}


def test_tensors_round_trip_bit_for_bit(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5, dtype=torch.uint8), "c": torch.tensor(2.0)}
    write_tensors(tmp_path / "t.safetensors", tensors, {"k": "v"})
    loaded, metadata = read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"k": "v"}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty", "missing", "header"])
def test_a_damaged_tensor_file_is_one_line(tmp_path, damage):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.randn(100)})
    data = path.read_bytes()
    changed = {
        "cut": data[:-7],
        "foreign": b"PK\x03\x04" + data,
        "empty": b"",
        "header": b"\xff" * 8 + data[8:],
    }
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(GenflowError) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", "{", "\xff", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(GenflowError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_the_same_run_may_come_back_and_another_is_refused(tmp_path):
    with RunDirectory.open(tmp_path / "r", "zoo", {"steps": 3}, seed=0) as run:
        assert not run.complete
        run.update(complete=True)
    with RunDirectory.open(tmp_path / "r", "zoo", {"steps": 3}, seed=0) as run:
        assert run.complete
    for stage, config, seed, why in [
        ("ae", {"steps": 3}, 0, "stage"),
        ("zoo", {"steps": 4}, 0, "steps is 3 there, 4 here"),
        ("zoo", {"steps": 3}, 1, "seed"),
    ]:
        with pytest.raises(GenflowError, match=why), RunDirectory.open(tmp_path / "r", stage, config, seed):
            pass


def test_another_run_is_told_by_the_keys_that_differ_and_what_to_do(tmp_path):
    def refused(stage, config):
        with pytest.raises(GenflowError) as caught, RunDirectory.open(tmp_path / stage, stage, config, 0):
            pass
        return str(caught.value)

    old = {"env": "line", "zoo": {"steps": 3, "lr": [0.1, 0.2]}, "a": 1, "b": 1, "c": "x" * 1000}
    for stage in ("zoo", "generate"):
        with RunDirectory.open(tmp_path / stage, stage, old, 0):
            pass
    zoo = refused("zoo", {**old, "zoo": {"steps": 3, "lr": [0.1, 0.3]}, "more": True})
    assert "(more is None there, True here; zoo.lr is [0.1, 0.2] there, [0.1, 0.3] here)" in zoo
    assert f"repeat the options of that run, give --zoo {tmp_path / 'zoo'} to use it as it is" in zoo
    many = refused("generate", {**old, "zoo": 5, "a": 2, "b": 2, "c": "y" * 1000})
    assert "(a is 1 there, 2 here; b is 1 there, 2 here; c is xxx" in many and "; and 3 more)" in many
    assert "--zoo" not in many and "choose another --out" in many and len(many) < 500


def test_a_path_that_the_system_refuses_is_one_line(tmp_path):
    with (
        pytest.raises(GenflowError, match=r"^cannot use .*aaa.*: File name too long$"),
        RunDirectory.open(tmp_path / ("a" * 300), "zoo", {}, 0),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(GenflowError, match="not empty"), RunDirectory.open(tmp_path, "zoo", {}, 0):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_at_once_are_refused(tmp_path):
    with (
        RunDirectory.open(tmp_path / "r", "zoo", {}, 0),
        pytest.raises(GenflowError, match="in use"),
        RunDirectory.open(tmp_path / "r", "zoo", {}, 0),
    ):
        pass


def test_a_lock_leaves_its_file_and_locks_nobody_out(tmp_path):
    for _ in range(2):
        with RunDirectory.open(tmp_path / "r", "zoo", {}, 0):
            pass
        assert (tmp_path / "r" / ".lock").exists()


def test_only_workers_that_replace_others_wait_for_the_lock(tmp_path, monkeypatch):
    asked = []

    def acquire(self, timeout, **_):
        asked.append(timeout)
        raise Timeout(self.lock_file)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    for restarts in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        with pytest.raises(GenflowError, match="in use"), RunDirectory.open(tmp_path / "r", "zoo", {}, 0):
            pass
    assert asked == [0, LOCK_WAIT_SECONDS]


def test_a_run_that_is_refused_at_once_leaves_nothing_but_one_that_made_something_stays(tmp_path):
    with pytest.raises(GenflowError, match="impossible"), RunDirectory.open(tmp_path / "a", "zoo", {}, 0):
        raise GenflowError("impossible")
    assert not (tmp_path / "a").exists()
    with pytest.raises(GenflowError, match="later"), RunDirectory.open(tmp_path / "b", "zoo", {}, 0) as run:
        write_json(run.path / "result.json", {})
        raise GenflowError("later")
    assert (tmp_path / "b" / "result.json").exists()
    assert (tmp_path / "b" / MANIFEST).exists()


def test_a_run_without_results_leaves_its_folder_free_for_another(tmp_path):
    def attempt(path, steps, *files):
        with RunDirectory.open(path, "zoo", {"steps": steps}, 0, prepared=["starts"]) as run:
            for name in files:
                write_json(run.path / name, {})
            raise GenflowError("impossible")

    given = tmp_path / "given"  # a folder that the user made stays
    given.mkdir()
    for path, left in ((tmp_path / "new" / "zoo", None), (given, [".lock"])):
        for steps in (1, 2):
            with pytest.raises(GenflowError, match="impossible"):
                attempt(path, steps, "starts")
            assert (sorted(p.name for p in path.iterdir()) if path.exists() else None) == left
    assert not (tmp_path / "new").exists()
    with pytest.raises(GenflowError, match="impossible"):
        attempt(given, 3, "starts", "result")
    assert sorted(p.name for p in given.iterdir()) == [".lock", "result", MANIFEST, "starts"]
    with pytest.raises(GenflowError, match="another run"):
        attempt(given, 4)


def test_a_complete_run_that_is_read_again_stays(tmp_path):
    with RunDirectory.open(tmp_path / "r", "zoo", {}, 0) as run:
        run.update(complete=True)
    with pytest.raises(GenflowError, match="unreadable"), RunDirectory.open(tmp_path / "r", "zoo", {}, 0):
        raise GenflowError("unreadable")
    assert (tmp_path / "r" / MANIFEST).exists()


def test_a_run_of_the_first_edition_says_what_can_be_done_with_it(tmp_path):
    with RunDirectory.open(tmp_path / "run", "zoo", {"a": 1}, 0):
        pass
    manifest = json.loads((tmp_path / "run" / MANIFEST).read_text())
    del manifest["format"]
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(manifest))
    refused = pytest.raises(GenflowError, match=r"a run of the first edition of genflow.*`genflow convert`")
    with refused, RunDirectory.open(tmp_path / "run", "zoo", {"a": 1}, 0):
        pass
