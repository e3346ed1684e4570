"""What is kept on disk: checked and atomic files, run directories, populations and zoos."""
