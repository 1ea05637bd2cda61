"""Weights of networks: where they are stored, their digests and their licences."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codexseg.backends.networks.archive import TARBALLS, unpack
from codexseg.backends.networks.signature import graph_digest, read_signature
from codexseg.backends.process_cache import file_hash, files_digest
from codexseg.backends.registry import MESMER_LICENCE
from codexseg.errors import BackendUnavailable, ConfigError, InputError
from codexseg.run.files import cache_dir

TOKEN = "DEEPCELL_ACCESS_TOKEN"
"""Environment variable with the access token of the user to DeepCell."""
SOURCE, NAME, LICENCE = "codexseg_source", "codexseg_name", "codexseg_licence"
TITLE, VERIFIED, GRAPH = "codexseg_title", "codexseg_md5", "codexseg_graph"
"""Keys in the metadata_props of an ONNX file that codexseg converted.

Title: the one of `KNOWN`; md5: of the tarball, if it was checked; graph: sha256 of the
converted graph. The other keys are ignored if it is missing or differs.
"""

UNET = "codexseg_unet"
"""Key in the metadata_props of a semantic U-Net: see `codexseg.backends.unet.spec`."""

EMBEDDED = Path(__file__).parents[2] / "models" / "embedded.onnx"
"""The network that is part of the package."""


@dataclass(frozen=True)
class KnownWeights:
    """Published weights that codexseg can fetch.

    Attributes
    ----------
    asset_key : str
        Key of the tarball in the DeepCell API.
    md5 : str
        md5 of the tarball, in hexadecimal.
    folder : str
        Name of the SavedModel folder in it.
    licence : str
        Licence in short, with the address.
    home : str
        Address of their description.
    """

    asset_key: str
    md5: str
    folder: str
    licence: str
    home: str

    @property
    def file_name(self) -> str:
        """Name of the tarball in the DeepCell cache."""
        return self.asset_key.rpartition("/")[2]

    @property
    def title(self) -> str:
        """Name and version."""
        return self.file_name.removesuffix(".tar.gz")


KNOWN = {
    "mesmer": KnownWeights(
        asset_key="models/MultiplexSegmentation-9.tar.gz",
        md5="a1dfbce2594f927b9112f23a0a1739e0",
        folder="MultiplexSegmentation",
        licence=MESMER_LICENCE,
        home="https://github.com/vanvalenlab/deepcell-tf",
    )
}


@dataclass(frozen=True)
class Weights:
    """Weights on this machine.

    Attributes
    ----------
    path : Path
        A SavedModel folder, an ONNX file or a TorchScript file.
    kind : {"saved_model", "onnx", "torchscript"}
        Format.
    name : str
        A name of `KNOWN`, else that of the folder or file.
    digest : str
        sha256 in hexadecimal, of the SavedModel or the file. A conversion has the digest
        of its SavedModel.
    licence : str or None
        None: unknown.
    onnx : Path or None
        The conversion of a SavedModel, if there is one in the cache.
    verified : bool
        Whether they are the published weights: from a tarball with the published md5, or
        a conversion of it, or a file with the published sha256.
    """

    path: Path
    kind: Literal["saved_model", "onnx", "torchscript"]
    name: str
    digest: str
    licence: str | None = None
    onnx: Path | None = None
    verified: bool = False

    @property
    def is_conversion(self) -> bool:
        """Whether this is an ONNX file that codexseg converted from a SavedModel."""
        return self.kind == "onnx" and self.digest != file_hash(self.path, "sha256")

    @property
    def about(self) -> dict[str, str | bool | None]:
        """Facts for the manifest of a run."""
        return {
            "weights": self.name,
            "weights_path": str(self.path),
            "weights_digest": self.digest,
            "weights_verified": self.verified,
            "licence": self.licence,
        }

    @property
    def known(self) -> KnownWeights | None:
        """Their entry in `KNOWN`, or None."""
        known = KNOWN.get(self.name)
        return known if known and known.licence == self.licence else None


def resolve_weights(model_path: Path | None, *, known: str | None = "mesmer") -> Weights:
    """Find weights.

    Parameters
    ----------
    model_path : Path or None
        A SavedModel folder, a folder that contains one, an .onnx file, or a tarball, which
        is unpacked once into the cache. None: those of `known`, from deepcell's cache
        (tarball, folder), else a conversion in the cache of codexseg.
    known : str or None
        A name of `KNOWN`.

    Raises
    ------
    InputError
        If the weights are no SavedModel, or a tarball is truncated or has another md5.
    BackendUnavailable
        If model_path is None and the weights of `known` are not on this machine.
    ConfigError
        If both are None, or there is no such name in `KNOWN`.
    """
    try:
        if model_path is None:
            return _resolve_known(known)
        return _resolve_path(model_path.expanduser())
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise InputError(
            f"The weights {model_path or known} cannot be read or unpacked "
            f"({error.strerror or error}{where}). Correct segmentation.model_path, or set "
            f"CODEXSEG_CACHE to a writable folder in place of {cache_dir()}."
        ) from error


def deepcell_dir() -> Path:
    """Return the folder of deepcell's models."""
    return Path.home() / ".deepcell" / "models"


