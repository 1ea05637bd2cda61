"""Networks for tests: the toy with Mesmer's contract, its tarball, and ONNX files."""

import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

Size = int | str
"""Size of an axis; a string is a symbolic name."""
Shapes = Mapping[str, Sequence[Size]]
"""Names of inputs or outputs, and their shapes."""

TOY = Path(__file__).parents[1] / "data" / "mesmer"
TOY_ONNX = TOY / "toy.onnx"
TOY_SAVED_MODEL = TOY / "toy_MultiplexSegmentation"

HEADS: Shapes = {f"semantic_{n}": ("n", 256, 256, (1, 3)[n % 2]) for n in range(4)}
INPUT: Shapes = {"input_0": ("n", 256, 256, 2)}


def pack(
    path: Path,
    mode: Literal["w", "w:gz", "w:xz"] = "w:gz",
    folder: str = "MultiplexSegmentation",
) -> str:
    """Write a tarball of the toy in the layout of DeepCell; return its md5."""
    with tarfile.open(path, mode) as archive:
        archive.add(TOY_SAVED_MODEL, folder)
    return hashlib.md5(path.read_bytes()).hexdigest()


def onnx_bytes(
    inputs: Shapes = INPUT,
    outputs: Shapes = HEADS,
    properties: Mapping[str, str] | None = None,
    dtype: int = 1,
) -> bytes:
    """Return an ONNX file without nodes; a size of type str is a symbolic name."""
    graph = field(2, b"graph")
    graph += b"".join(field(11, value_info(*item, 1)) for item in inputs.items())
    graph += b"".join(field(12, value_info(*item, dtype)) for item in outputs.items())
    entries = [
        field(14, field(1, key.encode()) + field(2, value.encode()))
        for key, value in (properties or {}).items()
    ]
    return field(1, 8) + field(7, graph) + field(8, field(2, 17)) + b"".join(entries)


def field(number: int, value: int | bytes) -> bytes:
    """Return a protobuf field: an integer, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def value_info(name: str, shape: Sequence[Size], dtype: int) -> bytes:
    """Return the description of an input or output in an ONNX graph."""
    sizes = [
        field(1, size) if isinstance(size, int) else field(2, size.encode())
        for size in shape
    ]
    tensor = field(1, dtype) + field(2, b"".join(field(1, size) for size in sizes))
    return field(1, name.encode()) + field(2, field(1, tensor))


def _varint(value: int) -> bytes:
    value, parts = value % 2**64, list[int]()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
