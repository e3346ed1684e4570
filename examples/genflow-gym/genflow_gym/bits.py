"""Bit sequences near one of several modes: words appended one after the other, or placed in any order.

Shapes: n words of k bits, V = 2^k values of a word, m modes, B states (B, n) of -1 (empty) or 0 .. V-1.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

import genflow
from genflow_gym import filling
from genflow_gym.tables import drawn, padded

#: words and modes that units have columns for
MAX_WORDS, MAX_MODES = 12, 4
#: of rewards that are made up: nats that a wrong bit costs
COST = (0.2, 4.0)

Bits = Annotated[str, Field(pattern="^[01]+$", max_length=120)]


class BitsConfig(genflow.Schema):
    """What both forms share."""

    word_size: int = genflow.size(1, ge=1, le=8, description="Bits of a word, which an action writes.")
    seq_size: int = genflow.size(ge=1, le=96, description="Bits of a sequence, a multiple of `word_size`.")
    modes: tuple[Bits, ...] = genflow.told(
        min_length=1, max_length=64, description="The sequences that pay most, such as 0110+1001."
    )

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, values: Any) -> Any:
        """One mode may stand alone, and the modes say how long a sequence is."""
        if "modes" not in values:
            raise ValueError("modes is missing: give sequences of bits, such as 0110+1001")
        modes = values["modes"]
        modes = [modes] if isinstance(modes, str) else modes
        if isinstance(modes, list | tuple) and modes and isinstance(modes[0], str):
            return {"seq_size": len(modes[0]), **values, "modes": modes}
        return values

    @model_validator(mode="after")
    def _fits(self) -> BitsConfig:
        if self.seq_size % self.word_size or self.seq_size // self.word_size > MAX_WORDS:
            raise ValueError(
                f"seq_size must be word_size times 1 to {MAX_WORDS} words, not {self.seq_size} for"
                f" {self.word_size}"
            )
        if odd := [mode for mode in self.modes if len(mode) != self.seq_size]:
            raise ValueError(f"mode {odd[0]} has {len(odd[0])} bits for seq_size={self.seq_size}")
        if len(set(self.modes)) != len(self.modes):
            raise ValueError("a mode stands there twice; leave one out")
        return self

    @property
    def words(self) -> int:
        """The number of words n."""
        return self.seq_size // self.word_size


class BitSequences(genflow.Environment):
    """What both forms share: log R(x) = - cost x the least number of bits in which x differs from a mode."""

    @property
    def cost(self) -> float:
        """Nats that a wrong bit costs."""
        raise NotImplementedError

    @cached_property
    def modes(self) -> Tensor:
        """The bits of each mode, (m, n k) int64."""
        return torch.tensor([[int(bit) for bit in mode] for mode in self.config.modes])

    @cached_property
    def distances(self) -> Tensor:
        """Bits in which a value of a word differs from each mode's word there, (n, V, m) int64."""
        size, words = self.config.word_size, self.config.words
        bits = torch.arange(2**size)[:, None] >> torch.arange(size - 1, -1, -1) & 1
        return (bits[None, :, None] != self.modes.reshape(-1, words, size).transpose(0, 1)[:, None]).sum(-1)

    def log_reward(self, states: Tensor) -> Tensor:
        """log R of sequences (B, n), in float64."""
        apart = self.distances[torch.arange(self.config.words), states].sum(1)
        return -self.cost * apart.min(1).values.double()

    def costs(self) -> Tensor:
        """Nats that each value of a word costs by each mode, (n, V, `MAX_MODES`); the last mode repeats."""
        shown = torch.arange(MAX_MODES).clamp(max=len(self.modes) - 1)
        return self.cost * self.distances[..., shown].float()

    def condition(self) -> dict[str, float]:
        """The sizes; units tell what is paid, by up to `MAX_MODES` modes."""
        return {
            "words": float(self.config.words),
            "word_size": float(self.config.word_size),
            "n_modes": float(min(len(self.config.modes), MAX_MODES + 1)),
        }

    def places(self) -> Tensor:
        """Amounts of an input for each word and its content, empty first, (n (V + 1), F)."""
        costs, words = self.costs(), self.config.words
        content = torch.cat([costs.new_zeros(words, 1, MAX_MODES), costs], dim=1)
        empty = torch.zeros(words, content.shape[1], 1)
        empty[:, 0] = 1.0
        place = padded(torch.eye(words), MAX_WORDS)[:, None].expand(-1, content.shape[1], -1)
        left = ((torch.arange(words) + 1) / words)[:, None, None].expand(-1, content.shape[1], -1)
        return torch.cat([content, empty, place, empty * place, left], dim=2).flatten(0, 1)

    def made_up(self, rng: torch.Generator) -> BitSequences:
        """The same task with other modes and another cost of a wrong bit."""
        count = 1 + int(torch.randint(MAX_MODES, (), generator=rng))
        bits = torch.randint(2, (count, self.config.seq_size), generator=rng).unique(dim=0)
        modes = tuple(
            "".join(map(str, row)) for row in bits[torch.randperm(len(bits), generator=rng)].tolist()
        )
        return type(self)(self.config.model_copy(update={"modes": modes, **self.priced(drawn(rng, *COST))}))

    def priced(self, cost: float) -> dict[str, float]:
        """The option that makes a wrong bit cost so many nats."""
        raise NotImplementedError


