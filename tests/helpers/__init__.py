"""Helpers shared by tests: synthetic tissue, backends, runs and their outputs."""
