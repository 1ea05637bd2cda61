"""The report of a run: page, pictures and quality measures."""