def models_dir() -> Path:
    """Return the cache folder of unpacked and converted weights."""
    return cache_dir() / "models"


def converted_path(digest: str) -> Path:
    """Return the cache path of a converted SavedModel."""
    return models_dir() / f"{digest[:16]}.onnx"


def conversion_properties(weights: Weights, converted: Path) -> dict[str, str]:
    """Return the metadata_props of the conversion of a SavedModel."""
    known = weights.known
    properties = {
        SOURCE: weights.digest,
        NAME: weights.name,
        LICENCE: weights.licence,
        TITLE: known.title if known else None,
        VERIFIED: known.md5 if known and weights.verified else None,
        GRAPH: graph_digest(converted),
    }
    return {key: value for key, value in properties.items() if value}


def check_tarball(path: Path, known: KnownWeights) -> None:
    """Check that a tarball is the published one.

    Raises
    ------
    InputError
        If its md5 differs.
    """
    md5 = file_hash(path, "md5")
    if md5 != known.md5:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) has md5 {md5}, expected {known.md5} "
            f"({known.title}): it is cut off or of another version. Run 'codexseg models "
            f"fetch mesmer' to replace it, or delete it."
        )


def unpack_saved_model(tarball: Path, folder: Path) -> Path:
    """Unpack a tarball with one SavedModel and return the folder of the SavedModel.

    Parameters
    ----------
    tarball : Path
    folder : Path
        Target folder; nothing is unpacked if it exists.

    Raises
    ------
    InputError
        If the tarball is cut off or damaged, or does not contain exactly one SavedModel.
    """
    unpack(tarball, folder, lambda content: _saved_model_in(content, tarball))
    return _saved_model_in(folder, tarball)


def _resolve_known(name: str | None) -> Weights:
    if name is None:
        raise ConfigError(
            "segmentation.model_path is missing. Set it to a SavedModel folder, its "
            "tarball or an .onnx file."
        )
    if name not in KNOWN:
        raise ConfigError(f"Unknown weights {name!r}. Expected {', '.join(KNOWN)}.")
    known = KNOWN[name]
    tarball, folder = deepcell_dir() / known.file_name, deepcell_dir() / known.folder
    if tarball.is_file():
        check_tarball(tarball, known)
        return _resolve_path(tarball)
    if folder.is_dir():
        return _saved_model(_saved_model_in(folder, folder), name)
    if (converted := _conversion_of(known)) is not None:
        return _onnx(converted)
    raise BackendUnavailable(
        f"The weights of {name} are not on this machine, neither in {models_dir()} nor in "
        f"{deepcell_dir()}. Run 'codexseg models fetch {name}', or set "
        f"segmentation.model_path to their path."
    )


def _resolve_path(path: Path) -> Weights:
    if path.is_dir():
        return _saved_model(_saved_model_in(path, path))
    if not path.exists():
        raise InputError(
            f"{path} does not exist. Set segmentation.model_path to a SavedModel folder, "
            f"its tarball ({', '.join(TARBALLS)}) or an .onnx file."
        )
    lower = path.name.lower()
    if lower.endswith(".onnx"):
        return _onnx(path)
    if lower.endswith(TARBALLS):
        md5 = file_hash(path, "md5")
        name = next((name for name, known in KNOWN.items() if known.md5 == md5), None)
        folder = unpack_saved_model(path, models_dir() / md5)
        return _saved_model(folder, name, verified=name is not None)
    raise InputError(
        f"Unsupported file type: {path}. Set segmentation.model_path to a SavedModel "
        f"folder, its tarball ({', '.join(TARBALLS)}) or an .onnx file."
    )


