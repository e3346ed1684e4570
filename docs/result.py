"""Draw docs/result.png, the picture of the README, from a finished run.

`python docs/result.py runs/demo D`.
"""

import sys
from pathlib import Path

from genflow import Population, Structure
from genflow.evaluation.pictures import marginals
from genflow.storage.files import write_bytes
from genflow.storage.populations import find_populations


def main(run: Path, preset: str) -> None:
    structure = Structure.parse("hypergrid", preset)
    found = {p.source: p for p in map(Population.load, find_populations(run)) if p.structure == structure}
    shown = {
        "trained": found["trained"],
        "generated": found["generated"],
        "random": Population.initialised(structure, 1, 0),
    }
    distributions = {"target": structure.solution.target()}
    distributions |= {
        source: population[0].terminal_distribution()[0] for source, population in shown.items()
    }
    picture = marginals(structure.solution.graph.states, distributions)
    assert picture is not None
    write_bytes(Path(__file__).parent / "result.png", picture)


main(Path(sys.argv[1]), sys.argv[2])
