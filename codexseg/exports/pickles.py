"""Pickles that a plain `pickle.load` reads, written with one item in memory.

Arrays are deflated inside the pickle: they are stored as calls of `zlib.decompress` and
`numpy`, so that reading needs numpy and the standard library, and not codexseg. Items can
be pickled apart, by many processes, and joined into the file that one would have written.
"""

import pickle
import shutil
import zlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from codexseg.errors import InputError
from codexseg.exports.deflate import deflate
from codexseg.run.files import replacing

_PROTOCOL = 4
_COPIED_AT_ONCE = 1 << 22

Item = dict[str, Any]


def write_pickle(path: Path, items: Iterable[Item]) -> None:
    """Write a list of dicts, one at a time.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    items : iterable of dict
        Numbers, bools, strings, bytes, None, numpy arrays of numbers, bools or strings,
        numpy scalars (stored as Python's), and dicts, lists, tuples and sets of these.
        A generator keeps memory at one item.

    Raises
    ------
    InputError
        If an item holds anything else: its class would be needed to read the file.

    Notes
    -----
    `pickle.load` returns the list, with arrays that can be written to. An item that two
    items share is stored twice. Equal items give equal bytes.
    """
    with replacing(path) as part, part.open("wb") as file:
        file.write(_BEGIN)
        for item in items:
            file.write(_pickled(item))
            del item  # before the next one is made
        file.write(pickle.STOP)


def write_pickle_item(path: Path, item: Item) -> None:
    """Write what an item is in the pickle of a list, for `join_pickle`.

    Raises
    ------
    InputError
        If the item holds what :func:`write_pickle` does not take.
    """
    with replacing(path) as part, part.open("wb") as file:
        file.write(_pickled(item))


def join_pickle(path: Path, items: Iterable[Path]) -> None:
    """Write the list of items that :func:`write_pickle_item` wrote.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    items : iterable of Path
        The items' files, in order.

    Notes
    -----
    The bytes are those of :func:`write_pickle`.
    """
    with replacing(path) as part, part.open("wb") as file:
        file.write(_BEGIN)
        for item in items:
            with item.open("rb") as source:
                shutil.copyfileobj(source, file, _COPIED_AT_ONCE)
        file.write(pickle.STOP)


_BEGIN = pickle.PROTO + bytes([_PROTOCOL]) + pickle.EMPTY_LIST


def _pickled(item: Item) -> bytes:
    buffer = BytesIO()
    pickler = _Deflating(buffer, _PROTOCOL)
    pickler.fast = True  # no memo: nothing refers to bytes of another item
    pickler.dump(item)
    whole = buffer.getbuffer()
    # less PROTO n and STOP, and appended to the list that lies below on the stack
    return bytes(whole[len(pickle.PROTO) + 1 : -len(pickle.STOP)]) + pickle.APPEND


_CALLED = (
    *(zlib.decompress, np.frombuffer, np.reshape, bytearray),
    *(bool, int, float, complex, str, bytes),
)
"""All that the reader needs."""


class _Call:
    """A call of a function that the reader makes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments


class _Deflating(pickle.Pickler):
    """Stores arrays deflated, and nothing that needs more than numpy to be read."""

    def reducer_override(self, value: Any, /) -> Any:
        """Say what call makes `value`, other than the builtin containers."""
        if isinstance(value, _Call):
            return value.reduced
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU":
            # a bytearray, because an array of bytes could not be written to
            held = _Call(bytearray, _Call(zlib.decompress, deflate(value)))
            flat = _Call(np.frombuffer, held, value.dtype.str)
            return np.reshape, (flat, value.shape)
        if isinstance(value, np.generic) and value.dtype.kind in "biufcSU":
            return type(value.item()), (value.item(),)
        if any(value is function for function in _CALLED):
            return NotImplemented  # by its name
        raise InputError(
            f"cannot store a {type(value).__qualname__} in a pickle for others to read, "
            f"expected numbers, strings, arrays of them, and dicts, lists and tuples: "
            f"convert it."
        )
