"""The run directory: paths, lock, markers, records and atomic files."""
