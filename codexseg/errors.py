"""Exceptions of codexseg.

CodexsegError
    ConfigError          the configuration is wrong
    InputError           the image, its metadata or an array is wrong
    BackendUnavailable   an optional dependency or its weights are missing
    SampleUnavailable    a sample cannot be downloaded
    RunStateError        the run directory lacks data that a stage needs
    WorkerDied           a worker process was killed
"""


class CodexsegError(Exception):
    """Base class of all errors that codexseg raises on purpose."""


class ConfigError(CodexsegError, ValueError):
    """The configuration is invalid."""


class InputError(CodexsegError, ValueError):
    """The image, its metadata or an array passed to a kernel is invalid."""


class BackendUnavailable(CodexsegError, ImportError):
    """A segmentation backend cannot be loaded."""


class SampleUnavailable(CodexsegError, OSError):
    """A sample cannot be downloaded."""


class RunStateError(CodexsegError, RuntimeError):
    """The run directory lacks data that a stage needs."""


class WorkerDied(CodexsegError, RuntimeError):
    """A worker process was killed."""


def describe_error(error: BaseException) -> str:
    """Return the type and the message of an exception."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception of third parties whose __str__ raises
        return type(error).__name__
