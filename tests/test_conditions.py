"""Conditions on columns, against Python's own reading of the same text."""

from __future__ import annotations

import itertools

import pytest

from genflow import GenflowError
from genflow.stages.conditions import Condition

KNOWN = ("score", "mw", "x0")
ROWS = [dict(zip(KNOWN, row, strict=True)) for row in itertools.product((-1.0, 0.5, 2), (0, 0.5), (1, 3))]


@pytest.mark.parametrize(
    "text",
    [
        "score>0.5",
        " score >= .5 ",
        "score == 2 or mw<0.5",
        "not score<=0.5 and x0!=1",
        "not (score<=0.5 and x0!=1)",
        "-1 <= score < 2",
        "mw < score",
        "score>-1e-3 and (mw>0 or x0==3) or mw==0",
        "x0==3 or 1<2",
    ],
)
def test_a_condition_means_what_it_means_in_python(text):
    condition = Condition.parse(text, KNOWN)
    assert set(condition.columns) == {name for name in KNOWN if name in text}
    for row in ROWS:
        assert condition.holds(row) == eval(text, {"__builtins__": {}}, dict(row))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scor>1", "names no column 'scor'; did you mean 'score'?"),
        ("score", "has 'score' where a comparison belongs"),
        ("score>'a'", "where a column or a number belongs"),
        ("score>True", "where a column or a number belongs"),
        ("score+mw>1", "where a column or a number belongs"),
        ("score in (1, 2)", "where a comparison belongs"),
        ("score is 1", "where a comparison belongs"),
        ("score>1, mw<2", "where a comparison belongs"),
        ("score.real>1", "where a column or a number belongs"),
        ("score(1)>1", "where a column or a number belongs"),
        ("(lambda: 1)()>1", "where a column or a number belongs"),
        ("__import__('os').system('true')", "names no column '__import__'"),
        ("score>", "is no condition"),
        ("", "is no condition"),
        ("score>1\x00", "is no condition"),
        ("score=1", "is no condition"),
        ("(" * 300 + "score>1" + ")" * 300, "is longer than"),
        ("(" * 240 + "score>1" + ")" * 240, "is no condition"),
        ("not " * 120 + "score", "where a comparison belongs"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(text, said):
    with pytest.raises(GenflowError) as error:
        Condition.parse(text, KNOWN)
    assert said in str(error.value)
    assert str(error.value).startswith("--filter ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
