"""Slide images, panels, label images, TIFF and CSV files."""
