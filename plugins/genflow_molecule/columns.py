"""Numbers of a molecule that chemists filter by."""

from __future__ import annotations

from collections.abc import Callable

from rdkit.Chem import Descriptors, Mol, rdMolDescriptors

from .rewards import drug_likeness, ease, log_p

#: name -> function of a molecule
DESCRIPTORS: dict[str, Callable[[Mol], float]] = {
    "mw": Descriptors.MolWt,  # type: ignore[attr-defined]
    "logp": log_p,
    "tpsa": rdMolDescriptors.CalcTPSA,
    "hbd": rdMolDescriptors.CalcNumHBD,
    "hba": rdMolDescriptors.CalcNumHBA,
    "rotb": rdMolDescriptors.CalcNumRotatableBonds,
    "rings": rdMolDescriptors.CalcNumRings,
    "heavy": Mol.GetNumHeavyAtoms,
    "qed": drug_likeness,
    "sa": lambda mol: 10 - 9 * ease(mol),
}
