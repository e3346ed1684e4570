"""torchgfn's own environments as a third party brings them to genflow."""
