"""Whole commands as processes of their own: started, killed, waited for, compared by what they leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

PATIENCE = 600
GENFLOW = [sys.executable, "-m", "genflow"]
#: what commands import sooner or later
IMPORTED = [
    "diffusers", "gfn.samplers", "genflow.cli.evaluate", "genflow.cli.generate", "genflow.cli.train",
    "genflow.evaluation.report", "genflow.pipeline", "genflow_denoisers.unet1d", "genflow_encoders.conv1d",
    "genflow_encoders.coordinate", "genflow_hypergrid.environment", "genflow_policies.mlp3",
]  # fmt: skip
#: variables that would make a command a worker of whatever runs these tests
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment(**more: object) -> dict[str, str]:
    """That of a command: one thread, and none of our own workers' or jobs' variables."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in FOREIGN and not k.startswith(("SLURM_", "TORCHELASTIC_", "GENFLOW_"))
    }
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        **{name: str(value) for name, value in more.items()},
    }


class Job:
    """A command that runs, in a session of its own."""

    def __init__(
        self, *args: object, command: list[str] | None = None, cwd: Path | None = None, **variables: object
    ) -> None:
        self.process = subprocess.Popen(
            [*(command or GENFLOW), *map(str, args)], cwd=cwd, env=environment(**variables),
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.began = time.time()
        self.stdout = self.stderr = ""
        self._workers: set[int] = set()

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.poll()

    def workers(self) -> list[int]:
        """The processes that it has started and that live, oldest first."""
        found = [pid for pid in children(self.process.pid) if b"genflow" in _read(pid, "cmdline")]
        self._workers.update(found)
        return found

    def send(self, number: int) -> None:
        """Signal the command itself, not its workers."""
        self.process.send_signal(number)

    def kill(self, worker: int, number: int = signal.SIGKILL) -> None:
        """Signal one of its workers."""
        os.kill(worker, number)

    def wait(self, status: int | None = 0) -> Job:
        """Wait for the end, and check the status."""
        try:
            self.stdout, self.stderr = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.end()
            raise
        assert status is None or self.process.returncode == status, (
            f"status {self.process.returncode}, not {status}\n{self.stdout}\n{self.stderr}"
        )
        return self

    def until(self, happened: Callable[[], object], what: str) -> Any:
        """Wait for something that happens while the command runs."""
        return until(lambda: happened() or (self.status is not None and _ended(self, what)), what)

    def end(self) -> None:
        """Kill what is left of it."""
        self.workers()
        for pid in (self.process.pid, *self._workers):
            _kill(pid)
        self.process.communicate()


def _ended(job: Job, what: str) -> None:
    job.wait(None)
    raise AssertionError(f"ended with status {job.status} before {what}\n{job.stdout}\n{job.stderr}")


def until(happened: Callable[[], object], what: str, patience: float = PATIENCE) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + patience
    while not (found := happened()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return found


@contextmanager
def started(*args: object, **options: Any) -> Iterator[Job]:
    """A `Job` that is gone afterwards, whatever happens."""
    job = Job(*args, **options)
    try:
        yield job
    finally:
        job.end()


# commands that need not load everything first


class Warm:
    """A command in a process that begins with everything imported: a second instead of five.

    A variable FILE_LIMIT is the size in bytes that its files may have.
    """

    def __init__(
        self,
        *args: object,
        folder: Path,
        name: str = "command",
        cwd: Path | None = None,
        **variables: object,
    ) -> None:
        self.output = {"stdout": folder / f"{name}.out", "stderr": folder / f"{name}.err"}
        folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        files = [str(self.output[stream]) for stream in ("stdout", "stderr")]
        self.process = context.Process(
            target=_command,
            args=([*map(str, args)], environment(**variables), str(cwd or Path.cwd()), *files),
        )
        self.process.start()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.exitcode

    def send(self, number: int) -> None:
        """Signal it."""
        os.kill(self.pid, number)

    def wait(self, status: int | None = 0) -> Warm:
        """Wait for the end, and check the status."""
        self.process.join(PATIENCE)
        found = self.process.exitcode
        if found is None:
            self.end()
        assert status is None or found == status, (
            f"status {found}, not {status}\n{self.said('stdout')}\n{self.said('stderr')}"
        )
        return self

    def until(self, happened: Callable[[], object], what: str) -> Any:
        """Wait for something that happens while the command runs."""

        def ended() -> None:
            raise AssertionError(f"ended with status {self.status} before {what}\n{self.said('stderr')}")

        return until(lambda: happened() or (self.status is not None and ended()), what)

    def said(self, stream: str) -> str:
        """What it has written to a stream."""
        return self.output[stream].read_text() if self.output[stream].exists() else ""

    def end(self) -> None:
        """Kill it if it lives."""
        self.process.kill()
        self.process.join(PATIENCE)


def _command(args: list[str], variables: dict[str, str], cwd: str, stdout: str, stderr: str) -> None:
    """What a warm process does."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    for place, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), place)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    torch.set_num_threads(1)
    if limit := int(variables.get("FILE_LIMIT", "0")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from genflow.cli.main import main

    main(args)


@contextmanager
def warm(*args: object, **options: Any) -> Iterator[Warm]:
    """A `Warm` command that is gone afterwards, whatever happens."""
    command = Warm(*args, **options)
    try:
        yield command
    finally:
        command.end()


def quickly(*args: object, status: int = 0, **options: Any) -> Warm:
    """Run a warm command to its end."""
    with warm(*args, **options) as command:
        return command.wait(status)


def genflow(*args: object, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a warm command to its end, and return what it has said."""
    with tempfile.TemporaryDirectory() as folder:
        command = quickly(*args, status=status, **{"folder": Path(folder), **options})
        said = (command.said(stream) for stream in ("stdout", "stderr"))
        return subprocess.CompletedProcess([*map(str, args)], status, *said)


def refused(*args: object, **options: Any) -> str:
    """Run a warm command that must fail as a mistake of the user's, and return its one line."""
    done = genflow(*args, status=2, **options)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("genflow: "), done.stderr
    return lines[0]


def group(size: int, *args: object, folder: Path, status: int | None = 0, **variables: object) -> list[Warm]:
    """Run a command on workers, as torchrun would start them."""
    port = free_port()
    shared: dict[str, Any] = {
        "WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        **variables,
    }
    workers = [
        Warm(*args, folder=folder, name=f"worker-{rank}", RANK=rank, LOCAL_RANK=rank, **shared)
        for rank in range(size)
    ]  # fmt: skip
    try:
        return [worker.wait(status) for worker in workers]
    finally:
        for worker in workers:
            worker.end()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# processes


def children(pid: int) -> list[int]:
    """The living children of a process, oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (stat := _read(int(entry.name), "stat")):
            state, parent, *rest = stat.rpartition(b")")[2].split()
            if int(parent) == pid and state != b"Z":
                found.append((int(rest[17]), int(entry.name)))
    return [child for _, child in sorted(found)]


def lives(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    stat = _read(pid, "stat")
    return bool(stat) and stat.rpartition(b")")[2].split()[0] != b"Z"


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# what a command leaves behind


def numbers(folder: Path) -> dict[str, Any]:
    """Everything a command has computed: tensors and what its JSON files say, without the seconds."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found |= {f"{name}:{key}": tensor for key, tensor in load_file(path).items()}
        elif path.suffix == ".json":
            found[name] = untimed(json.loads(path.read_text()))
    return found


def untimed(data: Any) -> Any:
    """JSON without anything that is called "seconds"."""
    if isinstance(data, Mapping):
        return {key: untimed(value) for key, value in data.items() if key != "seconds"}
    return [untimed(value) for value in data] if isinstance(data, list) else data


def same(one: Path, other: Path) -> None:
    """Two folders hold the same numbers, bit for bit."""
    found, expected = numbers(one), numbers(other)
    assert found.keys() == expected.keys()
    odd = [
        k
        for k, v in expected.items()
        if not (v.equal(found[k]) if isinstance(v, torch.Tensor) else v == found[k])
    ]
    assert not odd, f"{one} and {other} differ in {odd[:5]}"


def close(found: Any, expected: Any, rtol: float, atol: float, where: str = "") -> None:
    """JSON-able data or tensors are equal, numbers up to rounding."""
    if isinstance(expected, torch.Tensor | float):
        torch.testing.assert_close(
            found, expected, rtol=rtol, atol=atol, msg=lambda text: f"{where}: {text}", check_dtype=False
        )
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            close(found[key], value, rtol, atol, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, value in enumerate(expected):
            close(found[place], value, rtol, atol, f"{where}[{place}]")
    else:
        assert found == expected, where


def newest(folder: Path) -> int:
    """The step of the newest checkpoint under a folder, 0 if there is none."""
    return max((int(path.name.split("-")[1]) for path in folder.rglob("checkpoint-*.safetensors")), default=0)


def leftovers(folder: Path) -> list[str]:
    """Temporary files and checkpoints that nobody has removed."""
    return sorted(
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if ".tmp" in p.name or p.name.startswith("checkpoint")
    )
