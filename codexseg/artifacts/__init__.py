"""Products on disk: one small class each, with declared columns, `read` and `write`.

Stages take and return artifacts. Exporters, the report, notebooks, the service and
cluster jobs read artifacts and never import a stage.
"""
