"""The numbers that the paper prints, as far as its text has them.

Tables 1, 2, 3, 5, 6, 7, 8, 10, 11 and 14 are pictures whose numbers are lost. Where another table prints the
same quantity for the same structure and setting, that number stands in, and its table is named.
"""

from __future__ import annotations

from typing import NamedTuple


class Printed(NamedTuple):
    """JS, KL and mean L1 by the paper's protocol, seconds, and the table that prints them."""

    js: float | None
    kl: float | None
    l1: float | None
    seconds: float | None
    where: str


#: (structure, source) -> figures of the main tables
MAIN = {
    ("A", "generated"): Printed(0.675, 7.276, 3.099e-5, 65, "Table 4"),
    ("B", "generated"): Printed(0.685, 7.945, 5.805e-5, 43, "Table 13"),
    ("C", "generated"): Printed(0.644, 10.422, 1e-3, None, "Table 16"),
    ("D", "generated"): Printed(0.637, 9.467, 3e-4, 58, "Table 12"),
    ("A*", "generated"): Printed(0.453, 14.351, 0.083, 12, "Table 4"),
    ("B*", "generated"): Printed(0.479, 11.022, 0.009, 30, "Table 13"),
    ("D*", "generated"): Printed(0.489, 5.109, 3.297e-6, 62, "Table 12"),
    ("E*", "generated"): Printed(0.001, 0.002, 0.020, 13, "Table 9"),
    ("E*", "trained"): Printed(0.001, 0.001, 0.020, 488, "Table 9"),
    ("F*", "generated"): Printed(0.424, 2.391, 0.025, 19, "Table 9"),
    ("F*", "trained"): Printed(0.427, 2.390, 0.022, 568, "Table 9"),
    ("G*", "generated"): Printed(0.625, 8.244, 1e-4, 43, "Table 9"),
    ("G*", "trained"): Printed(0.624, 8.244, 1e-4, 629, "Table 9"),
    ("H*", "generated"): Printed(0.685, 5.544, 5e-5, 54, "Table 9"),
    ("H*", "trained"): Printed(0.685, 5.544, 5e-5, 697, "Table 9"),
}

#: (structure, N) -> figures of the tables over the number of training structures
BY_STRUCTURES = {
    ("A", 2): Printed(0.675, 7.277, 3.099e-5, 39, "Table 4"),
    ("A", 3): Printed(0.675, 7.276, 3.099e-5, 63, "Table 4"),
    ("A", 4): Printed(0.675, 7.276, 3.099e-5, 65, "Table 4"),
    ("A", 5): Printed(0.675, 7.275, 3.099e-5, 63, "Table 4"),
    ("A*", 2): Printed(0.452, 14.351, 0.083, None, "Table 4"),
    ("A*", 3): Printed(0.452, 14.350, 0.083, 13, "Table 4"),
    ("A*", 4): Printed(0.453, 14.351, 0.083, 12, "Table 4"),
    ("A*", 5): Printed(0.452, 14.350, 0.083, None, "Table 4"),
    ("B", 3): Printed(0.685, 7.945, 5.805e-5, 43, "Table 13"),
    ("B*", 3): Printed(0.479, 11.022, 0.009, 30, "Table 13"),
    ("C", 4): Printed(0.644, 10.422, 1e-3, None, "Table 16"),
    ("D", 2): Printed(0.638, 9.467, 3e-4, 56, "Table 12"),
    ("D", 3): Printed(0.637, 9.467, 3e-4, 60, "Table 12"),
    ("D", 4): Printed(0.637, 9.467, 3e-4, 58, "Table 12"),
    ("D", 5): Printed(0.637, 9.466, 3e-4, 61, "Table 12"),
    ("D*", 2): Printed(0.689, 5.109, 3.297e-6, 63, "Table 12"),
    ("D*", 3): Printed(0.689, 5.109, 3.297e-6, 63, "Table 12"),
    ("D*", 4): Printed(0.489, 5.109, 3.297e-6, 62, "Table 12"),
    ("D*", 5): Printed(0.489, 5.109, 3.297e-6, 63, "Table 12"),
}

#: (structure, M) -> figures of the tables over the number of checkpoints
BY_MEMBERS = {
    ("A", 200): Printed(0.675, 7.276, 3.099e-5, 63, "Table 4"),
    ("A*", 200): Printed(0.452, 14.350, 0.083, 13, "Table 4"),
    ("B", 50): Printed(0.686, 7.946, 5.805e-5, 43, "Table 13"),
    ("B", 100): Printed(0.685, 7.946, 5.805e-5, 42, "Table 13"),
    ("B", 200): Printed(0.685, 7.945, 5.805e-5, 43, "Table 13"),
    ("B", 300): Printed(0.685, 7.945, 5.805e-5, 44, "Table 13"),
    ("B*", 50): Printed(0.479, 11.022, 0.009, 25, "Table 13"),
    ("B*", 100): Printed(0.479, 11.022, 0.009, 25, "Table 13"),
    ("B*", 200): Printed(0.479, 11.022, 0.009, 30, "Table 13"),
    ("B*", 300): Printed(0.479, 11.022, 0.009, 28, "Table 13"),
    ("D", 50): Printed(0.637, 9.468, 3e-4, 69, "Table 15"),
    ("D", 100): Printed(0.637, 9.468, 3e-4, 59, "Table 15"),
    ("D", 200): Printed(0.637, 9.467, 3e-4, 60, "Table 15"),
    ("D", 300): Printed(0.636, 9.467, 3e-4, 57, "Table 15"),
    ("D*", 50): Printed(0.453, 14.351, 3.297e-6, 60, "Table 15"),
    ("D*", 100): Printed(0.689, 5.109, 3.297e-6, 58, "Table 15"),
    ("D*", 200): Printed(0.689, 5.109, 3.297e-6, 63, "Table 15"),
    ("D*", 300): Printed(0.453, 14.351, 3.297e-6, 63, "Table 15"),
}

#: structure -> (best, average, median) of JS, KL and mean L1 in Table 16
SPREAD = {
    "A": ((0.674, 0.675, 0.677), (7.275, 7.276, 7.275), (3.097e-5, 3.099e-5, 3.099e-5)),
    "B": ((0.685, 0.685, 0.686), (7.942, 7.945, 7.943), (5.803e-6, 5.805e-5, 5.804e-5)),
    "C": ((0.641, 0.644, 0.643), (10.421, 10.422, 10.422), (1e-3, 1e-3, 1e-3)),
    "D": ((0.636, 0.637, 0.637), (9.463, 9.467, 9.466), (3e-4, 3e-4, 3e-4)),
}
