"""Fields of every kind: lists, tables and unions in a structure, its name and on the command line."""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal, NewType

import pytest
import torch
from genflow_policies.mlp3 import MLP3
from pydantic import JsonValue

from genflow import Environment, GenflowError, PolicyArch, Reward, Schema, Structure, Units, fixed, size
from genflow import structure as module
from genflow.cli.main import main
from genflow.layout import UnitDescriptions
from genflow.schema import reward_name

LINE = Path(__file__).parents[1] / "examples" / "genflow-line"
Label = NewType("Label", str)


class Colour(Enum):
    """Names and numbers."""

    RED = "red"
    SEVEN = 7


class Lists(Environment):
    """Positions on a line, described by lists and tables."""

    class Config(Schema):
        """One field of each kind."""

        length: int = size(5, ge=2)
        J: list[list[int]] = fixed([[0]])
        table: dict[str, JsonValue] = fixed({})
        note: str = fixed("")
        row: tuple[int, ...] = fixed(())
        tags: frozenset[str] = fixed(frozenset())
        floor: float = fixed(1)
        reward: str = reward_name("weighted")

    def _rewards(self):
        return self.reward.score(torch.arange(self.config.length)[:, None])

    def make(self, device="cpu"):
        """The example's line."""
        from genflow_line import LineEnv
        from gfn.preprocessors import KHotPreprocessor

        return LineEnv(self._rewards().to(device)), KHotPreprocessor(height=self.config.length, ndim=1)

    def condition(self):
        """How long it is."""
        return {"length": float(self.config.length)}

    def units(self):
        """Rewards, and two actions."""
        return Units(UnitDescriptions(self._rewards()[:, None]), UnitDescriptions(torch.eye(2)))


class Weighted(Reward):
    """A reward with a list and a table."""

    environment = "lists"

    class Config(Schema):
        """What is paid."""

        weights: dict[str, float] = fixed({"b": 1.0, "a": 2.0})
        bias: list[float] = fixed([0.5])

    def score(self, objects):
        """More to the right."""
        c = self.config
        return 1 + objects.double().sum(-1) * sum(c.weights.values()) + sum(c.bias)


class Listed(MLP3):
    """MLP-3 with a list and a table."""

    class Config(MLP3.Config):
        """Options that change nothing."""

        depths: list[int] = fixed([])
        options: dict[str, list[int]] = fixed({})


@pytest.fixture
def lists(third_party, monkeypatch):
    """The classes above as third parties would register them."""
    monkeypatch.syspath_prepend(str(LINE))
    third_party("register_environments", "lists", f"{__name__}:Lists")
    for name in ("weighted", "größer"):
        third_party("register_rewards", name, f"{__name__}:Weighted", environment="lists")
    third_party("register_policies", "listed", f"{__name__}:Listed")


def build(**fields: Any) -> Structure:
    return Structure.build("lists", {"width": 4, **fields}, "listed")


def parsed_anew(env: str, policy: str, fields: dict[str, Any]) -> tuple[Structure, Structure]:
    """A structure, and what its name means to a process that has never seen it."""
    name = Structure.build(env, fields, policy).name
    module._recent.clear()
    assert not [key for key in module._named if key == (env, policy, name)]
    again = Structure.parse(env, name, policy)
    return Structure.build(env, fields, policy), again


@pytest.mark.usefixtures("lists")
def test_lists_and_tables_of_environment_reward_and_policy_are_content():
    fields = {
        "J": [[0, 1], [1, 0]],
        "table": {"b": [1], "a": {"d": 1, "c": None}},
        "weights": {"y": 1.0, "x": 2.0},
        "bias": [1.0, 2.0],
        "depths": [3],
        "options": {"q": [1], "p": []},
    }
    structure = build(**fields)
    turned = {k: dict(reversed(v.items())) if isinstance(v, dict) else v for k, v in fields.items()}
    turned["table"] = {"a": {"c": None, "d": 1}, "b": [1]}
    assert build(**turned) is structure and hash(build(**turned)) == hash(structure)
    # whichever came first, the task sees its tables in one order
    table = structure.environment.config.table
    assert list(table) == ["a", "b"] and list(table["a"]) == ["c", "d"]
    assert list(structure.environment.reward.config.weights) == ["x", "y"]
    assert list(build().environment.reward.config.weights) == ["a", "b"]
    assert structure.name == (
        "J=[[0+1]+[1+0]],table={a:{c:None+d:1}+b:[1]},weights={x:2.0+y:1.0},bias=1.0+2.0,width=4,"
        "depths=[3],options={p:[]+q:[1]}"
    )
    assert pickle.loads(pickle.dumps(structure)) is structure
    assert Structure.from_json(json.loads(json.dumps(structure.to_json()))) is structure
    for key, other in {
        "J": [[0, 1, 1, 0]],
        "table": {"b": [True], "a": {"d": 1, "c": None}},
        "weights": {"y": 2.0, "x": 1.0},
        "bias": [2.0, 1.0],
        "options": {},
    }.items():
        different = build(**{**fields, key: other})
        assert different != structure and different.name != structure.name