def _saved_model_in(folder: Path, asked: Path) -> Path:
    """Return the one complete SavedModel in a folder, or the folder itself."""
    models = [folder] if (folder / "saved_model.pb").is_file() else []
    models = models or sorted(file.parent for file in folder.glob("*/saved_model.pb"))
    if len(models) != 1:
        several = ", ".join(path.name for path in models)
        raise InputError(
            f"{asked} contains {f'several SavedModels ({several})' if models else 'none'}, "
            f"expected one SavedModel: a folder with saved_model.pb and variables/. Set "
            f"segmentation.model_path to that folder."
        )
    files = sorted(file.name for file in models[0].glob("variables/variables.*"))
    shards = [re.fullmatch(r"variables\.data-\d+-of-(\d+)", name) for name in files]
    totals = [int(shard[1]) for shard in shards if shard]
    if "variables.index" not in files or set(totals) != {len(totals)}:
        raise InputError(
            f"The SavedModel {asked} is not complete: its folder variables/ contains "
            f"{', '.join(files) or 'nothing'}, expected variables.index and every "
            f"variables.data-*. Copy or fetch it again."
        )
    return models[0]


def _saved_model(
    folder: Path, name: str | None = None, *, verified: bool = False
) -> Weights:
    # a folder with the published name is published, in whatever version
    licences = {known.folder: known.licence for known in KNOWN.values()}
    variables = sorted(folder.glob("variables/variables.*"))
    digest = files_digest(folder, [folder / "saved_model.pb", *variables])
    onnx = converted_path(digest)
    converted = onnx.is_file() and _cached(onnx).get(SOURCE) == digest
    return Weights(
        folder,
        "saved_model",
        name or folder.name,
        digest,
        licence=KNOWN[name].licence if name else licences.get(folder.name),
        onnx=onnx if converted else None,
        verified=verified,
    )


def _onnx(path: Path) -> Weights:
    metadata = read_signature(path).metadata
    if UNET in metadata:
        raise InputError(
            f"{path} is a semantic U-Net of 'codexseg train', expected a network with "
            f"Mesmer's contract. Set segmentation.backend to 'unet', or "
            f"segmentation.model_path to another network."
        )
    conversion = _checked_properties(path)
    titles = {known.title: name for name, known in KNOWN.items()}
    name = titles.get(conversion.get(TITLE, ""))
    return Weights(
        path,
        "onnx",
        name=name or conversion.get(NAME) or path.stem,
        digest=conversion.get(SOURCE) or file_hash(path, "sha256"),
        # an edited network stays under the licence
        licence=metadata.get(LICENCE) or None,
        verified=name is not None and conversion.get(VERIFIED) == KNOWN[name].md5,
    )


def _conversion_of(known: KnownWeights) -> Path | None:
    paths = [
        path
        for path in sorted(models_dir().glob("*.onnx"))
        if _cached(path).get(TITLE) == known.title
    ]
    if len(paths) > 1:
        raise InputError(
            f"The cache contains several conversions of {known.title}: "
            f"{', '.join(map(str, paths))}. Delete all but one, or set "
            f"segmentation.model_path."
        )
    return paths[0] if paths else None


def _checked_properties(path: Path) -> dict[str, str]:
    """Return the metadata of a conversion; empty if its graph has changed since."""
    metadata = dict(read_signature(path).metadata)
    if SOURCE in metadata and metadata.get(GRAPH) == graph_digest(path):
        return metadata
    return {}


def _cached(path: Path) -> dict[str, str]:
    """Return the metadata of a conversion in the cache."""
    try:
        return _checked_properties(path)
    except InputError as error:
        raise InputError(
            f"The converted network {path} is damaged. Delete it and run 'codexseg "
            f"models convert' again."
        ) from error
