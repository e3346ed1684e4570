"""What the operating system refuses is one line for the user, whatever the command."""

import os
import subprocess

import pytest
from processes import GENFLOW, environment

from genflow.cli.main import main

LONG = "a" * 300


#: what PYTHONUNBUFFERED may be: output is written at the end, or at once
BUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


def written_to(stdout, unbuffered, *args):
    """Run a command whose standard output is a file: its status and what it says of errors."""
    done = subprocess.run(
        [*GENFLOW, *args], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=240,
        env=environment(PYTHONUNBUFFERED=unbuffered),
    )  # fmt: skip
    return done.returncode, done.stderr


@BUFFERED
@pytest.mark.parametrize("args", [["--help"], ["list-plugins", "--json"]], ids=["help", "json"])
def test_a_full_disk_behind_standard_output_is_one_line(args, unbuffered):
    with open("/dev/full", "w") as full:
        status, err = written_to(full, unbuffered, *args)
    assert (status, err) == (1, "genflow: cannot write to standard output: No space left on device\n")


@BUFFERED
def test_a_reader_that_has_seen_enough_is_told_nothing(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        assert written_to(closed, unbuffered, "list-plugins", "--json") == (1, "")


TRAIN = ["train-zoo", "--env", "hypergrid", "--structure", "ndim=2,height=4", "--num", "1"]


@pytest.mark.parametrize(
    "args",
    [
        [*TRAIN, "--out", LONG],
        [*TRAIN, "--out", f"{LONG}/zoo"],
        ["run", "job.toml", "--out", LONG],
        ["run", LONG],
        ["--plugin", f"{LONG}.py", "list-plugins"],
        ["evaluate", LONG],
        ["finetune", LONG, "--out", "made"],
        ["report", LONG],
    ],
    ids=["out", "parent", "run", "job", "plugin", "evaluate", "finetune", "report"],
)
def test_a_name_that_is_too_long_is_one_line(tmp_path, monkeypatch, capsys, args):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text('env = "hypergrid"\nstructures = ["ndim=2,height=4"]\n')
    with pytest.raises(SystemExit) as stop:
        main(args)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.startswith("genflow: ") and "aaaa" in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_an_error_of_the_system_that_nothing_expects_is_one_line(monkeypatch, capsys):
    """What is not caught where it happens, such as too many open files, is told by the command itself."""

    def refuse(*_, **__):
        raise OSError(24, "Too many open files", "/data/zoo")

    monkeypatch.setattr("genflow.cli.main.cli.main", refuse)
    with pytest.raises(SystemExit) as stop:
        main(["list-plugins"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "genflow: cannot use /data/zoo: Too many open files\n"
