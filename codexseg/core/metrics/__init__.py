"""Segmentation quality."""
