"""What a generator may be asked for: refused, cautioned where little is known, silent in the middle."""

from __future__ import annotations

import json

import pytest
import torch
from genflow_encoders.conv1d import Conv1dEncoder
from genflow_encoders.coordinate import CoordinateEncoder
from genflow_molecule.vocabulary import shipped_vocabulary
from oracles import grid

from genflow import (
    Environment,
    Generator,
    GenflowError,
    Population,
    Schema,
    Structure,
    cautions,
    described,
    load_config,
    told,
)
from genflow.coverage import Quality, check, distance
from genflow.generator import FORMAT
from genflow.model_card import Card, EncoderCard
from genflow.noise import NoiseOptions, SamplingOptions
from genflow.registry import registry
from genflow.stages.common import check_plan


def caution(structure, training, quality, blind=None):
    """The caution of a generator, which looks at conditions too."""
    fields = [other.fields() for other in training]
    return cautions.caution(structure, fields, quality, lambda: training, blind)


COVERAGE = {"ndim": (2.0, 4.0), "height": (3.0, 12.0), "R0": (0.01, 0.5), "band": (0.2, 0.45)}
#: R0 and the band vary, R1, R2 and outer do not
TRAINING = [
    grid(2, 4).fields(),
    grid(3, 12, R0=0.01).fields(),
    grid(4, 6, R0=0.5, band=(0.2, 0.45)).fields(),
]


def refusal(structure: Structure, training=TRAINING, coverage=COVERAGE) -> str:
    with pytest.raises(GenflowError) as caught:
        check(structure, training, coverage)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "structure",
    [
        grid(2, 4),  # trained on
        grid(3, 7, R0=0.02),  # between
        grid(2, 3, R0=0.01, band=(0.2, 0.45)),  # the ends count as inside
        grid(4, 12, R0=0.5, width=500),  # nothing is said about the width
    ],
    ids=lambda s: s.name,
)
def test_inside_the_ranges_nothing_is_refused(structure):
    check(structure, TRAINING, COVERAGE)


@pytest.mark.parametrize(
    ("structure", "value"),
    [
        (grid(1, 4), "ndim=1"),
        (grid(5, 4), "ndim=5"),
        (grid(2, 2), "height=2"),
        (grid(2, 13), "height=13"),
        (grid(2, 4, R0=0.00999), "R0=0.00999"),
        (grid(2, 4, R0=0.51), "R0=0.51"),
        (grid(2, 4, band=(0.19, 0.4)), "band=0.19+0.4"),
        (grid(2, 4, band=(0.3, 0.46)), "band=0.3+0.46"),
    ],
    ids=lambda s: getattr(s, "name", s),
)
def test_outside_a_range_the_value_and_all_ranges_are_named(structure, value):
    ranges = "ndim 2 to 4, height 3 to 12, R0 0.01 to 0.5, band 0.2 to 0.45"
    assert refusal(structure) == f"{value} is outside what this generator covers: {ranges}"
    # it is the range that refuses, not what was trained on
    check(structure, [*TRAINING, structure.fields()], {})


def test_being_trained_on_does_not_widen_the_ranges():
    assert "R0=0.9 is outside" in refusal(grid(2, 4, R0=0.9), [*TRAINING, grid(2, 4, R0=0.9).fields()])


@pytest.mark.parametrize(
    ("fields", "odd"),
    [
        ({"R1": 0.7}, "R1=0.5, not 0.7"),
        ({"R2": 3.0, "outer": 0.2}, "R2=2.0, not 3.0; outer=0.25, not 0.2"),
        ({"reward": "paper"}, "reward=original, not paper"),
    ],
)
def test_what_never_varied_in_training_was_not_learned(fields, odd):
    text = f"this generator was trained on {odd}, and has not learned the difference"
    for refused in (refusal(grid(2, 4, **fields)), refusal(grid(2, 4, **fields), coverage={})):
        assert refused.startswith(text) and refused.endswith("`genflow finetune POPULATION --structure ...`")
    # even a range that includes it does not make it known
    assert "has not learned" in refusal(
        grid(2, 4, **fields), coverage={"R1": (0, 1), "R2": (0, 5), "outer": (0, 0.5)}
    )


