"""``genflow plugin-info``, and the line on each name of ``genflow list-plugins``, read without its class."""

from __future__ import annotations

import inspect
import json
import sys
from typing import Annotated, Literal

import pytest
from pydantic import Field

import genflow
from genflow.class_lines import line_of
from genflow.cli.main import main
from genflow.plugin_info import field_line, fields_of, info, type_text
from genflow.registry import KINDS, registry


def registered():
    """(kind, registered name, target) of everything built in."""
    return [
        (kind, name, target)
        for plugin in registry().plugins
        for kind, names in plugin.targets.items()
        for name, target in names.items()
    ]


@pytest.mark.parametrize(("kind", "name", "target"), registered())
def test_every_built_in_name_and_each_of_its_fields_has_a_line(kind, name, target):
    environment, _, own = name.rpartition(":")
    cls = registry().load(kind, own, environment or None)
    # read from the source, it is what Python itself says
    assert line_of(target) == inspect.cleandoc(cls.__doc__).partition("\n")[0] != ""
    for field in fields_of(cls.Config, roles=False):
        assert field["line"].endswith("."), f"{target}, {field['name']}: give the field a description"


def test_a_class_says_its_line_without_being_imported(tmp_path, monkeypatch):
    files = {
        "heavy/__init__.py": "raise RuntimeError('imported')\nfrom .inner import Moved as Renamed",
        "heavy/inner.py": 'class Moved:\n    """Is elsewhere.\n\n    And more.\n    """',
        "heavy/silent.py": "class Silent: pass\nMade = type('Made', (), {})",
        "heavy/broken.py": "class :",
        "circle_a.py": "from circle_b import It",
        "circle_b.py": "from circle_a import It",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    lines = {
        "heavy.inner:Moved": "Is elsewhere.",
        "heavy:Renamed": "Is elsewhere.",
        "heavy.silent:Silent": "",
        "heavy.silent:Made": "",
        "heavy.broken:It": "",
        "heavy.missing:It": "",
        "nowhere.at.all:It": "",
        "circle_a:It": "",
        "sys:It": "",
    }
    assert {target: line_of(target) for target in lines} == lines
    assert not [name for name in sys.modules if name.startswith(("heavy", "circle"))]


def test_lists_are_the_same_as_ever_and_have_lines_beside_them(capsys):
    main(["list-plugins", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert all(
        plugin.keys() == {"name", "version", "distribution", "provides", "error"}
        for plugin in told["plugins"]
    )
    lines = {kind: dict.fromkeys(told["lines"][kind]) for kind in told["lines"]}
    assert lines == {kind: dict.fromkeys(registry().names(kind)) for kind in KINDS if registry().names(kind)}
    assert told["lines"]["metric"]["js"] == "Exact Jensen-Shannon divergence."


class Options(genflow.Schema):
    """What a plugin may write.

    `length`: positions, as in
    genflow-line. `floor`: the reward elsewhere.

    `mode` is told of in its description.
    """

    length: int = genflow.size(ge=2, lt=9)
    floor: float = genflow.described(0.5)
    mode: Literal["a", "b"] = genflow.told("a", description="A\n  choice.")
    tags: tuple[str, ...] = Field(default_factory=tuple)


def test_fields_say_type_default_limits_role_and_a_line():
    shown = [tuple(field.values()) for field in fields_of(Options, roles=True)]
    assert shown == [
        ("length", "int", True, None, {"ge": 2, "lt": 9}, "positions, as in genflow-line.", "size"),
        ("floor", "float", False, 0.5, {}, "the reward elsewhere.", "described"),
        ("mode", '"a" | "b"', False, "a", {}, "A choice.", "told"),
        ("tags", "list of str", False, (), {}, "", "fixed"),
    ]
    assert field_line(Options, "tags") == ""


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int | None, "int | none"),
        (Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...], "int | list of int"),
        (tuple[float, float], "list of float"),
        (list[list[int] | str], "list of (list of int | str)"),
        (dict[str, float], "table of float"),
        (Literal[1, "x"], '1 | "x"'),
    ],
)
def test_types_are_written_for_people(annotation, text):
    assert type_text(annotation) == text


def test_an_environment_says_what_ships_for_it():
    (own,) = [entry for entry in info("hypergrid") if entry["kind"] == "environment"]
    assert own["presets"]["A"] == {"height": 16, "ndim": 4, "width": 128}
    assert own["default_structures"] == ["A", "B", "C", "D"]
    assert {"original", "separable"} <= set(own["rewards"])
    cards = {card["name"]: card for card in own["pretrained"]}
    assert cards["hypergrid/default"]["coverage"]["height"] == [2, 100]
    assert cards["hypergrid/default"]["training_structures"] > 200
    assert {field["name"]: field["role"] for field in own["fields"]} == {
        "ndim": "size",
        "height": "size",
        "reward": "told",
        "backward": "fixed",
    }


def test_a_plugin_is_all_that_it_provides_and_a_name_all_that_has_it():
    provided = {(entry["kind"], entry["name"]) for entry in info("policies")}
    assert provided == {("policy", name) for name in registry().names("policy")}
    assert [(entry["kind"], entry["environment"]) for entry in info("qed_sa")] == [("reward", "molecule")]
    assert info("qed_sa") == info("molecule:qed_sa")
    (metric,) = info("novelty")
    assert (metric["better"], metric["reference"]) == (
        registry().load("metric", "novelty").better,
        True,
    )
    assert "role" not in info("conv1d")[0]["fields"][0]


def test_the_command_writes_it_for_people_and_for_programs(capsys):
    main(["plugin-info", "mlp3"])
    assert capsys.readouterr().out.splitlines() == [
        "policy mlp3  (plugin policies, genflow_policies.mlp3:MLP3)",
        f"  {line_of('genflow_policies.mlp3:MLP3')}",
        "  width  (int, ge=1, le=8192, default 128, size)",
        "      Hidden units d of each of the two layers.",
    ]
    main(["plugin-info", "js", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["entries"]) == ("js", info("js"))


def test_an_unknown_name_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plugin-info", "hypergird"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "genflow: no plugin and nothing registered is called 'hypergird'; did you mean 'hypergrid'?\n"
    )
