"""Joining the process group: what the environment tells a worker, and how it leaves.

torch's elastic agent starts workers, and starts them again after a failure; work goes on from the run
directory, which all machines must see.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

from genflow.distributed.world import ALONE, HEARTBEAT_SECONDS, World, raise_worker_lost, use_world
from genflow.errors import GenflowError

INTERRUPTED = "genflow: interrupted; give the same command again to go on"
#: environment variables of our agent's workers: its process, the folder where they leave their exit statuses,
#: and set where there may be several machines
AGENT_PID, STATUS_FOLDER, SEVERAL_NODES = "GENFLOW_AGENT", "GENFLOW_STATUS", "GENFLOW_MACHINES"
#: a file beside that folder, there once workers have been started
RENDEZVOUS_DONE = "rendezvous-done"
_PR_SET_PDEATHSIG = 1
#: what `_count_gpus` has found; nothing outside of a process group
_counted = {"workers": 1, "gpus": 0, "crowded_workers": 0, "fewest_gpus": 0}


def is_worker(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started as a worker: by our agent, torchrun or the like."""
    return "RANK" in environ and "WORLD_SIZE" in environ


def slurm_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """torchrun's variables from those of a Slurm job step of several tasks; {} outside of one.

    What the user sets of MASTER_ADDR and MASTER_PORT stays.
    """
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) < 2 or "SLURM_PROCID" not in environ:
        return {}
    # the first of e.g. "gpu[03-07,12],login1"
    first = re.match(r"([^\[,]+)(?:\[(\d+))?", environ.get("SLURM_STEP_NODELIST", "localhost"))
    number = int(environ.get("SLURM_JOB_ID", "0")) * 31 + int(environ.get("SLURM_STEP_ID", "0"))
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environ.get("MASTER_ADDR")
        or ("".join(part or "" for part in first.groups()) if first else "localhost"),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(20_000 + number % 20_000),
    }


@contextlib.contextmanager
def join_process_group() -> Iterator[World]:
    """Join the workers that the environment tells of; alone if it tells of none.

    Raises:
        WorkerLost: the others cannot be reached.
        GenflowError: GLOO_SOCKET_IFNAME names an interface that is not there.
    """
    global _counted
    if not is_worker():
        os.environ.update(slurm_variables())
    if not is_worker():
        yield ALONE
        return
    _die_with_agent()
    import torch
    import torch.distributed as dist

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank == 0 and STATUS_FOLDER in os.environ:
        # what an attempt before this one has left; nobody ends before all have joined
        folder = Path(os.environ[STATUS_FOLDER])
        for left in folder.iterdir():
            left.unlink()
        folder.with_name(RENDEZVOUS_DONE).touch()
    check_network_interface()
    if torch.cuda.is_available() and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    with raise_worker_lost():
        store, rank, size = next(dist.rendezvous("env://"))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # it outlives a restart, and still holds what the last attempt said; but machines do not count
            # restarts alike
            store = dist.PrefixStore(f"attempt-{attempt}", store)
        # tensors on the CPU are summed by gloo; NCCL is not touched before one on a GPU is
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=dist.PrefixStore("torch", store),
            rank=rank,
            world_size=size,
            timeout=timedelta(minutes=10),
        )
        _counted = _count_gpus(local_rank)
    if was_restarted() and rank == 0:
        most = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "?")
        again = f"all were started again and go on (restart {attempt} of {most})"
        print(f"genflow: a worker failed; {again}", file=sys.stderr)
    workers = World(rank, size, local_rank, dist.PrefixStore("genflow", store))
    workers.send_heartbeat()
    threading.Thread(target=_keep_sending_heartbeats, args=(workers,), daemon=True).start()
    with use_world(workers):
        try:
            with contextlib.redirect_stdout(sys.stdout if rank == 0 else open(os.devnull, "w")):
                yield workers
        except GenflowError:
            workers.shutdown_barrier()
            raise
        workers.shutdown_barrier()
    # after a failure the others may be gone, and a clean end would wait for them
    dist.destroy_process_group()


def _count_gpus(local_rank: int) -> dict[str, int]:
    """How workers and GPUs are spread over the machines; all workers learn the same, through gloo.

    Returns:
        Most workers of a machine, most GPUs of one, and of the machines with more workers than GPUs (0 if
        there is none) the most workers and the fewest GPUs.
    """
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count()
    crowded = [local_rank + 1, -gpus] if local_rank >= gpus else [0, -(2**31)]
    found = torch.tensor([local_rank + 1, gpus, *crowded])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    workers, gpus, crowded_workers, fewest = (int(number) for number in found)
    return {"workers": workers, "gpus": gpus, "crowded_workers": crowded_workers, "fewest_gpus": -fewest}


def require_gpu_for_each_worker(device: str) -> None:
    """Refuse GPUs where a machine has more workers than GPUs: NCCL takes one GPU a worker.

    Args:
        device: as it is configured, e.g. "auto" or "cuda".

    Raises:
        GenflowError: on all workers alike, so that none waits for another.
    """
    if device == "cpu" or not _counted["gpus"]:
        return
    workers, gpus = _counted["crowded_workers"], _counted["fewest_gpus"]
    if workers:
        raise GenflowError(
            f"a machine has {workers} workers for {gpus} GPU{'s' * (gpus != 1)},"
            " and each worker needs one of its own; use --nproc-per-node gpu, or -o device=cpu"
        )
    if ":" in device and _counted["workers"] > 1:
        raise GenflowError(f"device {device!r} is one GPU for several workers; use -o device=cuda")


def check_network_interface() -> None:
    """Refuse a network interface that this machine does not have before gloo fails on every worker.

    Raises:
        GenflowError: GLOO_SOCKET_IFNAME names one.
    """
    wanted = os.environ.get("GLOO_SOCKET_IFNAME", "")
    there = [name for _, name in socket.if_nameindex()]
    for name in filter(None, wanted.split(",")):
        if name not in there:
            raise GenflowError(
                f"GLOO_SOCKET_IFNAME names the network interface {name!r};"
                f" this machine has {', '.join(there)}"
            )


def _keep_sending_heartbeats(workers: World) -> None:
    while True:
        time.sleep(HEARTBEAT_SECONDS)
        try:
            workers.send_heartbeat()
        except RuntimeError:  # the store is gone, and with it those who listen
            return


def is_rank_zero() -> bool:
    """Whether this process is rank 0, or alone; known without joining the others."""
    return os.environ.get("RANK", "0") == "0"


def is_supervised() -> bool:
    """Whether our agent started this process, and speaks for it when it is stopped."""
    return AGENT_PID in os.environ and is_worker()


def was_restarted() -> bool:
    """Whether these workers were started again after a failure, as far as this machine knows."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def may_replace_workers() -> bool:
    """Whether workers before these may still be ending: after a restart, or those of other machines."""
    return was_restarted() or SEVERAL_NODES in os.environ


def report_status(status: int) -> int:
    """The status to end this process with, for its command to end with `status`.

    Our agent takes any other than 0 for a failure that another try may mend; its workers leave theirs
    in a file.
    """
    folder = os.environ.get(STATUS_FOLDER)
    if folder is None or not is_worker():
        return status
    (Path(folder) / os.environ["RANK"]).write_text(str(status))
    return 0


def _die_with_agent() -> None:
    """Without an agent nobody would stop this worker, and it would keep the run directory locked."""
    agent = os.environ.get(AGENT_PID)
    if agent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(agent):
        os._exit(1)
