"""Labels compared with a reference."""