def test_sizes_are_never_taken_as_fixed():
    training = [grid(2, 4).fields(), grid(2, 4, R0=0.2).fields()]
    for structure in (grid(3, 4), grid(2, 9), grid(2, 4, width=40)):
        check(structure, training, {})


def test_a_size_of_several_numbers_must_have_been_trained_on():
    own = Structure.build("hypergrid", {"height": [4, 5], "width": 8})
    assert refusal(own) == "this generator was trained on one number for height, not on 4+5"
    check(own, [*TRAINING, own.varied({"height": [6, 3]}).fields()], {})


def test_without_ranges_only_what_did_not_vary_is_refused():
    check(grid(9, 40, R0=0.7, band=(0.1, 0.9)), TRAINING, {})
    assert "R1=0.5, not 0.7" in refusal(grid(2, 4, R1=0.7), coverage={})


def test_a_band_that_varied_is_known_and_one_that_did_not_is_not():
    assert "band=0.3+0.4, not 0.2+0.4" in refusal(grid(2, 4, band=(0.2, 0.4)), TRAINING[:2])
    check(grid(2, 4, band=(0.2, 0.4)), TRAINING, {})


def test_what_the_condition_cannot_tell_must_have_been_trained_on():
    training = [grid(2, 4).fields(), grid(2, 4, reward="cosine").fields()]
    check(grid(2, 9, reward="cosine"), training, {})
    assert "trained on reward=original, not sparse" in refusal(grid(2, 9, reward="sparse"), training, {})


def test_a_coverage_may_bound_what_follows_from_the_fields():
    check(grid(4, 6), TRAINING, {"state_dim": (2, 24), "n_states": (2, 1296)})
    text = refusal(grid(4, 6), coverage={"ndim": (2, 8), "state_dim": (2, 23)})
    assert text == (
        "state_dim=24 (ndim=4, height=6, width=8) is outside what this generator covers: ndim 2 to 8,"
        " state_dim 2 to 23"
    )
    assert refusal(grid(4, 6), coverage={"n_states": (2, 1295)}).startswith("n_states=1296 (ndim=4, height=6")


def test_a_coverage_of_a_field_that_does_not_exist_is_refused():
    assert "coverage names 'hieght'" in refusal(grid(2, 4), TRAINING, {"hieght": (3, 4)})


def test_a_card_without_a_value_is_still_a_card():
    bare = [Quality(structure=plain(2, 5).fields(), name="x", role="test", num=1, metrics={"js": None})]
    assert caution(plain(2, 3), KNOWN, bare).endswith("; measured at x: ")
    assert caution(plain(4, 7), KNOWN, bare) is None


def test_without_training_structures_everything_fixed_is_refused():
    assert "reward=None, not original" in refusal(grid(2, 4), [])


# of cosine the condition is [s, h, n, R0, R1, R2, width], all of which are fields but the first
def plain(ndim, height, **fields) -> Structure:
    return grid(ndim, height, reward="cosine", **fields)


KNOWN = [
    plain(ndim, height, R0=r0, width=width)
    for ndim in range(2, 7)
    for height, r0, width in ((4, 0.1, 8), (6, 0.3, 16), (8, 0.01, 16), (10, 0.2, 32), (12, 0.05, 64))
]
QUALITY = [
    Quality(
        structure=plain(2, 5).fields(),
        name=plain(2, 5).name,
        role="test",
        num=4,
        metrics={"js": 0.0123, "kl": 0.5},
    ),
    Quality(
        structure=plain(6, 11, R0=0.2).fields(),
        name=plain(6, 11, R0=0.2).name,
        role="test",
        num=4,
        metrics={"js": 0.06},
    ),
]


OUTSIDE = "is outside what this generator was trained on"


def resembles(known) -> str:
    return f"resembles few of this generator's {len(known)} training structures"


