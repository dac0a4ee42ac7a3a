"""Losses: pure functions from arrays to arrays."""
