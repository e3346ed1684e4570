"""How much an evaluation costs: the numbers of the scales smoke, small and paper."""

from __future__ import annotations

from typing import NamedTuple


class Scale(NamedTuple):
    """The sizes of all trainings and measurements.

    Attributes:
        name: smoke, small or paper.
        members: M, the numbers of checkpoints of each training structure that are compared; the paper's 50,
            100, 200 and 300.
        standard: which of `members` everything else takes; the paper's 200.
        runs: from how many training runs the checkpoints of a structure come.
        zoo_steps: optimiser steps of a policy that is trained from scratch.
        autoencoder_steps, diffusion_steps: of the paper's two networks.
        sampling_steps: of the reverse process.
        num: how many policies of each source are measured.
        tuning_steps: of the trainings that start from generated policies.
        molecules: presets of molecules that Table 3 trains on.
        molecule_steps: iterations of Table 3.
        vision_steps: of the vision networks of Figure 6.
        part_seconds: seconds of making a part of a kind at a width, see `parts.py`, on one core.
        item_factor: how many times as long as at the scale small an item takes whose parts are made.
    """

    name: str
    members: tuple[int, int, int, int]
    standard: int
    runs: int
    zoo_steps: int
    autoencoder_steps: int
    diffusion_steps: int
    sampling_steps: int
    num: int
    tuning_steps: int
    molecules: tuple[str, ...]
    molecule_steps: int
    vision_steps: int
    part_seconds: dict[str, float]
    item_factor: float

    @property
    def checkpoints(self) -> int:
        """How many checkpoints of each run are kept, so that there are enough for the largest M."""
        return -(-max(self.members) // self.runs)


#: seconds of measuring an item whose parts are made, at the scale small; others take `OTHER_SECONDS`
ITEM_SECONDS = {
    "optima": 440.0,
    "table3": 600.0,
    "figure6a": 340.0,
    "table2": 60.0,
    "table12": 60.0,
    "table15": 60.0,
}
OTHER_SECONDS = 30.0


def _by_kind(zoo: float, trained: float, autoencoder: float, diffusion: float) -> dict[str, float]:
    """Return the seconds of parts by kind, at the useful width; the paper's policies are smaller."""
    useful = {"zoo": zoo, "trained": trained, "autoencoder": autoencoder, "diffusion": diffusion}
    return {
        f"{kind}, {width}": seconds * (1 if width == "useful" or kind == "diffusion" else share)
        for kind, seconds in useful.items()
        for width, share in (("useful", 1), ("paper", 0.2))
    }


SMALL = Scale(
    name="small",
    members=(50, 100, 200, 300),
    standard=200,
    runs=8,
    zoo_steps=1000,
    autoencoder_steps=400,
    diffusion_steps=1500,
    sampling_steps=100,
    num=8,
    tuning_steps=200,
    molecules=("medium",),
    molecule_steps=300,
    vision_steps=60,
    part_seconds=_by_kind(500, 600, 150, 80),
    item_factor=1,
)
SMOKE = SMALL._replace(
    name="smoke",
    members=(4, 6, 8, 12),
    standard=8,
    runs=2,
    zoo_steps=30,
    autoencoder_steps=4,
    diffusion_steps=8,
    sampling_steps=5,
    num=2,
    tuning_steps=4,
    molecules=("small",),
    molecule_steps=4,
    vision_steps=2,
    part_seconds=_by_kind(5, 6, 2, 1),
    item_factor=0.2,
)
PAPER = SMALL._replace(
    name="paper",
    zoo_steps=5000,
    autoencoder_steps=5000,
    diffusion_steps=20000,
    num=100,
    tuning_steps=1000,
    molecules=("medium", "full"),
    molecule_steps=500,
    vision_steps=300,
    part_seconds=_by_kind(2500, 3000, 1800, 1060),
    item_factor=12,
)
SCALES = {scale.name: scale for scale in (SMOKE, SMALL, PAPER)}
