"""Conversion of a SavedModel to ONNX.

It runs on the machine of the user, as the licence of Mesmer does not allow to distribute
either. TensorFlow and tf2onnx run in a separate process, of this Python or another. The
conversion is compared with the SavedModel tile by tile before it is kept.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from codexseg.arrays import Float32
from codexseg.backends.networks.contract import (
    MAP_CHANNELS,
    TILE_PX,
    Contract,
    check_contract,
)
from codexseg.backends.networks.runtime import EXTRA, open_network
from codexseg.backends.networks.signature import append_properties, read_signature
from codexseg.backends.networks.weights import (
    TOKEN,
    Weights,
    conversion_properties,
    converted_path,
    resolve_weights,
)
from codexseg.backends.subprocesses import run_captured
from codexseg.errors import BackendUnavailable, InputError
from codexseg.run.files import replacing

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Maximum difference between the maps of SavedModel and conversion, in units of 1."""

_OPSET = 17
_NEEDED = ("tensorflow", "tf2onnx", "onnx")
_PROBE_S = 120

_PROBE = """
import sys
del sys.path[0]  # the current folder: it may hold anything
import importlib.metadata, importlib.util, json
def version(name):
    if importlib.util.find_spec(name) is None:
        return None
    for dist in (name, name + "-cpu", name + "-intel", name + "-macos"):
        try:
            return importlib.metadata.version(dist)
        except importlib.metadata.PackageNotFoundError:
            pass
    return "of unknown version"
print(json.dumps({name: version(name) for name in ("tensorflow", "tf2onnx", "onnx")}))
"""

# executed by a Python that may lack codexseg
_PREDICT = """
import json, sys
import numpy, tensorflow
with open(sys.argv[1]) as file:
    job = json.load(file)
model = tensorflow.saved_model.load(job["saved_model"])
function = model.signatures["serving_default"]
maps = []
for tile in numpy.load(job["tiles"]):
    heads = function(**{job["input"]: tensorflow.constant(tile[None])})
    maps.append([heads[name].numpy()[0, ..., channel] for name, channel in job["maps"]])
numpy.save(job["expected"], numpy.asarray(maps, "float32"))
"""


@dataclass(frozen=True)
class Conversion:
    """A converted network.

    Attributes
    ----------
    path : Path
        The ONNX file.
    tiles : int
        Number of tiles on which it was compared with the SavedModel.
    max_abs_diff : float
        Maximum difference of a pixel in the four maps that are used.
    """

    path: Path
    tiles: int
    max_abs_diff: float


def convert_saved_model(
    weights: Weights,
    out: Path | None = None,
    python: str | None = None,
    announce: Callable[[str], object] = lambda _: None,
) -> Conversion:
    """Convert a SavedModel to ONNX, and keep the result if its maps are equal.

    Parameters
    ----------
    weights : Weights
        A SavedModel with Mesmer's contract.
    out : Path, optional
        The .onnx file to write; by default a file in the cache, where
        :func:`codexseg.backends.networks.weights.resolve` finds it. An existing conversion
        of these weights is replaced.
    python : str, optional
        A Python with tensorflow and tf2onnx; by default this one.
    announce : callable
        Called with a message before the conversion starts.

    Raises
    ------
    BackendUnavailable
        If that Python lacks a package, or has TensorFlow 2.16.
    InputError
        If the weights are no SavedModel with the contract, `out` exists and is no
        conversion of them, or the conversion fails, differs, or cannot be written.
    """
    if weights.kind != "saved_model":
        raise InputError(f"{weights.path} is an ONNX file already. Nothing to convert.")
    target = out or converted_path(weights.digest)
    if target.suffix != ".onnx" or target.is_dir():
        raise InputError(
            f"--out is {target}. Expected the name of a file, such as my.onnx."
        )
    if out is not None and out.exists():
        _check_replaceable(out, weights)
    contract = check_contract(read_signature(weights.path), weights.path)
    executable = _checked_python(python)
    announce(f"Converting {weights.path}. This takes minutes with Mesmer's network.")
    try:
        with replacing(target) as part, TemporaryDirectory(prefix="codexseg-") as name:
            result = _convert(weights, contract, part, Path(name), executable)
            return Conversion(target, *result)
    except OSError as error:
        raise InputError(
            f"The conversion cannot be written to {target} ({error.strerror or error}). "
            f"Choose another --out, or set CODEXSEG_CACHE to a writable folder."
        ) from error


