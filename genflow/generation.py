"""`generate` and `finetune`: from the name of an environment to policies, and further, in one call each."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from genflow.config import load_config
from genflow.errors import GenflowError, GenflowWarning, without_cautions
from genflow.generator import Generator
from genflow.given import Given, Several, read_beside, read_structure
from genflow.population import Population
from genflow.progress import Progress
from genflow.stages.generate import finetune_both, load_generators
from genflow.storage.files import StrPath
from genflow.storage.populations import TRAININGS
from genflow.training.finetune import transfer


@overload
def generate(env: str, structure: Given | None = None, **options: Any) -> Population: ...
@overload
def generate(env: str, structure: Several, **options: Any) -> list[Population]: ...


def generate(
    env: str,
    structure: Given | Several | None = None,
    *,
    num: int = 8,
    seed: int = 0,
    generator: Generator | StrPath | None = None,
    device: str = "auto",
    **fields: Any,
) -> Any:
    """Generate policies for a structure, whether it was trained on or not.

    ``generate("hypergrid", ndim=3, height=12)`` and ``generate("hypergrid", "ndim=3,height=12")`` are the
    same. A `GenflowWarning` tells of a structure beyond what the generator learned well.

    Args:
        env: registered name of the environment.
        structure: the structure, a text such as ``"D"`` or ``"ndim=3,height=12"``, or its fields; or a list
            of these, for a list of populations. None means the structure of `fields`.
        num: M, the number of policies of each structure.
        seed: seed of the latents.
        generator: a generator, or its name as for `Generator.from_pretrained`. None means the first that
            covers the structure, of those that ship and that of the folder ``runs/<env>/generator``.
        device: "auto", which prefers a GPU, or a torch device, for a generator that is loaded here.
        fields: the fields of the structure by keyword, instead of `structure`.

    Raises:
        GenflowError: no generator is found or covers a structure, or a name or value is unknown.
    """
    if (structure is None) == (not fields):
        raise GenflowError(
            "name one structure: by fields, e.g. ndim=3, or as a text, e.g. 'ndim=3', and not both"
        )
    given: Any = fields if structure is None else structure
    several = isinstance(given, list | tuple)
    options: dict[str, Any] = {"env": env, "seed": seed, "device": device, "generate.num": num}
    config = load_config(None, **options)
    device = config.torch_device()
    if generator is not None and not isinstance(generator, Generator):
        generator = Generator.from_pretrained(generator, device)
    if generator is not None and generator.card.env != env:
        raise GenflowError(f"the generator is of environment {generator.card.env!r}, not {env!r}")
    policy = config.policy if generator is None else generator.card.policy
    structures = [read_structure(env, each, policy) for each in (given if several else [given])]
    chosen: Sequence[Generator] = [generator] * len(structures) if generator else ()
    if generator is None:
        chosen = load_generators(config, None, structures)
    for own, each in zip(chosen, structures, strict=True):
        if warning := own.caution(each):
            warnings.warn(warning, GenflowWarning, stacklevel=2)
    with without_cautions():  # said above, for the line that called
        populations = [own.generate(each, num, seed) for own, each in zip(chosen, structures, strict=True)]
    return populations if several else populations[0]


def finetune(
    population: Population,
    structure: Given | None = None,
    *,
    out: StrPath | None = None,
    seed: int = 0,
    device: str = "auto",
    **options: Any,
) -> Population:
    """Train policies further, for what their own structure pays or for something else.

    ``finetune(population, "reward=light", reward_calls=2000)`` is ``genflow finetune`` with ``--structure``
    and ``--reward-calls``, but that no random start is trained beside it unless ``compare=True``. The reward
    calls that describing a structure took, where it was generated for in this process, are the first of them.

    Args:
        population: where the training starts.
        structure: what is paid, as for `generate`; fields that are not given are those of the population.
        out: the folder of the run, in which a training that was stopped goes on when it is called again; None
            keeps nothing.
        seed: of all random numbers.
        device: "auto", which prefers a GPU, or a torch device.
        options: of the section ``finetune`` of the configuration, e.g. ``steps=100``, ``reward_calls=2000``
            or ``budget=60``.

    Returns:
        The trained policies, with learning curves in ``provenance["history"]``.

    Raises:
        GenflowError: an option is unknown, more than what is paid differs, `out` holds another run, or the
            training fails.
    """
    own = population.structure
    wanted = own if structure is None else read_beside(own, structure)[0]
    given = {f"finetune.{key}": value for key, value in {"compare": False, **options}.items()}
    config = load_config(None, env=own.env, policy=own.policy, seed=seed, device=device, **given)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run" if out is None else Path(out)
        # so that the count is that of `genflow generate` and `genflow finetune`
        described = own.layout.reward_calls if population.source == "generated" else ()
        finetune_both(config, transfer(population, wanted), folder, Progress.current(), described)
        return Population.load(folder / TRAININGS[0])
