"""Cell segmentation of multiplexed tissue slides, patch by patch."""
