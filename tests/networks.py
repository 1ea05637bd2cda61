"""Networks for tests: the toy with Mesmer's contract, its tarball, and ONNX files."""

import hashlib
import tarfile
from pathlib import Path

TOY = Path(__file__).parent / "data" / "mesmer"
TOY_ONNX = TOY / "toy.onnx"
TOY_SAVED_MODEL = TOY / "toy_MultiplexSegmentation"

HEADS = {f"semantic_{n}": ("n", 256, 256, (1, 3)[n % 2]) for n in range(4)}
INPUT = {"input_0": ("n", 256, 256, 2)}


def pack(path, mode="w:gz", folder="MultiplexSegmentation"):
    """Write a tarball of the toy in the layout of DeepCell; return its md5."""
    with tarfile.open(path, mode) as archive:
        archive.add(TOY_SAVED_MODEL, folder)
    return hashlib.md5(path.read_bytes()).hexdigest()


def onnx_bytes(inputs=INPUT, outputs=HEADS, properties=None, dtype=1):
    """Return an ONNX file without nodes; a size of type str is a symbolic name."""
    graph = field(2, b"graph")
    graph += b"".join(field(11, _value(*item, 1)) for item in inputs.items())
    graph += b"".join(field(12, _value(*item, dtype)) for item in outputs.items())
    entries = [
        field(14, field(1, key.encode()) + field(2, value.encode()))
        for key, value in (properties or {}).items()
    ]
    return field(1, 8) + field(7, graph) + field(8, field(2, 17)) + b"".join(entries)


def field(number, value):
    """Return a protobuf field: an integer, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _value(name, shape, dtype):
    sizes = [
        field(1, size) if isinstance(size, int) else field(2, size.encode())
        for size in shape
    ]
    tensor = field(1, dtype) + field(2, b"".join(field(1, size) for size in sizes))
    return field(1, name.encode()) + field(2, field(1, tensor))


def _varint(value):
    value, parts = value % 2**64, []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
