"""Comparison of several backends on one window of an image."""
