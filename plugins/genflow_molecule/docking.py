"""Docking with AutoDock Vina: how well a molecule fits a pocket of a protein, in kcal/mol.

Vina: Eberhardt et al. (2021), Trott and Olson (2010).

Needs the extra ``genflownet[docking]``: vina, meeko, and dockstring (García-Ortegón et al. 2022), of which
only the files of its receptors are read. Everything runs offline; a result depends on the seed, not on what
was docked before.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import Mol, rdDistGeom, rdForceFieldHelpers
from rdkit.Chem.MolStandardize import rdMolStandardize

from genflow import GenflowError, did_you_mean

MODULES = ("vina", "meeko", "gemmi", "scipy", "dockstring")
#: bytes of a receptor's file, and Å of a side of its box: Vina's maps take memory by the volume
MAX_BYTES, MAX_SIDE = 2**25, 60.0
#: AutoDock's types of atoms that Vina knows in a receptor
ATOM_TYPES = frozenset(
    re.findall(r"\w+", "C A N NA O OA S SA P H HD F Cl Br I Si Se Mg Mn Zn Ca Fe Cu Na K Hg Co U Cd Ni")
)
MAX_SEED = 2**31 - 1
#: poses that Vina keeps and refines, its own default
POSES = 9
#: attempts at embedding a molecule, twice; steps of the force field that an embedded molecule is relaxed by
ATTEMPTS, RELAX = 50, 500
#: a nitrogen of an aliphatic amine, which water at pH 7 protonates, and the hydroxyl oxygen of an acid, which
#: it deprotonates
AMINE = Chem.MolFromSmarts("[NX3;!$(N-[a]);!$(N-[!#6]);!$(N-C=[O,S,N,C]);!$(N-C#N);!$(N=*)]")
ACID = Chem.MolFromSmarts("[CX3](=O)[OX2H1]")
#: bonds within which a second amine is not protonated, as in piperazine
APART = 3


@dataclass(frozen=True)
class Receptor:
    """A protein and the box in which ligands are placed.

    Attributes:
        name: for tables.
        file: PDBQT.
        centre, size: of the box, Å.
    """

    name: str
    file: Path
    centre: tuple[float, float, float]
    size: tuple[float, float, float]


@dataclass(frozen=True)
class Docked:
    """What docking one molecule gave.

    Attributes:
        smiles: as it was given.
        affinity: of the best pose, kcal/mol, the lower the better; None: it could not be docked.
        fault: why not.
    """

    smiles: str
    affinity: float | None = None
    fault: str | None = None


class Undockable(Exception):
    """Why a molecule cannot be prepared or docked."""


def require_extra() -> None:
    """Refuse to go on without the optional packages.

    Raises:
        GenflowError: says what to install.
    """
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise GenflowError(
            f"docking needs packages that are not installed ({', '.join(missing)});"
            " in a clone of genflow, run pip install '.[docking]'"
        )


def _folder() -> Path:
    """Where dockstring keeps its receptors; found without importing it."""
    require_extra()
    spec = importlib.util.find_spec("dockstring")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "resources" / "targets"


def targets() -> list[str]:
    """Names of the receptors that dockstring ships."""
    return sorted(path.name.removesuffix("_target.pdbqt") for path in _folder().glob("*_target.pdbqt"))


def target(name: str) -> Receptor:
    """A receptor that dockstring ships.

    Raises:
        GenflowError: there is none of that name, or the extra is not installed.
    """
    known = targets()
    if name not in known:
        raise GenflowError(f"there is no target {name!r}{did_you_mean(name.upper(), known)}")
    folder = _folder()
    return receptor(folder / f"{name}_target.pdbqt", *read_box(folder / f"{name}_conf.txt"), name=name)


def read_box(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centre and size, Å, from a file of Vina's options: lines such as ``center_x = 9.25``.

    Raises:
        GenflowError: it cannot be read, or one of the six numbers is missing or is no number.
    """
    found: dict[str, str] = {}
    for line in _text(path, "the box").splitlines():
        key, _, value = line.partition("#")[0].partition("=")
        found[key.strip()] = value.strip()
    try:
        centre, size = (
            tuple(float(found[f"{what}_{axis}"]) for axis in "xyz") for what in ("center", "size")
        )
    except KeyError as error:
        raise GenflowError(f"the box {str(path)!r} lacks {error.args[0]}") from None
    except ValueError:
        raise GenflowError(
            f"the box {str(path)!r} is malformed: center_x to size_z must be numbers"
        ) from None
    return centre, size


