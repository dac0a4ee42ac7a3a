"""Linen modules that several models share."""
