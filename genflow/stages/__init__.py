"""The stages of the main job. Each owns a folder, resumes in it, and is skipped when it is complete."""
