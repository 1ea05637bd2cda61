"""Outlines drawn on images."""
