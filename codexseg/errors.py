"""Exceptions.

CodexsegError
    ConfigError          the YAML file is wrong
    InputError           the image or the panel is wrong
    BackendUnavailable   an optional dependency or its weights are missing
    SampleUnavailable    a sample cannot be fetched
    RunStateError        the run directory does not hold what a stage needs
    WorkerDied           a worker process was killed
"""


class CodexsegError(Exception):
    """Base class: everything codexseg raises on purpose."""


class ConfigError(CodexsegError, ValueError):
    """The configuration is invalid."""


class InputError(CodexsegError, ValueError):
    """The image, its metadata or an array passed to a kernel is invalid."""


class BackendUnavailable(CodexsegError, ImportError):
    """A segmentation backend cannot be loaded."""


class SampleUnavailable(CodexsegError, OSError):
    """A sample cannot be fetched."""


class RunStateError(CodexsegError, RuntimeError):
    """The run directory does not hold what a stage needs."""


class WorkerDied(CodexsegError, RuntimeError):
    """A worker process was killed."""
