"""Starting workers with torch's elastic agent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from genflow.distributed.process_group import (
    AGENT_PID,
    INTERRUPTED,
    RENDEZVOUS_DONE,
    SEVERAL_NODES,
    STATUS_FOLDER,
    check_network_interface,
)
from genflow.errors import GenflowError

#: seconds that workers have to write their checkpoints after a signal to stop
SHUTDOWN_TIMEOUT = 120
#: seconds to wait for an answer from the process that listens at the rendezvous endpoint
PROBE_SECONDS = 10


@dataclass(frozen=True)
class LaunchOptions:
    """The launch options, named as in torchrun, with None for an option that was not given."""

    nproc_per_node: str | None = None
    nnodes: str | None = None
    rdzv_endpoint: str | None = None
    max_restarts: int | None = None

    @property
    def given(self) -> bool:
        """Whether any of the options was given, so that workers must be launched."""
        return self != LaunchOptions()

    def processes(self) -> int:
        """Return the number of workers on this machine.

        Raises:
            GenflowError: the option is not a valid number, or asks for GPUs that the machine does not have.
        """
        import torch

        wanted = self.nproc_per_node or "1"
        gpus = torch.cuda.device_count()
        if wanted == "gpu" and not gpus:
            raise GenflowError(
                "--nproc-per-node gpu: this machine has no CUDA device; give a number, or auto"
            )
        if wanted in ("gpu", "auto"):
            return gpus or cores()
        if not wanted.isdecimal() or not 1 <= int(wanted) <= 1024:
            raise GenflowError(
                f"--nproc-per-node must be a number from 1 to 1024, gpu or auto, not {wanted!r}"
            )
        return int(wanted)

    def nodes(self) -> tuple[int, int]:
        """Return the smallest and the largest number of machines.

        Raises:
            GenflowError: the option is not N or MIN:MAX, or several machines have no endpoint to meet at.
        """
        wanted = self.nnodes or "1"
        match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", wanted)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            raise GenflowError(f"--nnodes must be a number or MIN:MAX with 1 <= MIN <= MAX, not {wanted!r}")
        if high > 1 and self.rdzv_endpoint is None:
            raise GenflowError(
                "--nnodes of more than one needs --rdzv-endpoint HOST:PORT, the same on every machine"
            )
        return low, high

    def endpoint(self) -> str:
        """Return the address of the rendezvous, as HOST:PORT.

        Raises:
            GenflowError: the option is not HOST:PORT.
        """
        wanted = self.rdzv_endpoint or "localhost:0"
        host, colon, port = wanted.rpartition(":")
        if not (host and colon and port.isdecimal() and int(port) < 65536):
            raise GenflowError(f"--rdzv-endpoint must be HOST:PORT, not {wanted!r}")
        return wanted


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_endpoint(endpoint: str) -> None:
    """Raise an error if a program other than a torch store listens at the rendezvous endpoint.

    Without this check, torch would wait for an answer indefinitely.

    Raises:
        GenflowError: the listener did not answer as a torch store within `PROBE_SECONDS`.
    """
    host, port = endpoint.rpartition(":")[0].strip("[]"), int(endpoint.rpartition(":")[2])
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except (OSError, OverflowError):
        return  # nothing listens yet; the agent waits, and reports it if that fails
    from torch.distributed import TCPStore

    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(RuntimeError):
            TCPStore(host, port, is_master=False, timeout=timedelta(seconds=PROBE_SECONDS)).check([])
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PROBE_SECONDS)
    if not answered.is_set():
        raise GenflowError(f"{endpoint} is in use by something else; choose another port for --rdzv-endpoint")


def launch(options: LaunchOptions, arguments: Sequence[str]) -> int:
    """Run ``genflow ARGUMENTS`` on workers, through torch's elastic agent.

    Returns:
        The exit status of the command, 130 after a signal, or 1 when the workers failed more often than
        `max_restarts`.

    Raises:
        GenflowError: an option is invalid, or the rendezvous fails.
    """
    low, high = options.nodes()
    endpoint, processes = options.endpoint(), options.processes()
    check_network_interface()
    check_endpoint(endpoint)
    # otherwise the store of a failed attempt would give the next attempt stale addresses
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    import logging

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # this process only runs the agent, and its failures are reported below
    logging.disable(logging.ERROR)
    local = endpoint.rpartition(":")[0] in ("localhost", "127.0.0.1")
    folder = Path(tempfile.mkdtemp(prefix="genflow-"))
    status = folder / "status"
    status.mkdir()
    os.environ |= {AGENT_PID: str(os.getpid()), STATUS_FOLDER: str(status)} | (
        {SEVERAL_NODES: str(high)} if high > 1 else {}
    )
    config = LaunchConfig(
        min_nodes=low,
        max_nodes=high,
        nproc_per_node=processes,
        # only machines with the same command may join, whatever their number of workers
        run_id=hashlib.sha256(
            re.sub(r"--nproc-per-node[= ]\S+", "", " ".join(arguments)).encode()
        ).hexdigest()[:16],
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        local_addr="127.0.0.1" if local else None,
        max_restarts=3 if options.max_restarts is None else options.max_restarts,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
    )
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "genflow", *arguments)
        return max((int(path.read_text()) for path in status.iterdir()), default=0)
    except SignalException:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except ChildFailedError as error:
        ends = ", ".join(
            f"worker {rank} {_describe_exit(failure.exitcode)}"
            for rank, failure in sorted(error.failures.items())
        )
        print(
            f"genflow: {ends}, after {config.max_restarts} restarts; give the same command again to go on",
            file=sys.stderr,
        )
        return 1
    except (RendezvousError, ConnectionError) as error:
        if not (folder / RENDEZVOUS_DONE).exists():
            raise GenflowError(f"the machines cannot meet at {endpoint}: {error}") from error
        print(
            f"genflow: the machine at {endpoint} is lost; give the same command again to go on",
            file=sys.stderr,
        )
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _describe_exit(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
