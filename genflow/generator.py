"""`Generator`: the trained encoder, denoiser and noise schedule, which map a condition to a population.

Shapes: M policies, Z latent size, C conditions.
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, overload

import torch
from torch import Tensor

from genflow import hub
from genflow.cautions import caution
from genflow.device_copies import rows_to_cpu
from genflow.distributed.world import world
from genflow.errors import GenflowError, GenflowWarning
from genflow.given import Given, Several, read_structure
from genflow.interfaces.denoiser import Denoiser
from genflow.interfaces.encoder import Encoder
from genflow.layout import WeightLayout
from genflow.model_card import Card
from genflow.noise import SamplingOptions, sample_latents
from genflow.population import Population
from genflow.precision import float32_default
from genflow.pretrained import CARD, FORMAT, TENSORS, load_card
from genflow.registry import registry
from genflow.schema import validate
from genflow.storage.files import StrPath, read_tensors, write_json, write_tensors
from genflow.storage.modules import build_with_tensors
from genflow.storage.populations import finite_float, inside
from genflow.structure import Structure
from genflow.threads import threads, worth

#: multiplications for a generated weight, roughly: as the generators that ship need them
PRODUCTS_A_WEIGHT = 2**11
#: bytes of the weights that a GPU decodes while those before are copied
PART_BYTES = 2**26


@dataclass(eq=False, repr=False)
class Generator:
    """Generates populations for structures that were trained on and for others.

    Attributes:
        card: the model card, which says how the generator was trained.
        encoder, denoiser: the trained networks.
        latent_mean, latent_std: (Z,) mean and standard deviation that normalise the latents.
    """

    card: Card
    encoder: Encoder
    denoiser: Denoiser
    latent_mean: Tensor
    latent_std: Tensor

    @classmethod
    def from_pretrained(
        cls,
        name: StrPath,
        device: str = "cpu",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: StrPath | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a generator that `save_pretrained` wrote, from a folder, by name or from a hub.

        Args:
            name: as for `genflow.pretrained.locate`: "hypergrid", "runs/mine" or "user/repository".
            device: the torch device.
            revision: a branch, tag or commit of the repository; "user/repository@v1" names one too.
            token, cache_dir, local_files_only: as for ``huggingface_hub.snapshot_download``.

        Raises:
            GenflowError: nothing has this name, it cannot be downloaded, or a file is missing, truncated or
                of another format.
        """
        how: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        return cls.from_card(*load_card(name, revision=revision, **how), device)

    @classmethod
    @float32_default()
    @threads(1)  # all is small
    def from_card(cls, folder: StrPath, card: Card, device: str = "cpu") -> Self:
        """The generator of a card that `load_card` has read, with the tensors beside it.

        Raises:
            GenflowError: they are missing, truncated or foreign.
        """
        path = inside(Path(folder), TENSORS)
        tensors, _ = read_tensors(path)
        encoder = card.encoder.load(_part(tensors, "encoder."), path)
        denoiser_cls = registry().load("denoiser", card.denoiser, saved=True)
        options = validate(denoiser_cls.Config, card.denoiser_options, f"denoiser {card.denoiser!r}")
        sizes = {"latent_size": card.latent_size, "condition_size": card.condition_size}
        denoiser = build_with_tensors(
            lambda: denoiser_cls(options, **sizes), _part(tensors, "denoiser."), path
        )
        names, none = ("latent_mean", "latent_std"), torch.tensor(torch.nan)
        mean, std = (finite_float(tensors.get(name, none), f"{path}: {name}") for name in names)
        size = (card.latent_size,)
        if (encoder.latent_size,) != size or mean.shape != size or std.shape != size or not (std > 0).all():
            raise GenflowError(
                f"{path} does not fit {CARD}: latent_mean and latent_std must be of the latent size, and"
                " latent_std positive"
            )
        return cls(
            card, encoder.to(device).eval(), denoiser.to(device).eval(), mean.to(device), std.to(device)
        )

    @float32_default()
    def rounded(self) -> Generator:
        """Return a copy rounded to float16, which `save_pretrained(half=True)` stores without loss."""
        other = copy.deepcopy(self)
        for module in (other.encoder, other.denoiser):
            # loaded, so that what a module has computed of them is computed anew
            module.load_state_dict({n: each.half() for n, each in module.named_parameters()}, strict=False)
        return other

    def save_pretrained(
        self, folder: StrPath, half: bool = False, *, license: str | None = None, name: str | None = None
    ) -> None:
        """Write ``generator.safetensors``, its model card ``generator.json``, and the same as ``README.md``.

        The README is in the form of the Hugging Face hub. One that is there is written anew only if it ends
        in the last line that genflow writes.

        Args:
            folder: the folder to write to.
            half: store parameters as float16, which halves the file. Buffers and computation stay in float32.
            license: such as "mit", for the cards; None leaves what they say.
            name: what the README calls it, by default the name of the folder.

        Raises:
            GenflowError: a file cannot be written.
        """
        folder = Path(folder)
        more = {} if license is None else {"license": license}
        card = self.card.model_copy(update={"provenance": {**self.card.provenance, **more}})
        tensors = {"latent_mean": self.latent_mean, "latent_std": self.latent_std}
        for part, module in (("encoder", self.encoder), ("denoiser", self.denoiser)):
            tensors |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
            if half:
                tensors |= {f"{part}.{name}": each.half() for name, each in module.named_parameters()}
        write_tensors(folder / TENSORS, tensors, {"format": FORMAT})
        write_json(folder / CARD, card.model_dump(mode="json"))
        hub.write_readme(folder, card, name)

    def push_to_hub(
        self,
        repository: str,
        *,
        commit_message: str = "Upload generator",
        half: bool = False,
        license: str | None = None,
        private: bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        token: str | bool | None = None,
    ) -> str:
        """Commit what `save_pretrained` writes to a repository of the Hugging Face hub.

        The repository is created if it is not there. Its README is replaced; the hub keeps the one before.

        Args:
            repository: "user/name", or "name" for one of yours.
            commit_message: of the commit.
            half, license: as for `save_pretrained`.
            private: whether a repository that is created is private, None as the hub is set up.
            branch: to commit to, which is created if it is not there; None means the main one.
            create_pr: open a pull request instead.
            token: None means the one that huggingface_hub knows, from ``hf auth login`` or ``HF_TOKEN``.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            GenflowError: the hub cannot be reached, or refuses.
        """
        whole = hub.create_repository(repository, private=private, token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, half, license=license, name=whole)
            return hub.upload(
                Path(folder),
                (CARD, TENSORS, hub.README),
                whole,
                message=commit_message,
                branch=branch,
                create_pr=create_pr,
                token=token,
            )

    def __repr__(self) -> str:
        num = len(self.card.training_structures)
        trained = f"{num:,} structure{'s' * (num != 1)}"
        return f"Generator({self.card.env}, policy {self.card.policy}, trained on {trained})"

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.latent_mean.device

    def check(self, structure: Structure) -> None:
        """Raise `GenflowError` for a structure of another environment or policy, or one not covered."""
        self.card.check(structure)
        self.encoder.check(self.card.complete(structure).layout)

    @cached_property
    def training_structures(self) -> list[Structure]:
        """The structures that the generator was trained on."""
        card = self.card
        return [Structure.restore(card.env, fields, card.policy) for fields in card.training_structures]

    def caution(self, structure: Structure, quick: bool = False) -> str | None:
        """Return a warning for a structure beyond what was learned well, or None.

        `quick` leaves out what only the conditions of the training structures tell, which may take seconds.
        """
        card, blind = self.card, None if self.encoder.reads_units else self.card.encoder.name
        structure = card.complete(structure)
        built = None if quick else lambda: self.training_structures
        return caution(structure, card.training_structures, card.quality, built, blind)

    @overload
    def generate(self, structure: Given, num: int, *args: Any, **options: Any) -> Population: ...
    @overload
    def generate(self, structure: Several, num: int, *args: Any, **options: Any) -> list[Population]: ...

    @float32_default()
    def generate(
        self,
        structure: Given | Several,
        num: int,
        seed: int = 0,
        sampling: SamplingOptions | None = None,
        **overrides: Any,
    ) -> Any:
        """Generate `num` policies for a structure, or for each structure of a list.

        With several workers, each decodes a part of the policies and all return the whole population. What
        `caution` says when it is `quick` is a `GenflowWarning`.

        Args:
            structure: any covered structure, or its text or fields as for `genflow.generate`;
                ``population.seen`` says whether it was trained on, and the structure of the population also
                has what this one leaves open. Of a list of them, the result is a list.
            num: M, the number of policies of each structure.
            seed: seed of the latents.
            sampling: sampler, steps and guidance; None means those on the model card.
            overrides: single fields of `sampling`, e.g. ``steps=20``.

        Raises:
            GenflowError: the structure is not covered, or the generated weights are not finite.
        """
        if num < 1:
            raise GenflowError(f"num must be at least 1, not {num}")
        several = isinstance(structure, list | tuple)
        given: Any = structure if several else [structure]
        structures = [read_structure(self.card.env, each, self.card.policy) for each in given]
        structures = [self.card.complete(each) for each in structures]
        for each in structures:
            self.check(each)
        values = {**(sampling or self.card.sampling).model_dump(), **overrides}
        sampling = validate(SamplingOptions, values, "sampling")
        for each in structures:
            if warning := self.caution(each, quick=True):
                warnings.warn(warning, GenflowWarning, stacklevel=3)
        populations = [self._population(each, num, seed, sampling) for each in structures]
        return populations if several else populations[0]

    def _population(self, structure: Structure, num: int, seed: int, sampling: SamplingOptions) -> Population:
        # describing its units is part of the work, also where it was done before this call
        began = time.perf_counter() - structure.layout.describing_seconds
        with threads(worth(num * structure.layout.size * PRODUCTS_A_WEIGHT)):
            weights = self._weights(structure, num, seed, sampling)
        provenance = {
            "source": "generated",
            "encoder": self.card.encoder.name,
            "training_structures": self.card.training_structures,
            "seed": seed,
            "seconds": time.perf_counter() - began,
            "sampling": sampling.model_dump(mode="json"),
        }
        return Population(structure, weights, provenance)

    def _weights(self, structure: Structure, num: int, seed: int, sampling: SamplingOptions) -> Tensor:
        """(M, D) on the CPU."""
        # drawn on the CPU, so that a seed gives the same policies on every device
        rng = torch.Generator().manual_seed(seed)
        condition = structure.condition().to(self.device)
        latents = sample_latents(self.denoiser, condition, num, self.card.noise, sampling, rng)
        latents = latents * self.latent_std + self.latent_mean
        rows, weights = world().rows(num), torch.empty(0, structure.layout.size)
        if rows.start < rows.stop:
            weights = self._decoded(latents[rows], structure.layout, condition)
        if len(weights) < num:  # the others' part is added
            own, weights = weights, torch.zeros(num, structure.layout.size, dtype=torch.float32)
            weights[rows] = own
        world().all_reduce(weights)
        # the sums tell in a fraction of the time that asking each weight takes
        if not weights.sum(1).isfinite().all():
            raise GenflowError("the generated weights are not finite; lower the guidance, or take more steps")
        return weights

    @torch.no_grad()
    def _decoded(self, latents: Tensor, layout: WeightLayout, condition: Tensor) -> Tensor:
        """Decode latents (M, Z) to weights (M, D) on the CPU."""
        if self.device.type != "cuda":
            return self.encoder.decode(latents, layout, condition).float().cpu()
        weights = torch.empty(len(latents), layout.size, dtype=torch.float32)
        parts = latents.split(max(1, PART_BYTES // (4 * layout.size)))
        rows_to_cpu((self.encoder.decode(part, layout, condition) for part in parts), weights)
        return weights


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
