"""Search for post-processing parameters."""