@pytest.mark.parametrize(
    ("structure", "where", "text"),
    [
        (plain(4, 13), OUTSIDE, "height 13, trained on 4 to 12"),
        (plain(4, 3), OUTSIDE, "height 3, trained on 4 to 12"),
        (plain(7, 24), OUTSIDE, "ndim 7, trained on 2 to 6; height 24, trained on 4 to 12"),
        (plain(4, 7, R0=0.31), OUTSIDE, "R0 0.31, trained on 0.01 to 0.3"),
        (plain(4, 7, R0=0.009), OUTSIDE, "R0 0.009, trained on 0.01 to 0.3"),
        (plain(4, 7, width=65), OUTSIDE, "width 65, trained on 8 to 64"),
        # sizes come first, whatever the order of the fields
        (plain(4, 13, R0=0.31), OUTSIDE, "height 13, trained on 4 to 12; R0 0.31, trained on 0.01 to 0.3"),
        # inside by height and by dimension, but hardly any grid has as many inputs
        (plain(6, 11), resembles(KNOWN), "1 as large in ndim and height"),
    ],
    ids=lambda s: getattr(s, "name", s),
)
def test_what_lies_out_is_told_by_the_fields_that_the_user_set(structure, where, text):
    expected = f"{structure.name} {where}: {text}; nothing comparable was measured"
    assert caution(structure, KNOWN, []) == expected


def test_inside_the_range_the_few_that_are_as_extreme_are_counted():
    known = [plain(3, h) for h in (4, 6, 8, 10, 12, 14, 16, 18, 20)]
    assert f"{OUTSIDE}: height 21, trained on 4 to 20" in caution(plain(3, 21), known, [])
    # "the edge" of sizes 4 to 20 would not say that hardly any was as large
    assert f"{resembles(known)}: 1 with height 19 or more; " in caution(plain(3, 19), known, [])
    assert f"{resembles(known)}: 2 with height 17 or more; " in caution(plain(3, 17), known, [])
    assert f"{resembles(known)}: 1 with height 5 or less; " in caution(plain(3, 5), known, [])
    few = [plain(4, 7, R0=r) for r in (0.01, 0.02, 0.03, 0.1, 0.2, 0.3, 0.03, 0.03, 0.03)]
    assert f"{resembles(few)}: 2 with R0 0.15 or more; " in caution(plain(4, 7, R0=0.15), few, [])
    assert caution(plain(3, 11), known, []) is None


def entry(structure, untrained=None, **metrics) -> Quality:
    return Quality(
        structure=structure.fields(),
        name=structure.name,
        role="test",
        num=4,
        metrics=metrics,
        untrained=untrained or {},
    )


def test_only_what_is_about_as_large_in_every_size_is_quoted():
    near = caution(plain(2, 3), KNOWN, QUALITY)
    assert near.endswith(f"height 3, trained on 4 to 12; measured at {plain(2, 5).name}: js 0.012, kl 0.5")
    # 11 of 12 positions are comparable, 11 of 13 are not; six dimensions are not seven
    far = f"; measured at {plain(6, 11, R0=0.2).name}: js 0.06"
    assert caution(plain(6, 12, R0=0.2), KNOWN, QUALITY).endswith(far)
    assert caution(plain(6, 12, R0=0.2), KNOWN, QUALITY[::-1]).endswith(far)
    for structure in (plain(6, 13), plain(7, 11)):
        assert caution(structure, KNOWN, QUALITY).endswith("; nothing comparable was measured")


def test_training_structures_are_built_only_for_fields_that_hold_names():
    def built():
        raise AssertionError

    fields = [other.fields() for other in KNOWN]
    for asked in (plain(4, 7), plain(2, 3), plain(6, 11), grid(3, 9)):
        assert cautions.caution(asked, fields, QUALITY, built) == cautions.caution(asked, fields, QUALITY)
    blocks = Structure.build("molecule", {"blocks": (0, 1, 5), "max_blocks": 3})
    with pytest.raises(AssertionError):
        cautions.caution(blocks, [{**blocks.fields(), "blocks": [0, 1, 2]}], [], built)


