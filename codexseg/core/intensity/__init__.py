"""Histograms, background, scaling and resampling of intensities."""
