"""Training of M policies of one structure together, with stacked weights.

Shapes: M policies, D parameters, B trajectories or states a step, K rows, S states, A actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from genflow.distributed.world import ALONE, World, world
from genflow.errors import GenflowError
from genflow.interfaces.encoder import Starts
from genflow.measure import figures_of, measure
from genflow.population import Population
from genflow.progress import Progress
from genflow.reward_calls import RewardCalls
from genflow.rollouts import LOG_Z_TRAJECTORIES, sample
from genflow.storage.files import StrPath
from genflow.structure import Structure
from genflow.threads import threads
from genflow.training import objectives
from genflow.training.diverged import DivergedMembers
from genflow.training.fixed_step import FixedStep
from genflow.training.loop import train
from genflow.training.options import PolicyOptions, ZooOptions, require_steps
from genflow.training.replay import ReplayBuffer
from genflow.training.snapshots import Snapshots
from genflow.training.stacked import StackedPolicies, leaf

#: policies computed together on a CPU; more do not fit into the cache, and fewer cost overhead
CACHED_MEMBERS, FEWEST_MEMBERS = 16, 4
#: steps of all trajectories up to which a CUDA graph is faster, though it evaluates states more than once
GRAPH_ROWS = 2**21
#: trajectories of the members of a block, beyond which it holds fewer
BLOCK_TRAJECTORIES = 1024
#: the most states of a task whose exact metrics are shown in training
CHEAP_STATES = 10_000


class PopulationTrainee(StackedPolicies):
    """M policies in training, whose losses are summed, so that each learns exactly as it would alone.

    On a CPU, blocks of a few policies are processed in turn. The backward pass reuses the activations of
    sampling. A policy whose loss or gradient is not finite has diverged: it keeps its weights from before
    that step, and the others continue.

    On CUDA, runs are reproducible up to rounding only, because `scatter_add` sums in no fixed order.
    """

    def __init__(
        self,
        structure: Structure,
        weights: Tensor,
        options: PolicyOptions,
        *,
        seed: int,
        device: str,
        checkpoints: int,
        every: int,
        warn: Callable[[str], None] | None = None,
        replay: ReplayBuffer | None = None,
    ) -> None:
        require_steps(options, checkpoints, every)
        if options.objective == "distill":
            structure.solution.require_expert()
        super().__init__(structure, weights, options, seed=seed, device=device)
        self.replay = replay
        self._calls = RewardCalls.current()
        self.shows_figures = self._calls is None  # which have a bar of their own
        self._seen: list[tuple[Tensor, Tensor]] = []
        # small blocks on a CPU, so that weights and activations stay in the cache
        block = self.members
        if torch.device(device).type == "cpu":
            block = BLOCK_TRAJECTORIES // options.batch_size
            block = max(FEWEST_MEMBERS, min(block, CACHED_MEMBERS))
        self.blocks = [
            slice(first, min(first + block, self.members)) for first in range(0, self.members, block)
        ]
        if options.objective == "tb" and options.log_z_start == "estimate":
            self.log_z = leaf(self._estimated_log_z(torch.Generator(device=device).manual_seed(seed)))
        self.snapshots = Snapshots(checkpoints, every, options.steps, self.members, structure.layout.size)
        self.least_steps, self._warn = self.snapshots.least_steps, warn
        self.divergence = DivergedMembers(self.members, device)
        self._fixed = FixedStep.captured(self, warn) if self._may_capture() else None

    @property
    def world(self) -> World:
        """All workers where scores are counted, which do the same together and share the scoring."""
        return ALONE if self._calls is None else world()

    @property
    def random_device(self) -> torch.device | str:
        """The device of the policies, where trajectories are sampled, but the CPU for distillation."""
        return "cpu" if self.options.objective == "distill" else self.log_z.device

    @property
    def spent(self) -> float:
        """What is used of the reward calls."""
        return self._calls.spent if self._calls is not None else 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, log Z, state flows, checkpoints so far, and which policies have diverged."""
        tensors = {f"weights.{n}": t for n, t in self.weights.items()} | {
            f"flow.{n}": t for n, t in self.flow.items()
        }
        own = {"log_z": self.log_z, "snapshots": self.snapshots.tensor, "diverged_at": self.divergence.at}
        return tensors | own | ({} if self.replay is None else self.replay.tensors())

    def backward(self, step: int, rng: torch.Generator) -> tuple[float, dict[str, float]]:
        """Compute the gradients, and return means over the policies that have not diverged.

        If all policies have diverged, the loss is NaN.
        """
        epsilon = self.options.epsilon * (1 - self.share)
        if self.options.objective == "distill":
            drawn = self._draw(rng)
            blocks = [{"loss": self.distill(own, *drawn)} for own in self.blocks]
        elif self._fixed is not None:
            blocks = [self._fixed(epsilon, rng)]
        else:
            blocks = [self._balance(own, epsilon, rng) for own in self.blocks]
            if self.replay is not None:  # only now, so that all blocks draw from what there was before
                self.replay.add(*map(torch.cat, zip(*self._seen, strict=True)))
                self._seen = []
        found = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        lost_M = self.divergence.find(step + 1, found["loss"], self.parameters())
        learning_M = self.divergence.learning
        # one transfer from the device for all results
        sums = [torch.where(learning_M, value, 0.0).sum() for value in found.values()]
        learning, lost, *totals = torch.stack([learning_M.sum(), lost_M.sum(), *sums]).tolist()
        if not learning:
            return math.nan, dict.fromkeys(found, math.nan)
        if lost and self._warn is not None:
            numbers = ", ".join(str(m) for m in lost_M.nonzero()[:, 0].tolist())
            self._warn(
                f"{self.structure.name}: policy {numbers} of {self.members} diverged at step {step + 1}"
                " (its loss or gradient is not finite) and stays as it was; the others learn on"
            )
        if learning < self.members:
            self.divergence.freeze(self.parameters())
        if not self.world.is_rank_zero:  # it does the same, and what the first worker finds counts
            for parameter in self.parameters():
                cast(Tensor, parameter.grad).zero_()
            return 0.0, dict.fromkeys(found, 0.0)
        return totals[0], {name: total / learning for name, total in zip(found, totals, strict=True)}

    @torch.no_grad()
    def _estimated_log_z(self, rng: torch.Generator) -> Tensor:
        """Estimate the log Z (M,) that minimises the trajectory balance loss of the initial policies."""
        trace, shape = self.trace(slice(None)), (self.members, first_trajectories(self.members))
        return sample(self.transitions, lambda x: (trace(x)[0], ()), shape, 0.0, rng).log_z()

    def _may_capture(self) -> bool:
        """Whether a step is asked for as a CUDA graph, or worth one, and of a kind that can be one."""
        options, longest = self.options, self.transitions.max_steps
        reasons = {
            "policies are not on a GPU": self.log_z.device.type != "cuda",
            "distillation samples no trajectories": options.objective == "distill",
            "trajectories are replayed": self.replay is not None,
            "workers share the counted scores": self.world.size > 1,
        }
        against = next((reason for reason, holds in reasons.items() if holds), None)
        if options.cuda_graph == "on" and against is not None and self._warn is not None:
            self._warn(f"{self.structure.name}: cuda_graph=on changes nothing, as {against}")
        few = longest is not None and longest * self.members * options.batch_size <= GRAPH_ROWS
        asked = few if options.cuda_graph == "auto" else options.cuda_graph == "on"
        return asked and against is None

    def _balance(self, own: slice, epsilon: float, rng: torch.Generator) -> dict[str, Tensor]:
        """Compute the gradients of a block in place, and return its losses and rewards (m,)."""
        members, batch = own.stop - own.start, self.options.batch_size
        replayed = 0 if self.replay is None else self.replay.share(batch)
        beside = self.replay.sample((members, replayed), rng) if self.replay and replayed else None
        new = batch - replayed
        rollouts = sample(self.transitions, self.trace(own), (members, new), epsilon, rng, beside)
        losses = self.balance(own, rollouts)
        if self.replay is not None:
            self._seen.append((rollouts.final[:, :new].flatten(0, 1), rollouts.log_reward[:, :new].flatten()))
        return {"loss": losses, "reward": rollouts.log_reward[:, :new].double().exp().mean(1)}

    def _draw(self, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Draw policy inputs (B, ...), allowed actions (B, A) and optimal policies (B, A)."""
        states, masks, optimal = self.structure.solution.expert.draw(
            self.options.batch_size, objectives.UNIFORM, rng, self.log_z.device
        )
        return self.structure.observe(states), masks, optimal

    def clip(self, max_norm: float) -> None:
        """Clip the gradient of each policy separately, so that it learns as it would alone."""
        grads = [p.grad.reshape(self.members, -1) for p in self.parameters() if p.grad is not None]
        norm_M = torch.stack([grad.square().sum(1) for grad in grads]).sum(0).sqrt()
        scale_M = (max_norm / (norm_M + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(scale_M[:, None])

    def after_step(self, step: int) -> None:
        """Restore the policies that have diverged, and keep the checkpoints of the last steps."""
        self.divergence.restore(self.parameters())
        self.snapshots.take(step + 1, self._flat)
        if self._calls is not None and self._calls.reward is None:
            raise GenflowError(
                f"environment {self.structure.env!r} does not count reward calls; leave out --reward-calls,"
                " and set finetune.steps or --budget"
            )

    def figures(self) -> dict[str, float]:
        """Return the mean primary metrics if the task is small, or what was paid for where that counts."""
        if self._calls is not None:  # an exact metric would ask for the score of every object
            return self._calls.figures()
        solution = self.structure.solution
        if not solution.enumerable or (solution.n_states or 0) > CHEAP_STATES:
            return {}
        try:
            learning = self.divergence.learning.cpu()
            return figures_of(Population(self.structure, self._flat()[learning]))
        except GenflowError:
            return {}  # a policy has diverged, which the next step detects

    def _flat(self) -> Tensor:
        return self.structure.layout.flatten(
            {name: tensor.detach().cpu() for name, tensor in self.weights.items()}
        )


def first_trajectories(members: int) -> int:
    """How many trajectories of each policy tell what it is worth before it is trained."""
    calls = RewardCalls.current()
    if calls is None or calls.limit is None:
        return LOG_Z_TRAJECTORIES
    return min(LOG_Z_TRAJECTORIES, max(1, calls.limit // (10 * members)))  # a tenth of the calls at most


def train_population(
    structure: Structure,
    options: PolicyOptions,
    *,
    start: Tensor,
    seed: int,
    folder: StrPath,
    progress: Progress,
    device: str = "cpu",
    checkpoints: int = 1,
    every: int = 1,
    replay: ReplayBuffer | None = None,
) -> Population:
    """Train policies from initial weights (M, D), with resumable checkpoints in `folder`.

    Returns:
        A population of M * checkpoints policies, those of the last step first. Its provenance holds seconds,
        budget, history and, for each policy, its run, step and exact metrics, or ``diverged_at``, a step.

    Raises:
        GenflowError: the objective does not fit the task, or all policies have diverged.
    """
    trainee = PopulationTrainee(
        structure,
        start,
        options,
        seed=seed,
        device=device,
        checkpoints=checkpoints,
        every=every,
        warn=progress.warn,
        replay=replay,
    )
    label, calls = structure.name, RewardCalls.current()
    trained = train(trainee, options, folder=Path(folder), seed=seed, progress=progress, label=label)
    weights, steps = trainee.snapshots.finish(trained.steps, trainee._flat())
    diverged_at = trainee.divergence.at.tolist()
    members = [
        {"run": run, "seed": seed, "step": step}
        | ({"diverged_at": diverged_at[run]} if 0 < diverged_at[run] <= step else {})
        for step in steps
        for run in range(trainee.members)
    ]
    provenance = {
        "source": "trained",
        "training_structures": [structure.fields()],
        "seed": seed,
        "seconds": trained.seconds,
        "budget": {
            "objective": options.objective,
            **trained.extent(),
            "batch_size": options.batch_size,
            "runs": trainee.members,
            **({} if calls is None else {"reward_calls": len(calls)}),
        },
        "log_z": [value if math.isfinite(value) else None for value in trainee.log_z.tolist()]
        if options.objective == "tb"
        else None,
        "history": trained.history,
        "members": members,
    }
    population = Population(structure, weights.flatten(0, 1), provenance)
    return population if calls is not None else measure(population)  # which asks for more scores


def train_members(
    structure: Structure,
    options: ZooOptions,
    starts: Starts,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
    device: str = "cpu",
) -> Population:
    """Train the `options.num` policies of one structure of a zoo from the initial weights of `starts`."""
    runs, checkpoints = options.split()
    with threads(options.threads):
        start = starts.weights(Population.initialised(structure, runs, seed), seed)
        population = train_population(
            structure, options, start=start, seed=seed, folder=folder, progress=progress, device=device,
            checkpoints=checkpoints, every=options.checkpoint_every,
        )  # fmt: skip
    return population[: options.num]
