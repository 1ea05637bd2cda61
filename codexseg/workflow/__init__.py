"""The workflow: what a stage is, its key, and the channels that are segmented."""
