"""Scores of molecules by canonical SMILES: computed once, checked, and kept up to a bound in bytes."""

from __future__ import annotations

import inspect
import itertools
import math
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem, rdBase
from rdkit.Chem import Mol

from genflow import (
    ByteTable,
    GenflowError,
    Progress,
    Reward,
    RewardCalls,
    bytes_of,
    code_digest,
    count_of,
    interrupts_for_python,
)

#: the least score, which keeps every reward positive
FLOOR = 1e-3
#: score from which a molecule is a mode, where the reward does not say
MODE_SCORE = 0.7
#: molecules that a reward is asked about at once
BATCH = 1024
#: molecules that a reward may fail for before it has scored one
PATIENCE = 8
#: bytes of the scores of all rewards, and of the options by which scorers are told apart, that are kept
SCORE_BYTES, SCORER_BYTES = 2**28, 2**24
#: bytes that an entry of a table takes beside its key and its value
OVERHEAD = 150


_scores: ByteTable[tuple[int, str], float] = ByteTable(SCORE_BYTES)
_scorers: ByteTable[tuple[Any, ...], Scorer] = ByteTable(SCORER_BYTES)
_numbers = itertools.count()


class Scorer:
    """What one reward says of molecules, `FLOOR` to 1."""

    def __init__(self, reward: Reward, name: str | None = None) -> None:
        """Begin.

        Args:
            reward: what is asked.
            name: by which it is registered, for messages; by default its class.
        """
        self._reward, self.name = reward, name or type(reward).__name__
        self._number = next(_numbers)
        self._works = False
        #: SMILES of molecules that have no score, and why
        self._failed: dict[str, str] = {}
        self._told = 0
        # molecules that were asked for, and those of them that score above 1
        self._number_asked = self._number_above = 0

    @cached_property
    def _identity(self) -> str:
        """What tells the reward from others in a file: its class, its code, RDKit, options and task."""
        cls, task = type(self._reward), self._reward.task
        with suppress(OSError, TypeError):  # a class of a notebook has no file
            code = f"{code_digest(Path(inspect.getfile(cls)))} RDKit {rdBase.rdkitVersion}"
            options = [part.model_dump_json() for part in (self._reward.config, task) if part is not None]
            return f"{cls.__module__}:{cls.__qualname__} {code} {' '.join(options)}"
        return f"{cls.__module__}:{cls.__qualname__} {uuid.uuid4().hex}"

    def __call__(self, smiles: str) -> float:
        """The score of one molecule, see `scores`."""
        return self.scores([smiles])[0]

    def scores(self, smiles: Sequence[str]) -> list[float]:
        """Scores of molecules by their canonical SMILES; `FLOOR` for what is no molecule.

        What the reward fails for, or gives no number from 0 to 1, counts as `FLOOR`, with a warning.

        Raises:
            GenflowError: the reward returns another number of scores, or has scored nothing yet.
        """
        calls = RewardCalls.current()
        if calls is None:
            found = self._scores(smiles)
        else:
            # what ships is known to be repeatable
            again = None if type(self._reward).__module__.partition(".")[0] == __package__ else self._again
            found = calls.scores(self._identity, smiles, self._scores, self._failed, self._modes_among, again)
        # here, as others may have asked; a reward that has not scored any molecule is refused
        if not self._works and self._failed:
            self._works = not self._failed.keys() >= set(smiles)
            self._works |= calls is not None and calls.scored(self._identity)
            # one alone says little of the function
            if not self._works and (len(set(smiles)) > 1 or len(self._failed) >= PATIENCE):
                raise self._refused(self._failed)
        for number, fault in enumerate(list(self._failed.values())[self._told :], self._told + 1):
            if math.log10(number).is_integer():  # the first, the tenth, the hundredth
                others = f", as {number - 1:,} others did" if number > 1 else ""
                Progress.current().warn(f"{fault}; it counts as {FLOOR:g}{others}")
        if self._told < len(self._failed) > 1:
            Progress.current().at_end(
                self,
                f"reward {self.name} failed for {len(self._failed):,} molecules in all, or gave them no"
                f" number from 0 to 1; each counts as {FLOOR:g}",
            )
        self._told = len(self._failed)
        return found

    @interrupts_for_python()
    def _again(self, smiles: str, before: float) -> float:
        """Ask once more for the score of one molecule, which must be the same."""
        mol = read(smiles)
        if mol is None:
            return before
        (value,), faults = self._values([(smiles, mol)])
        now = max(FLOOR, value)
        if not math.isclose(now, before, rel_tol=1e-6):
            how = "failed" if faults else f"was {now:.6g}"
            Progress.current().warn(
                f"reward {self.name} is not repeatable: the score of {smiles} was {before:.6g}, and {how}"
                " when it was asked again; scores are kept as they were first, so fix its random seed"
            )
        return now

    def _scores(self, smiles: Sequence[str]) -> list[float]:
        found: dict[str, float] = {}
        unknown = []
        for each in dict.fromkeys(smiles):
            score = _scores.get((self._number, each))
            if score is None:
                unknown.append(each)
            else:
                found[each] = score
        with counted("scores", len(unknown)) as show:
            for start in range(0, len(unknown), BATCH):
                # kept when a whole batch is there: what was interrupted is asked again
                for each, score in self._ask(unknown[start : start + BATCH]):
                    found[each] = score
                    _scores.add((self._number, each), score, sys.getsizeof(each) + OVERHEAD)
                show(min(start + BATCH, len(unknown)))
        return [found[each] for each in smiles]

    def modes(self, smiles: Sequence[str]) -> list[bool]:
        """Which molecules are modes: as the reward says, else those that score at least `MODE_SCORE`."""
        said = self._said_modes(smiles)
        return [score >= MODE_SCORE for score in self.scores(smiles)] if said is None else said

    def _modes_among(self, smiles: Sequence[str], scores: Sequence[float]) -> list[bool]:
        """The same of molecules with these scores, while they are counted."""
        said = self._said_modes(smiles)
        return [score >= MODE_SCORE for score in scores] if said is None else said

    @interrupts_for_python()
    def _said_modes(self, smiles: Sequence[str]) -> list[bool] | None:
        if type(self._reward).is_mode is Reward.is_mode:
            return None
        mols = {each: mol for each in dict.fromkeys(smiles) if (mol := read(each)) is not None}
        said = self._reward.is_mode(list(mols.values())) if mols else None
        if said is None:
            return None
        modes = dict(zip(mols, said.tolist(), strict=True))
        return [modes.get(each, False) for each in smiles]

    @interrupts_for_python()  # what RDKit finds when it is interrupted is no score
    def _ask(self, smiles: Sequence[str]) -> Iterator[tuple[str, float]]:
        mols = [read(each) for each in smiles]
        known = [(each, mol) for each, mol in zip(smiles, mols, strict=True) if mol is not None]
        scores = dict(zip([each for each, _ in known], self._checked(known), strict=True))
        return ((each, max(FLOOR, scores.get(each, FLOOR))) for each in smiles)

    def _checked(self, molecules: list[tuple[str, Mol]]) -> list[float]:
        """The scores of molecules, with their SMILES for messages; `FLOOR` for one that has none."""
        values, faults = self._values(molecules)
        self._works |= len(faults) < len(molecules)
        self._failed |= faults
        if not self._works and len(faults) >= PATIENCE:
            raise self._refused(faults)
        return values

    def _refused(self, faults: Mapping[str, str]) -> GenflowError:
        """The error of a reward that has scored no molecule."""
        return GenflowError(
            f"{next(iter(faults.values()))}; it scored none of the first {len(faults)} molecules: mend it"
        )

    def _values(self, molecules: list[tuple[str, Mol]]) -> tuple[list[float], dict[str, str]]:
        """The scores of molecules, and of those that have none what is wrong, by SMILES.

        Raises:
            GenflowError: there are more or fewer scores than molecules.
        """
        if not molecules:
            return [], {}
        where = f"reward {self.name}"
        try:
            returned = self._reward.score([mol for _, mol in molecules])
            if returned is None:
                raise GenflowError(f"{where} returned None; return a list of numbers, one for each molecule")
            values = _as_numbers(returned)
        except GenflowError:
            raise
        except Exception as error:  # somebody else's function may raise anything
            if len(molecules) > 1:  # find those that it fails for
                alone = [self._values([each]) for each in molecules]
                faults = {smiles: fault for _, each in alone for smiles, fault in each.items()}
                return [value for values, _ in alone for value in values], faults
            why = " ".join(f"{type(error).__name__}: {error}".split())
            return [FLOOR], {molecules[0][0]: f"{where} failed for {molecules[0][0]}: {why}"}
        if len(values) != len(molecules):
            calls = RewardCalls.current()
            kept = (
                f"; what was scored before, {count_of(len(calls), 'molecule')}, stays with the run for the"
                " function as it stands, and a changed one is asked anew"
                if calls is not None and calls.keeps and len(calls)
                else ""
            )
            raise GenflowError(
                f"{where} returned {count_of(len(values), 'score')} for"
                f" {count_of(len(molecules), 'molecule')}, the first of which is {molecules[0][0]};"
                f" return one number for each{kept}"
            )
        faults = {
            smiles: f"{where} is {value} for {smiles}; a score must be a number from 0 to 1"
            for (smiles, _), value in zip(molecules, values, strict=True)
            if not 0 <= value <= 1
        }
        self._number_asked += len(values)
        self._number_above += sum(value > 1 for value in values)
        if PATIENCE <= self._number_asked < 2 * self._number_above:
            raise GenflowError(
                f"{next(iter(faults.values()))}, and {self._number_above:,} of the first"
                f" {self._number_asked:,} molecules score above 1: divide by the largest score that there is"
            )
        return [value if 0 <= value <= 1 else FLOOR for value in values], faults


