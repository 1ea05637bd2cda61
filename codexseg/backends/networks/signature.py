"""Inputs, outputs and metadata of a network, read from its file.

A SavedModel and an ONNX file are protobuf messages. The signature is a few hundred bytes
next to a graph of 100 MB, so it is read here in less than a millisecond, without loading
the network. A session of onnxruntime would take half a second and 120 MB, and cannot read
a SavedModel.
"""

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from codexseg.backends.process_cache import digest_once
from codexseg.errors import InputError

Shape = tuple[int, ...]
Tensor = tuple[str, Shape | None]
"""Data type and shape; -1: any size; None: any number of axes."""

REMEDY = (
    "Set segmentation.model_path to Mesmer's SavedModel folder, its tarball or a "
    "converted .onnx file."
)
_SERVING = "serving_default"
_GRAPH, _PROPERTY = 7, 14  # fields of ModelProto
# tensorflow/core/framework/types.proto and onnx/onnx.proto
_TENSORFLOW_TYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 9: "int64"}
_TENSORFLOW_TYPES |= {7: "string", 10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16"}
_ONNX_TYPES = {1: "float32", 2: "uint8", 4: "uint16", 6: "int32", 7: "int64"}
_ONNX_TYPES |= {8: "string", 9: "bool", 10: "float16", 11: "float64", 16: "bfloat16"}

_Value = TypeVar("_Value", int, "_Message")


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and metadata of a network.

    Attributes
    ----------
    inputs, outputs : dict
        (dtype, shape) by name. In a shape -1 is any size; a shape of None is any number of
        axes.
    metadata : dict of str
        The metadata_props of an ONNX file; for a SavedModel the version of TensorFlow
        that wrote it.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


class _MalformedError(ValueError):
    """Bytes that are not a message of the expected type."""


@dataclass(frozen=True)
class _Message:
    """A protobuf message: a range of a buffer, read field by field.

    Wire format: https://protobuf.dev/programming-guides/encoding
    """

    buffer: mmap.mmap
    start: int
    end: int

    def fields(self) -> "Iterator[tuple[int, int | _Message]]":
        """Yield (number, value) of each field: an integer, or the range of its bytes."""
        at = self.start
        while at < self.end:
            tag, at = self._varint(at)
            number, wire = tag >> 3, tag & 7
            value: int | _Message
            if wire == 0:
                value, at = self._varint(at)
            elif wire in (1, 2, 5):  # 64 bits, a length and as many bytes, 32 bits
                size = {1: 8, 5: 4}.get(wire)
                if size is None:
                    size, at = self._varint(at)
                value, at = _Message(self.buffer, at, at + size), at + size
            else:
                raise _MalformedError(f"wire type {wire}")
            if number == 0 or at > self.end:
                raise _MalformedError(f"field {number} ends at byte {at} of {self.end}")
            yield number, value

    def _varint(self, at: int) -> tuple[int, int]:
        """Return the number of variable length at a byte, and the byte after it."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= self.end:
                break
            byte = self.buffer[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise _MalformedError(f"a number ends at byte {at} of {self.end}")

    def _values(self, number: int, kind: type[_Value]) -> list[_Value]:
        """Return the values with a field number, all of one kind."""
        values = [value for key, value in self.fields() if key == number]
        of_kind = [value for value in values if isinstance(value, kind)]
        if len(of_kind) < len(values):
            raise _MalformedError(
                f"field {number} is {'no' if kind is int else 'a'} number"
            )
        return of_kind

    def messages(self, number: int) -> "list[_Message]":
        """Return the messages (or strings) with a field number."""
        return self._values(number, _Message)

    def message(self, number: int) -> "_Message":
        """Return the last message with a field number; empty if there is none."""
        return [_Message(self.buffer, self.end, self.end), *self.messages(number)][-1]

    def number(self, number: int) -> int | None:
        """Return the last integer with a field number; None if there is none."""
        return [None, *self._values(number, int)][-1]

    def text(self) -> str:
        """Return the bytes as text."""
        return self.buffer[self.start : self.end].decode("utf-8")


def read_signature(path: Path) -> Signature:
    """Read inputs, outputs and metadata of a network without loading it.

    Parameters
    ----------
    path : Path
        A SavedModel folder, or an ONNX file.

    Raises
    ------
    InputError
        If there is no such file or folder, or it is damaged or of another format.
    """
    with _mapped(path) as message:
        return _read_saved_model(message) if path.is_dir() else _read_onnx(message)


def describe_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each tensor, such as ``input_0 float32 (n, 256, 256, 2)``."""
    lines = []
    for name, (dtype, shape) in tensors.items():
        sizes = ["?" if size < 0 else str(size) for size in shape or ()]
        if sizes[:1] == ["?"]:
            sizes[0] = "n"
        axes = "of any shape" if shape is None else f"({', '.join(sizes)})"
        lines.append(f"{name} {dtype} {axes}")
    return lines


def graph_digest(path: Path) -> str:
    """Return the sha256 of the graph of an ONNX file, in hexadecimal.

    The graph contains nodes and weights. Metadata do not change the digest, which is
    computed once per process until the file changes.

    Raises
    ------
    InputError
        If there is no such file, or it is not an ONNX file.
    """
    try:
        return digest_once(_graph_digest, path)
    except OSError as error:
        raise InputError(f"{path} is not an ONNX file: {error}. {REMEDY}") from None


def append_properties(path: Path, properties: Mapping[str, str]) -> None:
    """Add metadata_props to an ONNX file; a repeated name replaces the earlier value.

    Bytes after a protobuf message extend it, so the file is appended to.
    """
    with path.open("ab") as file:
        for key, value in properties.items():
            entry = _field(1, key.encode()) + _field(2, value.encode())
            file.write(_field(_PROPERTY, entry))


def _graph_digest(path: Path) -> str:
    total = hashlib.sha256()
    with _mapped(path) as message:
        for graph in message.messages(_GRAPH):  # protobuf merges several into one
            with memoryview(graph.buffer) as view, view[graph.start : graph.end] as content:
                total.update(content)
    return total.hexdigest()


def _field(number: int, content: bytes) -> bytes:
    """Encode a field with a length."""
    return _varint_bytes(number << 3 | 2) + _varint_bytes(len(content)) + content


def _varint_bytes(value: int) -> bytes:
    """Encode a number of variable length."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@contextmanager
def _mapped(path: Path) -> Iterator[_Message]:
    """Map the file of a network into memory; raise InputError if it cannot be read."""
    is_folder = path.is_dir()
    file = path / "saved_model.pb" if is_folder else path
    kind = "a SavedModel folder" if is_folder else "an ONNX file"
    try:
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            yield _Message(data, 0, len(data))
            return
    except FileNotFoundError:
        reason = "it contains no saved_model.pb" if is_folder else "there is no such file"
    except (_MalformedError, UnicodeDecodeError) as error:
        reason = f"{file.name} is damaged, cut off or of another format ({error})"
    except (OSError, ValueError) as error:  # mmap: an empty file is a ValueError
        reason = str(error)
    raise InputError(f"{path} is not {kind}: {reason}. {REMEDY}")


def _read_saved_model(message: _Message) -> Signature:
    """SavedModel.meta_graphs = 2; MetaGraphDef.meta_info_def = 1, signature_def = 5."""
    graphs = message.messages(2)
    for graph in graphs:
        for entry in graph.messages(5):
            if entry.message(1).text() == _SERVING:
                definition = entry.message(2)
                version = graph.message(1).message(5).text()
                return Signature(
                    dict(map(_tensor_info, definition.messages(1))),
                    dict(map(_tensor_info, definition.messages(2))),
                    {"tensorflow": version} if version else {},
                )
    raise _MalformedError(f"none of {len(graphs)} graphs has the signature {_SERVING}")


def _tensor_info(entry: _Message) -> tuple[str, Tensor]:
    """Read a map's entry: TensorInfo.dtype = 2, tensor_shape = 3 (dim = 2: size = 1)."""
    info = entry.message(2)
    dtype = info.number(2) or 0
    shape = info.message(3)
    sizes = tuple(_signed(dim.number(1) or 0) for dim in shape.messages(2))
    has_known_rank = not shape.number(3)  # unknown_rank
    name = _TENSORFLOW_TYPES.get(dtype, f"type {dtype}")
    return entry.message(1).text(), (name, sizes if has_known_rank else None)


def _signed(size: int) -> int:
    """Return the size of an axis: -1 is stored as 64 set bits."""
    return -1 if size >= 2**63 else size


def _read_onnx(message: _Message) -> Signature:
    """ModelProto.graph = 7 (input = 11, output = 12), opset_import = 8, properties = 14."""
    properties = {
        entry.message(1).text(): entry.message(2).text()
        for entry in message.messages(_PROPERTY)
    }
    graphs = message.messages(_GRAPH)
    if not message.messages(8):
        raise _MalformedError("it names no operator set")
    if not graphs:
        raise _MalformedError("it contains no graph")
    return Signature(
        dict(map(_value_info, graphs[-1].messages(11))),
        dict(map(_value_info, graphs[-1].messages(12))),
        properties,
    )


def _value_info(info: _Message) -> tuple[str, Tensor]:
    """ValueInfoProto: name = 1, type = 2; tensor_type = 1: elem_type = 1, shape = 2."""
    tensor = info.message(2).message(1)
    number = tensor.number(1) or 0
    name, dtype = info.message(1).text(), _ONNX_TYPES.get(number, f"type {number}")
    shapes = tensor.messages(2)
    if not shapes:
        return name, (dtype, None)
    sizes = (dim.number(1) for dim in shapes[-1].messages(1))  # None: a name, or missing
    return name, (dtype, tuple(-1 if size is None else _signed(size) for size in sizes))
