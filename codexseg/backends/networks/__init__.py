"""Network weights: files, download, conversion, runtime."""
