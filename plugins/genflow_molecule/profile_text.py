"""The text of a profile: `mw:300..450; logp:1..3; !alerts:brenk; similar:0.4..0.7 to known.smi`.

Terms are separated by semicolons. Each is `[!]NAME:RANGE[~EDGE][*WEIGHT]`, see docs/molecule.md. A file that
a term names is replaced by its molecules in braces, `to {CCO CCN}`, so that equal profiles have equal texts
and a text needs nothing beside itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rdkit import Chem, rdBase

from genflow import GenflowError, brief, did_you_mean

from .descriptors import CATALOGUES, DESCRIPTORS, MATCHES, SIMILARITY, Descriptor
from .molecule_lines import read_lines

#: of a profile, of a SMARTS, and of the molecules that it compares with
MAX_TERMS, MAX_SMARTS, MAX_MOLECULES, MAX_SMILES = 100, 500, 5000, 500
#: numbers in a profile
MAX_NUMBER = 1e6
#: terms beside the descriptors
OTHERS = ("alerts", "novel", "similar", "smarts")
_UNSIGNED = r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(
    rf"(?P<low>[+-]?{_UNSIGNED})\s*\.\.\s*(?P<high>[+-]?{_UNSIGNED})"
    rf"|(?P<sign><=|>=|<|>)\s*(?P<bound>[+-]?{_UNSIGNED})|(?P<only>[+-]?{_UNSIGNED})"
)
# in SMARTS, ~ and * are bonds and atoms, so that a space stands before an option there
_OPTIONS = r"(?P<options>(?:{space}[~*]\s*" + _UNSIGNED + r")*)"
_PLAIN = re.compile(r"(?P<what>.*?)" + _OPTIONS.format(space=r"\s*"))
_SMARTS = re.compile(r"(?P<what>\S+)" + _OPTIONS.format(space=r"\s+"))


@dataclass(frozen=True)
class Term:
    """One wish.

    Attributes:
        name: a key of `DESCRIPTORS`, "similar", "smarts" or "alerts".
        subject: the SMARTS or the catalogue, "" for other terms.
        molecules: canonical SMILES of what is compared with, sorted.
        low, high: the range within which the desirability is 1.
        edge: how far outside of it the desirability falls to 0.
        weight: of the desirability in the geometric mean.
        hard: whether molecules outside of the range score 0, and the term has no part in the mean.
    """

    name: str
    subject: str
    molecules: tuple[str, ...]
    low: float
    high: float
    edge: float
    weight: float
    hard: bool

    @property
    def descriptor(self) -> Descriptor:
        """What is measured."""
        return _descriptor(self.name)

    def desirability(self, value: float) -> float:
        """1 within the range, and 0 from `edge` outside of it on, with a straight line between.

        Derringer and Suich, "Simultaneous Optimization of Several Response Variables" (1980), with r = s = 1.
        """
        outside = max(self.low - value, value - self.high, 0.0)
        if self.hard:
            return float(outside == 0)
        return max(0.0, 1 - outside / self.edge)

    def __str__(self) -> str:
        if self.name == "smarts":
            what = self.subject if self.low > 0 else f"!{self.subject}"
        else:
            what = self.subject or _range_text(self.low, self.high)
        space = " " if self.name == "smarts" else ""
        edge = f"{space}~{_number_text(self.edge)}" if self._says_edge else ""
        weight = f"{space}*{_number_text(self.weight)}" if self.weight != 1 else ""
        to = f" to {{{' '.join(self.molecules)}}}" if self.molecules else ""
        return f"{'!' * self.hard}{self.name}:{what}{edge}{weight}{to}"

    @property
    def _says_edge(self) -> bool:
        return not self.hard and self.edge != self.descriptor.edge


def _descriptor(name: str) -> Descriptor:
    return DESCRIPTORS.get(name) or (SIMILARITY if name == "similar" else MATCHES)


def parse(text: str, read: Callable[[str], Iterable[str]]) -> tuple[Term, ...]:
    """The terms of a profile, in alphabetical order, each once.

    Args:
        text: of the profile.
        read: returns the canonical SMILES in a file by its path.

    Raises:
        GenflowError: a term is malformed; names it.
    """
    parts = [part.strip() for part in _split(text) if part.strip()]
    if not parts:
        raise GenflowError("the profile is empty; write terms as in 'mw:300..450; qed:>0.6'")
    if len(parts) > MAX_TERMS:
        raise GenflowError(f"the profile has {len(parts)} terms; at most {MAX_TERMS} are taken")
    terms: dict[str, Term] = {}
    for part in parts:
        try:
            term = _term(part, read)
        except GenflowError as error:
            raise GenflowError(f"profile: {brief(part, 80)!r}: {error}") from None
        if str(term) in terms:
            raise GenflowError(f"profile: {brief(part, 80)!r} is there twice; give it a weight, *2, instead")
        terms[str(term)] = term
    return tuple(terms[key] for key in sorted(terms))


def _split(text: str) -> list[str]:
    """The terms; a semicolon inside brackets belongs to a SMARTS."""
    parts, depth = [""], 0
    for char in text:
        depth = max(0, depth + (char in "[({") - (char in "])}"))
        if char == ";" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


#: marks with which a text begins that was put into the wrong ones
QUOTES = tuple("'`\"\u201c\u201d\u2018\u2019\u00ab\u201e")


def _term(text: str, read: Callable[[str], Iterable[str]]) -> Term:
    hard = text.startswith("!") or re.search(r"\shard$", text) is not None
    text = re.sub(r"\s+hard$", "", text).removeprefix("!").strip()
    name, colon, rest = (part.strip() for part in text.partition(":"))
    name = name.lower()
    if not colon:
        raise GenflowError("is no term; write NAME:RANGE as in logp:1..3, tpsa:<90 or alerts:brenk")
    if name[:1] in QUOTES:
        raise GenflowError(
            'put double quotation marks ("), no others, around all terms, and in a shell single ones around'
            " the whole: --structure 'small,reward=profile,profile=\"mw:150..300; logp:1..3\"'"
        )
    if name not in DESCRIPTORS and name not in OTHERS:
        raise GenflowError(f"there is no {brief(name, 40)!r}{did_you_mean(name, [*DESCRIPTORS, *OTHERS])}")
    molecules: tuple[str, ...] = ()
    if name in ("similar", "novel"):
        rest, _, target = (part.strip() for part in _partition_to(rest))
        molecules = _molecules(target, name, read)
    found = (_SMARTS if name == "smarts" else _PLAIN).fullmatch(rest)
    if found is None:
        raise GenflowError("write the SMARTS, then a space before ~EDGE and *WEIGHT")
    what = found["what"].strip()
    edge, weight = _options(found["options"], hard)
    subject, low, high = "", 0.0, 0.0
    if name == "smarts":
        unwanted = what.startswith("!")
        subject = _smarts(what.removeprefix("!"))
        low, high = (0.0, 0.0) if unwanted else (1.0, math.inf)
    elif name == "alerts":
        subject = what.lower()
        if subject not in CATALOGUES:
            raise GenflowError(
                f"there is no catalogue {brief(what, 40)!r}{did_you_mean(subject, CATALOGUES)}"
            )
    else:
        low, high = _range(what, _descriptor("similar" if name == "novel" else name), name)
    if name == "novel":
        if low != -math.inf:
            raise GenflowError("novel is a similarity below something, novel:<0.4; else write similar")
        name = "similar"
    edge = _descriptor(name).edge if edge is None else edge
    return Term(name, subject, molecules, low, high, 0.0 if hard else edge, weight, hard)


def _partition_to(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"(.*?)(?:(\sto\s)(.*))?", text, re.DOTALL)
    assert found is not None
    before, to, after = found.groups("")
    return before, to, after


def _options(text: str, hard: bool) -> tuple[float | None, float]:
    """The edge, None if it is not given, and the weight."""
    found: dict[str, float] = {}
    for sign, number in re.findall(rf"([~*])\s*({_UNSIGNED})", text):
        value = float(number)
        if sign in found or not 0 < value <= MAX_NUMBER:
            raise GenflowError(f"{sign}{number} must be given once, above 0 and at most {MAX_NUMBER:g}")
        if hard:
            raise GenflowError(f"a hard filter has no edge and no weight; leave out {sign}{number}, or the !")
        found[sign] = value
    return found.get("~"), found.get("*", 1.0)


def _range(text: str, descriptor: Descriptor, name: str) -> tuple[float, float]:
    """The range that a text asks for, with ends that a whole number can have."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise GenflowError(f"{brief(text, 40)!r} is no range; write 1..3, <3, <=3, >1, >=1 or a number")
    low, high = -math.inf, math.inf
    if found["sign"]:
        bound, strict, whole = float(found["bound"]), "=" not in found["sign"], descriptor.whole
        if "<" in found["sign"]:
            high = (math.ceil(bound) - 1 if strict else math.floor(bound)) if whole else bound
        else:
            low = (math.floor(bound) + 1 if strict else math.ceil(bound)) if whole else bound
    else:
        low, high = float(found["low"] or found["only"]), float(found["high"] or found["only"])
        if descriptor.whole:
            low, high = math.ceil(low), math.floor(high)
    if low > high:
        raise GenflowError("the range is empty; write the smaller number first, and one that it can have")
    if any(MAX_NUMBER < abs(end) < math.inf for end in (low, high)):
        raise GenflowError(f"numbers are at most {MAX_NUMBER:g}")
    if high < descriptor.least or low > descriptor.most:
        raise GenflowError(
            f"no molecule is in this range, because {name} is"
            f" {_range_text(descriptor.least, descriptor.most)}"
        )
    return float(low), float(high)


