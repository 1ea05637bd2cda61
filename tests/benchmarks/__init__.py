"""Figures: each module prints one JSON line, ``python -m tests.benchmarks.NAME``."""
