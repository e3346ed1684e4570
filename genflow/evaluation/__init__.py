"""Evaluation of populations and their baselines, and the HTML report."""
