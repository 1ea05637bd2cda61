"""The Python 3.10 of deepcell: search, and installation of an environment."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from codexseg.backends.subprocesses import run_captured
from codexseg.errors import BackendUnavailable
from codexseg.run.files import cache_dir

DEEPCELL_VERSION = "0.12.10"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VARIABLE = "CODEXSEG_PYTHON310"

_SETUP = "codexseg models setup-deepcell"
_INSTALL_PYTHON = (
    "Install one (for instance `uv python install 3.10`, `pyenv install 3.10` or your "
    f"system's python3.10 with venv), or set {VARIABLE} to its executable"
)
_MARKER = "codexseg-complete.txt"
_PROBE_S = 60

# -E ignores PYTHONPATH, which is for this Python. -c puts the current folder first, which
# may contain any module.
_CLEAN = "import sys; del sys.path[0]; "
_VERSION = "import ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
_DEEPCELL = "from importlib.metadata import version; print(version('deepcell'))"
_ASK_PYTHON = ("-E", "-c", _CLEAN + _VERSION)
_ASK_DEEPCELL = ("-E", "-c", _CLEAN + _DEEPCELL)
_IMPORT_ALL = ("-E", "-c", _CLEAN + "import tensorflow, deepcell.applications")


def find_python310() -> Path | None:
    """Return a Python 3.10 that runs and has venv, or None.

    Searched in this order: $CODEXSEG_PYTHON310, ``python3.10`` on the PATH (which may be a
    shim of pyenv that does not run), the versions of pyenv, and those of uv.

    Raises
    ------
    BackendUnavailable
        If $CODEXSEG_PYTHON310 is set and is no Python 3.10.
    """
    if configured := os.environ.get(VARIABLE):
        return _checked(Path(configured), VARIABLE)
    return next((p for p in _candidates() if _output(p, *_ASK_PYTHON)[0] == "3.10"), None)


def has_deepcell(python: Path) -> bool:
    """Return whether a Python has the expected version of the deepcell package."""
    return _output(python, *_ASK_DEEPCELL)[0] == DEEPCELL_VERSION


def find_deepcell(configured: Path | None = None) -> Path:
    """Return the Python of `backend: deepcell`.

    Parameters
    ----------
    configured : Path, optional
        `segmentation.python`. By default $CODEXSEG_PYTHON310, if it has deepcell, else the
        environment of :func:`install_deepcell`.

    Returns
    -------
    Path
        The executable of a Python with deepcell 0.12.10.

    Raises
    ------
    BackendUnavailable
        If there is none; the message contains the command that installs one.
    """
    remedy = f"Run `{_SETUP}` to install one (2 GB)"
    if configured is not None:
        python = configured.expanduser()
        installed, reason = _output(python, *_ASK_DEEPCELL)
        if installed != DEEPCELL_VERSION:
            raise BackendUnavailable(
                f"segmentation.python: {python} has {_version_or(installed, reason)}, "
                f"expected the executable of a Python 3.10 with deepcell "
                f"{DEEPCELL_VERSION}. {remedy} and remove segmentation.python."
            )
        return python.absolute()
    if variable := os.environ.get(VARIABLE):
        python = _checked(Path(variable), VARIABLE)
        if has_deepcell(python):
            return python
    if environment := _complete_environment(cache_dir() / "deepcell"):
        return environment
    raise BackendUnavailable(
        f"The backend 'deepcell' needs a Python 3.10 with deepcell {DEEPCELL_VERSION}, and "
        f"there is none. {remedy}, or set segmentation.python to a Python that has it. The "
        f"backend 'mesmer' computes the same without it."
    )


def install_deepcell(
    python: str | None = None, announce: Callable[[str], object] = lambda _: None
) -> Path:
    """Install an environment with deepcell in the cache folder, unless there is one.

    pip installs 2 GB with the user's settings and its progress on stderr. An incomplete
    environment, or one with other versions, is replaced.

    Parameters
    ----------
    python : str, optional
        The Python 3.10 for venv; by default that of :func:`find_python310`. Without it,
        nothing is installed if $CODEXSEG_PYTHON310 has deepcell.
    announce : callable
        Called with a message before the installation.

    Returns
    -------
    Path
        The executable of its Python.

    Raises
    ------
    BackendUnavailable
        If there is no Python 3.10, or the installation fails.
    """
    from filelock import FileLock

    variable = os.environ.get(VARIABLE)
    if python is None and variable and has_deepcell(Path(variable).expanduser()):
        return find_deepcell()
    folder = cache_dir() / "deepcell"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name("deepcell.lock")).acquire()
    except OSError as error:
        raise BackendUnavailable(
            f"The cache folder {folder.parent} cannot be written ({error.strerror}). Set "
            f"CODEXSEG_CACHE to a writable folder."
        ) from error
    with lock:
        return _complete_environment(folder) or _make(folder, python, announce)


def _make(folder: Path, python: str | None, announce: Callable[[str], object]) -> Path:
    """Install the environment; remove it if the installation fails."""
    base = _checked(Path(python), "python") if python else find_python310()
    if base is None:
        raise BackendUnavailable(f"No Python 3.10 found. {_INSTALL_PYTHON}.")
    announce(
        f"Installing deepcell {DEEPCELL_VERSION} and its TensorFlow with pip into {folder} "
        f"(2 GB, some minutes)."
    )
    try:
        return _install(folder, base)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _install(folder: Path, base: Path) -> Path:
    """Install into the folder; the marker is written last."""
    if folder.exists():
        shutil.rmtree(folder)
    # in its final place, as an environment cannot be moved
    _call([base, "-E", "-m", "venv", folder], "venv has failed")
    python = _python_of(folder)
    options: list[str | Path] = ["--disable-pip-version-check", "-r", REQUIREMENTS]
    _call([python, "-E", "-m", "pip", "install", *options], "deepcell cannot be installed")
    if not has_deepcell(python):
        raise BackendUnavailable(
            f"pip has installed {_version_or(*_output(python, *_ASK_DEEPCELL))}, expected "
            f"deepcell {DEEPCELL_VERSION}. Check the constraints in pip's settings."
        )
    _call([python, *_IMPORT_ALL], "The installed packages cannot be imported")
    (folder / _MARKER).write_text(_pins(), encoding="utf-8")
    return python


def _complete_environment(folder: Path) -> Path | None:
    """Return the Python of an environment that is complete, has these pins, and runs."""
    marker, python = folder / _MARKER, _python_of(folder)
    if not marker.is_file() or marker.read_text(encoding="utf-8") != _pins():
        return None
    return python if has_deepcell(python) else None


def _pins() -> str:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def _python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _candidates() -> Iterator[Path]:
    for folder in os.get_exec_path():
        if executable := shutil.which("python3.10", path=folder):
            yield Path(executable).absolute()
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(root.glob("versions/3.10.*/bin/python"), key=_numbers, reverse=True)
    uv = shutil.which("uv")
    if uv and (found := _output(uv, "python", "find", "3.10")[0]):
        yield Path(found)


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.parents[1].name)]


def _checked(python: Path, name: str) -> Path:
    """Return the absolute path of a Python 3.10.

    Symbolic links are kept, as they are the executables of environments.
    """
    python = python.expanduser()
    version, reason = _output(python, *_ASK_PYTHON)
    if version != "3.10":
        actual = reason if version is None else f"is Python {version}"
        raise BackendUnavailable(
            f"{name}: {python} {actual}, expected the executable of a Python 3.10. "
            f"{_INSTALL_PYTHON}."
        )
    return python.absolute()


def _output(*command: str | Path) -> tuple[str | None, str]:
    """Run a command; return its output, or None and the reason of the failure."""
    try:
        done = run_captured(command, timeout=_PROBE_S)
    except OSError as error:
        return None, f"cannot be run ({error.strerror})"
    except subprocess.TimeoutExpired:
        return None, f"does not answer within {_PROBE_S} s"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return None, f"fails ({last})"
    return done.stdout.strip(), ""


def _version_or(installed: str | None, reason: str) -> str:
    return f"no deepcell: it {reason}" if installed is None else f"deepcell {installed}"


def _call(command: Sequence[str | Path], failure: str) -> None:
    """Run a command with its output on stderr."""
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, env=env, check=True)
    except subprocess.CalledProcessError as error:
        line = " ".join(map(str, command))
        raise BackendUnavailable(
            f"{failure}: `{line}` ended with exit code {error.returncode}. Its output is "
            f"above. Solve the problem and run `{_SETUP}` again."
        ) from error
