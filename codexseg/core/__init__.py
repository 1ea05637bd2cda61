"""Numeric core: geometry, kernels and measurements on arrays."""
