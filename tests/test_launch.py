"""Workers: how work is shared out, what the environment tells, and what the options refuse.

Whole commands: tests/distributed/.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from processes import free_port
from torch.distributed import HashStore, PrefixStore, TCPStore

from genflow import GenflowError
from genflow.cli.main import main
from genflow.config import load_config
from genflow.distributed import launcher, process_group
from genflow.distributed import world as world_module
from genflow.distributed.launcher import LaunchOptions, cores
from genflow.distributed.process_group import is_worker, slurm_variables
from genflow.distributed.work_queue import WorkQueue, wait_for_key
from genflow.distributed.world import ALONE, WorkerLost, World, world

PATIENCE = 60


def together(size, work):
    """Call work(world) in a thread a worker; what each returned or raised, by rank."""
    store = HashStore()
    ends: list = [None] * size

    def one(rank):
        try:
            workers = World(rank, size, rank, PrefixStore("genflow", store))
            workers.send_heartbeat()
            ends[rank] = work(workers)
        except Exception as error:
            ends[rank] = error

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a worker waits for ever"
    return ends


class Silent:
    """A store that nobody answers."""

    def __getattr__(self, name):
        def lost(*_):
            raise RuntimeError("Connection reset by peer\nC++ trace")

        return lost


# a queue


@pytest.mark.parametrize(("pieces", "takers"), [(1, 3), (7, 1), (40, 5), (3, 3)])
def test_every_piece_is_taken_once_and_the_results_are_in_order(pieces, takers):
    costs = [random.Random(pieces).random() for _ in range(pieces)]
    store, lock, taken = HashStore(), threading.Lock(), []

    def take(seed):
        queue, naps = WorkQueue(store, "work", costs), random.Random(seed)
        while (piece := queue.take()) is not None:
            with lock:
                taken.append(piece)
            time.sleep(0.002 * naps.random())
            queue.finish(piece, {"square": piece**2})
        results.append(queue.results())

    results: list = []
    threads = [threading.Thread(target=take, args=(seed,), daemon=True) for seed in range(takers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(taken) == list(range(pieces))
    assert results == [[{"square": piece**2} for piece in range(pieces)]] * takers


def test_interleaved_takers_get_the_costliest_pieces_first():
    store = HashStore()
    one, two = (WorkQueue(store, "work", [1.0, 5.0, 5.0, 2.0]) for _ in range(2))
    assert [one.take(), two.take(), two.take(), one.take(), one.take(), two.take()] == [
        1,
        2,
        3,
        0,
        None,
        None,
    ]


def test_queues_of_different_names_share_a_store():
    store = HashStore()
    one, two = WorkQueue(store, "one", [1.0]), WorkQueue(store, "two", [1.0])
    assert (one.take(), two.take()) == (0, 0)
    two.finish(0, "b")
    one.finish(0, "a")
    assert (one.results(), two.results()) == (["a"], ["b"])


def test_results_wait_for_the_last_piece_and_say_so():
    store = HashStore()
    mine, others = WorkQueue(store, "work", [1.0, 1.0]), WorkQueue(store, "work", [1.0, 1.0])
    mine.finish(mine.take(), "a")
    piece, waits = others.take(), []

    def waiting():
        waits.append(mine.done())
        if len(waits) == 3:
            others.finish(piece, None)

    assert mine.results(waiting) == ["a", None]
    assert waits == [1, 1, 1]


def test_a_failure_stops_the_others_at_their_next_piece():
    store = HashStore()
    one, two, three = (WorkQueue(store, "work", [1.0] * 9) for _ in range(3))
    one.take()
    busy = two.take()
    one.fail(GenflowError("structure B cannot be trained"))
    two.finish(busy, None)
    for queue in (two, three):
        with pytest.raises(GenflowError, match="structure B cannot be trained"):
            queue.take()
        with pytest.raises(GenflowError, match="structure B cannot be trained"):
            queue.results()
    assert one.done() == 1


def test_an_empty_queue_has_nothing_to_wait_for():
    queue = WorkQueue(HashStore(), "work", [])
    assert queue.take() is None
    assert queue.results() == []


def test_a_key_is_waited_for():
    store, seen = HashStore(), []

    def waiting():
        seen.append(len(seen))
        if len(seen) == 5:
            store.set("key", "value")

    wait_for_key(store, "key", waiting)
    assert seen == [0, 1, 2, 3, 4]


# a worker alone


def test_a_worker_that_is_alone_does_everything_itself():
    assert world() is ALONE and ALONE.is_rank_zero and ALONE.size == 1
    assert ALONE.rows(7) == slice(0, 7)
    assert ALONE.on_rank_zero(lambda: "done") == "done"
    tensor = torch.arange(4.0)
    assert ALONE.all_reduce(tensor) is tensor and tensor.tolist() == [0, 1, 2, 3]
    begun, watched = [], []
    found = ALONE.map_dynamic(
        ["a", "bbb", "bb"], lambda item: begun.append(item) or item.upper(), len, watched.append
    )
    assert found == ["A", "BBB", "BB"]
    assert begun == ["bbb", "bb", "a"]
    assert watched == [1, 2, 3]
    assert ALONE.map_dynamic([], lambda item: item) == []


def test_results_of_a_worker_that_is_alone_need_not_be_json():
    assert ALONE.map_dynamic([1], lambda item: {item}) == [{1}]
    with pytest.raises(GenflowError, match="no"):
        ALONE.map_dynamic([1], refuse)


def refuse(*_):
    raise GenflowError("no")


# several workers


def test_rows_are_dealt_out_whole_in_order_and_evenly():
    draw = random.Random(0)
    cases = [(count, size) for count in range(12) for size in range(1, 9)]
    cases += [(draw.randrange(10**6), draw.randrange(1, 3000)) for _ in range(200)]
    for count, size in cases:
        shares = [World(rank, size).rows(count) for rank in range(size)]
        assert shares[0].start == 0 and shares[-1].stop == count
        assert all(one.stop == other.start for one, other in itertools.pairwise(shares))
        sizes = [share.stop - share.start for share in shares]
        assert max(sizes) - min(sizes) <= 1, (count, size)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_one_does_it_and_all_have_its_result(size):
    done: list = []

    def work(workers):
        results = [
            workers.on_rank_zero(lambda: done.append(workers.rank) or {"rank": workers.rank})
            for _ in range(3)
        ]
        return results, workers.on_rank_zero(lambda: None)

    ends = together(size, work)
    assert ends == [([{"rank": 0}] * 3, None)] * size
    assert done == [0, 0, 0]


def test_what_goes_wrong_for_the_first_goes_wrong_for_all():
    ends = together(3, lambda workers: workers.on_rank_zero(refuse))
    assert [type(end) for end in ends] == [GenflowError] * 3
    assert {str(end) for end in ends} == {"no"}


def test_items_are_shared_out_and_all_have_the_results():
    lock, done = threading.Lock(), []

    def work(workers):
        def square(item):
            time.sleep(0.001 * item)
            with lock:
                done.append(item)
            return item**2

        one = workers.map_dynamic(range(10), square, lambda item: item)
        two = workers.map_dynamic([], square)
        return one, two, workers.map_dynamic([3], square)

    ends = together(4, work)
    assert ends == [([item**2 for item in range(10)], [], [9])] * 4
    assert sorted(done) == sorted([*range(10), 3])


def test_what_one_worker_does_does_not_wait_for_the_others(monkeypatch):
    workers = World(0, 1, store=HashStore())
    monkeypatch.setattr(world_module, "_current", workers)
    assert workers.map_dynamic([1], lambda item: world().size * 10 + (world() is ALONE)) == [11]
    assert workers.on_rank_zero(lambda: world() is ALONE) is True
    with pytest.raises(GenflowError):
        workers.on_rank_zero(refuse)
    with pytest.raises(GenflowError):
        workers.map_dynamic([1], refuse)
    assert world() is workers


def test_a_failed_item_fails_on_all_workers():
    def work(workers):
        return workers.map_dynamic(range(8), lambda item: refuse() if item == 3 else item)

    ends = together(3, work)
    assert [type(end) for end in ends] == [GenflowError] * 3
    assert {str(end) for end in ends} == {"no"}


def test_the_number_of_finished_items_is_watched():
    watched: dict[int, list[int]] = {0: [], 1: []}
    together(
        2,
        lambda workers: workers.map_dynamic(
            range(6), lambda item: item, on_progress=watched[workers.rank].append
        ),
    )
    assert watched[0] == sorted(watched[0]) and watched[1] == sorted(watched[1])
    assert all(set(seen) <= set(range(7)) for seen in watched.values())
    assert watched[0][-1:] == [6] or watched[1][-1:] == [6]


def test_a_store_that_does_not_answer_is_a_lost_worker():
    for work in (
        lambda workers: workers.on_rank_zero(lambda: 1),
        lambda workers: workers.map_dynamic([1], lambda item: item),
    ):
        for rank in (0, 1):
            with pytest.raises(
                WorkerLost, match=r"lost contact with another worker \(Connection reset by peer\)$"
            ):
                work(World(rank, 2, rank, Silent()))


def test_a_worker_that_is_silent_for_long_is_lost(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(world_module.time, "monotonic", lambda: now[0])
    store = HashStore()
    first, second = (World(rank, 2, rank, store) for rank in range(2))
    for beats in range(20):  # both live
        first.send_heartbeat()
        second.send_heartbeat()
        first.check_heartbeats()
        now[0] += world_module.HEARTBEAT_SECONDS + 0.1
        assert beats < 20
    for _ in range(
        int(world_module.HEARTBEAT_TIMEOUT / (world_module.HEARTBEAT_SECONDS + 0.1))
    ):  # within the limit
        first.send_heartbeat()
        first.check_heartbeats()
        now[0] += world_module.HEARTBEAT_SECONDS + 0.1
    first.send_heartbeat()
    now[0] += world_module.HEARTBEAT_SECONDS + 0.1
    with pytest.raises(WorkerLost, match="worker 1 has been silent"):
        first.check_heartbeats()
    second.check_heartbeats()  # only the first one looks


def test_a_worker_that_has_gone_is_not_missed(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(world_module.time, "monotonic", lambda: now[0])
    store = HashStore()
    first, second = (World(rank, 2, rank, store) for rank in range(2))
    first.send_heartbeat()
    second.send_heartbeat()
    first.check_heartbeats()
    second.shutdown_barrier()
    for _ in range(30):
        now[0] += world_module.HEARTBEAT_SECONDS + 0.1
        first.send_heartbeat()
        first.check_heartbeats()


def test_the_first_worker_goes_last():
    gone: list[int] = []

    def work(workers):
        time.sleep(0.05 * workers.rank)
        if not workers.is_rank_zero:
            gone.append(workers.rank)
        workers.shutdown_barrier()
        if workers.is_rank_zero:
            gone.append(0)

    assert together(4, work) == [None] * 4
    assert gone == [1, 2, 3, 0]


def test_each_worker_writes_a_log_of_its_own(tmp_path, capfd):
    for rank in (0, 1):
        workers = World(rank, 2, rank)
        workers.log("nowhere")
        with (
            pytest.raises(RuntimeError, match="broken"),
            workers.log_to(tmp_path / "logs"),
            workers.log_to(tmp_path / "inner"),
        ):
            workers.log("a note")
            os.write(2, f"said by {rank}\n".encode())
            raise RuntimeError("broken")
        text = (tmp_path / "logs" / f"rank-{rank}.log").read_text()
        assert f"worker {rank} of 2" in text and "a note" in text and "RuntimeError: broken" in text
        assert (f"said by {rank}" in text) == (rank != 0)
        assert "nowhere" not in text
    assert capfd.readouterr().err == "said by 0\n"
    assert not (tmp_path / "inner").exists()
    with ALONE.log_to(tmp_path / "alone"):
        pass
    assert not (tmp_path / "alone").exists()


# what the environment tells


STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_NTASKS": "16",
    "SLURM_NNODES": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-07,12]",
    "SLURM_JOB_NODELIST": "gpu[01-20]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
}


def test_a_slurm_step_tells_what_torchrun_would():
    found = slurm_variables(STEP)
    assert found == {
        "RANK": "9",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": found["MASTER_PORT"],
    }
    assert 1024 < int(found["MASTER_PORT"]) < 65536
    # all tasks of a step meet at one port, those of other steps at another
    assert slurm_variables({**STEP, "SLURM_PROCID": "0"})["MASTER_PORT"] == found["MASTER_PORT"]
    others = [
        slurm_variables({**STEP, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
        for job in (4711, 4712)
        for step in (0, 1)
    ]
    assert len({other["MASTER_PORT"] for other in others}) == 4


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[03-07,12]", "gpu03"),
        ("gpu[12,03-07]", "gpu12"),
        ("a-b[0009-0010],login1", "a-b0009"),
        ("rack1gpu[1,3]", "rack1gpu1"),
        ("node7.cluster.example", "node7.cluster.example"),
        ("localhost", "localhost"),
    ],
)
def test_workers_meet_on_the_first_machine_of_a_step(nodes, first):
    assert slurm_variables({**STEP, "SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


def test_what_the_user_sets_stays():
    found = slurm_variables({**STEP, "MASTER_ADDR": "10.1.2.3", "MASTER_PORT": "29500"})
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.1.2.3", "29500")
    assert slurm_variables({**STEP, "MASTER_ADDR": "", "MASTER_PORT": ""})["MASTER_ADDR"] == "gpu03"


def test_outside_of_a_step_of_several_tasks_there_are_no_workers():
    assert slurm_variables({}) == {}
    assert slurm_variables({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == {}
    # a batch script: the job has many tasks, the script is one process
    batch = {key: value for key, value in STEP.items() if not key.startswith("SLURM_STEP")}
    assert slurm_variables({**batch, "SLURM_PROCID": "0", "SLURM_JOB_NUM_NODES": "2"}) == {}


def test_a_worker_is_known_by_torchruns_variables():
    assert is_worker({"RANK": "0", "WORLD_SIZE": "1"})
    assert not is_worker({"RANK": "0"})
    assert not is_worker({"WORLD_SIZE": "4"})
    assert not is_worker(STEP)
    assert is_worker(slurm_variables(STEP))


def test_a_command_that_nobody_started_as_a_worker_is_alone(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    with process_group.join_process_group() as workers:
        assert workers is ALONE
    assert (
        process_group.is_rank_zero()
        and not process_group.is_supervised()
        and not process_group.was_restarted()
    )


def test_the_first_worker_is_known_before_it_has_joined(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    assert process_group.is_rank_zero()
    monkeypatch.setenv("RANK", "3")
    assert not process_group.is_rank_zero()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not process_group.was_restarted() and not process_group.may_replace_workers()
    monkeypatch.setenv("GENFLOW_MACHINES", "2")  # another machine's restarts are not counted here
    assert not process_group.was_restarted() and process_group.may_replace_workers()
    monkeypatch.delenv("GENFLOW_MACHINES")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert process_group.was_restarted() and process_group.may_replace_workers()


def test_a_worker_of_ours_leaves_its_status_and_ends_well(monkeypatch, tmp_path):
    monkeypatch.delenv("GENFLOW_STATUS", raising=False)
    assert process_group.report_status(2) == 2  # no agent of ours
    monkeypatch.setenv("GENFLOW_STATUS", str(tmp_path))
    monkeypatch.delenv("RANK", raising=False)
    assert process_group.report_status(2) == 2  # the agent itself
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_group.report_status(2) == 0
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("1", "2")]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it")
def test_a_worker_does_not_outlive_its_agent():
    """A worker whose agent is gone before it has looked ends itself."""
    code = "from genflow.distributed import process_group; process_group._die_with_agent(); print('lives')"
    for agent, output in ((os.getpid(), "lives\n"), (1, "")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "GENFLOW_AGENT": str(agent)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.stderr) == (output, "")


# GPUs, and where workers meet


@pytest.fixture
def gpus(monkeypatch):
    """Join as a worker of a machine with so many GPUs, as far as this process believes."""
    monkeypatch.setattr(process_group, "_counted", process_group._counted)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "GENFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    started = torch.distributed.init_process_group
    backends = []

    def start(backend, **options):
        backends.append(backend)
        started("gloo", **options)

    monkeypatch.setattr(torch.distributed, "init_process_group", start)

    def join(count, local_rank):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        variables = {
            "RANK": 0,
            "WORLD_SIZE": 1,
            "LOCAL_RANK": local_rank,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        return process_group.join_process_group()

    join.chosen, join.backends = chosen, backends
    yield join
    assert not torch.distributed.is_initialized() or torch.distributed.destroy_process_group() is None


def configured(device):
    return load_config(env="hypergrid", device=device)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_more_workers_than_gpus_are_refused_before_nccl_is_touched(gpus, device):
    message = (
        "a machine has 3 workers for 2 GPUs, and each worker needs one of its own; use --nproc-per-node gpu"
    )
    with pytest.raises(GenflowError, match=message) as caught, gpus(2, local_rank=2) as workers:
        # also within work that one worker does alone
        workers.on_rank_zero(lambda: configured(device).torch_device())
    assert "\n" not in str(caught.value)
    assert gpus.chosen == []


def test_more_workers_than_gpus_may_compute_on_the_cpu(gpus):
    with gpus(2, local_rank=2) as workers:
        assert configured("cpu").torch_device() == "cpu"
        assert workers.all_reduce(torch.ones(2)).tolist() == [1, 1]
    assert gpus.backends == ["cpu:gloo,cuda:nccl"]


def test_each_worker_has_a_gpu_of_its_own(gpus):
    with gpus(2, local_rank=1):
        assert configured("auto").torch_device() == "cuda:1"
        with pytest.raises(GenflowError, match="device 'cuda:0' is one GPU for several workers"):
            configured("cuda:0").torch_device()
    assert gpus.chosen == [1]


def test_a_worker_of_ours_that_is_refused_a_gpu_ends_with_status_2_and_is_not_tried_again(
    gpus, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("GENFLOW_STATUS", str(tmp_path / "status"))
    (tmp_path / "status").mkdir()
    gpus(2, local_rank=2)
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "train-zoo",
                "--env",
                "hypergrid",
                "--structure",
                "ndim=2,height=4",
                "--out",
                str(tmp_path / "zoo"),
            ]
        )
    assert caught.value.code == 0  # the agent starts again whatever ends otherwise
    assert [path.read_text() for path in (tmp_path / "status").iterdir()] == ["2"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("genflow: a machine has 3 workers for 2 GPUs")
    assert not (tmp_path / "zoo").exists()


def test_a_network_interface_that_is_not_there_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    process_group.check_network_interface()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    with pytest.raises(GenflowError, match="GLOO_SOCKET_IFNAME names the network interface 'nosuch0'"):
        launcher.launch(LaunchOptions("2"), ["train-zoo"])


def test_a_port_that_something_else_uses_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(launcher, "PROBE_SECONDS", 1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(GenflowError, match=f"{endpoint} is in use by something else"):
            launcher.launch(LaunchOptions(rdzv_endpoint=endpoint), ["train-zoo"])


def test_a_port_of_another_agent_or_of_nobody_is_taken():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launcher.check_endpoint(f"127.0.0.1:{store.port}")
    launcher.check_endpoint("localhost:0")
    launcher.check_endpoint(f"127.0.0.1:{free_port()}")


# options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nproc_per_node": "0"}, "--nproc-per-node must be a number from 1 to 1024"),
        ({"nproc_per_node": "-2"}, "--nproc-per-node must be"),
        ({"nproc_per_node": "1025"}, "--nproc-per-node must be"),
        ({"nproc_per_node": "2.0"}, "not '2.0'"),
        ({"nproc_per_node": "many"}, "not 'many'"),
        ({"nnodes": "0"}, "--nnodes must be"),
        ({"nnodes": "2:1"}, "not '2:1'"),
        ({"nnodes": "0:2"}, "--nnodes must be"),
        ({"nnodes": "1:"}, "--nnodes must be"),
        ({"nnodes": "a:b"}, "--nnodes must be"),
        ({"nnodes": "1:2:3"}, "--nnodes must be"),
        ({"nnodes": "9999999"}, "--nnodes must be"),
        ({"nnodes": "2"}, "needs --rdzv-endpoint"),
        ({"nnodes": "1:2"}, "needs --rdzv-endpoint"),
        ({"rdzv_endpoint": "host"}, "--rdzv-endpoint must be HOST:PORT"),
        ({"rdzv_endpoint": "host:"}, "HOST:PORT"),
        ({"rdzv_endpoint": ":29500"}, "HOST:PORT"),
        ({"rdzv_endpoint": "host:port"}, "HOST:PORT"),
        ({"rdzv_endpoint": "host:65536"}, "HOST:PORT"),
    ],
)
def test_impossible_options_are_refused_before_anything_starts(options, message):
    asked = LaunchOptions(**options)
    assert asked.given
    with pytest.raises(GenflowError, match=message) as caught:
        launcher.launch(asked, ["train-zoo"])
    assert "\n" not in str(caught.value)


def test_gpus_are_asked_for_only_where_there_are_some(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(GenflowError, match="no CUDA device"):
        LaunchOptions("gpu").processes()
    assert LaunchOptions("auto").processes() == cores() >= 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert LaunchOptions("gpu").processes() == LaunchOptions("auto").processes() == 3


def test_possible_options():
    assert not LaunchOptions().given
    assert all(
        LaunchOptions(**{name: value}).given
        for name, value in json.loads('{"nnodes": "1", "max_restarts": 0}').items()
    )
    assert (LaunchOptions().processes(), LaunchOptions().nodes(), LaunchOptions().endpoint()) == (
        1,
        (1, 1),
        "localhost:0",
    )
    assert LaunchOptions("1024").processes() == 1024
    assert LaunchOptions(nnodes="3", rdzv_endpoint="a:1").nodes() == (3, 3)
    assert LaunchOptions(nnodes="2:8", rdzv_endpoint="a:1").nodes() == (2, 8)
    assert LaunchOptions(rdzv_endpoint="10.0.0.1:29400").endpoint() == "10.0.0.1:29400"
    assert LaunchOptions(rdzv_endpoint="[::1]:29400").endpoint() == "[::1]:29400"
