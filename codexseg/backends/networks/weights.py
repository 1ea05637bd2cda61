"""Which weights a network runs with: where they lie, what they are, whose they are."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codexseg.backends.networks.archive import TARBALLS, file_hash, unpack
from codexseg.backends.networks.contract import graph_digest, read_signature
from codexseg.backends.registry import MESMER_LICENCE
from codexseg.errors import BackendUnavailable, ConfigError, InputError
from codexseg.run.files import cache_dir

TOKEN = "DEEPCELL_ACCESS_TOKEN"
"""The variable with the user's access token to DeepCell."""
SOURCE, NAME, LICENCE = "codexseg_source", "codexseg_name", "codexseg_licence"
TITLE, VERIFIED, GRAPH = "codexseg_title", "codexseg_md5", "codexseg_graph"
"""metadata_props of an ONNX file that codexseg converted.

Title: of `KNOWN`; md5: of the tarball, where it was checked; graph: sha256 of the graph
that was converted, without which, or with another, the others say nothing.
"""

UNET = "codexseg_unet"
"""Name in the metadata_props of an ONNX file that is a semantic U-Net: see `unet_spec`."""

EMBEDDED = Path(__file__).parents[2] / "models" / "embedded.onnx"
"""The network that ships in the package."""


@dataclass(frozen=True)
class KnownWeights:
    """Weights that others publish, and that codexseg can fetch.

    Attributes
    ----------
    asset_key : str
        What the DeepCell API calls the tarball.
    md5 : str
        Of the tarball, in hexadecimal.
    folder : str
        The SavedModel folder in it.
    licence : str
        In short, with its address.
    home : str
        Where they are described.
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
        """Name with its version."""
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
        A SavedModel folder, or an ONNX file.
    kind : str
        Which of the two.
    name : str
        A name of `KNOWN`, else that of the folder or file.
    digest : str
        What the weights are, in hexadecimal: sha256 of the SavedModel, also of a
        conversion of it; of another ONNX file sha256 of the file.
    licence : str or None
        None: unknown.
    onnx : Path or None
        The conversion of a SavedModel, where one is in the cache.
    verified : bool
        Whether they are of `KNOWN` for sure: of a tarball of the published md5, or a
        conversion of that.
    """

    path: Path
    kind: Literal["saved_model", "onnx"]
    name: str
    digest: str
    licence: str | None = None
    onnx: Path | None = None
    verified: bool = False

    @property
    def is_conversion(self) -> bool:
        """Whether this is an ONNX file that codexseg made from a SavedModel."""
        return self.kind == "onnx" and self.digest != file_hash(self.path, "sha256")

    @property
    def about(self) -> dict[str, str | bool | None]:
        """What the manifest of a run says of them."""
        return {
            "weights": self.name,
            "weights_path": str(self.path),
            "weights_digest": self.digest,
            "weights_verified": self.verified,
            "licence": self.licence,
        }

    @property
    def known(self) -> KnownWeights | None:
        """What is known of them, None if they are not of `KNOWN`."""
        known = KNOWN.get(self.name)
        return known if known and known.licence == self.licence else None


def resolve(model_path: Path | None, *, known: str | None = "mesmer") -> Weights:
    """Find weights.

    Parameters
    ----------
    model_path : Path or None
        A SavedModel folder, a folder that holds one, an .onnx file, or a tarball, which
        is unpacked once into the cache. None: those of `known`, looked for where deepcell
        keeps them (tarball, folder), then as a conversion in the cache.
    known : str or None
        A name of `KNOWN`.

    Raises
    ------
    InputError
        If what is there is not what it should be: no SavedModel, a truncated tarball,
        another md5.
    BackendUnavailable
        If model_path is None and the weights of `known` are not on this machine.
    ConfigError
        If both are None, or `known` is not known.
    """
    try:
        if model_path is None:
            return _resolve_known(known)
        return _resolve_path(model_path.expanduser())
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise InputError(
            f"the weights {model_path or known} cannot be read or unpacked "
            f"({error.strerror or error}{where}); correct segmentation.model_path, or set "
            f"CODEXSEG_CACHE to a folder that can be written, {cache_dir()} now."
        ) from error


def deepcell_dir() -> Path:
    """Return the folder in which deepcell keeps models."""
    return Path.home() / ".deepcell" / "models"


def models_dir() -> Path:
    """Return the folder in which codexseg keeps what it unpacked and converted."""
    return cache_dir() / "models"


def converted_path(digest: str) -> Path:
    """Return where the conversion of a SavedModel lies, or would."""
    return models_dir() / f"{digest[:16]}.onnx"


def check_tarball(path: Path, known: KnownWeights) -> None:
    """Check that a tarball is the one that was published.

    Raises
    ------
    InputError
        If its md5 is another.
    """
    found = file_hash(path, "md5")
    if found != known.md5:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) has md5 {found}, expected {known.md5} "
            f"({known.title}): it is cut off or of another version. Run 'codexseg models "
            f"fetch mesmer', which replaces it, or delete it."
        )


