"""``python -m genflow``."""

from genflow.cli.main import main

main()