def test_what_was_measured_of_another_reward_is_not_quoted():
    other = entry(grid(6, 20), js=0.001)
    assert caution(plain(6, 12), KNOWN, [other]).endswith("; nothing comparable was measured")


def test_a_number_is_compared_in_its_own_scale():
    bad, good = entry(plain(3, 12, R0=0.001), js=0.3), entry(plain(3, 10, R0=0.1), js=0.001)
    assert caution(plain(3, 10, R0=0.002), KNOWN, [good, bad]).endswith("js 0.3, which is poor")


@pytest.mark.parametrize(
    ("metrics", "poor"),
    [
        ({"js": 0.0694}, True),  # a tenth of ln 2
        ({"js": 0.0692}, False),
        ({"log_z_gap": 1.0}, True),
        ({"log_z_gap": 0.9}, False),
        ({"js": 0.001, "log_z_gap": 2.6}, True),
        ({"kl": 9.0, "not_installed": 9.0}, False),
    ],
    ids=str,
)
def test_in_the_middle_it_is_told_where_the_nearest_measurement_is_poor(metrics, poor):
    said = caution(plain(4, 7), KNOWN, [entry(plain(4, 8), **metrics), entry(plain(3, 12), js=0.0001)])
    assert (said is not None) == poor
    if poor:
        assert said.startswith(f"{plain(4, 7).name}: expect poor policies; measured at {plain(4, 8).name}: ")


def test_policies_no_better_than_untrained_ones_are_told():
    worse = entry(plain(4, 8), js=0.0095, untrained={"js": 0.0009})
    said = caution(plain(4, 7), KNOWN, [worse])
    assert said.endswith("js 0.0095, no better than untrained policies (js 0.0009)")
    assert caution(plain(4, 7), KNOWN, [entry(plain(4, 8), js=0.0095, untrained={"js": 0.1})]) is None


@pytest.fixture
def learned_by_name(monkeypatch):
    """Rewards of molecules as if a generator had to be trained on each."""
    field = registry().load("environment", "molecule").Config.model_fields["reward"]
    monkeypatch.setitem(field.json_schema_extra, "role", "described")


def test_a_reward_that_was_never_learned_is_told_of_every_structure_with_its_range(learned_by_name):
    def task(**fields):
        return Structure.build("molecule", {"blocks": (0, 1, 2), "max_blocks": 3, **fields})

    known = [
        task(reward=r, beta=b) for r in ("qed_sa", "logp_window") for b in (4.0, 5.0, 6.0, 8.0, 9.0, 16.0)
    ]
    quality = [
        entry(task(reward="qed_sa"), js=0.02),
        *(entry(task(reward="logp_window", beta=b), js=v) for b, v in ((7.0, 0.01), (8.5, 0.3), (10.0, 0.4))),
    ]
    asked = task(reward="logp_window", beta=7.0)  # whose own measurement is no exception to count on
    assert caution(asked, known, quality) == (
        f"{asked.name}: expect poor policies; measured at 3 structures: js 0.01 to 0.4, which is poor,"
        " for reward=logp_window"
    )
    assert caution(task(reward="qed_sa", beta=7.0), known, quality) is None


def test_blocks_of_others_are_told_where_they_are_far_more_or_far_out():
    def task(blocks):
        return Structure.build("molecule", {"blocks": blocks, "max_blocks": 3})

    known = [task((0, 1, 2)), task((0, 1, 3)), task((1, 2, 3)), task((0, 2, 3))]
    said = caution(task((10, 20, 30, 40, 50, 60, 70, 80)), known, [])
    assert said.endswith("trained on: blocks 8, trained on 3; nothing comparable was measured")


