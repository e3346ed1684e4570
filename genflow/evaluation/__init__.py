"""Baselines, exact and sampled evaluation, and the HTML report."""
