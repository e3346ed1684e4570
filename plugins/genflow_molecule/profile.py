"""A profile: the geometric mean of how desirable each property of a molecule is.

Derringer and Suich, "Simultaneous Optimization of Several Response Variables", Journal of Quality Technology
12 (1980), 214-219; with weights as in multi-parameter scores of drug design.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from pydantic import ValidationInfo, field_validator
from rdkit.Chem import Mol, MolFromSmarts, MolFromSmiles
from rdkit.DataStructs import BulkTanimotoSimilarity

from genflow import Reward, Schema, described, require_may_read

from .descriptors import alerts, fingerprint
from .profile_text import Term, parse, read_molecules

#: characters of a profile with the molecules of its files
MAX_TEXT = 2**20


class Profile(Reward):
    """The geometric mean of desirabilities; 0 for a molecule that a hard filter refuses."""

    environment = "molecule"
    reads_task = False

    class Config(Schema):
        """The profile."""

        profile: str = described(
            max_length=MAX_TEXT,
            description="Terms NAME:RANGE[~EDGE][*WEIGHT] between semicolons; ! before one that is hard.",
        )

        @field_validator("profile", mode="before")
        @classmethod
        def _canonical_text(cls, profile: Any, info: ValidationInfo) -> Any:
            """One text for equal profiles, with the molecules of files in the place of their paths."""
            if not isinstance(profile, str) or len(profile) > MAX_TEXT:
                return profile  # the field says what is wrong

            def read(path: str) -> tuple[str, ...]:
                require_may_read(info, path)
                return read_molecules(path)

            return "; ".join(map(str, parse(profile, read)))

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the profile, hard filters first."""
        terms = parse(self.config.profile, read_molecules)
        return tuple(sorted(terms, key=lambda term: not term.hard))

    @cached_property
    def _measures(self) -> tuple[Callable[[Mol], float], ...]:
        return tuple(map(_measure, self.terms))

    def score(self, objects: Sequence[Mol]) -> list[float]:
        """The geometric mean of each molecule."""
        return [self._score(mol) for mol in objects]

    def _score(self, mol: Mol) -> float:
        total, weights = 0.0, 0.0
        for term, measure in zip(self.terms, self._measures, strict=True):
            desirability = term.desirability(measure(mol))
            if desirability == 0:
                return 0.0
            if not term.hard:
                total += term.weight * math.log(desirability)
                weights += term.weight
        return math.exp(total / weights) if weights else 1.0

    def desirabilities(self, mol: Mol) -> dict[str, float]:
        """The desirability of each term by its text."""
        return {
            str(term): term.desirability(measure(mol))
            for term, measure in zip(self.terms, self._measures, strict=True)
        }


def _measure(term: Term) -> Callable[[Mol], float]:
    """The function that measures what a term is about."""
    if term.name == "alerts":
        return alerts(term.subject)
    if term.name == "smarts":
        pattern = MolFromSmarts(term.subject)
        return lambda mol: len(mol.GetSubstructMatches(pattern))
    if term.name == "similar":
        known = [fingerprint(MolFromSmiles(smiles)) for smiles in term.molecules]
        return lambda mol: max(BulkTanimotoSimilarity(fingerprint(mol), known))
    return term.descriptor.of