def unpack_saved_model(tarball: Path, folder: Path) -> Path:
    """Unpack a tarball that holds one SavedModel, and return that.

    Parameters
    ----------
    tarball : Path
    folder : Path
        Takes the content of the tarball; where it exists, nothing is unpacked.

    Raises
    ------
    InputError
        If the tarball is cut off, damaged, or does not hold one SavedModel.
    """
    unpack(tarball, folder, lambda content: _saved_model_in(content, tarball))
    return _saved_model_in(folder, tarball)


def _resolve_known(name: str | None) -> Weights:
    if name is None:
        raise ConfigError(
            "segmentation.model_path is missing: set it to a SavedModel folder, its "
            "tarball or an .onnx file."
        )
    if name not in KNOWN:
        raise ConfigError(f"there are no weights {name!r}, expected {', '.join(KNOWN)}.")
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
        f"the weights of {name} are not on this machine (looked for in {models_dir()} and "
        f"{deepcell_dir()}): run 'codexseg models fetch {name}', or set "
        f"segmentation.model_path to where they are."
    )


def _resolve_path(path: Path) -> Weights:
    if path.is_dir():
        return _saved_model(_saved_model_in(path, path))
    if not path.exists():
        raise InputError(
            f"there is no {path}: segmentation.model_path is a SavedModel folder, its "
            f"tarball ({', '.join(TARBALLS)}) or an .onnx file."
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
        f"{path} is not of a kind that is read: segmentation.model_path is a SavedModel "
        f"folder, its tarball ({', '.join(TARBALLS)}) or an .onnx file."
    )


def _saved_model_in(folder: Path, asked: Path) -> Path:
    """Return the one complete SavedModel folder that a folder is, or holds."""
    found = [folder] if (folder / "saved_model.pb").is_file() else []
    found = found or sorted(file.parent for file in folder.glob("*/saved_model.pb"))
    if len(found) != 1:
        several = ", ".join(path.name for path in found)
        raise InputError(
            f"{asked} holds {f'several SavedModels ({several})' if found else 'none'}, "
            f"expected one SavedModel: a folder with saved_model.pb and variables/. Set "
            f"segmentation.model_path to that folder."
        )
    files = sorted(file.name for file in found[0].glob("variables/variables.*"))
    shards = [re.fullmatch(r"variables\.data-\d+-of-(\d+)", name) for name in files]
    totals = [int(shard[1]) for shard in shards if shard]
    if "variables.index" not in files or set(totals) != {len(totals)}:
        raise InputError(
            f"the SavedModel {asked} is not complete: its folder variables/ holds "
            f"{', '.join(files) or 'nothing'}, expected variables.index and every "
            f"variables.data-*. Copy or fetch it again."
        )
    return found[0]


def _saved_model(
    folder: Path, name: str | None = None, *, verified: bool = False
) -> Weights:
    # a folder of the published name comes from there, of whatever version
    licences = {known.folder: known.licence for known in KNOWN.values()}
    total = hashlib.sha256()
    for file in (
        folder / "saved_model.pb",
        *sorted(folder.glob("variables/variables.*")),
    ):
        relative = file.relative_to(folder).as_posix()
        total.update(f"{relative} {file_hash(file, 'sha256')}\n".encode())
    digest = total.hexdigest()
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
    said = read_signature(path).metadata
    if UNET in said:
        raise InputError(
            f"{path} is a semantic U-Net of 'codexseg train', expected a network with "
            f"Mesmer's contract: set segmentation.backend to 'unet', or "
            f"segmentation.model_path to another network."
        )
    ours = _properties(path)
    titles = {known.title: name for name, known in KNOWN.items()}
    name = titles.get(ours.get(TITLE, ""))
    return Weights(
        path,
        "onnx",
        name=name or ours.get(NAME) or path.stem,
        digest=ours.get(SOURCE) or file_hash(path, "sha256"),
        # an edited network stays under the licence
        licence=said.get(LICENCE) or None,
        verified=name is not None and ours.get(VERIFIED) == KNOWN[name].md5,
    )


def _conversion_of(known: KnownWeights) -> Path | None:
    found = [
        path
        for path in sorted(models_dir().glob("*.onnx"))
        if _cached(path).get(TITLE) == known.title
    ]
    if len(found) > 1:
        raise InputError(
            f"the cache holds several conversions of {known.title}: "
            f"{', '.join(map(str, found))}. Delete all but one, or set "
            f"segmentation.model_path."
        )
    return found[0] if found else None


def _properties(path: Path) -> dict[str, str]:
    """Return what a conversion says of itself; nothing where its graph is another now."""
    said = dict(read_signature(path).metadata)
    return said if SOURCE in said and said.get(GRAPH) == graph_digest(path) else {}


def _cached(path: Path) -> dict[str, str]:
    """Return what a conversion in the cache says of itself."""
    try:
        return _properties(path)
    except InputError as error:
        raise InputError(
            f"the converted network {path} is damaged; delete it, and run 'codexseg "
            f"models convert' again."
        ) from error
