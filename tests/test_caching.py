"""`ByteCache`: bounded in bytes, the least recently used first, and nothing outlives its owner."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from genflow.caching import ByteCache, ByteTable, bytes_of, cached_on


class Owner:
    """Anything that can be referenced weakly."""


class Counted:
    """Makes tensors of so many bytes, and counts how often."""

    def __init__(self) -> None:
        self.made: list[object] = []

    def __call__(self, cache: ByteCache, owner: object, name: object, size: int = 400) -> torch.Tensor:
        def make() -> torch.Tensor:
            self.made.append(name)
            return torch.zeros(size // 4)

        return cache.get(owner, name, make)


@pytest.fixture
def counted():
    return Counted()


def test_a_result_is_made_once_for_each_owner_and_name(counted):
    cache, first, second = ByteCache(10**6), Owner(), Owner()
    a = counted(cache, first, "a")
    assert counted(cache, first, "a") is a
    assert counted(cache, second, "a") is not a and counted(cache, first, "b") is not a
    assert counted.made == ["a", "a", "b"]


def test_owners_are_told_apart_though_they_are_equal(counted):
    class Same:
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 0

    cache, first, second = ByteCache(10**6), Same(), Same()
    assert counted(cache, first, "a") is not counted(cache, second, "a")


def test_the_bound_is_in_bytes_and_the_least_recently_used_goes_first(counted):
    cache, owner = ByteCache(1000), Owner()
    for name in ("a", "b"):
        counted(cache, owner, name)
    counted(cache, owner, "a")  # used again
    counted(cache, owner, "c")  # 1200 bytes: b goes
    counted(cache, owner, "a")
    counted(cache, owner, "c")
    assert counted.made == ["a", "b", "c"]
    assert cache.bytes == 800
    counted(cache, owner, "b")
    assert counted.made == ["a", "b", "c", "b"]


def test_one_large_result_drives_out_all_others_and_stays(counted):
    cache, owner = ByteCache(1000), Owner()
    for name in ("a", "b"):
        counted(cache, owner, name)
    large = counted(cache, owner, "large", 4000)
    assert counted(cache, owner, "large") is large
    assert cache.bytes == 4000 and len(cache._kept) == 1
    counted(cache, owner, "a")
    assert cache.bytes == 400


def test_what_belongs_to_an_object_goes_with_it(counted):
    cache, owner, other = ByteCache(10**6), Owner(), Owner()
    for name in ("a", "b"):
        counted(cache, owner, name)
    counted(cache, other, "a")
    del owner
    gc.collect()
    assert cache.bytes == 400 and len(cache._kept) == 1
    assert cache._owners == {id(other)}


def test_a_result_does_not_keep_its_owner_alive():
    cache = ByteCache(10**6)
    for _ in range(50):
        owner = Owner()
        cache.get(owner, "a", lambda: torch.zeros(100))
    del owner
    gc.collect()
    assert cache.bytes == 0 and not len(cache._kept) and not cache._owners


def test_what_cannot_be_made_is_not_kept(counted):
    cache, owner = ByteCache(10**6), Owner()

    def fail():
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            cache.get(owner, "a", fail)
    assert not len(cache._kept)
    counted(cache, owner, "a")
    assert counted.made == ["a"]


def test_a_result_may_need_another_one(counted):
    cache, owner = ByteCache(10**6), Owner()
    outer = cache.get(owner, "outer", lambda: counted(cache, owner, "inner") + 1)
    assert outer.shape == (100,) and cache.bytes == 800


def test_threads_may_share_a_cache():
    cache, owners, mistakes = ByteCache(20_000), [Owner() for _ in range(4)], []

    def work(seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        try:
            for place, name in torch.randint(8, (500, 2), generator=rng).tolist():
                owner = owners[place % 4]
                found = cache.get(
                    owner, name, lambda p=place % 4, n=name: torch.full((100 + n,), 10.0 * p + n)
                )
                if found.shape != (100 + name,) or float(found[0]) != 10.0 * (place % 4) + name:
                    mistakes.append((place, name))
                short = Owner()
                cache.get(short, "short", lambda: torch.zeros(50))
        except Exception as error:
            mistakes.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not mistakes
    assert cache.bytes == sum(size for _, size in cache._kept._entries.values()) <= 20_000
    assert cache._owners >= {owner for owner, _ in cache._kept}


def test_bytes_are_those_of_all_tensors_however_deep():
    class Result:
        def __init__(self):
            self.table, self.more = (
                torch.zeros(10, dtype=torch.float64),
                {"x": (torch.zeros(5), [torch.zeros(1)])},
            )
            self.itself = self

    assert bytes_of(Result()) >= 80 + 20 + 4
    assert bytes_of(torch.zeros(3, 4)) == 48
    shared = torch.zeros(100)
    assert bytes_of([shared, shared]) == 400


def test_a_table_drops_what_was_least_recently_used_and_not_everything():
    table: ByteTable[str, int] = ByteTable(100)
    for number in range(10):
        table.add(str(number), number, 10)
    assert table.get("0") == 0
    table.add("new", 10, 15)
    assert list(table) == ["3", "4", "5", "6", "7", "8", "9", "0", "new"] and table.bytes == 95
    table.add("0", -1, 5)
    assert table.get("0") == -1 and table.bytes == 90 and table.get("1") is None
    table.add("large", 0, 1000)
    assert list(table) == ["large"] and table.bytes == 1000


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tables_are_made_once_for_each_device_and_name(device):
    owner, made = Owner(), []

    def make():
        made.append(device)
        return torch.arange(3.0), torch.arange(2)

    first = cached_on(device, owner, "a", make)
    assert cached_on(torch.device(device), owner, "a", make) is first and made == [device]
    assert [table.device.type for table in first] == [device] * 2 and first[1].dtype == torch.int64
    assert cached_on("cpu", owner, "b", make) is not first
    assert cached_on(device, Owner(), "a", make) is not first
