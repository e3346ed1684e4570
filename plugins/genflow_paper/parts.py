"""What items are measured on and share: zoos, the paper's generators, policies trained to compare.

A part is made once in a folder of its own, and resumes there when it was interrupted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from genflow import (
    Generator,
    GenflowError,
    Population,
    Progress,
    Structure,
    Zoo,
    load_config,
    read_json,
    train_autoencoder,
    train_generator,
    train_zoo,
)

from .scale import Scale

#: the paper's training structures, and a fifth for N = 5, which the paper does not name; s = 36 = 6 * 6
KNOWN = ("A", "B", "C", "D", "ndim=2,height=18")
#: the paper's unknown structures: Table 2, and Table 9
UNKNOWN, MORE_UNKNOWN = ("A*", "B*", "C*", "D*"), ("E*", "F*", "G*", "H*")
#: the hidden width d: the paper's square root of s, and one that can represent the target
Width = Literal["paper", "useful"]
WIDTHS: tuple[Width, ...] = ("paper", "useful")
USEFUL = 128
#: what the denoiser predicts: the paper's noise, and genflow's default
Prediction = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction")


def structure_of(name: str, width: Width) -> Structure:
    """Return one of the paper's structures at a width."""
    inputs = len(Structure.parse("hypergrid", name).layout.units["input"])
    d = round(inputs**0.5) if width == "paper" else USEFUL
    return Structure.parse("hypergrid", f"{name},width={d}")


@dataclass(frozen=True)
class ZooPart:
    """Policies that are trained from scratch.

    Attributes:
        width: their hidden width.
        known: whether they are the zoo of the five training structures, with the largest M checkpoints of
            each; else they are of the unknown structures, only to compare.
    """

    width: Width
    known: bool = True

    @property
    def kind(self) -> str:
        """What it takes seconds by."""
        return "zoo" if self.known else "trained"

    @property
    def place(self) -> str:
        """The folder of the part."""
        return f"{'zoos' if self.known else 'trained'}/{self.width}"

    def requires(self) -> list[Part]:
        """Return the parts that it is made of."""
        return []

    def make(self, lab: Lab) -> None:
        """Train the policies."""
        names = KNOWN if self.known else (*UNKNOWN, *MORE_UNKNOWN)
        structures = [structure_of(name, self.width) for name in names]
        config = lab.config(**{"zoo.num": max(lab.scale.members) if self.known else lab.scale.num})
        train_zoo(config, structures, config.zoo, lab.folder / self.place, Progress.current())


@dataclass(frozen=True)
class AutoencoderPart:
    """The paper's autoencoder, trained on the first N structures with M checkpoints of each."""

    width: Width
    structures: int
    members: int
    kind = "autoencoder"

    @property
    def place(self) -> str:
        """The folder of the part."""
        return f"models/{self.width}-N{self.structures}-M{self.members}/autoencoder"

    def requires(self) -> list[Part]:
        """Return the parts that it is made of."""
        return [ZooPart(self.width)]

    def make(self, lab: Lab) -> None:
        """Train the autoencoder."""
        zoo = lab.zoo(self.width, self.structures, self.members)
        train_autoencoder(lab.model_config(self.width), zoo, lab.folder / self.place, Progress.current())


@dataclass(frozen=True)
class ModelPart:
    """The paper's generator: its autoencoder and a diffusion model of the latents."""

    width: Width
    structures: int
    members: int
    prediction: Prediction
    kind = "diffusion"

    @property
    def autoencoder(self) -> AutoencoderPart:
        """The autoencoder whose latents it learns."""
        return AutoencoderPart(self.width, self.structures, self.members)

    @property
    def place(self) -> str:
        """The folder of the part."""
        return f"models/{self.width}-N{self.structures}-M{self.members}/{self.prediction}"

    def requires(self) -> list[Part]:
        """Return the parts that it is made of."""
        return [self.autoencoder]

    def make(self, lab: Lab) -> None:
        """Train the diffusion model."""
        train_generator(
            lab.model_config(self.width, self.prediction),
            lab.zoo(self.width, self.structures, self.members),
            lab.folder / self.autoencoder.place,
            lab.folder / self.place,
            Progress.current(),
        )


Part = ZooPart | AutoencoderPart | ModelPart


def with_requirements(parts: Sequence[Part]) -> list[Part]:
    """Return parts and all that they are made of, each once and after what it needs."""
    found: dict[Part, None] = {}
    for part in parts:
        found |= dict.fromkeys([*with_requirements(part.requires()), part])
    return list(found)


