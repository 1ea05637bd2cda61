"""Training examples: images, targets and batches."""
