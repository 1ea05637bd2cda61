"""Network architectures, pretrained weights and export."""
