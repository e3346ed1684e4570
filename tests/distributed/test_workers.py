"""Workers as processes: what one does wrong, all learn of, and nobody waits for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch
from processes import IMPORTED, PATIENCE, environment, free_port

from genflow import GenflowError
from genflow.config import load_config
from genflow.distributed.process_group import join_process_group
from genflow.distributed.world import WorkerLost, World

CONTEXT = multiprocessing.get_context("forkserver")


def work_of(size, work, gpus=0):
    """Call work(world) on so many workers of a machine; what each returned or raised, by rank."""
    CONTEXT.set_forkserver_preload(IMPORTED)
    ends, port = CONTEXT.SimpleQueue(), free_port()
    workers = [
        CONTEXT.Process(target=_worker, args=(rank, size, port, work, gpus, ends)) for rank in range(size)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
        worker.kill()
    found = {}
    while not ends.empty():
        rank, end = ends.get()
        found[rank] = end
    return [found.get(rank) for rank in range(size)]


def _worker(rank, size, port, work, gpus, ends):
    os.environ.update(
        environment(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    )
    torch.set_num_threads(1)
    torch.cuda.device_count = lambda: gpus
    try:
        with join_process_group() as workers:
            end = work(workers)
    except (GenflowError, WorkerLost) as error:
        end = (type(error).__name__, str(error))
    ends.put((rank, end))


def refuse():
    raise GenflowError("no room")


def add(workers: World):
    mine = torch.arange(6.0)[workers.rows(6)]
    return workers.all_reduce(mine.sum()).item(), workers.size, workers.rank, workers.is_rank_zero


def test_rows_and_sums_are_those_of_all():
    assert work_of(3, add) == [(15.0, 3, rank, rank == 0) for rank in range(3)]


def first_fails_late(workers: World):
    def work():
        time.sleep(1)  # the second looks ever more seldom
        refuse()

    return workers.on_rank_zero(work)


def first_fails_in_a_piece(workers: World):
    # the first worker fails while the second is still busy with its own
    def work(seconds):
        time.sleep(seconds if workers.is_rank_zero else 3 * seconds)
        return refuse() if workers.is_rank_zero else None

    return workers.map_dynamic([0.3] * 6, work)


def second_fails_in_a_piece(workers: World):
    def work(seconds):
        if not workers.is_rank_zero:
            refuse()
        time.sleep(seconds)

    return workers.map_dynamic([0.3] * 6, work)


def all_fail_at_the_same_step(workers: World):
    workers.all_reduce(torch.ones(1))
    refuse()


@pytest.mark.parametrize(
    "work", [first_fails_late, first_fails_in_a_piece, second_fails_in_a_piece, all_fail_at_the_same_step]
)
def test_a_mistake_is_the_same_one_for_all(work):
    """The first worker holds what the others read the mistake from."""
    assert work_of(2, work) == [("GenflowError", "no room")] * 2


def test_a_worker_that_is_gone_is_missed():
    """At once while a batch is dealt out; a silent one among those who share pieces: test_launch.py."""
    end, killed = work_of(2, killed_in_a_sum)
    assert end[0] == "WorkerLost" and killed is None


def killed_in_a_sum(workers: World):
    workers.all_reduce(torch.ones(1))
    if not workers.is_rank_zero:
        os.kill(os.getpid(), signal.SIGKILL)
    return workers.all_reduce(torch.ones(1)).item()


def choose_a_gpu(workers: World):
    load_config(env="hypergrid", device="auto").torch_device()
    workers.all_reduce(torch.ones(1))


def test_a_gpu_that_one_lacks_is_refused_to_all():
    """So that nobody waits for one that has ended."""
    ends = work_of(2, choose_a_gpu, gpus=1)
    assert ends[0] == ends[1] and ends[0][0] == "GenflowError"
    assert ends[0][1].startswith("a machine has 2 workers for 1 GPU,")
