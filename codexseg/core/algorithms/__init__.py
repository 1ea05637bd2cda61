"""Segmentation algorithms on arrays."""
