"""Torch's threads follow the work of a call, and the caller's number is put back."""

import os
import subprocess
import sys

import pytest
import torch

from genflow import Generator, Population, Structure, exact
from genflow.generator import PRODUCTS_A_WEIGHT
from genflow.pretrained import shipped
from genflow.threads import PRODUCTS_A_THREAD, threads, worth


@pytest.fixture
def four():
    """A caller with four threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_one_thread_for_little_work_and_never_more_than_the_caller_has(four):
    sizes = (0, 1, PRODUCTS_A_THREAD, 2 * PRODUCTS_A_THREAD, 3 * PRODUCTS_A_THREAD, 10**15)
    assert [worth(size) for size in sizes] == [1, 1, 1, 2, 3, 4]
    torch.set_num_threads(1)
    assert worth(10**15) == 1


def test_the_callers_number_is_put_back_also_after_an_error(four):
    with pytest.raises(ZeroDivisionError), threads(2):
        assert torch.get_num_threads() == 2
        raise ZeroDivisionError
    assert torch.get_num_threads() == 4


def test_small_policies_are_generated_on_one_thread_as_on_any(four, monkeypatch):
    structure = Structure.parse("hypergrid", "ndim=2,height=4,width=32")
    generator = Generator.from_pretrained(shipped("hypergrid")[0])
    assert torch.get_num_threads() == 4
    seen, decode = [], generator.encoder.decode

    def watched(*args):
        seen.append(torch.get_num_threads())
        return decode(*args)

    monkeypatch.setattr(generator.encoder, "decode", watched)
    one = generator.generate(structure, 3).weights
    assert torch.get_num_threads() == 4
    monkeypatch.setattr("genflow.threads.PRODUCTS_A_THREAD", structure.layout.size * PRODUCTS_A_WEIGHT)
    three = generator.generate(structure, 3).weights
    assert seen == [1, 3]
    torch.testing.assert_close(three, one, rtol=0, atol=1e-6)


def test_a_small_exact_distribution_takes_one_thread_and_is_the_same_on_any(four, monkeypatch):
    structure = Structure.parse("hypergrid", "ndim=2,height=5,width=8")
    weights = Population.initialised(structure, 3, 0).weights
    seen, compute = [], exact.terminal_distribution

    def watched(*args):
        seen.append(torch.get_num_threads())
        return compute(*args)

    monkeypatch.setattr(exact, "terminal_distribution", watched)
    one = Population(structure, weights).terminal_distribution()
    monkeypatch.setattr("genflow.threads.PRODUCTS_A_THREAD", 25 * weights.numel() // 2)
    two = Population(structure, weights).terminal_distribution()
    assert seen == [1, 2] and torch.get_num_threads() == 4
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)


def test_threads_sleep_where_they_would_wait_unless_the_user_says_otherwise():
    show = [sys.executable, "-c", "import genflow, os; print(os.environ['GOMP_SPINCOUNT'])"]
    rest = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    assert subprocess.check_output(show, env=rest, text=True).strip() == "1000"
    assert subprocess.check_output(show, env=rest | {"GOMP_SPINCOUNT": "7"}, text=True).strip() == "7"
