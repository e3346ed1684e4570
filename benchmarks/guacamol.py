"""GuacaMol's tasks as a reward of molecules: `genflow --plugin benchmarks/guacamol.py ...`.

Brown et al., "GuacaMol: Benchmarking Models for de Novo Molecular Design", J. Chem. Inf. Model. 59 (2019),
1096-1108, Table 3. Widths of the Gaussians are those of the release that PMO runs (Gao et al. 2022), which
for Osimertinib and Fexofenadine differ from the table's; every score is a geometric mean, as there.

    --structure "blocks=72,max_blocks=6,reward=guacamol,goal=osimertinib"
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, get_args

from rdkit.Chem import Crippen, Descriptors, Mol, MolFromSmarts, MolFromSmiles, rdMolDescriptors
from rdkit.Chem import rdFingerprintGenerator as fingerprints
from rdkit.DataStructs import TanimotoSimilarity

import genflow

#: the seven multi-parameter tasks of the benchmark
Mpo = Literal[
    "osimertinib", "fexofenadine", "ranolazine", "perindopril", "amlodipine", "sitagliptin", "zaleplon"
]
#: others of GuacaMol's, on which settings may be chosen
Other = Literal["celecoxib", "troglitazone", "thiothixene", "median_1", "median_2", "isomers", "valsartan"]
MPO, OTHER = get_args(Mpo), get_args(Other)

DRUGS = {
    "osimertinib": "COc1cc(N(C)CCN(C)C)c(NC(=O)C=C)cc1Nc2nccc(n2)c3cn(C)c4ccccc34",
    "fexofenadine": "CC(C)(C(=O)O)c1ccc(cc1)C(O)CCCN2CCC(CC2)C(O)(c3ccccc3)c4ccccc4",
    "ranolazine": "COc1ccccc1OCC(O)CN2CCN(CC(=O)Nc3c(C)cccc3C)CC2",
    "perindopril": "O=C(OCC)C(NC(C(=O)N1C(C(=O)O)CC2CCCCC12)C)CCC",
    "amlodipine": "Clc1ccccc1C2C(=C(NC(=C2C(=O)OCC)COCCN)C)C(=O)OC",
    "sitagliptin": "Fc1cc(c(F)cc1F)CC(N)CC(=O)N3Cc2nnc(n2CC3)C(F)(F)F",
    "zaleplon": "O=C(C)N(CC)C1=CC=CC(C2=CC=NC3=C(C=NN23)C#N)=C1",
    "celecoxib": "CC1=CC=C(C=C1)C1=CC(=NN1C1=CC=C(C=C1)S(N)(=O)=O)C(F)(F)F",
    "troglitazone": "Cc1c(C)c2OC(C)(COc3ccc(CC4SC(=O)NC4=O)cc3)CCc2c(C)c1O",
    "thiothixene": "CN(C)S(=O)(=O)c1ccc2Sc3ccccc3C(=CCCN4CCN(C)CC4)c2c1",
    "camphor": "CC1(C)C2CCC1(C)C(=O)C2",
    "menthol": "CC(C)C1CCC(C)CC1O",
    "tadalafil": "O=C1N(CC(N2C1CC3=C(C2C4=CC5=C(OCO5)C=C4)NC6=C3C=CC=C6)=O)C",
    "sildenafil": "CCCC1=NN(C2=C1N=C(NC2=O)C3=C(C=CC(=C3)S(=O)(=O)N4CCN(CC4)C)OCC)C",
}

Measure = Callable[[Mol], float]


def gaussian(centre: float, width: float) -> Callable[[float], float]:
    """The Gaussian of height 1."""
    return lambda x: math.exp(-0.5 * ((x - centre) / width) ** 2)


def at_least(centre: float, width: float) -> Callable[[float], float]:
    """1 from the centre on, the Gaussian below it."""
    return lambda x: gaussian(centre, width)(min(x, centre))


def at_most(centre: float, width: float) -> Callable[[float], float]:
    """1 up to the centre, the Gaussian above it."""
    return lambda x: gaussian(centre, width)(max(x, centre))


def up_to(most: float) -> Callable[[float], float]:
    """A straight line from 0 that is 1 from `most` on."""
    return lambda x: min(x / most, 1.0)


@cache
def _generator(kind: str) -> fingerprints.FingerprintGenerator64:
    if kind == "AP":
        return fingerprints.GetAtomPairGenerator(maxDistance=10)
    features = fingerprints.GetMorganFeatureAtomInvGen() if kind[0] == "F" else None
    # the number in a name is the diameter
    return fingerprints.GetMorganGenerator(radius=int(kind[-1]) // 2, atomInvariantsGenerator=features)


def similarity(drug: str, kind: str) -> Measure:
    """Tanimoto similarity of counted fingerprints, ECFP4, ECFP6, FCFP4 or AP, to a drug."""
    generator = _generator(kind)
    target = generator.GetSparseCountFingerprint(MolFromSmiles(DRUGS[drug]))
    return lambda mol: TanimotoSimilarity(target, generator.GetSparseCountFingerprint(mol))


def isomer(formula: str) -> Measure:
    """How near a molecule is to a formula: Gaussians on each element's atoms and on all of them."""
    wanted = {symbol: int(number or 1) for symbol, number in re.findall(r"([A-Z][a-z]?)(\d*)", formula)}
    total = gaussian(sum(wanted.values()), 2.0)

    def measure(mol: Mol) -> float:
        counts = Counter(atom.GetSymbol() for atom in mol.GetAtoms())
        counts["H"] += sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
        parts = [gaussian(number, 1.0)(counts[symbol]) for symbol, number in wanted.items()]
        return geometric_mean([*parts, total(counts.total())])

    return measure


