"""Readers and writers of label images."""
