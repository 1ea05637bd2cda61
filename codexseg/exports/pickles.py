"""Pickles for a plain `pickle.load`, written with one item in memory.

Arrays are compressed in the pickle: they are stored as calls of `zlib.decompress` and
numpy functions, so that reading needs only numpy and the standard library. Many processes
can pickle items separately; the joined file has the bytes of a file written by one.
"""

import pickle
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

Item = dict[str, Any]


def write_pickle(path: Path, items: Iterable[Item]) -> None:
    """Write a list of dicts, one dict at a time.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    items : iterable of dict
        Numbers, bools, strings, bytes, None, numpy arrays of numbers, bools or strings,
        numpy scalars (stored as Python scalars), and dicts, lists, tuples and sets of
        these. A generator keeps one item in memory.

    Raises
    ------
    InputError
        If an item contains another class, which the reader of the file would need.

    Notes
    -----
    `pickle.load` returns the list with writable arrays. Objects shared by two items are
    stored twice. Equal items give equal bytes.
    """
    _write_list(path, map(_pickled, items))


def write_pickle_item(path: Path, item: Item) -> None:
    """Write the part of a pickled list that one item takes, for `join_pickle`.

    Raises
    ------
    InputError
        If the item contains a class that :func:`write_pickle` does not support.
    """
    with replacing(path) as part:
        part.write_bytes(_pickled(item))


def join_pickle(path: Path, items: Iterable[Path]) -> None:
    """Write the list of the items that :func:`write_pickle_item` wrote.

    Parameters
    ----------
    path : Path
        The file to write or to replace.
    items : iterable of Path
        Files of the items, in order.

    Notes
    -----
    The file has the same bytes as that of :func:`write_pickle`.
    """
    _write_list(path, (item.read_bytes() for item in items))


def _write_list(path: Path, pickled: Iterable[bytes]) -> None:
    """Write a list of pickled items; one is in memory."""
    with replacing(path) as part, part.open("wb") as file:
        file.write(pickle.PROTO + bytes([_PROTOCOL]) + pickle.EMPTY_LIST)
        file.writelines(pickled)
        file.write(pickle.STOP)


def _pickled(item: Item) -> bytes:
    buffer = BytesIO()
    pickler = _Deflating(buffer, _PROTOCOL)
    pickler.fast = True  # no memo: items do not refer to each other
    pickler.dump(item)
    whole = buffer.getbuffer()
    # without PROTO n and STOP; APPEND adds the item to the list on the stack
    return bytes(whole[len(pickle.PROTO) + 1 : -len(pickle.STOP)]) + pickle.APPEND


_CALLED = (
    *(zlib.decompress, np.frombuffer, np.reshape, bytearray),
    *(bool, int, float, complex, str, bytes),
)
"""Functions that the reader calls."""


class _Call:
    """A function call for the reader."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments


class _Deflating(pickle.Pickler):
    """Pickler that compresses arrays and refuses classes beyond Python and numpy."""

    def reducer_override(self, value: Any, /) -> Any:
        """Return the call that creates `value`, except for builtin containers."""
        if isinstance(value, _Call):
            return value.reduced
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU":
            # a bytearray, because an array on bytes is read-only
            data = _Call(bytearray, _Call(zlib.decompress, deflate(value)))
            flat = _Call(np.frombuffer, data, value.dtype.str)
            return np.reshape, (flat, value.shape)
        if isinstance(value, np.generic) and value.dtype.kind in "biufcSU":
            return type(value.item()), (value.item(),)
        if any(value is function for function in _CALLED):
            return NotImplemented  # pickled by name
        raise InputError(
            f"Cannot pickle a {type(value).__qualname__} for readers without its class. "
            f"Convert it to numbers, strings, arrays of these, dicts, lists or tuples."
        )