def compared_tiles() -> Float32:
    """Return tiles with noise, edges and synthetic cells, to compare networks on.

    Returns
    -------
    (n, 256, 256, 2) float32, 0 to 1
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    shape = (TILE_PX, TILE_PX)
    ramp = np.broadcast_to(np.linspace(0, 1, TILE_PX), shape)
    board = np.indices(shape).sum(axis=0) // 16 % 2
    pairs = [(np.zeros(shape),) * 2, (np.ones(shape),) * 2, (ramp, ramp.T), (board, ramp)]
    pairs += [(board, 1 - board), *rng.random((2, 2, *shape))]
    for sigma in (3.0, 5.0, 8.0):
        spots = (rng.random(shape) < 0.3 / sigma**3).astype(float)
        blurred = [gaussian_filter(spots, width) for width in (sigma, 2 * sigma)]
        pairs.append(tuple(channel / (channel.max() or 1) for channel in blurred))
    return np.stack([np.stack(pair, axis=-1) for pair in pairs]).astype(np.float32)


def _check_replaceable(out: Path, weights: Weights) -> None:
    """Refuse to replace a file that is no conversion of the same weights."""
    try:
        digest = resolve_weights(out, known=None).digest
    except InputError:
        digest = ""
    if digest != weights.digest:
        raise InputError(
            f"--out is {out}, which exists and is no conversion of {weights.path}. Choose "
            f"another name, or delete it."
        )


def _convert(
    weights: Weights, contract: Contract, part: Path, folder: Path, python: str
) -> tuple[int, float]:
    """Write the conversion to `part`; return the number of tiles and the difference."""
    saved_model = str(weights.path.absolute())
    arguments = ["--saved-model", saved_model, "--output", str(part.absolute())]
    arguments += ["--tag", "serve", "--signature_def", "serving_default"]
    command = [python, "-m", "tf2onnx.convert", *arguments, "--opset", str(_OPSET)]
    _call(command, folder, f"tf2onnx cannot convert {weights.path}")
    check_contract(read_signature(part), part)
    tiles = compared_tiles()
    expected = _expected(weights, contract, folder, python, tiles)
    append_properties(part, conversion_properties(weights, part))
    converted = Weights(part, "onnx", weights.name, weights.digest)
    network = open_network(converted, "onnxruntime", "cpu")
    differences = [
        float(np.abs(network.predict(tile[None])[0] - maps).max())
        for tile, maps in zip(tiles, expected, strict=True)
    ]
    worst = max(differences, key=lambda value: (np.isnan(value), value))
    if not worst <= TOLERANCE:
        raise InputError(
            f"The conversion of {weights.path} differs from it by {worst:.3g} in tile "
            f"{differences.index(worst)} of {len(tiles)}, expected at most {TOLERANCE:g}; "
            f"it was not kept. Try another TensorFlow with --python, or run the SavedModel "
            f"itself (segmentation.runtime: tensorflow)."
        )
    return len(tiles), worst


def _expected(
    weights: Weights, contract: Contract, folder: Path, python: str, tiles: Float32
) -> Float32:
    """Predict with the SavedModel, (n, 4, y, x)."""
    np.save(folder / "tiles.npy", tiles)
    job = {
        "saved_model": str(weights.path.absolute()),
        "tiles": str(folder / "tiles.npy"),
        "expected": str(folder / "expected.npy"),
        "input": contract.input_name,
        "maps": list(zip(contract.output_names, MAP_CHANNELS, strict=True)),
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [python, "-c", _PREDICT, str(folder / "job.json")]
    _call(command, folder, f"TensorFlow cannot run {weights.path}")
    return np.asarray(np.load(folder / "expected.npy"), np.float32)


def _checked_python(named: str | None) -> str:
    """Return the executable of a Python with the packages of the conversion."""
    executable = named or sys.executable
    python = str(Path(shutil.which(executable) or executable).absolute())
    try:
        done = run_captured([python, "-c", _PROBE], timeout=_PROBE_S)
        done.check_returncode()
        versions: Mapping[str, str | None] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise BackendUnavailable(
            f"{python} does not run ({error}). Expected the executable of a Python with "
            f"{' and '.join(_NEEDED)}. Correct --python."
        ) from error
    missing = [name for name in _NEEDED if not versions[name]]
    if missing:
        remedy = f"Run {python} -m pip install tensorflow tf2onnx"
        raise BackendUnavailable(
            f"Converting needs {', '.join(missing)}, missing in {python}. "
            f"{remedy if named else EXTRA}, or name a Python that has them with --python."
        )
    if str(versions["tensorflow"]).startswith("2.16."):
        raise BackendUnavailable(
            f"{python} has TensorFlow {versions['tensorflow']}, which cannot convert: its "
            f"dependencies break onnx. Install tensorflow>=2.18, or name a Python that has "
            f"it with --python."
        )
    return python


def _call(command: Sequence[str], folder: Path, failure: str) -> None:
    """Run a command in a folder without modules; raise InputError if it fails."""
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    env.pop(TOKEN, None)
    done = run_captured(command, cwd=folder, env=env, stderr=subprocess.STDOUT)
    log.debug("%s: %s", command[:3], done.stdout)
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        last = lines[-1][:300] if lines else "no output"
        raise InputError(
            f"{failure} (exit code {done.returncode}): {last}. Try another TensorFlow with "
            f"--python, free memory if it was killed (exit code -9), or run the SavedModel "
            f"itself (segmentation.runtime: tensorflow)."
        )
