"""Drawn molecules: what is on a picture, told by its pixels and by RDKit's own drawing."""

from __future__ import annotations

import io

import pytest
import torch
from genflow_molecule import drawing
from oracles import lively
from PIL import Image
from rdkit import Chem
from test_molecule import structure

SMALL, LARGE = "CCN", "O=C(CCC(=O)C1CCCO1)Oc1nc2ccc(Cl)cc2s1"
#: longer than any picture is wide, with bonds of the least length
LONG = "C" * 40


def inked(png: bytes) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is not white."""
    picture = Image.open(io.BytesIO(png)).convert("L").point(lambda value: 255 * (value < 200))
    box = picture.getbbox()
    assert box is not None
    return box


def mols(*smiles: str) -> list[Chem.Mol]:
    return [Chem.MolFromSmiles(each) for each in smiles]


def bond_of(png: bytes) -> float:
    """Pixels of the bond of ethane, of whose picture it is all."""
    left, _, right, _ = inked(png)
    return float(right - left)


@pytest.fixture(scope="module")
def states() -> torch.Tensor:
    return lively(structure(20, 5), 2, scale=1.0).rollouts(20, 0).final.flatten(0, 1)


@pytest.fixture(scope="module")
def gallery():
    return structure(20, 5).gallery


def test_one_png_of_one_size_for_each_state(gallery, states):
    pictures = gallery.draw(states[:6])
    assert len(pictures) == 6
    for png in pictures:
        picture = Image.open(io.BytesIO(png))
        assert picture.format == "PNG" and picture.size == (drawing.WIDTH, drawing.HEIGHT)
    assert gallery.draw(states[:0]) == []


def test_states_that_are_one_molecule_look_the_same_and_others_do_not(gallery, states):
    names, pictures = gallery.names(states), gallery.draw(states)
    assert 1 < len(set(names)) < len(names), "the test needs duplicates"
    assert len(set(zip(names, pictures, strict=True))) == len(set(names)) == len(set(pictures))


def test_names_are_canonical_smiles_and_scores_are_those_before_beta():
    task = structure(12, 3, beta=16.0)
    gallery, graph = task.gallery, task.solution.graph
    states = graph.states[graph.can_exit][:50]
    names = gallery.names(states)
    assert names == [Chem.MolToSmiles(Chem.MolFromSmiles(name)) for name in names]
    torch.testing.assert_close(gallery.scores(states), (task.transitions().log_reward(states) / 16.0).exp())
    assert "qed_sa" in gallery.score and gallery.pictures and gallery.places(states) is None


def test_bonds_are_equally_long_in_pictures_that_come_together():
    alone, _ = (bond_of(png) for png in drawing.draw(mols("CC", "CC")))
    assert alone == pytest.approx(drawing.BOND, abs=4)
    beside, _ = drawing.draw(mols("CC", LARGE))
    assert drawing.LEAST - 4 <= bond_of(beside) < alone - 4
    # nonane is a zigzag of eight bonds
    chain, _ = drawing.draw(mols("C" * 9, LARGE))
    left, _, right, _ = inked(chain)
    assert (right - left) / (8 * 0.866) == pytest.approx(bond_of(beside), rel=0.05)


def test_one_that_is_too_large_shrinks_alone():
    beside, long = drawing.draw(mols("CC", LONG))
    assert bond_of(beside) == pytest.approx(drawing.LEAST, abs=4)
    left, _, right, _ = inked(long)
    across = 0.866 * (len(LONG) - 1)  # of a zigzag, in bonds
    assert (right - left) / across < 0.8 * drawing.LEAST


@pytest.mark.parametrize(
    "smiles", [SMALL, LARGE, LONG, "N", "NCCCCCCCCCCN", "O=[N+]([O-])c1ccc(S(=O)(=O)NCC#N)cc1"]
)
def test_nothing_is_cut_off_at_the_edges(smiles):
    (png,) = drawing.draw(mols(smiles))
    left, top, right, bottom = inked(png)
    assert left > 0 and top > 0 and right < drawing.WIDTH and bottom < drawing.HEIGHT


def test_the_longer_side_lies_across():
    for smiles in (LARGE, LONG, "c1ccc(-c2ccc(-c3ccccc3)cc2)cc1"):
        left, top, right, bottom = inked(drawing.draw(mols(smiles))[0])
        assert right - left > bottom - top


def test_a_picture_does_not_hold_the_molecule_as_data(gallery, states):
    (png,) = gallery.draw(states[:1])
    assert not any("rdkit" in key.lower() for key in Image.open(io.BytesIO(png)).info)


def test_the_chapter_shows_each_molecule_once_best_first(tmp_path):
    from html import escape

    from genflow import Population
    from genflow.evaluation.report import write_report

    small = structure(8, 3, multiplicity=True)
    population = lively(small, 2, scale=1.0)
    Population(small, population.weights, {"source": "trained"}).save(tmp_path)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    sampled = population.rollouts(256, 0).final.flatten(0, 1)
    scores = {
        name: small.environment.catalogue.score(name) for name in small.environment.catalogue.smiles(sampled)
    }
    best = sorted(scores, key=lambda name: -scores[name])[:8]
    chapter = html[html.index("<h4>trained") : html.index("<h4>random")]
    places = [chapter.index(f'alt="{escape(name)}"') for name in best]
    assert chapter.count("<img") == 8 and len(scores) < 512
    assert [scores[best[i]] for i in sorted(range(8), key=places.__getitem__)] == [
        scores[name] for name in best
    ]
    assert "Probability by rank" in html and "Marginal distributions" not in html
