"""Training recipes: schema, loader and sources."""
