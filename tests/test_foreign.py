"""Policies that were made elsewhere, as modules and as files, against what they compute there."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from gfn.utils.modules import MLP
from oracles import grid
from safetensors.torch import save_file
from torch import nn

from genflow import GenflowError, Population, Structure
from genflow.cli.main import main


def deep(depth=2, activation="relu", width=6, **form):
    fields = {"ndim": 2, "height": 5, "width": width, "depth": depth, "activation": activation, **form}
    return Structure.build("hypergrid", fields, policy="mlp")


def chain(*sizes, activation=nn.LeakyReLU, bias=True) -> nn.Sequential:
    layers = [(nn.Linear(a, b, bias=bias), activation()) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*(part for layer in layers for part in layer))[:-1]


def torchgfn(depth=2, width=6, **options) -> MLP:
    return MLP(10, 3, hidden_dim=width, n_hidden_layers=depth, **options)


X = torch.randn(9, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("structure", "module"),
    [
        (deep(1), torchgfn(1)),
        (deep(2), torchgfn(2)),
        (deep(3, "tanh"), torchgfn(3, activation_fn="tanh")),
        (grid(2, 5, width=6), torchgfn(2, activation_fn="leaky_relu")),
        (deep(3, layer_norm=True), torchgfn(3, add_layer_norm=True)),
        (grid(2, 5, width=6), chain(10, 6, 6, 3)),
        (deep(2, "silu"), chain(10, 6, 6, 3, activation=nn.SiLU).double()),
        (deep(12), chain(10, *[6] * 12, 3, activation=nn.ReLU)),  # 10 comes after 9
    ],
)
def test_what_is_taken_computes_what_the_module_does(structure, module, tmp_path):
    modules = [module, module.__class__(*module) if isinstance(module, nn.Sequential) else module]
    population = Population.from_modules(structure, modules)
    expected = module(X.to(next(module.parameters()).dtype)).float().detach()
    assert population.source == "imported" and len(population) == 2
    torch.testing.assert_close(population.logits(X), expected.expand(2, -1, -1), rtol=1e-4, atol=1e-5)
    save_file(module.state_dict(), tmp_path / "one.safetensors")
    again = Population.from_files(structure, [str(tmp_path / "one.safetensors")])
    assert torch.equal(again.weights, population.weights[:1]) and again.source == "imported"


class Functional(nn.Module):
    """A network whose activation is no module."""

    def __init__(self, activation):
        super().__init__()
        self.head, self.tail, self.activation = nn.Linear(10, 6), nn.Linear(6, 3), activation

    def forward(self, x):
        return self.tail(self.activation(self.head(x)))


class WithLogZ(nn.Module):
    """A network with a parameter of no layer."""

    def __init__(self):
        super().__init__()
        self.net, self.log_z = chain(10, 6, 3, activation=nn.ReLU), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.net(x)


def test_an_activation_that_is_a_function_is_tried():
    assert len(Population.from_modules(deep(1), [Functional(torch.relu)])) == 1
    with pytest.raises(GenflowError, match="computes something else"):
        Population.from_modules(deep(1), [Functional(torch.sigmoid)])


@pytest.mark.parametrize(
    ("structure", "module", "words"),
    [
        (deep(2, "leaky_relu"), torchgfn(2), "has ReLU between .* has LeakyReLU"),
        (deep(2), chain(10, 6, 6, 3, activation=nn.Tanh), "has Tanh between .* has ReLU"),
        (grid(2, 5, width=6), chain(10, 6, 6, 3, activation=lambda: nn.LeakyReLU(0.2)), "something else"),
        (deep(2), torchgfn(3), r"6x10 6x6 6x6 3x6; .*depth=.*|6x10 6x6 6x6 3x6; ndim=2"),
        (deep(2), torchgfn(2, width=7), r"7x10 7x7 3x7; .* 6x10 6x6 3x6"),
        (deep(2), chain(12, 6, 6, 3), "6x12"),
        (deep(1), chain(10, 6, 3, bias=False), "layer '0' has no bias"),
        (deep(1), WithLogZ(), "parameter 'log_z' is of no layer"),
        (deep(2), torchgfn(2, add_layer_norm=True), r"6x10 6 6x6 6 3x6; .* has 6x10 6x6 3x6"),
        (deep(2, layer_norm=True, residual=True), torchgfn(2, add_layer_norm=True), "residual="),
        (deep(1), nn.Linear(10, 3), "3x10; .* 6x10 3x6"),
    ],
)
def test_other_modules_are_refused_in_one_line(structure, module, words):
    with pytest.raises(GenflowError, match=words) as caught:
        Population.from_modules(structure, [module])
    assert "\n" not in str(caught.value)


def files(tmp_path, *modules):
    paths = [tmp_path / f"{number}.safetensors" for number in range(len(modules))]
    for path, module in zip(paths, modules, strict=True):
        save_file(module if isinstance(module, dict) else module.state_dict(), path)
    return paths


def test_files_of_other_depths_and_ambiguous_names_are_refused(tmp_path):
    shallow, deeper = files(tmp_path, torchgfn(1), torchgfn(2))
    with pytest.raises(GenflowError, match=r"1\.safetensors has layers .*6x10 6x6 3x6; .*6x10 3x6"):
        Population.from_files(deep(1), [shallow, deeper])
    state = chain(10, 6, 6, 6, 3).state_dict()
    named = {f"{'adbc'[int(n[0]) // 2]}{n[1:]}": tensor for n, tensor in state.items()}
    (unclear,) = files(tmp_path, named)
    with pytest.raises(GenflowError, match="fit in more than one order; number them"):
        Population.from_files(deep(3), [unclear])
    (cut,) = files(tmp_path, {"0.weight": torch.full((6, 10), torch.nan), "0.bias": torch.zeros(6),
                              "2.weight": torch.zeros(3, 6), "2.bias": torch.zeros(3)})  # fmt: skip
    with pytest.raises(GenflowError, match="must hold finite"):
        Population.from_files(deep(1), [cut])


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch_save_are_refused_with_how_to_convert_them(legacy, tmp_path):
    torch.save(torchgfn(1).state_dict(), tmp_path / "p.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(GenflowError, match=r"torch\.save.*safetensors\.torch\.save_file"):
        Population.from_files(deep(1), [tmp_path / "p.pt"])


def test_a_header_of_any_length_is_no_pickle(tmp_path):
    """The first byte of a safetensors file is of its header's length, which may be a pickle's first byte."""
    for length in range(300):
        tensors = chain(10, 6, 3, activation=nn.ReLU).state_dict()
        save_file(tensors, tmp_path / "p.safetensors", {"note": "x" * length})
        if (tmp_path / "p.safetensors").read_bytes()[:1] == b"\x80":
            assert len(Population.from_files(deep(1), [tmp_path / "p.safetensors"])) == 1
            return
    raise AssertionError("no such header was tried")


def test_the_command_takes_files_and_says_how(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, second = torchgfn(3), torchgfn(3)
    paths = [str(path) for path in files(tmp_path, first, second)]
    options = ["--env", "hypergrid", "-o", "policy=mlp", "--structure", deep(3).name]
    main(["import", *paths, *options, "--out", "taken"])
    assert "2 imported policies" in (said := capsys.readouterr().out) and "ReLU" in said
    taken = Population.load("taken")
    expected = torch.stack([first(X), second(X)]).detach()
    torch.testing.assert_close(taken.logits(X), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(SystemExit):
        main(["import", *paths, *options, "--out", "taken"])
    assert "taken holds a population; choose another --out" in capsys.readouterr().err
    main(["import", paths[0], *options, "--json"])
    assert json.loads(capsys.readouterr().out)["num"] == 1
