"""Draw docs/result.png, the picture of the README: ``python docs/result.py``.

It shows the paper's unknown structure C*, which the generator that ships was neither trained nor chosen on.
"""

from pathlib import Path

from genflow import Generator, Population, Structure
from genflow.evaluation.pictures import marginals
from genflow.storage.files import write_bytes

structure = Structure.parse("hypergrid", "C*")
generated = Generator.from_pretrained("hypergrid").generate(structure, num=1)
assert not generated.seen
distributions = {
    "target": structure.solution.target(),
    "generated": generated.terminal_distribution()[0],
    "untrained": Population.initialised(structure, 1, 0).terminal_distribution()[0],
}
picture = marginals(structure.solution.graph.states, distributions)
assert picture is not None
write_bytes(Path(__file__).parent / "result.png", picture)
