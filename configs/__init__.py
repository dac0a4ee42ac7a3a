"""Configurations of all stages, see README.md in this folder."""