class Lab:
    """The parts in a folder, and policies of every source for every structure.

    Attributes:
        folder: where the parts are.
        scale: how much they cost.
        seed: of everything random.
    """

    def __init__(self, folder: Path, scale: Scale, seed: int) -> None:
        self.folder, self.scale, self.seed = folder, scale, seed
        self._zoos: dict[ZooPart, Zoo] = {}
        self._generators: dict[ModelPart | str, Generator] = {}
        #: what measuring found, by what was measured, for items that measure the same
        self.measured: dict[tuple[str, ...], Any] = {}

    def config(self, **options: Any) -> Any:
        """Return the configuration of a training, with options by dotted key."""
        common = {
            "zoo.steps": self.scale.zoo_steps,
            "zoo.seeds": self.scale.runs,
            # checkpoints of the last half of the steps, so that those of a run differ
            "zoo.checkpoint_every": max(1, self.scale.zoo_steps // 2 // self.scale.checkpoints),
        }
        return load_config(None, env="hypergrid", seed=self.seed, **{**common, **options})

    def model_config(self, width: Width, prediction: Prediction = "v_prediction") -> Any:
        """Return the configuration of the paper's generator, which can decode all its unknown structures."""
        largest = max(structure_of(name, width).layout.size for name in (*UNKNOWN, *MORE_UNKNOWN))
        return self.config(
            **{
                "autoencoder.encoder": "conv1d",
                "autoencoder.options": {"least_length": largest},
                "autoencoder.steps": self.scale.autoencoder_steps,
                "diffusion.denoiser": "unet1d",
                "diffusion.steps": self.scale.diffusion_steps,
                "diffusion.noise": {"prediction": prediction},
                "diffusion.sampling": {"steps": self.scale.sampling_steps},
            }
        )

    def is_made(self, part: Part) -> bool:
        """Return whether a part is complete."""
        manifest = self.folder / part.place / "run.json"
        return manifest.exists() and bool(read_json(manifest).get("complete"))

    def _policies(self, name: str, width: Width) -> Population:
        """Return all policies of a structure that were trained from scratch and did not diverge."""
        part = ZooPart(width, name in KNOWN)
        if part not in self._zoos:
            self._zoos[part] = Zoo(self.folder / part.place)
        population = self._zoos[part].get(structure_of(name, width))
        if population is None:
            raise GenflowError(f"{self.folder / part.place} has no policies of {name}; remove the folder")
        return population.without_diverged()

    def zoo(self, width: Width, structures: int, members: int) -> Zoo:
        """Return the zoo of the first N structures with M checkpoints of each, from all runs alike."""
        chosen = [spaced(self._policies(name, width), members) for name in KNOWN[:structures]]
        return self._zoos[ZooPart(width)].of(chosen)

    def generator(self, model: ModelPart | str) -> Generator:
        """Return one of the paper's generators, or one that ships, by its name."""
        if model not in self._generators:
            where = model if isinstance(model, str) else self.folder / model.place
            self._generators[model] = Generator.from_pretrained(where)
        return self._generators[model]

    def generate(self, model: ModelPart | str, structure: Structure) -> Population:
        """Return as many policies of a structure as are measured, of a generator as for `generator`."""
        return self.generator(model).generate(structure, self.scale.num, self.seed)

    def trained(self, name: str, width: Width) -> Population:
        """Return policies of a structure that were trained from scratch, as many as are measured."""
        return self._policies(name, width)[: self.scale.num]  # the last step of each run comes first

    def untrained(self, name: str, width: Width) -> Population:
        """Return untrained policies of a structure."""
        return Population.initialised(structure_of(name, width), self.scale.num, self.seed)


def spaced(population: Population, num: int) -> Population:
    """Return some policies of a population, evenly spaced over its checkpoints and runs."""
    if num >= len(population):
        return population
    rows = torch.linspace(0, len(population) - 1, num).round().long()
    facts = dict(population.provenance)
    if members := facts.get("members"):
        facts["members"] = [members[row] for row in rows.tolist()]
    return Population(population.structure, population.weights[rows], facts)


def once(folder: Path, make: Callable[[Path], Population]) -> Population:
    """Return the population in a folder, which is made and saved there if it is not there yet.

    Args:
        folder: where it is kept.
        make: makes it, with a folder for the checkpoints of a training, which goes on there.
    """
    if not (folder / "population.json").exists():
        population = make(folder / "training")
        population.save(folder)
        shutil.rmtree(folder / "training", ignore_errors=True)
    return Population.load(folder)