def has(smarts: str) -> Measure:
    """1 where a pattern matches, 0 elsewhere."""
    pattern = MolFromSmarts(smarts)
    return lambda mol: float(mol.HasSubstructMatch(pattern))


def fluorine(mol: Mol) -> float:
    """The number of fluorine atoms."""
    return sum(atom.GetAtomicNum() == 9 for atom in mol.GetAtoms())


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean; 0 if a value is 0."""
    return math.prod(values) ** (1 / len(values))


def that(measure: Measure, modifier: Callable[[float], float]) -> Measure:
    """A measure after its modifier."""
    return lambda mol: modifier(measure(mol))


@cache
def terms(goal: str) -> tuple[Measure, ...]:
    """The terms whose geometric mean a goal is."""
    tpsa, log_p = rdMolDescriptors.CalcTPSA, Crippen.MolLogP
    if goal == "osimertinib":
        return (
            that(similarity(goal, "FCFP4"), up_to(0.8)),
            that(similarity(goal, "ECFP6"), at_most(0.85, 0.1)),
            that(tpsa, at_least(100, 10)),
            that(log_p, at_most(1, 1)),
        )
    if goal == "fexofenadine":
        near = that(similarity(goal, "AP"), up_to(0.8))
        return near, that(tpsa, at_least(90, 10)), that(log_p, at_most(4, 1))
    if goal == "ranolazine":
        near = that(similarity(goal, "AP"), up_to(0.7))
        wanted = that(log_p, at_least(7, 1)), that(tpsa, at_least(95, 20)), that(fluorine, gaussian(1, 1))
        return near, *wanted
    if goal == "perindopril":
        rings = that(rdMolDescriptors.CalcNumAromaticRings, gaussian(2, 0.5))
        return similarity(goal, "ECFP4"), rings
    if goal == "amlodipine":
        return similarity(goal, "ECFP4"), that(rdMolDescriptors.CalcNumRings, gaussian(3, 0.5))
    drug = MolFromSmiles(DRUGS["sitagliptin"])
    as_sitagliptin = that(log_p, gaussian(log_p(drug), 0.2)), that(tpsa, gaussian(tpsa(drug), 5))
    if goal == "sitagliptin":
        unlike = that(similarity(goal, "ECFP4"), gaussian(0, 0.1))
        return unlike, *as_sitagliptin, isomer("C16H15F6N5O")
    if goal == "zaleplon":
        return similarity(goal, "ECFP4"), isomer("C19H17N3O2")
    if goal == "valsartan":
        bertz = that(Descriptors.BertzCT, gaussian(Descriptors.BertzCT(drug), 30))
        return has("CN(C=O)Cc1ccc(c2ccccc2)cc1"), *as_sitagliptin, bertz
    if goal == "isomers":
        return (isomer("C9H10N2O2PF2Cl"),)
    if goal == "median_1":
        return similarity("camphor", "ECFP4"), similarity("menthol", "ECFP4")
    if goal == "median_2":
        return similarity("tadalafil", "ECFP6"), similarity("sildenafil", "ECFP6")
    return (similarity(goal, "ECFP4"),)


class Guacamol(genflow.Reward):
    """A task of GuacaMol's, 0 to 1."""

    environment = "molecule"
    reads_task = False

    class Config(genflow.Schema):
        """The task."""

        goal: Literal[Mpo, Other] = genflow.described(description="The drug, or the name, of the task.")

    def score(self, objects: Sequence[Mol]) -> list[float]:
        """The geometric mean of the terms of each molecule."""
        parts = terms(self.config.goal)
        return [geometric_mean([part(mol) for part in parts]) for mol in objects]


@genflow.hookimpl
def register_rewards(register):
    """Give the reward its name."""
    register("guacamol", "guacamol:Guacamol", environment="molecule")
