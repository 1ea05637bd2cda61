"""Mesmer's contract: the one input and four heads of a network, read from its file.

A SavedModel and an ONNX file are protobuf messages. Their signatures are a few hundred
bytes beside the graph, so they are read here without TensorFlow, onnx or a load of the
network: in milliseconds, and on machines that have neither.
"""

import hashlib
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from codexseg.errors import InputError

TILE_PX = 256
"""Side of the tiles that Mesmer's network reads."""
NETWORK_MPP = 0.5
"""Micrometres per pixel that it was trained at."""
HEAD_CHANNELS = (1, 3, 1, 3)
"""Channels of the heads: inner distance and pixelwise, of the cell, then the nucleus."""
Shape = tuple[int, ...]
Tensor = tuple[str, Shape | None]
"""dtype and shape; -1: any size; None: any number of axes."""

_REMEDY = (
    "Set segmentation.model_path to Mesmer's SavedModel folder, its tarball or a "
    "converted .onnx file."
)
_SERVING = "serving_default"
_GRAPH, _PROPERTY = 7, 14  # fields of ModelProto
_CHUNK_BYTES = 2**20
# tensorflow/core/framework/types.proto and onnx/onnx.proto; only for messages but float32
_TENSORFLOW_TYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 9: "int64"}
_TENSORFLOW_TYPES |= {7: "string", 10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16"}
_ONNX_TYPES = {1: "float32", 2: "uint8", 4: "uint16", 6: "int32", 7: "int64"}
_ONNX_TYPES |= {8: "string", 9: "bool", 10: "float16", 11: "float64", 16: "bfloat16"}


@dataclass(frozen=True)
class Signature:
    """What a network reads and gives.

    Attributes
    ----------
    inputs, outputs : dict
        (dtype, shape) by name; -1 in a shape is any size, a shape of None any number of
        axes.
    metadata : dict of str
        The metadata_props of an ONNX file; of a SavedModel the version of TensorFlow
        that wrote it.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contract:
    """The names by which a network of Mesmer's contract is run.

    Attributes
    ----------
    input_name : str
        Takes tiles (n, 256, 256, 2) float32: nucleus, whole cell.
    output_names : tuple of four str
        Inner distance (n, 256, 256, 1) and pixelwise (n, 256, 256, 3) of the cell, then
        of the nucleus.
    """

    input_name: str
    output_names: tuple[str, str, str, str]


class _Malformed(ValueError):
    """The bytes are no message of the kind expected."""


@dataclass(frozen=True)
class _Message:
    """A protobuf message: a stretch of a buffer, read field by field.

    Wire format: https://protobuf.dev/programming-guides/encoding
    """

    buffer: mmap.mmap
    start: int
    end: int

    def fields(self) -> "Iterator[tuple[int, int | _Message]]":
        """Yield (number, value) of each field: an int, or the stretch that it fills."""
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
                raise _Malformed(f"wire type {wire}")
            if number == 0 or at > self.end:
                raise _Malformed(f"field {number} ends at byte {at} of {self.end}")
            yield number, value

    def _varint(self, at: int) -> tuple[int, int]:
        """Return the number of variable length at a place, and the place behind it."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= self.end:
                break
            byte = self.buffer[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise _Malformed(f"a number ends at byte {at} of {self.end}")

    def messages(self, number: int) -> "Iterator[_Message]":
        """Yield the messages (or strings) of one number."""
        for found, value in self.fields():
            if found == number:
                if not isinstance(value, _Message):
                    raise _Malformed(f"field {number} is a number")
                yield value

    def message(self, number: int) -> "_Message":
        """Return the last message of one number, an empty one where there is none."""
        last = _Message(self.buffer, self.end, self.end)
        for found in self.messages(number):
            last = found
        return last

    def number(self, number: int) -> int | None:
        """Return the last integer of one number, None where there is none."""
        last = None
        for found, value in self.fields():
            if found == number:
                if not isinstance(value, int):
                    raise _Malformed(f"field {number} is no number")
                last = value
        return last

    def text(self) -> str:
        """Return the stretch as text."""
        try:
            return self.buffer[self.start : self.end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Malformed(str(error)) from None


def read_signature(path: Path) -> Signature:
    """Read what a network reads and gives, without loading it.

    Parameters
    ----------
    path : Path
        A SavedModel folder, or an ONNX file.

    Raises
    ------
    InputError
        If there is no such file or folder, or it is not one of these two formats, whole.
    """
    with _mapped(path) as message:
        return _read_saved_model(message) if path.is_dir() else _read_onnx(message)


def graph_digest(path: Path) -> str:
    """Return the sha256 of the graph of an ONNX file, in hexadecimal.

    It is of the nodes and weights alone: properties that are added do not change it. It
    is remembered in this process while the file does not change.

    Raises
    ------
    InputError
        If there is no such file, or it is no ONNX file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} is not an ONNX file: {error}. {_REMEDY}") from None
    return _graph_digest(os.fspath(path), status.st_mtime_ns, status.st_size)


def append_properties(path: Path, properties: Mapping[str, str]) -> None:
    """Add metadata_props to an ONNX file; of a name that it has, the new value counts.

    They are appended: what stands behind a protobuf message adds to it.
    """
    with path.open("ab") as file:
        for key, value in properties.items():
            entry = _field(1, key.encode()) + _field(2, value.encode())
            file.write(_field(_PROPERTY, entry))


@lru_cache(maxsize=64)
def _graph_digest(path: str, mtime_ns: int, size: int) -> str:
    del mtime_ns, size  # a file that changes is hashed again
    total = hashlib.sha256()
    with _mapped(Path(path)) as message:
        for graph in message.messages(_GRAPH):  # several would be merged into one
            for start in range(graph.start, graph.end, _CHUNK_BYTES):
                total.update(graph.buffer[start : min(start + _CHUNK_BYTES, graph.end)])
    return total.hexdigest()


def _field(number: int, content: bytes) -> bytes:
    """Write a field that has a length."""
    return _bytes_of(number << 3 | 2) + _bytes_of(len(content)) + content


def _bytes_of(value: int) -> bytes:
    """Write a number of variable length."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@contextmanager
def _mapped(path: Path) -> Iterator[_Message]:
    """Map the file of a network; what is wrong with it is an InputError."""
    folder = path.is_dir()
    file = path / "saved_model.pb" if folder else path
    kind = "a SavedModel folder" if folder else "an ONNX file"
    try:
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            yield _Message(data, 0, len(data))
    except FileNotFoundError:
        lack = "it holds no saved_model.pb" if folder else "there is no such file"
        raise InputError(f"{path} is not {kind}: {lack}. {_REMEDY}") from None
    except _Malformed as error:
        reason = f"{file.name} is damaged, cut off or of another format ({error})"
        raise InputError(f"{path} is not {kind}: {reason}. {_REMEDY}") from None
    except (OSError, ValueError) as error:  # mmap: an empty file is a ValueError
        raise InputError(f"{path} is not {kind}: {error}. {_REMEDY}") from None


def check_contract(signature: Signature, path: Path) -> Contract:
    """Check that a network keeps Mesmer's contract.

    The heads are ordered by the integer at the end of their names, as PanopticNet names
    them (semantic_0 to semantic_3): their order in the file means nothing.

    Parameters
    ----------
    signature : Signature
        From :func:`read_signature`.
    path : Path
        Named in the error.

    Raises
    ------
    InputError
        If it does not have one float32 input (n, 256, 256, 2) and four float32 outputs
        (n, 256, 256, 1 3 1 3), n of any size.
    """
    sides = (TILE_PX, TILE_PX)
    inputs = list(signature.inputs)
    if len(inputs) != 1 or not _fits(signature.inputs[inputs[0]], (-1, *sides, 2)):
        expected = f"one float32 input (n, {TILE_PX}, {TILE_PX}, 2): nucleus, whole cell"
        raise _broken(path, "reads", signature.inputs, expected)
    numbers = {name: re.search(r"\d+(?=(:0)?$)", name) for name in signature.outputs}
    ordered = sorted(
        (name for name, match in numbers.items() if match),
        key=lambda name: int(numbers[name][0]),  # type: ignore[index]
    )
    heads = [(-1, *sides, channels) for channels in HEAD_CHANNELS]
    distinct = len({int(match[0]) for match in numbers.values() if match})
    if not (
        len(signature.outputs) == len(ordered) == distinct == len(heads)
        and all(
            _fits(signature.outputs[name], head)
            for name, head in zip(ordered, heads, strict=True)
        )
    ):
        expected = (
            f"four float32 outputs (n, {TILE_PX}, {TILE_PX}, c) whose names end in a "
            "number, c = 1, 3, 1, 3 in the order of the numbers: inner distance and "
            "pixelwise of the cell, then of the nucleus"
        )
        raise _broken(path, "gives", signature.outputs, expected)
    first, second, third, fourth = ordered
    return Contract(inputs[0], (first, second, third, fourth))


def describe(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each tensor, such as ``input_0 float32 (n, 256, 256, 2)``."""
    lines = []
    for name, (dtype, shape) in tensors.items():
        sizes = ["?" if size < 0 else str(size) for size in shape or ()]
        if sizes[:1] == ["?"]:
            sizes[0] = "n"
        axes = "of any shape" if shape is None else f"({', '.join(sizes)})"
        lines.append(f"{name} {dtype} {axes}")
    return lines


def _fits(tensor: Tensor, expected: Shape) -> bool:
    """Whether a tensor has a shape; sides that the file leaves open fit as well."""
    dtype, shape = tensor
    if dtype != "float32" or shape is None or len(shape) != len(expected):
        return False
    batch, *sides, channels = shape
    return (
        batch == expected[0]
        and channels == expected[-1]
        and all(side in (TILE_PX, -1) for side in sides)
    )


def _broken(
    path: Path, verb: str, tensors: Mapping[str, Tensor], expected: str
) -> InputError:
    found = "; ".join(describe(tensors)) or "nothing"
    return InputError(
        f"{path} is not a network of Mesmer's contract: it {verb} {found}, expected "
        f"{expected}. {_REMEDY}"
    )


def _read_saved_model(message: _Message) -> Signature:
    """SavedModel.meta_graphs = 2; MetaGraphDef.meta_info_def = 1, signature_def = 5."""
    graphs = list(message.messages(2))
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
    raise _Malformed(f"none of {len(graphs)} graphs has the signature {_SERVING}")


def _tensor_info(entry: _Message) -> tuple[str, Tensor]:
    """Read a map's entry: TensorInfo.dtype = 2, tensor_shape = 3 (dim = 2: size = 1)."""
    info = entry.message(2)
    dtype = info.number(2) or 0
    shape = info.message(3)
    sizes = tuple(_signed(dim.number(1) or 0) for dim in shape.messages(2))
    known = not shape.number(3)  # unknown_rank
    name = _TENSORFLOW_TYPES.get(dtype, f"type {dtype}")
    return entry.message(1).text(), (name, sizes if known else None)


def _signed(size: int) -> int:
    """Return the size of an axis: -1 is written as 64 bits that are set."""
    return -1 if size >= 2**63 else size


def _read_onnx(message: _Message) -> Signature:
    """ModelProto.graph = 7 (input = 11, output = 12), opset_import = 8, properties = 14."""
    graph, properties, opsets = None, {}, 0
    for number, value in message.fields():
        if number in (_GRAPH, 8, _PROPERTY) and not isinstance(value, _Message):
            raise _Malformed(f"field {number} is a number")
        if number == _GRAPH:
            graph = value
        elif number == 8:
            opsets += 1
        elif number == _PROPERTY and isinstance(value, _Message):
            properties[value.message(1).text()] = value.message(2).text()
    if not isinstance(graph, _Message) or not opsets:
        raise _Malformed("it holds no graph" if opsets else "it names no operator set")
    return Signature(
        dict(map(_value_info, graph.messages(11))),
        dict(map(_value_info, graph.messages(12))),
        properties,
    )


def _value_info(info: _Message) -> tuple[str, Tensor]:
    """ValueInfoProto: name = 1, type = 2; tensor_type = 1: elem_type = 1, shape = 2."""
    tensor = info.message(2).message(1)
    number = tensor.number(1) or 0
    name, dtype = info.message(1).text(), _ONNX_TYPES.get(number, f"type {number}")
    shapes = list(tensor.messages(2))
    if not shapes:
        return name, (dtype, None)
    sizes = (dim.number(1) for dim in shapes[-1].messages(1))  # None: a name, or nothing
    return name, (dtype, tuple(-1 if size is None else _signed(size) for size in sizes))
