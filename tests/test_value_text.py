"""Values of fields as short texts: every value is read back, and different values have different texts."""

from __future__ import annotations

import random
import string

import pytest
from pydantic import JsonValue

from genflow import Environment, GenflowError, Schema, Structure, fixed, load_config
from genflow.value_text import count_of, from_text, to_text

ODD = [
    "", " ", "  a ", "a+b", "a,b", "[", "]", "{a:1}", "(1)", "../up", "/", "\0", "é", "漢字", "a=b", "a:b",
    "~", "%", "%41",
    "1", "-1", "+1", "1.5", "1e5", "1e", "x1e", "2E", "True", "false", "None", "null", "'", '"', "''",
    "a\nb", "-", ".", "*",
]  # fmt: skip


def scalar(rng: random.Random):
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randint(-(10**6), 10**18)
    if kind == 1:
        return rng.choice([0.0, -0.5, 1e-05, 1e20, -1.5e300, 5e-324, 0.1, 3.0, rng.gauss(0, 1)])
    if kind == 2:
        return rng.choice([True, False, None])
    if kind == 3:
        return rng.choice(ODD)
    return "".join(rng.choice(string.printable + "äß漢") for _ in range(rng.randint(0, 6)))


def value(rng: random.Random, depth: int):
    if depth == 0 or rng.random() < 0.4:
        return scalar(rng)
    if rng.random() < 0.5:
        return [value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return {str(scalar(rng)): value(rng, depth - 1) for _ in range(rng.randint(0, 3))}


def same(a, b) -> bool:
    """Equal, with 1, 1.0 and True told apart."""
    return repr(a) == repr(b)


@pytest.mark.parametrize("seed", range(300))
def test_lists_and_tables_are_read_back_whatever_they_hold(seed):
    rng = random.Random(seed)
    inner = value(rng, 3)
    nested = [inner] if rng.random() < 0.5 else {"key": inner}
    text = to_text(nested)
    assert same(from_text(text), nested), text
    # nothing that leaves a folder, ends a field or starts another one
    assert not set("/\\\0\n\t") & set(text)
    assert not set(",=") & set(text)


@pytest.mark.parametrize("text", ODD)
def test_a_text_is_read_back_alone_and_in_a_list(text):
    alone = from_text(to_text(text), optional=True)
    assert alone == text
    for items in (["a", text], [text, "b"], [text, text, "c"]):
        assert from_text(to_text(items), sequence=True) == items
    assert from_text(to_text([text])) == [text]


def test_different_values_have_different_texts():
    rng = random.Random(5)
    values = [value(rng, 3) for _ in range(3000)]
    values += [
        [[0, 1], [1, 0]],
        [[0, 1, 1, 0]],
        [0, 1, 1, 0],
        [[[0, 1], [1, 0]]],
        [1],
        [[1]],
        [],
        [[]],
        {},
        [""],
        ["", ""],
    ]
    found: dict[str, object] = {}
    for each in values:
        # a text that stands alone is of a field that takes texts
        if isinstance(each, list | dict):
            assert same(found.setdefault(to_text(each), each), each)
    assert len(found) > 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[0,1],[1,0]]", [[0, 1], [1, 0]]),
        ("[[0+1]+[1+0]]", [[0, 1], [1, 0]]),
        ("((0, 1), (1, 0))", [[0, 1], [1, 0]]),
        ("[ 1 , 2 ]", [1, 2]),
        ("[1,2,]", [1, 2]),
        ("[1e-05+2e+3]", [1e-5, 2000.0]),
        ("[-1,+2]", [-1, 2]),
        ("{a:1,b:[2,3]}", {"a": 1, "b": [2, 3]}),
        ("{a=1, b={c:'x'}}", {"a": 1, "b": {"c": "x"}}),
        ("[true,null,x y]", [True, None, "x y"]),
        ("[]", []),
        ("{}", {}),
    ],
)
def test_how_people_write_lists_and_tables(text, expected):
    assert same(from_text(text), expected)


@pytest.mark.parametrize("text", ["[1", "[1]2", "[[1]", "{a:1", "{a}", "{:1}", "[1]]", "{a:1}}", "[1)x", "("])
def test_brackets_that_are_not_closed_are_one_line(text):
    with pytest.raises(GenflowError) as caught:
        from_text(text)
    assert "\n" not in str(caught.value) and text[:1] in str(caught.value)


class Odd(Environment):
    """A task that cannot be run, with a field of every kind."""

    class Config(Schema):
        """What a structure's name may have to hold."""

        J: tuple[tuple[int, ...], ...] = fixed(())
        row: list[float] = fixed([1.0, 2.0])
        names: tuple[str, ...] = fixed(("a",))
        table: dict[str, JsonValue] = fixed({})
        text: str = fixed("plain")
        scale: float = fixed(1.0)
        maybe: str | None = fixed("something")
        counts: dict[str, list[int]] | None = fixed(None)

    def make(self, device="cpu"):
        """Nothing."""
        raise AssertionError("no task is made for a name")

    def condition(self):
        """Nothing."""
        return {}

    def units(self):
        """Nothing."""
        raise AssertionError("no units are described for a name")


