"""Worker processes, so that the same code runs in one process, on several GPUs or on several machines."""
