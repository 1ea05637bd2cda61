"""Evaluation of labels against reference labels."""
