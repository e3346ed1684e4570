"""Makes the recipe of the generator that ships: ``python -m genflow_molecule.build_recipe --out FILE``.

Which vocabularies are trained on, which recipes are chosen on, and which are only measured. Blocks of the
last two kinds of "new" ones occur nowhere else. Sub-vocabularies of one vocabulary share its molecules, so
that many vocabularies cost few scores.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from genflow import GenflowError, Structure

from .descriptors import DESCRIPTORS
from .vocabulary import shipped_vocabulary

SEED = 11
#: the presets are made of the first blocks, all of which are trained on; of the others every sixth is kept
#: for tests, and for selection
FIRST = 72
EVERY, TEST, SELECTION = 6, 1, 4
#: states of a vocabulary that is trained on, by N
STATES = {2: (50, 2_000), 3: (300, 8_000), 4: (300, 6_000), 5: (100, 6_000), 6: (20, 6_000), 8: (20, 6_000)}
#: of each vocabulary of eight blocks with N = 3, how many others are drawn from its blocks
SUBSETS = 1
#: vocabularies with other N: (N, blocks, how many)
OTHERS = ((2, 16, 8), (4, 4, 16), (4, 5, 10), (5, 3, 14), (6, 2, 5), (8, 2, 5))
#: share of structures with another width than 128
OTHER_WIDTH = 0.12
#: what the wishes of a profile are about, and between which values; QED and SA are never asked for together
WISHES = {
    "mw": (150, 450), "logp": (-1, 5), "tpsa": (20, 140), "mr": (40, 120), "hbd": (0, 4), "hba": (1, 8),
    "rotb": (0, 8), "rings": (1, 5), "arom": (0, 4), "fsp3": (0, 0.8), "heavy": (10, 34), "hetero": (1, 9),
    "qed": (0.2, 0.9), "sa": (1.5, 4),
}  # fmt: skip
WIDTHS = (64, 80, 96, 112)
#: rewards that are only measured
TESTED = ("qed_sa", "docking", "logp_window")
#: vocabularies that are measured have this many blocks
MEASURED = 10

OPTIONS = """
[coverage]
max_blocks = [2, 8]
beta = [1, 64]
width = [64, 128]

[zoo]
num = 2
objective = "distill"
steps = 60
lr = 3e-3
batch_size = 256

[autoencoder]
encoder = "coordinate"
kl_scale = 1.0
weight_loss_scale = 0.05
batch_size = 12
per_structure = 1
steps = 8000
lr = 1.5e-3
ema = 0.999

[autoencoder.options]
pool = true
embedding = 64
matrices = 32
rank = 8
init_noise = 0.0
reference = "optimal"
swap_probability = 0.9
rehearsal_probability = 0.95
length_power = 1.0
normaliser_floor = 0.01

[diffusion]
denoiser = "unet1d"
steps = 3000
batch_size = 128

[diffusion.options]
channels = [32, 64]
patch = 1

[diffusion.sampling]
sampler = "dpm++"
steps = 15

[evaluation]
num = 16
"""


def split(n_blocks: int) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the blocks to train on, to select on, and to test on."""
    later = range(FIRST, n_blocks)
    selection, test = ([number for number in later if number % EVERY == rest] for rest in (SELECTION, TEST))
    return sorted(set(range(n_blocks)) - {*selection, *test}), selection, test


def text(blocks: Sequence[int], max_blocks: int, **fields: object) -> str:
    """A structure as on the command line."""
    more = "".join(f",{key}={value}" for key, value in fields.items())
    return f"blocks={'+'.join(map(str, sorted(blocks)))},max_blocks={max_blocks}{more}"


def fits(blocks: Sequence[int], max_blocks: int, low: int, high: int) -> bool:
    """Whether they can be joined, to a number of states within bounds."""
    try:
        n_states = Structure.parse("molecule", text(blocks, max_blocks)).solution.n_states
        return low <= (n_states or 0) <= high
    except GenflowError:
        return False


def dealt(rng: random.Random, blocks: Sequence[int], size: int) -> Iterator[list[int]]:
    """Hands of `size` blocks without end: each block once before any of them again."""
    deck: list[int] = []
    while True:
        if len(deck) < size:
            deck += rng.sample(blocks, len(blocks))
        hand, deck = deck[:size], deck[size:]
        if len(set(hand)) == size:
            yield hand


