"""Readers of slide images."""
