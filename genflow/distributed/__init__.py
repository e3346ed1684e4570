"""Workers: one process, every GPU of a machine, or many machines, with the same code."""