def profile(rng: random.Random) -> str:
    """A random profile of one to three wishes."""
    names = rng.sample(sorted(WISHES), rng.choice((1, 2, 2, 3)))
    if {"qed", "sa"} <= set(names):
        names.remove("sa")
    terms = []
    for name in names:
        digits = 0 if DESCRIPTORS[name].whole else 1
        low, high = sorted(round(rng.uniform(*WISHES[name]), digits) for _ in range(2))
        terms.append(f"{name}:" + rng.choice((f"{low:g}..{high:g}", f">={low:g}", f"<={high:g}")))
    return f'profile="{"; ".join(terms)}"'


def varied(rng: random.Random, max_blocks: int) -> dict[str, object]:
    """Fields of a structure that is trained on, beside its blocks."""
    fields: dict[str, object] = {"reward": "profile," + profile(rng), "beta": round(rng.uniform(3, 16), 1)}
    if max_blocks <= 3 and rng.random() < 0.2:
        fields["multiplicity"] = "true"
    if rng.random() < OTHER_WIDTH:
        fields["width"] = rng.choice(WIDTHS)
    return fields


def training(blocks: Sequence[int]) -> list[str]:
    """What is trained on."""
    rng, structures = random.Random(SEED), []
    for hand in _some(rng, blocks, 3, 8, 84):
        hands = [hand, *(rng.sample(hand, rng.randint(5, 7)) for _ in range(SUBSETS))]
        structures += [text(each, 3, **varied(rng, 3)) for each in hands if fits(each, 3, *STATES[3])]
    for max_blocks, size, number in OTHERS:
        structures += [
            text(hand, max_blocks, **varied(rng, max_blocks))
            for hand in _some(rng, blocks, max_blocks, size, number)
        ]
    return list(dict.fromkeys(structures))


def _some(
    rng: random.Random, blocks: Sequence[int], max_blocks: int, size: int, number: int
) -> list[list[int]]:
    hands = (hand for hand in dealt(rng, blocks, size) if fits(hand, max_blocks, *STATES[max_blocks]))
    return [next(hands) for _ in range(number)]


def measured(
    rng: random.Random, known: Sequence[int], new: Sequence[int], number: int, rewards: Sequence[str] = ()
) -> list[str]:
    """Vocabularies of known and of new blocks, as many each, and some of the first with other fields.

    Args:
        rng: draws them.
        known: blocks that are trained on.
        new: blocks that are not.
        number: of vocabularies of each kind.
        rewards: by name, in turn with random profiles.
    """
    drawn = [
        [next(hands) for _ in range(number)] for hands in (readable(rng, blocks) for blocks in (known, new))
    ]
    others: list[dict[str, object]] = [
        {"beta": 3}, {"beta": 16}, {"beta": 32}, {"multiplicity": "true"}, {"width": 72}, {"width": 104},
    ]  # fmt: skip
    paid = [*rewards, *(["profile"] * max(1, len(rewards)))]

    def fields(place: int) -> dict[str, object]:
        name = paid[place % len(paid)]
        return {"reward": f"profile,{profile(rng)}" if name == "profile" else name}

    return [
        *(text(hand, 3, **fields(place)) for hands in drawn for place, hand in enumerate(hands)),
        *(
            text(hand, 3, **fields(place), **more)
            for place, (hand, more) in enumerate(zip(drawn[0], others, strict=False))
        ),
    ]


def readable(rng: random.Random, blocks: Sequence[int]) -> Iterator[list[int]]:
    return (hand for hand in dealt(rng, blocks, MEASURED) if fits(hand, 3, 2_000, 25_000))


def recipe() -> str:
    """The TOML file."""
    known, selection, test = split(len(shipped_vocabulary("default")))
    lists = {
        "structures": ("", training(known)),
        "selection_structures": (
            "# recipes are chosen on these\n",
            measured(random.Random(SEED + 1), known, selection, 6),
        ),
        "test_structures": (
            "# only measured, once, when the generator is exported\n",
            ["small", *measured(random.Random(SEED + 2), known, test, 12, TESTED)],
        ),
    }
    head = (
        "# The molecule generator that ships; made by `python -m genflow_molecule.build_recipe`,"
        " built by `make pretrained`.\n"
        'env = "molecule"\nseed = 0\n'
    )
    parts = [
        f"\n{comment}{key} = [\n" + "".join(f"  '{each}',\n" for each in each_list) + "]\n"
        for key, (comment, each_list) in lists.items()
    ]
    return head + "".join(parts) + OPTIONS


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Make the recipe of the molecule generator that ships.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pretrained" / "molecule.toml")
    parser.parse_args().out.write_text(recipe())


if __name__ == "__main__":
    main()
