"""Figure 6 (a): how alike the layers of vision networks are, of small ones that are trained here.

Shapes: N images, B examples, F features of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from genflow_metrics.similarity import cka_matrix
from torch import Tensor, nn

from .charts import heat_maps
from .networks import EXAMPLES, aligned_table
from .parts import Lab
from .result import Cell, Picture, Result, Table

#: steps of a transformer for each of a ResNet; they learn more slowly, and cost less
TRANSFORMER_STEPS = 10


def digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's handwritten digits as images (N, 3, 32, 32) from -1 to 1, and labels (N,)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    images = nn.functional.interpolate(images, size=32, mode="bilinear", align_corners=False)
    return images.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(found.target).long()


def vision_networks() -> dict[str, Callable[[], nn.Module]]:
    """Return untrained ResNets and small vision transformers of the package transformers, by their names."""
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTForImageClassification,
    )

    def resnet(depths: list[int]) -> nn.Module:
        config = ResNetConfig(
            depths=depths,
            layer_type="basic",
            hidden_sizes=[64, 128, 256, 512],
            embedding_size=64,
            num_labels=10,
        )
        return ResNetForImageClassification(config)

    def vit(heads: int) -> nn.Module:
        sizes = {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 256}
        config = ViTConfig(num_attention_heads=heads, image_size=32, patch_size=4, num_labels=10, **sizes)
        return ViTForImageClassification(config)

    return {
        "ResNet-18": lambda: resnet([2, 2, 2, 2]),
        "ResNet-34": lambda: resnet([3, 4, 6, 3]),
        "Transformer, 4 heads": lambda: vit(4),
        "Transformer, 8 heads": lambda: vit(8),
    }


def blocks_of(network: nn.Module, images: Tensor) -> tuple[list[str], list[Tensor]]:
    """Return the names of a vision network's stages or blocks, and what they make of images, (B, F) each.

    ResNets take the average over the places of an image, as the paper says that it did.
    """
    with torch.no_grad():
        states = network.eval()(images, output_hidden_states=True).hidden_states
    pooled = [h.flatten(2).mean(2) if h.ndim == 4 else h.mean(1) for h in states]
    return [f"block {i}" for i in range(len(pooled))], pooled


def fitted(
    build: Callable[[], nn.Module], images: Tensor, labels: Tensor, steps: int, seed: int
) -> nn.Module:
    """Return a network that was trained on images for some steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build().train()
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(steps):
            batch = torch.randint(len(images), (64,))
            loss = network(images[batch], labels=labels[batch]).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def vision(lab: Lab) -> Result:
    """Figure 6 (a): CKA between the blocks of ResNets and transformers that are trained on small images."""
    images, labels = digits()
    features: dict[str, list[Tensor]] = {}
    blocks: dict[str, list[str]] = {}
    rows: list[list[Cell]] = []
    for number, (name, build) in enumerate(vision_networks().items()):
        steps = lab.scale.vision_steps * (TRANSFORMER_STEPS if name.startswith("Transformer") else 1)
        network = fitted(build, images[EXAMPLES:], labels[EXAMPLES:], steps, lab.seed + number)
        with torch.no_grad():
            right = network(images[:EXAMPLES]).logits.argmax(1) == labels[:EXAMPLES]
        size = sum(p.numel() for p in network.parameters())
        rows.append([name, size, steps, float(right.float().mean())])
        blocks[name], features[name] = blocks_of(network, images[:EXAMPLES])
    pairs = (
        ("ResNet-18", "ResNet-34"),
        ("Transformer, 4 heads", "Transformer, 8 heads"),
        ("ResNet-18", "Transformer, 4 heads"),
    )
    maps = {f"{a} and {b}": cka_matrix(features[a], features[b]) for a, b in pairs}
    names = {f"{a} and {b}": (blocks[a], blocks[b]) for a, b in pairs}
    caption = (
        "CKA between the blocks of networks that were trained on scikit-learn's digits, on"
        f" {EXAMPLES} others; averages over the places of an image."
    )
    columns = ("network", "parameters", "steps", "accuracy on held-out digits")
    said = "; ".join(f"{title} {float(values.diagonal().mean()):.2f}" for title, values in maps.items())
    return Result(
        [Table("The networks", columns, rows), aligned_table(maps, names)],
        [Picture("cka", heat_maps(maps, names), caption, wide=True)],
        [f"CKA of the same block of two networks, mean over the blocks: {said}."],
    )