@contextmanager
def counted(label: str, number: int) -> Iterator[Callable[[int], None]]:
    """What shows how much of work on so many molecules is done, if they are more than are scored at once."""
    if number > BATCH:
        with Progress.current().bar(label, number) as bar:
            yield bar.set
    else:
        yield lambda done: None


def read(smiles: str) -> Mol | None:
    """The molecule of a SMILES, or None."""
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(smiles) if smiles else None


def _as_numbers(values: Any) -> list[float]:
    return torch.as_tensor(values, dtype=torch.float64).detach().flatten().tolist()


def scorer(reward: Reward, name: str | None = None) -> Scorer:
    """Return the scorer of a reward, one for all tasks in which a molecule scores the same.

    Vocabularies share molecules, and so their scores. A class that reads its task has a scorer for each task;
    of one that says that it does not, see `Reward.reads_task`, all tasks share the scores. `name` is that by
    which the reward is registered.
    """
    cls = type(reward)
    key = cls, reward.config, reward.task if cls.reads_task else None
    found = _scorers.get(key)
    if found is None:
        # one that is shared may not see the task of whoever came first
        found = Scorer(reward if cls.reads_task else cls(reward.config))
        _scorers.add(key, found, bytes_of(key) + OVERHEAD)
    found.name = name or found.name
    return found
