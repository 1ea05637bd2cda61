"""The workflow: stages, their keys, workers and timings, and the pixels of patches."""