def test_what_follows_from_names_of_others_is_told_by_number_where_it_lies_far_out():
    def task(*smiles):
        blocks = [{"smiles": each, "stems": [0, 1], "attachments": [0]} for each in smiles]
        return Structure.build("molecule", {"vocabulary": blocks, "max_blocks": 2})

    known = [
        task("CCC", "CCCC", "CC1CCCCC1"),
        task("NCCO", "NCCN", "CCCCO"),
        task("CCC(F)F", "CCCC(F)F", "CC1CCCC(O)C1"),
        task("CCCCCF", "CCCCC(F)F", "CC1CCCCC1"),
    ]
    halogens = [other.environment.condition()["mean_halogens"] for other in known]
    # a little out, as one of a dozen numbers is of nearly every vocabulary
    near = task("CCC(F)F", "CCCC(F)F", "CC1CCCC(F)C1")
    far = task("CCC(F)(F)F", "CCC(F)(F)C(F)(F)F", "CCCC(F)(F)F")
    low, high = min(halogens), max(halogens)
    own = [each.environment.condition()["mean_halogens"] for each in (near, far)]
    assert high < own[0] <= high + cautions.FAR * (high - low) < own[1]
    assert caution(near, known, []) is None
    said = caution(far, known, [])
    assert "is far outside what this generator was trained on in vocabulary: " in said
    assert f"mean_halogens {own[1]:.4g}, trained on {low:.4g} to {high:.4g}; " in said


@pytest.mark.parametrize(
    "structure", [plain(4, 7), plain(3, 9, R0=0.15, width=20), plain(5, 6, R0=0.06)], ids=lambda s: s.name
)
def test_in_the_middle_there_is_nothing_to_say(structure):
    assert structure not in KNOWN
    assert caution(structure, KNOWN, QUALITY) is None


def test_every_new_structure_is_cautioned_of_if_the_encoder_reads_no_units():
    middle, edge = plain(4, 7), plain(2, 3)
    blind = (
        "its encoder conv1d has not been seen to carry over to structures it was not trained on;"
        " compare with `genflow evaluate`"
    )
    assert caution(middle, KNOWN, QUALITY, "conv1d") == f"{middle.name} is new to this generator: {blind}"
    assert caution(edge, KNOWN, QUALITY, "conv1d") == f"{caution(edge, KNOWN, QUALITY)}; {blind}"
    poor = [entry(plain(4, 8), js=0.3)]
    assert caution(middle, KNOWN, poor, "conv1d") == f"{caution(middle, KNOWN, poor)}; {blind}"


def test_a_structure_that_was_trained_on_needs_no_caution():
    assert all(caution(s, KNOWN, QUALITY, blind) is None for s in KNOWN for blind in (None, "conv1d"))
    assert caution(plain(2, 4), [plain(2, 4)], QUALITY) is None


def test_three_training_structures_as_far_out_are_enough():
    known = [plain(3, h, width=w) for h in (4, 6, 8, 10) for w in (8, 16, 32)]
    assert caution(plain(3, 4, width=12), known, []) is None
    assert ": 2 with height 4 or less;" in caution(plain(3, 4, width=12), known[1:], [])


def test_a_generator_of_our_own_reward_is_cautious_at_its_edge_alone():
    known = [grid(n, h, R0=r0) for n in (2, 3, 4) for h in range(4, 21) for r0 in (0.01, 0.1, 0.3)]
    assert caution(grid(3, 12, R0=0.05), known, []) is None
    assert "height 21, trained on 4 to 20" in caution(grid(3, 21, R0=0.1), known, [])
    assert "R0 0.31, trained on 0.01 to 0.3" in caution(grid(3, 12, R0=0.31), known, [])


def test_distance_is_between_logarithms():
    a = plain(3, 8)
    assert distance(a, plain(3, 8)) == 0
    assert distance(a, plain(3, 9)) == pytest.approx(distance(plain(3, 9), a))
    # one position more matters less the more there are
    assert distance(plain(3, 40), plain(3, 41)) < distance(plain(3, 4), plain(3, 5))


