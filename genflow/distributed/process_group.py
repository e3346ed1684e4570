"""How a worker joins the process group that its environment variables describe, and how it leaves.

torch's elastic agent starts the workers, and restarts them after a failure. Work then resumes from the run
directory, which must be visible on all machines.
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
from genflow.value_text import count_of

INTERRUPTED = "genflow: interrupted; give the same command again to go on"
#: environment variables that our agent sets for its workers: its process id, the folder for their exit
#: statuses, and the largest number of machines if it is above one
AGENT_PID, STATUS_FOLDER, SEVERAL_NODES = "GENFLOW_AGENT", "GENFLOW_STATUS", "GENFLOW_MACHINES"
#: a file beside the status folder, created once workers have started
RENDEZVOUS_DONE = "rendezvous-done"
_PR_SET_PDEATHSIG = 1
#: the result of `_count_gpus`, or this default outside of a process group
_counted = {"workers": 1, "gpus": 0, "crowded_workers": 0, "fewest_gpus": 0}


def is_worker(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started as a worker, e.g. by our agent or by torchrun."""
    return "RANK" in environ and "WORLD_SIZE" in environ


def slurm_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Translate the variables of a Slurm job step into those of torchrun.

    MASTER_ADDR and MASTER_PORT keep the values that the user has set. Outside of a job step with several
    tasks the result is empty.
    """
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) < 2 or "SLURM_PROCID" not in environ:
        return {}
    # the first node of a list such as "gpu[03-07,12],login1"
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
    """Join the process group that the environment variables describe, or run alone without one.

    Raises:
        WorkerLost: the other workers cannot be reached.
        GenflowError: GLOO_SOCKET_IFNAME names an interface that this machine does not have.
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
        # remove the statuses of an earlier attempt; no worker ends before all have joined
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
            # the agent's store outlives a restart, so each attempt needs keys of its own
            store = dist.PrefixStore(f"attempt-{attempt}", store)
        # gloo reduces CPU tensors, and NCCL starts only when a GPU tensor is reduced
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
    # not in a finally clause: after a failure this would wait for workers that are gone
    dist.destroy_process_group()


def _count_gpus(local_rank: int) -> dict[str, int]:
    """Find out by an all-reduce how workers and GPUs are distributed over the machines.

    Returns:
        The largest number of workers and of GPUs on a machine; and among the machines with more workers than
        GPUs, the largest number of workers (0 without such a machine) and the smallest number of GPUs.
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
    """Raise an error if the workers of a machine outnumber its GPUs, because NCCL needs a GPU for each.

    Args:
        device: the configured device, e.g. "auto" or "cuda".

    Raises:
        GenflowError: there are too few GPUs. All workers raise it, so that none waits for another.
    """
    if device == "cpu" or not _counted["gpus"]:
        return
    workers, gpus = _counted["crowded_workers"], _counted["fewest_gpus"]
    if workers:
        raise GenflowError(
            f"a machine has {count_of(workers, 'worker')} for {count_of(gpus, 'GPU')},"
            " and each worker needs one of its own; use --nproc-per-node gpu, or -o device=cpu"
        )
    if ":" in device and _counted["workers"] > 1:
        raise GenflowError(f"device {device!r} is one GPU for several workers; use -o device=cuda")


def check_network_interface() -> None:
    """Check GLOO_SOCKET_IFNAME before gloo fails on every worker.

    Raises:
        GenflowError: the variable names a network interface that this machine does not have.
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
        except RuntimeError:  # the store is closed, so nobody reads heartbeats any more
            return


def is_rank_zero() -> bool:
    """Whether this process has rank 0 or runs alone, which does not need a process group."""
    return os.environ.get("RANK", "0") == "0"


def is_supervised() -> bool:
    """Whether our agent started this process, and prints the message when it is interrupted."""
    return AGENT_PID in os.environ and is_worker()


def was_restarted() -> bool:
    """Whether the agent of this machine has restarted its workers after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def may_replace_workers() -> bool:
    """Whether workers of an earlier attempt may still be running, here or on other machines."""
    return was_restarted() or SEVERAL_NODES in os.environ


def report_status(status: int) -> int:
    """Return the exit status of this process that makes the whole command exit with `status`.

    Our agent restarts workers that exit with a status other than 0. So its workers write the status to a
    file, from which the agent reads it, and exit with 0.
    """
    folder = os.environ.get(STATUS_FOLDER)
    if folder is None or not is_worker():
        return status
    (Path(folder) / os.environ["RANK"]).write_text(str(status))
    return 0


def _die_with_agent() -> None:
    """Kill this worker when its agent dies, so that it does not keep the run directory locked."""
    agent = os.environ.get(AGENT_PID)
    if agent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(agent):
        os._exit(1)