def _smarts(text: str) -> str:
    with rdBase.BlockLogs():
        pattern = Chem.MolFromSmarts(text) if 0 < len(text) <= MAX_SMARTS else None
    if pattern is None or not pattern.GetNumAtoms():
        raise GenflowError(
            f"{brief(text, 60)!r} is no SMARTS that RDKit reads (of at most {MAX_SMARTS} characters)"
        )
    return text


def _molecules(text: str, name: str, read: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """The molecules in braces, or of the file that a text names."""
    if not text:
        raise GenflowError(f"say what is compared with: {name}:<0.4 to FILE.smi, or to {{CCO CCN}}")
    if text.startswith("{") and text.endswith("}"):
        return canonical(((each, each) for each in text[1:-1].split()), "the molecules in braces")
    return tuple(read(text))


def canonical(lines: Iterable[tuple[str, str]], where: str) -> tuple[str, ...]:
    """Different canonical SMILES, sorted.

    Args:
        lines: SMILES, each with what a message calls its place.
        where: leads messages.

    Raises:
        GenflowError: one is no molecule, or there are none, or too many.
    """
    found = set()
    for smiles, place in lines:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles) if len(smiles) <= MAX_SMILES else None
        if mol is None or not mol.GetNumAtoms():
            raise GenflowError(f"{where}: {brief(place, 80)} is no SMILES that RDKit reads")
        found.add(Chem.MolToSmiles(mol))
        if len(found) > MAX_MOLECULES:
            raise GenflowError(f"{where}: more than {MAX_MOLECULES:,} molecules; give fewer")
    if not found:
        raise GenflowError(f"{where}: there is no molecule")
    return tuple(sorted(found))


def read_molecules(path: str) -> tuple[str, ...]:
    """The canonical SMILES of a file, see `read_lines`.

    Raises:
        GenflowError: the file cannot be read, or a line is no molecule.
    """
    lines = [(smiles, f"line {number} ({smiles!r})") for number, smiles, _ in read_lines(Path(path))]
    return canonical(lines, f"file {brief(path)!r}")


def _range_text(low: float, high: float) -> str:
    if low == high:
        return _number_text(low)
    if low == -math.inf or high == math.inf:
        return f"<={_number_text(high)}" if low == -math.inf else f">={_number_text(low)}"
    return f"{_number_text(low)}..{_number_text(high)}"


def _number_text(number: float) -> str:
    text = f"{number:.15g}"
    return text if float(text) == number else repr(number)
