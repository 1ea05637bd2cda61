"""Arrays in, arrays out: the geometry, the kernels, the measurements."""
