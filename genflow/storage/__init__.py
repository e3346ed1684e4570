"""Files on disk: atomic writes and checked reads, run directories, populations and zoos."""