class AppendedBits(BitSequences):
    """torchgfn's `BitSequence`: words are appended, so that each sequence has one trajectory."""

    presets: ClassVar = {
        "nibbles": {"modes": ("011010", "100101")},
        "two_bits": {"word_size": 2, "modes": ("00110110", "11010001", "01101100")},
    }
    default_structures: ClassVar = ("nibbles", "two_bits")
    pretrained: ClassVar = ("genflow_gym:pretrained/bit_sequence",)

    class Config(BitsConfig):
        """The modes, and how fast the reward falls: log R = - wrong bits / temperature."""

        temperature: float = genflow.told(1.0, gt=0, description="1 over the nats that a wrong bit costs.")

    @property
    def cost(self) -> float:
        """Nats that a wrong bit costs."""
        return 1 / self.config.temperature

    def priced(self, cost: float) -> dict[str, float]:
        """The temperature of a cost."""
        return {"temperature": 1 / cost}

    def make(self, device: Any = "cpu") -> Any:
        """torchgfn's environment, with steps of our own."""
        from genflow_gym.torchgfn_bits import Appended

        env = Appended(self.config.word_size, self.modes.to(device), self.config.temperature, str(device))
        return env, filling.OneHotPlaces(self.config.words, 2**self.config.word_size)

    def units(self) -> genflow.Units:
        """An input is a word and its content; an action is a value, by what it costs in each word."""
        costs = self.costs().permute(1, 0, 2)  # (V, n, MAX_MODES)
        costs = padded(costs.transpose(1, 2), MAX_WORDS).flatten(1)
        actions = torch.zeros(len(costs) + 1, costs.shape[1] + 1)
        actions[:-1, :-1], actions[-1, -1] = costs, 1.0
        return genflow.Units(genflow.UnitDescriptions(self.places()), genflow.UnitDescriptions(actions))

    def exact_solution(self, transitions: Any) -> genflow.ExactSolution:
        """A tree of (V^(n + 1) - 1) / (V - 1) states."""
        base, words = 2**self.config.word_size, self.config.words
        return genflow.ExactSolution(transitions, n_states=sum(base**count for count in range(words + 1)))

    @cached_property
    def _graph(self) -> genflow.StateGraph:
        return self.exact_solution(self.transitions(torch.device("cpu"))).graph

    def rehearse(self, rng: torch.Generator) -> genflow.Rehearsal:
        """Other modes, at another cost."""
        other, graph = self.made_up(rng), self._graph
        log_reward = other.log_reward(graph.states.clamp(min=0))
        flows = genflow.optimal_flows(graph, log_reward)
        mask = graph.mask(torch.arange(len(graph.states)))
        units = other.units()
        expert = genflow.Expert(graph.states, flows.policy.float(), mask, flows.visit)
        return genflow.Rehearsal(units.inputs.amounts, units.actions.amounts, expert)


class PlacedBits(BitSequences):
    """torchgfn's `NonAutoregressiveBitSequence`: words are placed in any order."""

    presets: ClassVar = {
        "nibbles": {"modes": ("011010", "100101")},
        "two_bits": {"word_size": 2, "modes": ("00110110", "11010001", "01101100")},
    }
    default_structures: ClassVar = ("nibbles", "two_bits")
    pretrained: ClassVar = ("genflow_gym:pretrained/bit_sequence_any_order",)

    class Config(BitsConfig):
        """The modes, and how fast the reward falls: log R = - reward_exponent x wrong bits / seq_size."""

        reward_exponent: float = genflow.told(
            2.0, gt=0, description="Nats that a sequence of wrong bits alone would cost."
        )

    @property
    def cost(self) -> float:
        """Nats that a wrong bit costs."""
        return self.config.reward_exponent / self.config.seq_size

    def priced(self, cost: float) -> dict[str, float]:
        """The exponent of a cost."""
        return {"reward_exponent": cost * self.config.seq_size}

    def make(self, device: Any = "cpu") -> Any:
        """torchgfn's environment, as it is."""
        from genflow_gym.torchgfn_bits import Placed

        env = Placed(self.config.word_size, self.modes.to(device), self.config.reward_exponent, str(device))
        return env, filling.OneHotPlaces(self.config.words, 2**self.config.word_size)

    def units(self) -> genflow.Units:
        """An input is a word and its content, an action a word and the value that is placed there."""
        places = self.places()
        actions = places.reshape(self.config.words, -1, places.shape[1])[:, 1:].flatten(0, 1)
        leave = torch.zeros(len(actions) + 1, 1)
        leave[-1] = 1.0
        actions = torch.cat([torch.nn.functional.pad(actions, (0, 0, 0, 1)), leave], dim=1)
        return genflow.Units(genflow.UnitDescriptions(places), genflow.UnitDescriptions(actions))

    def action(self, place: int, value: int) -> int:
        """The number of torchgfn's action that fills a place."""
        return place * 2**self.config.word_size + value

    def exact_solution(self, transitions: Any) -> genflow.ExactSolution:
        """All (V + 1)^n states."""
        values = 2**self.config.word_size
        return filling.FillingSolution(transitions, self.config.words, values, self.action)

    def rehearse(self, rng: torch.Generator) -> genflow.Rehearsal:
        """Other modes, at another cost."""
        other, values = self.made_up(rng), 2**self.config.word_size
        log_reward = other.log_reward(filling.completed(self.config.words, values))
        expert = filling.drawn_expert(log_reward, self.config.words, values, self.action, rng)
        units = other.units()
        return genflow.Rehearsal(units.inputs.amounts, units.actions.amounts, expert)
