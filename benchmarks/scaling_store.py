"""What holds workers together: calls of the store that they share, and the restart after one has died."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from statistics import median

import torch.distributed as dist
from report import Result
from scaling_jobs import PATIENCE, Bench, on, processes, start, stopped

from genflow.storage.runs import LOGS

CLIENTS = (1, 2, 8)
#: seconds that a measurement of the store lasts
STORE_SECONDS = 2.0


def store(bench: Bench) -> Result:
    """Calls of a TCPStore a second by 1, 2 and 8 processes that do nothing else.

    Its server has the same cores.
    """
    result = Result("store", "calls of a TCPStore a second")
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    sides = {n: f"{n} client{'s' * (n > 1)}" for n in CLIENTS}
    rates: dict[str, dict[str, list[float]]] = {
        kind: {side: [] for side in sides.values()} for kind in ("add", "check", "mixed")
    }
    for turn in range(bench.rounds):
        for n, side in sides.items():
            counts = processes(_call, n, server.port, list(rates), f"{n}-{turn}")
            for place, of_sizes in enumerate(rates.values()):
                of_sizes[side].append(sum(of_client[place] for of_client in counts) / STORE_SECONDS)
    for kind, of_sizes in rates.items():
        result.add(kind, "calls/s", of_sizes)
    # "mixed" is what a waiting worker does: check whether all is done, and add 0 to learn how much is
    result.facts = {"mixed_calls_a_second": max(median(values) for values in rates["mixed"].values())}
    return result


def _call(rank: int, count: int, port: int, kinds: list[str], name: str) -> list[int]:
    client = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    client.set(f"{name}/there", "")
    calls = {
        "add": [lambda: client.add(f"{name}/sum", 1)],
        "check": [lambda: client.check([f"{name}/there"])],
        "mixed": [lambda: client.check([f"{name}/over"]), lambda: client.add(f"{name}/sum", 0)],
    }
    counts = []
    for kind in kinds:
        client.add(f"{name}/{kind}", 1)
        while client.add(f"{name}/{kind}", 0) < count:
            time.sleep(0.01)
        done, until = 0, time.perf_counter() + STORE_SECONDS
        while time.perf_counter() < until:
            for call in calls[kind]:
                call()
            done += len(calls[kind])
        counts.append(done)
    return counts


def restart(bench: Bench) -> Result:
    """Seconds from the death of one of two workers until both are at work again."""
    result = Result(
        "restart",
        "seconds until a zoo goes on after one of its 2 workers was killed, and until it begins at all",
    )
    seconds: dict[str, list[float]] = {"start": [], "restart": []}
    for turn in range(bench.rounds):
        out = bench.work / f"restart-{turn}"
        options = ["--env", "hypergrid", *bench.named(), "-o", "zoo.steps=5000", "--out", out, *on(2)]
        began = time.perf_counter()
        with stopped(start("train-zoo", *options)) as process:
            joined = _await(process, out, 0)
            seconds["start"].append(time.perf_counter() - began)
            time.sleep(2)
            began = time.perf_counter()
            os.kill(int(joined[1]), signal.SIGKILL)
            _await(process, out, 1)
            seconds["restart"].append(time.perf_counter() - began)
    result.add("2 workers", "s", seconds)
    return result


def _await(process: subprocess.Popen, out: Path, attempt: int) -> re.Match:
    """Wait until the second worker's log tells of an attempt."""
    until = time.perf_counter() + PATIENCE
    while time.perf_counter() < until and process.poll() is None:
        log = out / LOGS / "rank-1.log"
        if log.exists() and (found := re.search(rf"process (\d+), restart {attempt}", log.read_text())):
            return found
        time.sleep(0.02)
    raise RuntimeError(f"attempt {attempt} of the workers never began")
