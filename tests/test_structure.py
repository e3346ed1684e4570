"""`Structure`: parsing, names, equality, and errors that are one line."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import subprocess
import sys
import weakref

import pytest
import torch
from oracles import grid

from genflow import GenflowError, Structure


def parse(text: str) -> Structure:
    return Structure.parse("hypergrid", text)


def test_key_value_pairs():
    structure = parse("ndim=3,height=12,width=64,R0=0.01")
    fields = structure.fields()
    assert (fields["ndim"], fields["height"], fields["width"], fields["R0"]) == (3, 12, 64, 0.01)
    # first and last the paper's c; the reward stands between
    assert structure.condition()[[0, 1, 2, -1]].tolist() == [36, 12, 3, 64]
    assert structure.condition()[3].item() == pytest.approx(0.01)
    assert structure.condition().dtype == torch.float32
    assert structure == grid(3, 12, width=64, R0=0.01)


@pytest.mark.parametrize(
    "text", [" ndim=3 , height=12 ", "height=12,ndim=3", "ndim=3,height=12,", "ndim=03,height=12"]
)
def test_spaces_order_and_a_last_comma_do_not_matter(text):
    assert parse(text) == parse("ndim=3,height=12")
    assert parse(text).name == parse("ndim=3,height=12").name


def test_presets_and_overrides():
    assert parse("A") == parse("ndim=4,height=16,width=128")
    assert parse("D*:paper") == parse("ndim=7,height=7,width=7")
    assert parse("A,width=32,R0=0.5") == parse("ndim=4,height=16,width=32,R0=0.5")
    assert parse("A,height=5") != parse("A")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Z", "no preset 'Z'"),
        ("A:papr", "did you mean 'A:paper'?"),
        ("ndim=3,heigth=12", "unknown key 'heigth'; did you mean 'height'?"),
        ("ndim=3,height=12,colour=red", "unknown key 'colour'"),
        ("ndim=3,height=1", "height must be greater than or equal to 2"),
        ("ndim=3,height=0", "height"),
        ("ndim=-1,height=4", "ndim"),
        ("ndim=3,height=12,width=0", "width must be greater than or equal to 1"),
        ("ndim=3,height=12,width=many", "width"),
        ("ndim=x,height=12", "ndim"),
        ("ndim=,height=12", "ndim"),
        ("ndim=3", "'height' is missing"),
        ("", "is missing"),
        ("ndim=3,A", "'A' is not key=value"),
        ("ndim=3,height=12, mw:4", "'mw:4' is not key=value; a value with commas or spaces stands in double"),
        (
            'ndim=3,height="12',
            """not closed; a value with commas or spaces stands in double quotation marks""",
        ),
        ("ndim=3,height=12,=5", "unknown key ''"),
        ("ndim=3\nheight=12", "ndim"),
        ("ndim=3,height=99999999999999999999", "height"),
    ],
)
def test_mistakes_are_one_line_that_names_them(text, says):
    with pytest.raises(GenflowError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_unknown_environments_and_policies_are_refused_with_a_suggestion():
    with pytest.raises(GenflowError, match="unknown environment 'hypergird'; did you mean 'hypergrid'"):
        Structure.parse("hypergird", "A")
    with pytest.raises(GenflowError, match="unknown policy 'mpl3'; did you mean 'mlp3'"):
        Structure.parse("hypergrid", "A", policy="mpl3")


RANDOM = random.Random(11)
VARIANTS = [
    {"ndim": RANDOM.randint(1, 9), "height": RANDOM.randint(2, 40), "width": RANDOM.randint(1, 200)}
    | ({"R0": RANDOM.choice([0.1, 0.01, 1e-5, 0.3])} if RANDOM.random() < 0.5 else {})
    | ({"reward": RANDOM.choice(["original", "paper", "cosine"])} if RANDOM.random() < 0.5 else {})
    | ({"outer": RANDOM.choice([0.25, 0.2])} if RANDOM.random() < 0.3 else {})
    | ({"band": RANDOM.choice([(0.3, 0.4), (0.1, 0.2)])} if RANDOM.random() < 0.4 else {})
    for _ in range(60)
]
for each in VARIANTS:
    if each.get("reward") == "cosine":  # it has no regions
        each.pop("outer", None), each.pop("band", None)


def test_names_are_unique_fit_a_folder_and_parse_again(tmp_path):
    structures = [Structure.build("hypergrid", fields) for fields in VARIANTS]
    names = {}
    for structure in structures:
        assert names.setdefault(structure.name, structure) == structure, (
            f"two structures are called {structure.name}"
        )
        assert parse(structure.name) == structure
        (tmp_path / structure.name).mkdir(exist_ok=True)
        assert "/" not in structure.name
    assert len(names) > 50
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_equality_and_hash_are_by_value():
    a, b = parse("ndim=3,height=4"), Structure.build("hypergrid", {"ndim": 3, "height": 4})
    assert a == b
    assert len({a, b, parse("ndim=3,height=5"), parse("ndim=3,height=4,R0=0.2")}) == 3


def test_a_structure_is_made_by_its_factories_alone():
    for arguments in (
        (),
        ("hypergrid", "mlp3"),
        ("hypergrid", "mlp3", grid(2, 3).environment, grid(2, 3).arch),
    ):
        with pytest.raises(TypeError) as caught:
            Structure(*arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=r"make a structure with Structure\.build"):
        Structure()


def test_the_same_structure_is_the_same_object_however_it_is_made():
    structure = parse("ndim=3,height=4,width=8")
    for other in (
        grid(3, 4),
        Structure.from_json(structure.to_json()),
        Structure.of(structure.environment, structure.arch, "hypergrid", "mlp3"),
        parse(structure.name),
        copy.copy(structure),
        copy.deepcopy(structure),
        pickle.loads(pickle.dumps(structure)),
    ):
        assert other is structure


def test_a_structure_survives_a_process_that_does_not_know_it():
    structure = grid(3, 4, reward="paper", R0=0.01)
    code = (
        "import sys, pickle; s = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(pickle.dumps((s, s.name, s.solution.n_states)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(structure), capture_output=True, check=True
    )
    assert pickle.loads(done.stdout) == (structure, structure.name, 64)


def test_what_was_computed_is_not_copied_with_a_structure():
    structure = grid(3, 4)
    before = len(pickle.dumps(structure))
    structure.solution.optimal_flows()
    assert structure.transitions().env.n_actions == 4
    assert len(pickle.dumps(structure)) == before


def test_nobody_holds_structures_that_are_not_used():
    references = [weakref.ref(grid(2, 2 + i % 60, width=1 + i)) for i in range(60)]
    gc.collect()
    assert sum(reference() is not None for reference in references) <= 16


def test_json_round_trip():
    for fields in VARIANTS[:10]:
        structure = Structure.build("hypergrid", fields)
        assert Structure.from_json(structure.to_json()) == structure


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"env": "hypergrid", "policy": "mlp3"},
        {"env": 3, "policy": "mlp3", "structure": {"ndim": 2, "height": 3}},
        {"env": "hypergrid", "policy": None, "structure": {"ndim": 2, "height": 3}},
        {"env": "hypergrid", "policy": "mlp3", "structure": [2, 3]},
        {"env": "hypergrid", "policy": "mlp3", "structure": {"ndim": 2, "height": None}},
        {"env": "hypergrid", "policy": "mlp3", "structure": {"ndim": 2, "height": [3]}},
        {"env": "hypergrid", "policy": "mlp3", "structure": {"ndim": 2, "height": 3, "band": 5}},
        {"env": "hypergrid", "policy": "mlp3", "structure": {"ndim": 2, "height": 3, "weight": 5}},
        {"env": "elsewhere", "policy": "mlp3", "structure": {"ndim": 2, "height": 3}},
    ],
    ids=str,
)
def test_a_malformed_saved_structure_is_a_genflow_error(data):
    with pytest.raises(GenflowError) as caught:
        Structure.from_json(data)
    assert "\n" not in str(caught.value)


def test_fields_are_split_into_what_a_generator_can_vary_and_what_it_cannot():
    sizes, amounts = {"ndim": 3, "height": 8, "width": 8}, {"R0": 0.01, "R1": 0.5, "R2": 2.0}
    regions = {"outer": 0.25, "band": [0.3, 0.4]}
    structure = grid(3, 8, R0=0.01)
    roles = structure.roles()
    assert roles == (
        dict.fromkeys(sizes, "size")
        | dict.fromkeys(amounts | regions, "described")
        | {"reward": "fixed", "backward": "fixed"}
    )
    assert structure.fixed_fields() == {"reward": "original", "backward": None}
    assert structure.fields() == sizes | amounts | regions | {"reward": "original"}


def test_a_module_is_a_fresh_network_of_the_right_size():
    structure = grid(3, 5, width=6)
    x = torch.randn(4, 15)
    first, second = structure.module(), structure.module()
    assert first(x).shape == (4, 4)
    assert not first(x).equal(second(x))
    # Linear, LeakyReLU, Linear, LeakyReLU, Linear
    w = first.state_dict()
    h = x
    for layer in (0, 2, 4):
        h = h @ w[f"net.{layer}.weight"].T + w[f"net.{layer}.bias"]
        h = h if layer == 4 else torch.where(h > 0, h, 0.01 * h)
    torch.testing.assert_close(first(x), h)


def test_a_name_stays_in_its_folder_and_within_a_file_name():
    structure = Structure.build("hypergrid", {"ndim": 2, "height": 4})
    for text in ("../../evil", "a/b", "x" * 400, "\0", "é" * 100):
        config = structure.environment.config.model_copy(update={"reward": text})
        environment = type(structure.environment)(config, structure.environment.reward)
        odd = Structure.of(environment, structure.arch, "hypergrid", "mlp3")
        assert "/" not in odd.name and "\0" not in odd.name
        assert len(odd.name.encode()) <= 150
    assert structure.name == "ndim=2,height=4,width=128"


def test_fields_are_no_text_to_parse():
    with pytest.raises(GenflowError, match=r"is a text, not dict; make one of fields with Structure\.build"):
        Structure.parse("hypergrid", {"ndim": 2, "height": 4})