def test_a_name_that_varied_in_training_must_be_one_of_those(learned_by_name):
    def task(reward):
        return Structure.build("molecule", {"blocks": (0, 1, 2), "max_blocks": 3, "reward": reward})

    training = [task(reward).fields() for reward in ("qed_sa", "logp_window")]
    check(task("qed_sa"), training, {})
    assert (
        refusal(task("docking"), training, {})
        == "this generator was trained on reward=logp_window, qed_sa, not docking;"
        " generate for one of those, then `genflow finetune POPULATION --structure ...`"
    )


def test_what_is_told_of_units_may_be_anything():
    def task(**fields):
        return Structure.build("molecule", {"blocks": (0, 1, 2), "max_blocks": 3, **fields})

    known = [task(reward="profile", profile=f"mw:>{n}") for n in (100, 200)]
    training = [each.fields() for each in known]
    for fields in (
        {},
        {"reward": "docking"},
        {"reward": "logp_window", "logp_width": 0.1},
        {"exclude": "brenk"},
    ):
        check(task(**fields), training, {"beta": (1, 64)})
    assert "beta=0.5 is outside" in refusal(task(beta=0.5), training, {"beta": (1, 64)})
    measured = [entry(task(reward="profile", profile="mw:>100"), js=0.02)]
    assert caution(task(reward="docking"), known, measured) is None


def test_what_descriptions_express_may_be_anything():
    training = [
        Structure.build("molecule", {"blocks": blocks, "max_blocks": 3}).fields()
        for blocks in ((0, 1), (3, 4, 5))
    ]
    check(Structure.build("molecule", {"blocks": (10, 20, 30, 40), "max_blocks": 3}), training, {})


class Site(Schema):
    name: str
    place: int


class Spins(Environment):
    """A task with described fields of every form, of which only the fields are asked for here."""

    make = condition = units = None

    class Config(Schema):
        couplings: tuple[tuple[int, ...], ...] = described(((0, 1), (1, 0)))
        labels: tuple[str, ...] = described(())
        sites: tuple[Site, ...] = described(())
        weights: tuple[float, ...] = described(())
        start: int | None = described(None)


def spins(**fields) -> Structure:
    return Structure.of(Spins(Spins.Config(**fields)), grid(2, 4).arch, "spins", "mlp3")


def test_a_coverage_bounds_every_number_of_a_table():
    within, beyond = (spins(couplings=((0, number), (1, 0))) for number in (2, 3))
    check(within, [within.fields()], {"couplings": (0, 2)}, reads_units=True)
    with pytest.raises(GenflowError, match=r"^couplings=.* is outside .* covers: couplings 0 to 2$"):
        check(beyond, [beyond.fields()], {"couplings": (0, 2)}, reads_units=True)


class Paid(Environment):
    """A task whose units tell what each of them pays."""

    make = condition = units = None

    class Config(Schema):
        paid: tuple[float, ...] = told((1.0,))
        beta: float = told(1.0)


def test_what_units_pay_is_compared_with_what_is_paid_anywhere():
    def paid(*values: float, beta: float = 1.0) -> Structure:
        return Structure.of(Paid(Paid.Config(paid=values, beta=beta)), grid(2, 4).arch, "paid", "mlp3")

    def said(structure: Structure, training: list[Structure]) -> str | None:
        return cautions.caution(structure, [other.fields() for other in training], [])

    training = [paid(1.0, 2.0), paid(1.0, 2.0, 3.0), paid(1.5, 2.5, 3.5), paid(2.0)]
    # 3.9 is within reach of what others pay anywhere, and 9 is not
    assert "paid" not in (said(paid(3.9, 1.0), training) or "").removeprefix(paid(3.9, 1.0).name)
    assert "paid 9, trained on 1 to 3.5" in said(paid(9.0, 2.0), training)
    assert "beta 4, trained on 1" in said(paid(1.0, 2.0, beta=4.0), training)


SITES = [(Site(name="x", place=n),) for n in range(4)]
OTHERS = {
    "couplings": ((0, 1, 1, 0),),
    "labels": ("a",),
    "sites": (Site(name="a", place=1),),
    "weights": (1.0,),
    "start": 3,
}


