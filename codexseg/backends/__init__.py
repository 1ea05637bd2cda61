"""Segmentation backends: pixels in, labels of cells and nuclei out."""
