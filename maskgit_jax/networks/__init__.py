"""Linen bricks shared by several models."""
