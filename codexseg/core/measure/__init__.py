"""Measurements of cells."""