@pytest.mark.usefixtures("lists")
def test_a_default_of_another_type_and_a_set_in_another_order_are_the_same_content():
    # the default of `floor`, 1, is an integer
    assert build(floor=1.0) is build() and build(floor=1.0).name == "width=4"
    orders = itertools.permutations(["x", "y", "ab", "zz"])
    assert len({build(tags=list(order)).name for order in orders}) == 1
    assert build(tags=["y", "x"]).name == "tags=x+y,width=4"
    assert Structure.parse("lists", "tags=y+x,width=4", "listed") is build(tags=["x", "y"])


def test_lists_and_tables_of_every_component_work_on_the_command_line(lists, tmp_path, capsys):
    text = "J=[[0,1],[1,0]],table={b:1,a:[2]},weights={b:1,a:3},bias=1+2,width=4,depths=[3],options={q:[1]}"
    file = tmp_path / "run.toml"
    file.write_text(
        'env = "lists"\npolicy = "listed"\n[zoo]\nsteps = 3\nnum = 2\n[[structures]]\nwidth = 4\n'
        f'J = [[0, 1, 1, 0]]\nnote = "{"x" * 80}"\n[structures.table]\nb = 1\na = [2]\n'
    )
    zoos = [tmp_path / "text", tmp_path / "file"]
    options = ["-o", "policy=listed", "-o", "zoo.steps=3", "-o", "zoo.num=2"]
    run("train-zoo", "--env", "lists", "--structure", text, "--out", zoos[0], *options)
    run("train-zoo", "--config", file, "--out", zoos[1])
    names = [[each.name for each in zoo.iterdir() if each.is_dir() and "=" in each.name] for zoo in zoos]
    assert names == [
        [
            "J=[[0+1]+[1+0]],table={a:[2]+b:1},weights={a:3.0+b:1.0},bias=1.0+2.0,width=4,"
            "depths=[3],options={q:[1]}"
        ],
        [f"J=[[0+1+1+0]],table={{a:[2]+b:1}},note={digest('x' * 80)},width=4"],
    ]
    for zoo, (name,) in zip(zoos, names, strict=True):
        # no structure is in use but those that the command finds
        module._named.clear(), module._alive.clear(), module._recent.clear()
        capsys.readouterr()
        run("evaluate", zoo, "--structure", name, "--baseline", "none", "--metric", "mean_reward", "--json")
        (entry,) = json.loads(capsys.readouterr().out)
        assert entry["name"] == name and entry["structure"]["width"] == 4


def run(*args: object) -> None:
    """A command in this process, which must succeed."""
    try:
        main([str(each) for each in args])
    except SystemExit as stop:
        assert not stop.code


def digest(text: str) -> str:
    return "~" + hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.usefixtures("lists")
def test_a_name_with_a_digest_is_found_while_its_structure_is_in_use_whoever_asked_for_it():
    structure = build(note="x" * 80)
    name = f"note={digest('x' * 80)},width=4"
    assert Structure.parse("lists", name, "listed") is structure  # nobody has read its name
    assert structure.name == name
    # a name of many fields is cut short
    fields = {f"key{i}": "y" * 9 for i in range(3)}
    long = build(table=fields, note="z" * 55, weights={"x" * 9: 0.25, "y" * 9: 0.5}, row=list(range(25)))
    full = (
        f"table={{key0:{'y' * 9}+key1:{'y' * 9}+key2:{'y' * 9}}},note={'z' * 55},"
        f"row={digest('+'.join(map(str, range(25))))},weights={{{'x' * 9}:0.25+{'y' * 9}:0.5}},width=4"
    )
    assert len(full) > 150
    assert Structure.parse("lists", f"{full[:133]}-{digest(full)[1:]}", "listed") is long


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"note": "x" * 80}, f"note={digest('x' * 80)} stands for a value of a structure that is not in use"),
        ({"row": list(range(40))}, "stands for a value of a structure that is not in use"),
        ({"note": "a" * 60, "table": {"k": "b" * 50}, "row": list(range(20))}, "is a name cut short"),
    ],
)
@pytest.mark.usefixtures("lists")
def test_a_digest_of_a_structure_that_nobody_holds_is_refused(fields, says):
    with pytest.raises(GenflowError) as caught:
        parsed_anew("lists", "listed", {"width": 4, **fields})
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["~0123456789abcdef", "~", "~~", "~a,b", "%7E0123456789abcdef"])
@pytest.mark.usefixtures("lists")
def test_a_text_that_looks_like_a_digest_is_a_text(text):
    structure, again = parsed_anew("lists", "listed", {"width": 4, "note": text})
    assert again is structure and again.fields()["note"] == text
    assert Structure.from_json(structure.to_json()) is structure


