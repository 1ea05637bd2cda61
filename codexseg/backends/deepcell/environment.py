"""The Python 3.10 that deepcell needs: where it is, and an environment made from it."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from codexseg.errors import BackendUnavailable
from codexseg.run.files import cache_dir

DEEPCELL_VERSION = "0.12.10"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VARIABLE = "CODEXSEG_PYTHON310"

_SETUP = "codexseg models setup-deepcell"
_INSTALL_PYTHON = (
    "install one (for instance `uv python install 3.10`, `pyenv install 3.10` or your "
    f"system's python3.10 with venv), or set {VARIABLE} to its executable"
)
_MARKER = "codexseg-complete.txt"
_PROBE_S = 60

# -E: PYTHONPATH and the like are those of this Python. The current folder, which -c puts
# first, may hold anything.
_CLEAN = "import sys; del sys.path[0]; "
_ASK_PYTHON = _CLEAN + "import ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
_ASK_DEEPCELL = (
    _CLEAN + "from importlib.metadata import version; print(version('deepcell'))"
)
_IMPORT_ALL = _CLEAN + "import tensorflow, deepcell.applications"


def find_python310() -> Path | None:
    """Return a Python 3.10 that runs and can make environments, or None.

    Looked for are, in this order: $CODEXSEG_PYTHON310, ``python3.10`` on the PATH (a shim
    of pyenv may stand there and not run), pyenv's versions, and uv's.

    Raises
    ------
    BackendUnavailable
        If $CODEXSEG_PYTHON310 is set and is no Python 3.10.
    """
    if configured := os.environ.get(VARIABLE):
        return _checked(Path(configured), VARIABLE)
    return next((p for p in _candidates() if _output(p, _ASK_PYTHON)[0] == "3.10"), None)


def has_deepcell(python: Path) -> bool:
    """Whether a Python has the deepcell package in the version that is expected."""
    return _output(python, _ASK_DEEPCELL)[0] == DEEPCELL_VERSION


def find_deepcell(configured: Path | None = None) -> Path:
    """Find the Python that `backend: deepcell` runs in.

    Parameters
    ----------
    configured : Path, optional
        `segmentation.python`. Without it, $CODEXSEG_PYTHON310 is taken if it has deepcell,
        then the environment that :func:`setup_deepcell` made.

    Returns
    -------
    Path
        The executable of a Python with deepcell 0.12.10.

    Raises
    ------
    BackendUnavailable
        If there is none; the message says how to make one.
    """
    remedy = f"`{_SETUP}` makes an environment that has it (2 GB)"
    if configured is not None:
        python = configured.expanduser()
        found, reason = _output(python, _ASK_DEEPCELL)
        if found != DEEPCELL_VERSION:
            raise BackendUnavailable(
                f"segmentation.python: {python} has {_got(found, reason)}, expected the "
                f"executable of a Python 3.10 with deepcell {DEEPCELL_VERSION}; {remedy}, "
                f"leave segmentation.python away then."
            )
        return python.absolute()
    if variable := os.environ.get(VARIABLE):
        python = _checked(Path(variable), VARIABLE)
        if has_deepcell(python):
            return python
    if made := _made(cache_dir() / "deepcell"):
        return made
    raise BackendUnavailable(
        f"backend deepcell needs the package deepcell {DEEPCELL_VERSION} in a Python 3.10 "
        f"of its own, and there is none: {remedy}; or set segmentation.python to a Python "
        f"that has it. The backend mesmer computes the same without it."
    )


def setup_deepcell(
    python: str | None = None, announce: Callable[[str], object] = lambda _: None
) -> Path:
    """Make the environment with deepcell in the cache folder, unless there is one.

    2 GB are installed by pip, which reads the user's settings and says on stderr what it
    does. An environment that is not complete, or has other versions, is made again.

    Parameters
    ----------
    python : str, optional
        The Python 3.10 to make it from; by default :func:`find_python310` looks for one,
        and nothing is made where $CODEXSEG_PYTHON310 has deepcell.
    announce : callable
        Is told what is about to be installed; not called where nothing is.

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
    lock = FileLock(folder.with_name("deepcell.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise BackendUnavailable(
            f"the cache folder {folder.parent} cannot be written ({error.strerror}); set "
            "CODEXSEG_CACHE to one that can."
        ) from error
    try:
        return _made(folder) or _make(folder, python, announce)
    finally:
        lock.release()


def _make(folder: Path, python: str | None, announce: Callable[[str], object]) -> Path:
    """Make the environment; what is left of one that fails serves nothing."""
    base = _checked(Path(python), "python") if python else find_python310()
    if base is None:
        raise BackendUnavailable(f"there is no Python 3.10 here: {_INSTALL_PYTHON}.")
    announce(
        f"pip installs deepcell {DEEPCELL_VERSION} with its TensorFlow into {folder}: "
        f"2 GB, some minutes."
    )
    try:
        return _install(folder, base)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _install(folder: Path, base: Path) -> Path:
    """Install all into the folder; the marker comes last."""
    if folder.exists():
        shutil.rmtree(folder)
    # in place: an environment cannot be moved
    _call([base, "-E", "-m", "venv", folder], "no virtual environment could be made")
    python = _python_of(folder)
    pip: list[str | Path] = [
        python,
        "-E",
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
    ]
    _call([*pip, "-r", REQUIREMENTS], "deepcell could not be installed")
    if not has_deepcell(python):
        raise BackendUnavailable(
            f"pip has installed {_got(*_output(python, _ASK_DEEPCELL))}, expected "
            f"deepcell {DEEPCELL_VERSION}: look for constraints in pip's settings."
        )
    _call([python, "-E", "-c", _IMPORT_ALL], "what was installed cannot be imported")
    (folder / _MARKER).write_text(_pins(), encoding="utf-8")
    return python


def _made(folder: Path) -> Path | None:
    """Return the Python of an environment that is complete, of these pins, and runs."""
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
        if found := shutil.which("python3.10", path=folder):
            yield Path(found).absolute()
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(root.glob("versions/3.10.*/bin/python"), key=_numbers, reverse=True)
    if uv := shutil.which("uv"):
        done = subprocess.run(
            [uv, "python", "find", "3.10"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and done.stdout.strip():
            yield Path(done.stdout.strip())


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.parents[1].name)]


def _checked(python: Path, name: str) -> Path:
    """Return the absolute path of a Python 3.10; symbolic links make an environment."""
    python = python.expanduser()
    found, reason = _output(python, _ASK_PYTHON)
    if found != "3.10":
        got = reason if found is None else f"is Python {found}"
        raise BackendUnavailable(
            f"{name}: {python} {got}, expected the executable of a Python 3.10: correct "
            f"it, or {_INSTALL_PYTHON}."
        )
    return python.absolute()


def _output(python: Path, code: str) -> tuple[str | None, str]:
    """Run code in a Python; return what it prints, or None and why there is nothing."""
    try:
        done = subprocess.run(
            [python, "-E", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_S,
            check=False,
        )
    except OSError as error:
        return None, f"cannot be run ({error.strerror})"
    except subprocess.TimeoutExpired:
        return None, f"does not answer within {_PROBE_S} s"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return None, f"fails ({last})"
    return done.stdout.strip(), ""


def _got(found: str | None, reason: str) -> str:
    return f"no deepcell: it {reason}" if found is None else f"deepcell {found}"


def _call(command: Sequence[str | Path], failure: str) -> None:
    """Run a command with its messages on stderr."""
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, env=env, check=True)
    except subprocess.CalledProcessError as error:
        words = " ".join(map(str, command))
        raise BackendUnavailable(
            f"{failure}: `{words}` ended with exit code {error.returncode}; what it said "
            f"stands above. Mend that, and run `{_SETUP}` again."
        ) from error
