"""Evaluations of runs and images: networks, references, samples and metrics together."""
