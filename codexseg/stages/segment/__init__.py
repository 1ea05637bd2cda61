"""Segment: labels of every informative patch."""
