"""Choosing recipes for a whole model."""
