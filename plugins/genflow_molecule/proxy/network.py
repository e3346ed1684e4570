"""What docking would say of a molecule, predicted by a small ensemble that was trained on docked ones.

The input is a counted Morgan fingerprint and a few descriptors; the members of the ensemble are trained side
by side and averaged.

Shapes: B molecules, F features of which I are looked at, K members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from rdkit import Chem
from rdkit.Chem import GraphDescriptors, Mol, rdFingerprintGenerator, rdMolDescriptors
from torch import Tensor, nn

from genflow import GenflowError, read_tensors, write_tensors

FORMAT = "genflow-docking-proxy-1"
SHIPPED = Path(__file__).parent / "drd2.safetensors"
RADIUS, BITS = 2, 1024

DESCRIPTORS: tuple[Callable[[Mol], float], ...] = (
    Mol.GetNumHeavyAtoms,
    rdMolDescriptors.CalcExactMolWt,
    lambda mol: rdMolDescriptors.CalcCrippenDescriptors(mol)[0],  # logP
    lambda mol: rdMolDescriptors.CalcCrippenDescriptors(mol)[1],  # molar refractivity
    rdMolDescriptors.CalcTPSA,
    rdMolDescriptors.CalcLabuteASA,
    rdMolDescriptors.CalcNumHBD,
    rdMolDescriptors.CalcNumHBA,
    rdMolDescriptors.CalcNumRotatableBonds,
    rdMolDescriptors.CalcNumRings,
    rdMolDescriptors.CalcNumAromaticRings,
    rdMolDescriptors.CalcNumAliphaticRings,
    rdMolDescriptors.CalcNumSpiroAtoms,
    rdMolDescriptors.CalcFractionCSP3,
    rdMolDescriptors.CalcNumHeteroatoms,
    rdMolDescriptors.CalcKappa1,
    rdMolDescriptors.CalcKappa2,
    rdMolDescriptors.CalcKappa3,
    GraphDescriptors.BalabanJ,
    GraphDescriptors.BertzCT,
)
N_FEATURES = BITS + len(DESCRIPTORS)


@cache
def _morgan() -> rdFingerprintGenerator.FingerprintGenerator64:
    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def features(mols: Sequence[Mol]) -> Tensor:
    """The features of molecules, (B, F) float32: log(1 + count) of the bits, then descriptors as they are."""
    rows = torch.empty(len(mols), N_FEATURES)
    for row, mol in zip(rows, mols, strict=True):
        row[:BITS] = torch.from_numpy(_morgan().GetCountFingerprintAsNumPy(mol).astype("float32")).log1p()
        row[BITS:] = torch.tensor([float(descriptor(mol)) for descriptor in DESCRIPTORS])
    return rows.nan_to_num(0.0, 0.0, 0.0)


class Proxy(nn.Module):
    """A linear rule and what the mean of K perceptrons of two hidden layers adds to it.

    Predictions are kept in the range of what was docked.

    Attributes:
        columns: (I,) int64 features that are looked at.
        rule: (I,) weights of the linear rule.
        mean, scale: (I,) by which they are standardised.
        affinity: (4,) mean, spread, least and greatest affinity that was learnt from, kcal/mol.
    """

    columns: Tensor
    rule: Tensor
    mean: Tensor
    scale: Tensor
    affinity: Tensor

    def __init__(self, members: int, hidden: int, inputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        sizes = (inputs, hidden, hidden, 1)
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(members, a, b) * a**-0.5) for a, b in pairwise(sizes)]
        )
        with torch.no_grad():
            self.weights[-1].zero_()  # training starts at the linear rule
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(members, 1, b)) for b in sizes[1:]])
        self.register_buffer("columns", torch.zeros(inputs, dtype=torch.long))
        self.register_buffer("rule", torch.zeros(inputs))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("affinity", torch.tensor([0.0, 1.0, -torch.inf, torch.inf]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict standardised affinities by each member: standardised features (K, B, I) -> (K, B)."""
        values = inputs
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = nn.functional.dropout(values, self.dropout, self.training)
            values = torch.baddbmm(bias, values, weight)
            if number + 1 < len(self.weights):
                values = nn.functional.silu(values)
        return values[..., 0] + inputs @ self.rule

    def standardise(self, rows: Tensor) -> Tensor:
        """Standardise the features that are looked at: (B, F) -> (B, I)."""
        return (rows[:, self.columns] - self.mean) / self.scale

    @torch.no_grad()
    def predict(self, rows: Tensor) -> Tensor:
        """Predict affinities, kcal/mol: features (B, F) -> (B,)."""
        mean, spread, least, most = self.affinity.tolist()
        inputs = self.standardise(rows).expand(len(self.weights[0]), -1, -1)
        return (mean + spread * self(inputs).mean(0)).clamp(least, most)

    def affinity_of(self, mol: Mol) -> float:
        """The affinity of one molecule, kcal/mol."""
        return float(self.predict(features([mol]))[0])


def save(proxy: Proxy, path: Path) -> None:
    """Write the weights as safetensors."""
    write_tensors(path, proxy.state_dict(), {"format": FORMAT})


def load(path: Path) -> Proxy:
    """Read what `save` wrote.

    Raises:
        GenflowError: the file is missing, malformed or of another format.
    """
    tensors, facts = read_tensors(path)
    first = tensors.get("weights.0")
    if facts.get("format") != FORMAT or first is None or first.ndim != 3:
        raise GenflowError(f"{path} holds no docking proxy ({FORMAT})")
    proxy = Proxy(first.shape[0], first.shape[2], first.shape[1])
    try:
        proxy.load_state_dict(tensors)
    except RuntimeError as error:
        raise GenflowError(f"{path} holds tensors that are not a docking proxy's: {error}") from None
    if not 0 <= int(proxy.columns.min()) <= int(proxy.columns.max()) < N_FEATURES:
        raise GenflowError(f"{path} looks at features that there are not")
    return proxy.eval()


@cache
def shipped() -> Proxy:
    """The proxy that ships, of DRD2."""
    return load(SHIPPED)


def predict(smiles: Sequence[str], proxy: Proxy | None = None) -> list[float]:
    """Affinities of molecules, kcal/mol; by the proxy that ships where none is given."""
    return (proxy or shipped()).predict(features([Chem.MolFromSmiles(each) for each in smiles])).tolist()
