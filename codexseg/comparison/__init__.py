"""Several backends compared on one window of an image."""
