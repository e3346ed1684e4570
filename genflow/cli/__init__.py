"""The command line, in which each command parses its options, calls one function and prints its result."""
