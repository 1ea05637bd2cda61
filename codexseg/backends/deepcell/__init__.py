"""The deepcell package, driven as a worker in a Python 3.10 of its own."""
