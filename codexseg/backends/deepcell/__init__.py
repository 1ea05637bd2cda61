"""The deepcell package, run as a worker in a separate Python 3.10."""
