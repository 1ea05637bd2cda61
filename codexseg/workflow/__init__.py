"""The workflow: what a stage is, its key, its workers and its timings."""