@pytest.fixture
def odd(third_party):
    """`Odd` as a third party would register it."""
    third_party("register_environments", "odd", f"{__name__}:Odd")


def build(**fields) -> Structure:
    return Structure.build("odd", {**fields, "width": 3})


def parsed_anew(structure: Structure) -> Structure:
    """Read a name that belongs to no structure in use."""
    from genflow import structure as module

    module._named.pop((structure.env, structure.policy, structure.name))
    return Structure.parse(structure.env, structure.name)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.usefixtures("odd")
def test_every_name_parses_back_to_its_structure(seed):
    rng = random.Random(seed)
    text = rng.choice([*ODD, "x" * 20])
    structure = build(
        J=[[rng.randint(-3, 3) for _ in range(rng.randint(0, 3))] for _ in range(rng.randint(0, 3))],
        row=[rng.choice([1e-5, 1e20, -0.25, 7.0]) for _ in range(rng.randint(0, 3))],
        names=[rng.choice(ODD)[:9] for _ in range(rng.randint(0, 3))],
        table={"k": value(rng, 1)} if rng.random() < 0.5 else {},
        text=text,
        scale=rng.choice([1e-5, 1e20, 3.0, -2.5]),
        maybe=rng.choice([None, "None", "null", "x", "", "[y]"]),
        counts=rng.choice([None, {}, {"a": [1]}, {"a b": [1, 2], "1": []}]),
    )
    if "~" in structure.name.replace("%7E", ""):
        assert Structure.parse("odd", structure.name) is structure
        return  # too long to be written out
    assert "/" not in structure.name and "\0" not in structure.name
    again = parsed_anew(structure)
    assert again == structure and again.name == structure.name
    assert Structure.from_json(structure.to_json()) == structure


@pytest.mark.usefixtures("odd")
def test_nesting_is_part_of_the_name():
    square, row = build(J=[[0, 1], [1, 0]]), build(J=[[0, 1, 1, 0]])
    assert square != row
    assert square.name == "J=[[0+1]+[1+0]],width=3" and row.name == "J=[[0+1+1+0]],width=3"
    assert len({build(row=row).name for row in ([], [1.5], [1.5, 2.0], [1.0, 2.0])}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "J=[[0,1],[1,0]],names=a+b,table={x:1,y:[2,3]},width=3",
        "width=3, J=((0, 1), (1, 0)), names=[a, b], table={x=1, y=[2+3]}",
        "J=[[0+1]+[1+0]],names=[a+b],table={x:1+y:[2+3]},width=3",
    ],
)
@pytest.mark.usefixtures("odd")
def test_lists_tuples_and_tables_on_the_command_line_are_those_of_a_file(text, tmp_path):
    expected = build(J=[[0, 1], [1, 0]], names=["a", "b"], table={"x": 1, "y": [2, 3]})
    assert Structure.parse("odd", text) == expected
    file = tmp_path / "run.toml"
    file.write_text(
        'env = "odd"\n[[structures]]\nJ = [[0, 1], [1, 0]]\nnames = ["a", "b"]\nwidth = 3\n'
        "[structures.table]\nx = 1\ny = [2, 3]\n"
    )
    assert load_config(file).training_structures() == [expected]
    file.write_text(f'env = "odd"\nstructures = ["{text}"]\n')
    assert load_config(file).training_structures() == [expected]


@pytest.mark.usefixtures("odd")
def test_a_value_that_is_too_long_is_named_by_its_content():
    long, other = build(text="x" * 500), build(text="x" * 499 + "y")
    assert long.name != other.name
    assert len(long.name) <= 150
    # the name of a structure in use is found again
    assert Structure.parse("odd", long.name) is long


@pytest.mark.usefixtures("odd")
def test_two_structures_of_one_name_are_refused(monkeypatch):
    from genflow import structure_fields as module

    monkeypatch.setattr(module, "text_digest", lambda text: "~same")
    long, other = build(text="v" * 500), build(text="w" * 500)
    assert long.name.startswith("text=~same")
    with pytest.raises(GenflowError, match="two different structures have the name 'text=~same") as caught:
        other.name  # noqa: B018
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("odd")
def test_values_that_nobody_typed_are_taken_as_they_are():
    structure = build(text="%41", maybe="None", names=["1+2"], table={"a": "[1]"})
    assert structure.fields()["text"] == "%41" and structure.fields()["maybe"] == "None"
    assert Structure.from_json(structure.to_json()) == structure
    # a field of texts takes one that looks like a list
    assert Structure.parse("odd", "text=[NH3],width=3") == build(text="[NH3]")


@pytest.mark.usefixtures("odd")
def test_a_value_that_is_no_list_is_one_line():
    with pytest.raises(GenflowError, match=r"J: .*bracket is not closed") as caught:
        Structure.parse("odd", "J=[[0,1],width=3")
    assert "\n" not in str(caught.value)


def test_what_is_counted_is_named_as_one_or_as_many():
    counted = [count_of(n, "policy", "policies") for n in (0, 1, 2, 1000)]
    assert counted == ["0 policies", "1 policy", "2 policies", "1,000 policies"]
    assert [count_of(n, "row") for n in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
