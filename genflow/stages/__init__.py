"""The stages of a run, each of which has a folder, resumes in it and is skipped once it is complete."""
