"""Stitch: objects and labels of the whole slide."""
