"""Several machines: agents that meet, lose each other and meet again.

A lost machine is missed after a minute, so these take minutes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import GENFLOW, free_port, leftovers, quickly, same, started

pytestmark = pytest.mark.slow
LONG = ["-o", "zoo.steps=4000", "-o", "zoo.checkpoint_seconds=0.3"]


@pytest.fixture(scope="module")
def zoo(small, tmp_path_factory):
    """What one process makes."""
    out = tmp_path_factory.mktemp("long")
    quickly("train-zoo", "--config", small, "--out", out / "zoo", *LONG, folder=out)
    return out / "zoo"


def log(folder):
    """What all workers have written to their logs."""
    return (
        "".join(path.read_text() for path in sorted((folder / "logs").glob("rank-*.log")))
        if folder.exists()
        else ""
    )


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def goes_on_alone(job, before, out, moment):
    """Until a machine has started its worker again, without the other, and that has got somewhere."""
    job.until(lambda: job.workers() and not set(job.workers()) & set(before), "a restart")
    began = time.time()
    job.until(lambda: any(written(path) > began for path in out.rglob("checkpoint-*")), "work of one machine")
    print(f"missed and made good for after {time.time() - moment:.0f} s")


def written(path):
    """When a file was written; 0 if it is gone by now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


def test_a_machine_that_dies_and_comes_back(small, zoo, tmp_path):
    out, port = tmp_path / "zoo", free_port()
    command = ["train-zoo", "--config", small, "--out", out, *LONG]
    command += [
        "--nproc-per-node",
        1,
        "--nnodes",
        "1:2",
        "--rdzv-endpoint",
        f"127.0.0.1:{port}",
        "--max-restarts",
        9,
    ]
    with started(*command, TMPDIR=tmp_path) as one:
        one.until(lambda: listens(port), "the place to meet")
        with started(*command, TMPDIR=tmp_path) as two:
            two.until(lambda: "worker 1 of 2" in log(out), "the second machine")
            two.until(lambda: len(list(out.rglob("checkpoint-*"))) >= 2, "work on both")
            before, moment = one.workers(), time.time()
            two.send(signal.SIGKILL)
            two.wait(-signal.SIGKILL)
        goes_on_alone(one, before, out, moment)
        with started(*command, TMPDIR=tmp_path) as two:
            before = log(out).count("worker 1 of 2")
            two.until(lambda: log(out).count("worker 1 of 2") > before, "the second machine again")
            two.wait(0)
        one.wait(0)
        assert "Traceback" not in one.stderr
    same(out, zoo)
    assert leftovers(out) == []


# machines that have nothing but the network in common


class Machine:
    """A network namespace with a name and an address of its own."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.etc = Path("/etc/netns") / name

    def command(self) -> list[str]:
        """Runs genflow there."""
        return [
            "ip",
            "netns",
            "exec",
            self.name,
            "unshare",
            "--uts",
            "sh",
            "-c",
            f'hostname {self.name} && exec "$@"',
            "sh",
            *GENFLOW,
        ]


def run(*words):
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=60)


@pytest.fixture
def machines():
    """Two, joined by a wire."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    unique = os.getpid() % 10_000
    pair = [
        Machine(f"genflow{unique}{letter}", f"10.213.7.{place}") for place, letter in ((1, "a"), (2, "b"))
    ]
    one, two = pair
    made = [["ip", "netns", "add", machine.name] for machine in pair]
    made.append(
        [
            "ip",
            "link",
            "add",
            "wire",
            "netns",
            one.name,
            "type",
            "veth",
            "peer",
            "name",
            "wire",
            "netns",
            two.name,
        ]
    )
    for machine in pair:
        within = ["ip", "-n", machine.name]
        made += [
            [*within, "link", "set", "lo", "up"],
            [*within, "addr", "add", f"{machine.address}/24", "dev", "wire"],
        ]
        made.append([*within, "link", "set", "wire", "up"])
    try:
        for words in made:
            try:
                done = run(*words)
            except FileNotFoundError:
                pytest.skip("there is no `ip`")
            if done.returncode:
                pytest.skip(f"no network namespace: {' '.join(words)}: {done.stderr.strip()}")
        for machine in pair:
            machine.etc.mkdir(parents=True)
            hosts = "".join(f"{other.address} {other.name}\n" for other in pair)
            (machine.etc / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        yield pair
    finally:
        for machine in pair:
            run("ip", "netns", "del", machine.name)
            with contextlib.suppress(OSError):
                (machine.etc / "hosts").unlink()
                machine.etc.rmdir()


def test_machines_that_are_cut_off_and_joined_again(small, zoo, machines, tmp_path):
    """Nobody is told that a wire was cut: the silence is noticed, what the other had taken is made anew."""
    one, two = machines
    out = tmp_path / "zoo"
    command = ["train-zoo", "--config", small, "--out", out, *LONG]
    command += [
        "--nproc-per-node",
        1,
        "--nnodes",
        "1:2",
        "--rdzv-endpoint",
        f"{one.address}:29511",
        "--max-restarts",
        9,
    ]
    interface = {"GLOO_SOCKET_IFNAME": "wire", "TMPDIR": tmp_path}
    with (
        started(*command, command=one.command(), **interface) as first,
        started(*command, command=two.command(), **interface) as second,
    ):
        first.until(lambda: "worker 1 of 2" in log(out), "both machines")
        assert all(f"of 2 on {machine.name}" in log(out) for machine in machines)
        first.until(lambda: len(list(out.rglob("checkpoint-*"))) >= 2, "work on both")
        before, moment = first.workers(), time.time()
        assert run("ip", "-n", two.name, "link", "set", "wire", "down").returncode == 0
        goes_on_alone(first, before, out, moment)
        second.end()
        assert run("ip", "-n", two.name, "link", "set", "wire", "up").returncode == 0
        with started(*command, command=two.command(), **interface) as again:
            before = log(out).count("worker 1 of 2")
            again.until(lambda: log(out).count("worker 1 of 2") > before, "both machines again")
            again.wait(0)
        first.wait(0)
    same(out, zoo)
    assert leftovers(out) == []
