"""Draw the pictures of docs/paper.md from the committed results: ``python docs/paper.py``."""

from __future__ import annotations

from pathlib import Path

from genflow_paper.comparisons import three_ways
from genflow_paper.latents import by_origin
from genflow_paper.result import load

from genflow.storage.files import write_bytes

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results" / "paper"
#: item -> what draws its first table
DRAWN = {"table2": three_ways, "diffusion": by_origin}

for name, draw in DRAWN.items():
    result, _ = load(RESULTS / f"{name}.json")
    write_bytes(DOCS / f"paper_{name}.png", draw(result.tables[0]))