@pytest.mark.parametrize(("key", "value"), OTHERS.items())
def test_a_described_value_of_any_form_that_never_varied_was_not_learned(key, value):
    training = [spins().fields()] * 3
    check(spins(), training, {})
    assert "this generator was trained on " + key in refusal(spins(**{key: value}), training, {})
    assert "this generator was trained on " + key in refusal(
        spins(), [spins(**{key: value}).fields()] * 3, {}
    )
    # descriptions of units tell texts and nested values, but not numbers
    if key in ("couplings", "labels", "sites"):
        check(spins(**{key: value}), training, {}, reads_units=True)
    else:
        with pytest.raises(GenflowError, match=key):
            check(spins(**{key: value}), training, {}, reads_units=True)


def test_nested_numbers_that_varied_are_known_and_texts_are_only_those_of_training():
    training = [spins(couplings=((n,),), labels=("a", str(n)), sites=SITES[n]).fields() for n in (1, 3)]
    check(spins(couplings=((2,),), labels=("a", "3"), sites=SITES[1]), training, {})
    for key, value in (("labels", ("a", "2")), ("sites", SITES[2])):
        own = spins(**{"couplings": ((2,),), "labels": ("a", "1"), "sites": SITES[1], key: value})
        assert f"was trained on {key}=" in refusal(own, training, {})
        check(own, training, {}, reads_units=True)


def test_a_field_that_only_some_rewards_have_does_not_vary_by_missing():
    training = [grid(2, 4).fields(), grid(2, 4, reward="cosine").fields()]
    assert "R2=2.0, not 3.0" in refusal(grid(2, 4, R2=3.0), training, {})


def blocks_of_a_file(start: int, end: int, folder) -> Structure:
    """A task on some blocks of the vocabulary that ships, as a file of the user's own."""
    blocks = [block.model_dump(mode="json") for block in shipped_vocabulary("default")[start:end]]
    path = folder / f"{start}.json"
    path.write_text(json.dumps({"format": "genflow-vocabulary-1", "source": "a test", "blocks": blocks}))
    return Structure.build("molecule", {"vocabulary": str(path), "max_blocks": 3, "width": 8})


@pytest.mark.parametrize(
    ("name", "encoder_cls"), [("conv1d", Conv1dEncoder), ("coordinate", CoordinateEncoder)]
)
def test_blocks_that_were_not_trained_on_need_an_encoder_that_reads_units(tmp_path, name, encoder_cls):
    known = [blocks_of_a_file(0, count, tmp_path) for count in (6, 8)]
    subset, others = blocks_of_a_file(0, 7, tmp_path), blocks_of_a_file(8, 16, tmp_path)
    assert others.layout.size == known[1].layout.size  # so that no size tells them apart
    encoder = encoder_cls.for_zoo(encoder_cls.Config(), [Population.initialised(s, 2, 0) for s in known])
    card = Card(
        format=FORMAT, env="molecule", policy="mlp3", training_structures=[s.fields() for s in known],
        encoder=EncoderCard.of(name, encoder), denoiser="unet1d", denoiser_options={},
        latent_size=encoder.latent_size, condition_size=others.condition().numel(),
        noise=NoiseOptions(), sampling=SamplingOptions(),
    )  # fmt: skip
    generator = Generator(card, encoder, None, torch.zeros(1), torch.ones(1))
    for structure in known:
        generator.check(structure)
    config = load_config(env="molecule", **{"autoencoder.encoder": name})
    unlearned = r"trained on vocabulary=.*~\w{16}, .*~\w{16}, not .*~\w{16}$"
    if name == "coordinate":
        generator.check(subset)
        check_plan(config, known, [subset, others])  # which units are known is only clear after training
        with pytest.raises(GenflowError, match="of input units"):
            generator.check(others)
    else:
        for structure in (subset, others):
            for checked in (generator.check, lambda asked: check_plan(config, known, [asked])):
                with pytest.raises(GenflowError, match=unlearned):
                    checked(structure)