def receptor(
    file: Path, centre: Sequence[float] | None, size: Sequence[float] | None, name: str | None = None
) -> Receptor:
    """A receptor from a PDBQT file and a box, checked: Vina itself would end the process at some mistakes.

    Raises:
        GenflowError: the file is missing or malformed, the box is missing, impossible or far from the
            protein.
    """
    if not centre or not size:
        raise GenflowError(
            f"the receptor {str(file)!r} has no box to dock in; give its centre and its size in Å"
        )
    if len(centre) != 3 or len(size) != 3 or not all(map(math.isfinite, (*centre, *size))):
        raise GenflowError("a box is three numbers of its centre and three of its size, in Å")
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise GenflowError(
            f"the sides of the box must be 1 to {MAX_SIDE:g} Å, not {', '.join(f'{side:g}' for side in size)}"
        )
    if file.suffix != ".pdbqt":
        raise GenflowError(
            f"the receptor {str(file)!r} is no .pdbqt file; prepare one,"
            " e.g. with meeko's mk_prepare_receptor"
        )
    atoms = read_atoms(file)
    if not any(
        all(abs(at - middle) <= side / 2 for at, middle, side in zip(atom, centre, size, strict=True))
        for atom in atoms
    ):
        raise GenflowError(
            f"the box has no atom of the receptor {str(file)!r} in it; check its centre and its size"
        )
    x, y, z = map(float, centre)
    a, b, c = map(float, size)
    return Receptor(name or file.stem, file, (x, y, z), (a, b, c))


def read_atoms(file: Path) -> list[tuple[float, float, float]]:
    """Where the atoms of a rigid receptor's PDBQT file are, Å.

    Raises:
        GenflowError: the file cannot be read, has no atoms, is a ligand's, or a line is malformed.
    """
    where, atoms = f"the receptor {str(file)!r}", []
    for number, line in enumerate(_text(file, "the receptor").splitlines(), 1):
        if line.startswith(("ROOT", "BRANCH", "TORSDOF")):
            raise GenflowError(f"{where} is of a ligand: line {number} is {line.split()[0]}")
        if not line.startswith(("ATOM", "HETATM")):
            continue
        try:
            x, y, z = (float(line[start : start + 8]) for start in (30, 38, 46))
            float(line[68:76])
        except ValueError:
            raise GenflowError(
                f"{where} is malformed: line {number} has no coordinates and charge in the columns of PDBQT"
            ) from None
        if not all(map(math.isfinite, (x, y, z))):
            raise GenflowError(f"{where} is malformed: line {number} has a coordinate that is not finite")
        if (kind := line[77:79].strip()) not in ATOM_TYPES:
            raise GenflowError(
                f"{where} is malformed: line {number} has atom type {kind!r}, which AutoDock does not know"
            )
        atoms.append((x, y, z))
    if not atoms:
        raise GenflowError(f"{where} has no atoms; it must be a PDBQT file")
    return atoms


