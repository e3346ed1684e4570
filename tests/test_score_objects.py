"""Scored objects against the exact distribution over all of them."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import by_torchgfn, grid, lively, optimal

from genflow import GenflowError, ancestry, score_objects


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.txt"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize("change", [lambda task: task, by_torchgfn])
def test_the_probability_of_every_position_is_exact(write, change):
    population = lively(change(grid(2, 5)), 3)
    graph = population.structure.solution.graph
    file = write("\n".join(f"{a},{b}" for a, b in graph.states.tolist()))
    rows = score_objects(population, file).rows
    exact = population.terminal_distribution()
    assert [row["certainty"] for row in rows] == ["exact"] * 25
    torch.testing.assert_close(
        torch.tensor([row["log_probabilities"] for row in rows], dtype=torch.float64).T.exp(),
        exact,
        rtol=1e-6,
        atol=0,
    )
    assert [row["probability"] for row in rows] == pytest.approx(exact.mean(0).tolist())
    assert sum(row["probability"] for row in rows) == pytest.approx(1)
    assert [row["log_reward"] for row in rows] == pytest.approx(
        population.structure.transitions().log_reward(graph.states).tolist()
    )


def test_where_exact_is_out_of_reach_a_bound_is_given(write, monkeypatch):
    task = grid(2, 5)
    file = write("3 1\n0 0\n4 4\n")
    exact = [row["log_probability"] for row in score_objects(optimal(task), file).rows]
    monkeypatch.setattr(ancestry, "MAX_ANCESTORS", 8)
    rows = score_objects(optimal(task), file, trajectories=2).rows
    assert [row["certainty"] for row in rows] == ["exact", "exact", "lower bound on average"]
    # every trajectory of the optimal policy has the same weight, so that the bound is tight
    assert [row["log_probability"] for row in rows] == pytest.approx(exact, abs=1e-4)


def test_lines_that_name_nothing_are_said_and_the_others_scored(write):
    file = write("# mine\n3,3\n\n9 0\n-1 0\nx\n3+3\n1 2 3\n")
    found = score_objects(lively(grid(2, 4), 2), file)
    assert [row["line"] for row in found.rows] == [2, 4, 5, 7]
    assert [row["made"] for row in found.rows] == [True, False, False, True]
    assert [row["why_not"] for row in found.rows][1:3] == [
        "has 9, and positions end at 3",
        "has -1, and positions begin at 0",
    ]
    assert [fault.partition(", ")[2] for fault in found.faults] == [
        "line 6: 'x' is no list of numbers such as 0+0",
        "line 8: '1 2 3' has 3 numbers, and a state has 2",
    ]


def test_what_no_trajectory_reaches_is_not_made(write):
    # without the plugin's own gallery nothing says how far positions go
    from genflow import Environment, Structure

    task = grid(2, 4)
    plain = type("Plain", (type(task.environment),), {"gallery": Environment.gallery})
    environment = plain(task.environment.config, task.environment.reward)
    population = lively(Structure.of(environment, task.arch, task.env, task.policy), 2)
    (far, near) = score_objects(population, write("9 0\n1 0\n")).rows
    assert (far["made"], far["why_not"]) == (False, "no trajectory ends there")
    assert near["made"]
    assert math.exp(near["log_probability"]) == near["probability"]


def test_a_csv_is_read_by_its_column(write):
    population = lively(grid(2, 4), 2)
    rows = score_objects(population, write('score,Object\n1,"3,3"\n2,1+2\n', "t.csv")).rows
    assert [(row["line"], row["object"]) for row in rows] == [(2, "3+3"), (3, "1+2")]
    text = "# exported; by me\nscore;name;object\n1;far;3 3\n\n# half\n2;near;0 1;more\n"
    rows = score_objects(population, write(text, "t.csv")).rows
    assert [(row["line"], row["name"], row["object"]) for row in rows] == [
        (3, "far", "3+3"),
        (6, "near", "0+1"),
    ]
    rows = score_objects(population, write('Position,act\n"3,3",1,2024-note\n', "t.csv")).rows
    assert rows[0]["name"] is None
    rows = score_objects(population, write('Position\n"3,3"\n', "t.csv")).rows
    assert [row["object"] for row in rows] == ["3+3"]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "t.txt", "has no objects"),
        ("# nothing\n\n", "t.txt", "has no objects"),
        ("x\ny\n", "t.txt", "no line of .* can be read; the first: .*line 1: 'x'"),
        ("a,b\n1,2\n", "t.csv", "has no column object or position; .*there are a, b"),
        ("0,0\n", "t.sdf", "has none of the endings .smi, .txt, .csv"),
        ("", "t.csv", "has no column"),
    ],
)
def test_files_without_objects_are_refused(write, text, name, said):
    with pytest.raises(GenflowError, match=said) as error:
        score_objects(lively(grid(2, 4), 2), write(text, name))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "t.smi").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GenflowError, match="no text in UTF-8"):
        score_objects(lively(grid(2, 4), 2), tmp_path / "t.smi")


def test_a_list_is_as_good_as_a_file(tmp_path):
    population = lively(grid(2, 4), 2)
    (tmp_path / "t.txt").write_text("1 2\nhere\n3 3\n")
    found, wanted = (
        score_objects(population, ["1 2", "here", "3 3"]),
        score_objects(population, tmp_path / "t.txt"),
    )
    assert found.rows == wanted.rows and [row["line"] for row in found.rows] == [1, 3]
    assert found.faults[0].startswith("the list, line 2: 'here' ")
    for objects, said in (
        ([], "the list has no objects"),
        ([3], "as texts, not 3"),
        (["x"], "no line of the list"),
    ):
        with pytest.raises(GenflowError, match=said):
            score_objects(population, objects)
