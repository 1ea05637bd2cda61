"""Configuration: YAML sections as frozen models, and the loader that reads them."""