@pytest.mark.usefixtures("lists")
def test_a_reward_of_any_name_is_found_by_the_structures_name():
    structure, again = parsed_anew("lists", "listed", {"width": 4, "reward": "größer"})
    assert again is structure and structure.name == "reward=gr%C3%B6%C3%9Fer,width=4"


class Unions(Lists):
    """A task whose fields take values of different kinds."""

    class Config(Schema):
        """Unions."""

        U: int | str = fixed(0)
        F: float | str | None = fixed(None)
        B: bool | int = fixed(0)
        N: int | float = fixed(0)
        E: Literal[8, 16, "8"] = fixed(16)
        C: Colour | int = fixed(0)
        S: str | list[str] = fixed("")
        L: list[int | str | None] = fixed([])
        P: tuple[int, str] = fixed((0, ""))
        Q: list[int] | list[str] = fixed([])
        X: JsonValue = fixed(None)
        A: Any = fixed(None)
        T: Label | int = fixed(0)
        length: int = size(5)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("U", [3, "3", -1, "-1", "1.5", "x", "None", "True", "", "~", 10**30]),
        ("F", [3.0, "3", "3.0", 1e-5, "1e-05", None, "None", "null", "inf"]),
        ("B", [1, True, False]),
        ("N", [1, 0.5, 2.5, -7]),
        ("E", [8, "8", 16]),
        ("C", [7, "red", 8]),
        ("S", ["a", ["a"], ["a", "b"], "a+b", "[a]", "[a+b]", [], "1", ["1", "2"], "1+2"]),
        ("L", [[1, "1"], ["1", "1"], [1, 1], [1], ["1"], [None, "None"], ["None", None], [None], []]),
        ("P", [[1, "2"], [2, "1"], [1, "a+b"]]),
        ("Q", [[1, 2], ["1", "2"], [1], ["1"], ["a", "b"]]),
        ("X", [1, "1", 1.5, "1.5", True, "True", None, "None", [1, "1"], ["a", "b"], "a+b", {"a": "1"}, {}]),
        ("A", [1, "1", "x", [1, 2], ["1", "2"], {"b": 1}]),
        ("T", [3, "3", "x"]),
    ],
)
@pytest.mark.usefixtures("lists")
def test_values_of_different_kinds_have_different_names_that_parse_back(third_party, key, values):
    third_party("register_environments", "unions", f"{__name__}:Unions")
    names = set()
    for value in values:
        structure, again = parsed_anew("unions", "mlp3", {key: value})
        assert repr(again.fields()[key]) == repr(value) == repr(structure.fields()[key]), structure.name
        assert again is structure
        names.add(structure.name)
    # 0 stands for itself where it is the default
    assert len(names) == len(values)


class Plain(Environment):
    """A task with nothing to say."""

    def make(self, device="cpu"):
        """Nothing."""
        raise AssertionError("no task is made for a name")

    def condition(self):
        """Nothing."""
        return {}

    def units(self):
        """Nothing."""
        raise AssertionError("no units are described for a name")


class AllDefault(Plain):
    """A task that can be left as it is."""

    presets: ClassVar = {"default": {"length": 9}}

    class Config(Schema):
        """The first of two fields is too long for a name."""

        words: tuple[str, ...] = fixed(tuple(["word"] * 20))
        length: int = size(5)


class Bare(PolicyArch):
    """A policy without a condition."""

    def build(self, n_inputs, n_outputs):
        """One layer."""
        return torch.nn.Linear(n_inputs, n_outputs)

    def axes(self):
        """Rows are outputs."""
        return {"weight": ("action", "input"), "bias": ("action",)}

    def condition(self):
        """Nothing."""
        return {}


def test_a_structure_of_defaults_has_a_name_too(third_party):
    third_party("register_policies", "bare", f"{__name__}:Bare")
    third_party("register_environments", "plain", f"{__name__}:Plain")
    third_party("register_environments", "all-default", f"{__name__}:AllDefault")
    structure, again = parsed_anew("plain", "bare", {})
    assert again is structure and structure.name == "default"
    structure, again = parsed_anew("all-default", "bare", {})
    assert (
        again is structure
        and structure.name == "length=5"
        and structure != (Structure.parse("all-default", "default", "bare"))
    )
    assert Structure.parse("all-default", "default", "bare").name == "length=9"
    assert Structure.parse("all-default", "", "bare") is structure