def _text(path: Path, what: str) -> str:
    try:
        if not path.is_file():
            raise GenflowError(f"{what} {str(path)!r} is not there")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise GenflowError(f"{what} {str(path)!r} has {size:,} bytes; at most {MAX_BYTES:,} are read")
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        raise GenflowError(
            f"{what} {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None


def protonated(mol: Mol) -> Mol:
    """Protonate as water at pH 7 roughly would.

    Aliphatic amines gain a proton, unless one nearby has, and carboxylic acids lose theirs.

    A rule, not a pKa: amidines, guanidines, tetrazoles and the like stay neutral.
    """
    mol = rdMolStandardize.Uncharger().uncharge(mol)
    distances = Chem.GetDistanceMatrix(mol)
    charged: list[int] = []
    for (nitrogen,) in mol.GetSubstructMatches(AMINE):
        if all(distances[nitrogen, other] > APART for other in charged):
            charged.append(nitrogen)
            _charge(mol.GetAtomWithIdx(nitrogen), 1)
    for _, _, oxygen in mol.GetSubstructMatches(ACID):
        _charge(mol.GetAtomWithIdx(oxygen), -1)
    Chem.SanitizeMol(mol)
    return mol


def _charge(atom: Chem.Atom, charge: int) -> None:
    hydrogens = atom.GetTotalNumHs() + charge
    atom.SetFormalCharge(charge)
    atom.SetNoImplicit(True)
    atom.SetNumExplicitHs(hydrogens)


def embedded(smiles: str, seed: int) -> Mol:
    """One conformer with hydrogens by ETKDG and MMFF94; open stereocentres fall as the seed has it.

    Raises:
        Undockable: it is no single molecule, or cannot be embedded.
    """
    mol = Chem.MolFromSmiles(smiles) if smiles else None
    if mol is None:
        raise Undockable("no molecule")
    if len(Chem.GetMolFrags(mol)) > 1:
        raise Undockable("more than one molecule")
    mol = Chem.AddHs(protonated(mol))
    options: Any = rdDistGeom.ETKDGv3()  # RDKit's stubs refuse every assignment
    options.randomSeed, options.maxIterations = seed, ATTEMPTS
    if rdDistGeom.EmbedMolecule(mol, options) != 0:
        options.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(mol, options) != 0:
            raise Undockable("cannot be embedded in three dimensions")
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=RELAX)
    return mol


def pdbqt(smiles: str, seed: int) -> str:
    """A molecule as Vina reads it.

    Raises:
        Undockable: it cannot be prepared.
    """
    from meeko import MoleculePreparation, PDBQTWriterLegacy

    with rdBase.BlockLogs():
        try:
            # rings are not broken, so that what is docked is the molecule itself
            setups = MoleculePreparation(rigid_macrocycles=True).prepare(embedded(smiles, seed))
            text, fine, why = PDBQTWriterLegacy.write_string(setups[0])
        except (
            ValueError,
            RuntimeError,
            KeyError,
            IndexError,
        ) as error:  # RDKit and meeko say it in several ways
            raise Undockable(f"cannot be prepared: {_first(error)}") from None
    if not fine:
        raise Undockable(f"cannot be prepared: {_first(why)}")
    return text


def _first(error: object) -> str:
    """What Vina, meeko or RDKit says in a line, without the signatures of functions that follow."""
    return " ".join(str(error).partition("Additional information")[0].split())[:200]


class Docker:
    """Docks molecules one at a time; the maps of the receptor are computed once, in seconds."""

    def __init__(
        self, where: Receptor, exhaustiveness: int = 8, seed: int = 0, evaluations: int = 0, cores: int = 1
    ) -> None:
        """Build.

        Args:
            where: the receptor.
            exhaustiveness: how many Monte Carlo runs a molecule, Vina's own default 8.
            seed: of the conformer and of Vina.
            evaluations: most evaluations of the energy in a run; 0: Vina's own rule.
            cores: that the runs of a molecule share, which changes no result; 0: all.

        Raises:
            GenflowError: the extra is not installed, or Vina refuses the receptor.
        """
        require_extra()
        from vina import Vina

        self.receptor, self._exhaustiveness, self._evaluations = where, exhaustiveness, evaluations
        self._seed = 1 + seed % MAX_SEED  # 0 would be random
        self._vina = Vina(sf_name="vina", cpu=cores, seed=self._seed, verbosity=0)
        try:
            self._vina.set_receptor(str(where.file))
            self._vina.compute_vina_maps(list(where.centre), list(where.size))
        except (RuntimeError, TypeError, ValueError) as error:
            raise GenflowError(f"Vina cannot use the receptor {str(where.file)!r}: {_first(error)}") from None

    def __call__(self, smiles: str) -> Docked:
        """Dock one molecule."""
        try:
            self._vina.set_ligand_from_string(pdbqt(smiles, self._seed))
            self._vina.dock(exhaustiveness=self._exhaustiveness, n_poses=POSES, max_evals=self._evaluations)
            energies = self._vina.energies(n_poses=1)
        except Undockable as error:
            return Docked(smiles, fault=str(error))
        except (RuntimeError, TypeError, ValueError) as error:
            return Docked(smiles, fault=f"Vina refuses it: {_first(error)}")
        if not len(energies) or not math.isfinite(energies[0][0]):
            return Docked(smiles, fault="no pose fits the box")
        return Docked(smiles, round(float(energies[0][0]), 3))
