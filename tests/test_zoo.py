"""Populations and zoos on disk: round trips, and every way in which a file can be broken."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from oracles import grid, lively
from safetensors.torch import load_file, save_file

from genflow import GenflowError, Population, Zoo
from genflow.storage.populations import FACTS, TENSORS, find_populations

STRUCTURE = {"ndim": 2, "height": 4}


def make(num=3, seed=0, **fields) -> Population:
    population = lively(grid(**{**STRUCTURE, **fields}), num, seed)
    provenance = {
        "source": "trained",
        "training_structures": [population.structure.fields()],
        "members": [{"run": i, "metrics": {"js": 0.1 * i}} for i in range(num)],
        "log_z": [1.5, -0.25, 1e-30],
    }
    return Population(population.structure, population.weights, provenance)


@pytest.fixture
def saved(tmp_path):
    make().save(tmp_path / "p")
    return tmp_path / "p"


@pytest.mark.parametrize(
    "fields",
    [{}, {"ndim": 3, "height": 7, "width": 5, "R0": 0.003}, {"reward": "paper"}, {"band": (0.1, 0.2)}],
    ids=str,
)
def test_round_trip_is_bit_exact(tmp_path, fields):
    population = make(num=2, **fields)
    # odd but finite numbers too
    population.weights[0, :4] = torch.tensor([1e-45, -0.0, 3.4028235e38, 1 / 3])
    population.save(tmp_path)
    found = Population.load(tmp_path)
    assert found.structure == population.structure
    assert found.weights.dtype == torch.float32
    assert found.weights.view(torch.int32).equal(population.weights.view(torch.int32))
    assert found.provenance == population.provenance
    assert found.seen


def test_tensors_have_state_dict_names_and_a_leading_m(saved):
    tensors = load_file(saved / TENSORS)
    module = grid(**STRUCTURE).module()
    assert tensors.keys() == module.state_dict().keys()
    population = make()
    for member in range(3):
        module.load_state_dict({name: tensor[member] for name, tensor in tensors.items()})
        assert torch.nn.utils.parameters_to_vector(module.parameters()).equal(population.weights[member])
    facts = json.loads((saved / FACTS).read_text())
    assert facts["env"] == "hypergrid"
    assert facts["policy"] == "mlp3"
    assert facts["structure"]["height"] == 4
    assert facts["num"] == 3


def test_numbers_that_json_lacks_become_null(tmp_path):
    population = make()
    odd = Population(
        population.structure,
        population.weights,
        {"source": "trained", "a": float("nan"), "b": [float("inf"), 1.0]},
    )
    odd.save(tmp_path)
    assert json.loads((tmp_path / FACTS).read_text(), parse_constant=pytest.fail)["provenance"]["b"] == [
        None,
        1.0,
    ]


def test_saving_leaves_nothing_else_behind(saved):
    assert {path.name for path in saved.iterdir()} == {TENSORS, FACTS}


def rewrite(folder, change):
    tensors = load_file(folder / TENSORS)
    save_file({name: t.contiguous() for name, t in change(tensors).items()}, folder / TENSORS)


def renamed(tensors):
    return {("net.6.bias" if name == "net.4.bias" else name): t for name, t in tensors.items()}


BREAK_TENSORS = {
    "missing tensor": lambda t: {k: v for k, v in t.items() if k != "net.2.weight"},
    "extra tensor": lambda t: {**t, "net.8.weight": torch.zeros(3, 2)},
    "renamed tensor": renamed,
    "no tensors": lambda t: {},
    "transposed tensor": lambda t: {**t, "net.4.weight": t["net.4.weight"].transpose(1, 2)},
    "no leading M": lambda t: {k: v[0] for k, v in t.items()},
    "members differ in number": lambda t: {**t, "net.2.bias": t["net.2.bias"][:2]},
    "no members": lambda t: {k: v[:0] for k, v in t.items()},
    "scalar tensors": lambda t: {k: torch.tensor(1.0) for k in t},
    "whole numbers": lambda t: {k: v.long() for k, v in t.items()},
    "nan": lambda t: {**t, "net.0.bias": t["net.0.bias"] * torch.nan},
    "infinity": lambda t: {**t, "net.4.weight": t["net.4.weight"] + torch.inf},
    "another network": lambda t: {"weight": torch.zeros(3, 4)},
}


@pytest.mark.parametrize("kind", BREAK_TENSORS)
def test_tensors_that_do_not_fit_are_refused_by_file(saved, kind):
    rewrite(saved, BREAK_TENSORS[kind])
    with pytest.raises(GenflowError, match=TENSORS) as caught:
        Population.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1, -500])
def test_a_truncated_file_is_refused(saved, cut):
    data = (saved / TENSORS).read_bytes()
    (saved / TENSORS).write_bytes(data[:cut])
    with pytest.raises(GenflowError, match=TENSORS):
        Population.load(saved)


FOREIGN = {
    "text": b"these are not the tensors",
    "zip, as torch.save makes": b"PK\x03\x04" + bytes(200),
    "huge header": struct.pack("<Q", 2**40) + b"{}",
    "header is no json": struct.pack("<Q", 4) + b"{{{{",
    "header lies about the data": struct.pack("<Q", 61)
    + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}      ',
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused(saved, kind):
    (saved / TENSORS).write_bytes(FOREIGN[kind])
    with pytest.raises(GenflowError, match=TENSORS):
        Population.load(saved)


BROKEN_JSON = {
    "empty": "",
    "cut short": '{"env": "hypergrid", ',
    "list": "[1, 2]",
    "number": "7",
    "null": "null",
    "not text": b"\xff\xfe\x00",
    "deep": "[" * 100_000,
    "no facts": "{}",
    "structure is a list": '{"env": "hypergrid", "policy": "mlp3", "structure": []}',
    "unknown environment": '{"env": "nowhere", "policy": "mlp3", "structure": {}}',
    "unknown field": (
        '{"env": "hypergrid", "policy": "mlp3", "structure": {"ndim": 2, "height": 4, "depth": 3}}'
    ),
    "height of another population": (
        '{"env": "hypergrid", "policy": "mlp3", "structure": {"ndim": 2, "height": 5, "width": 8}}'
    ),
    "provenance is a list": (
        '{"env": "hypergrid", "policy": "mlp3", "structure": {"ndim": 2, "height": 4, '
        '"width": 8}, "provenance": []}'
    ),
}


@pytest.mark.parametrize("kind", BROKEN_JSON)
def test_broken_facts_are_refused_by_file(saved, kind):
    text = BROKEN_JSON[kind]
    (saved / FACTS).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GenflowError, match="population") as caught:
        Population.load(saved)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", [TENSORS, FACTS])
def test_a_missing_file_or_a_folder_in_its_place_is_refused(saved, name):
    (saved / name).unlink()
    with pytest.raises(GenflowError, match=name):
        Population.load(saved)
    (saved / name).mkdir()
    with pytest.raises(GenflowError, match=name):
        Population.load(saved)


@pytest.fixture
def run(tmp_path):
    """A run directory with a zoo of three structures."""
    for height in (3, 4, 5):
        population = make(height=height)
        population.save(tmp_path / "run" / "zoo" / population.structure.name)
    return tmp_path / "run"


def test_a_zoo_opens_by_its_folder_and_by_its_run(run):
    for folder in (run, run / "zoo", str(run)):
        zoo = Zoo(folder)
        assert zoo.structures == [grid(2, height) for height in (3, 4, 5)]
        assert zoo.get(grid(2, 4)).weights.equal(make(height=4).weights)
        assert zoo.get(grid(2, 6)) is None
    assert len(find_populations(run)) == 3
    assert Zoo(run / "zoo" / grid(2, 4).name).structures == [grid(2, 4)]


def test_a_zoo_can_be_restricted(run):
    zoo = Zoo(run)
    assert zoo.only([grid(2, 3), grid(2, 9)]).structures == [grid(2, 3)]
    assert len(zoo.populations) == 3


def test_a_half_written_population_is_not_found(run):
    (run / "zoo" / grid(2, 4).name / FACTS).unlink()
    assert Zoo(run).structures == [grid(2, 3), grid(2, 5)]


def test_an_interrupted_save_leaves_no_population(tmp_path, monkeypatch):
    def fail(path, data):
        raise KeyboardInterrupt

    monkeypatch.setattr("genflow.storage.populations.write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        make().save(tmp_path / "p")
    assert find_populations(tmp_path) == []


def test_hidden_folders_are_no_populations(run):
    make(height=7).save(run / "zoo" / ".trash")
    assert len(Zoo(run).structures) == 3


def test_an_empty_or_missing_zoo_is_refused_with_the_way_to_make_one(tmp_path):
    with pytest.raises(GenflowError, match="train-zoo"):
        Zoo(tmp_path)
    with pytest.raises(GenflowError, match="no folder"):
        Zoo(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(GenflowError, match="no folder"):
        Zoo(tmp_path / "file")


def test_a_broken_population_in_a_zoo_is_a_genflow_error(run):
    (run / "zoo" / grid(2, 4).name / TENSORS).write_bytes(b"")
    with pytest.raises(GenflowError, match="height=4"):
        _ = Zoo(run).populations


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GenflowError, match="cannot write"):
        make().save(tmp_path / "file" / "p")
