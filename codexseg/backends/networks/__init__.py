"""Network weights: known files, download, conversion, runtime."""
