"""Command line: ``codexseg COMMAND``."""
