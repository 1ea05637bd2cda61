"""U-Net backend."""
