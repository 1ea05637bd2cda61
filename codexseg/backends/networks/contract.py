"""Mesmer's contract: one input and four heads, checked on the signature of a network."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from codexseg.backends.networks.signature import REMEDY, Signature, Tensor, describe_tensors
from codexseg.errors import InputError

TILE_PX = 256
"""Side of the input tiles of Mesmer's network."""
NETWORK_MPP = 0.5
"""Pixel size of its training images, um."""
HEAD_CHANNELS = (1, 3, 1, 3)
"""Channels of the heads: inner distance and pixelwise, of the cell, then the nucleus."""
MAP_CHANNELS = (0, 1, 0, 1)
"""Channel of each head that is used: inner distance, and interior.

The classes of the pixelwise heads are boundary, interior and background.
"""


@dataclass(frozen=True)
class Contract:
    """Names of the tensors of a network with Mesmer's contract.

    Attributes
    ----------
    input_name : str
        Tiles (n, 256, 256, 2) float32: nucleus, whole cell.
    output_names : tuple of four str
        Inner distance (n, 256, 256, 1) and pixelwise (n, 256, 256, 3) of the cell, then
        of the nucleus.
    """

    input_name: str
    output_names: tuple[str, str, str, str]


def check_contract(signature: Signature, path: Path) -> Contract:
    """Check that a network has the tensors of Mesmer's contract.

    Heads are sorted by the integer at the end of their names, as PanopticNet names them
    (semantic_0 to semantic_3); their order in the file is arbitrary.

    Parameters
    ----------
    signature : Signature
        Result of :func:`codexseg.backends.networks.signature.read_signature`.
    path : Path
        Path for the error message.

    Raises
    ------
    InputError
        Unless it has one float32 input (n, 256, 256, 2) and four float32 outputs
        (n, 256, 256, 1 3 1 3), n of any size.
    """
    inputs = list(signature.inputs)
    if len(inputs) != 1 or not _fits(signature.inputs[inputs[0]], 2):
        expected = f"one float32 input (n, {TILE_PX}, {TILE_PX}, 2): nucleus, whole cell"
        raise _violation(path, "reads", signature.inputs, expected)
    numbered = {
        int(match[0]): name
        for name in signature.outputs
        if (match := re.search(r"\d+(?=(:0)?$)", name))
    }
    ordered = [name for _, name in sorted(numbered.items())]
    heads = [signature.outputs[name] for name in ordered]
    if not (
        len(signature.outputs) == len(heads) == len(HEAD_CHANNELS)
        and all(map(_fits, heads, HEAD_CHANNELS))
    ):
        expected = (
            f"four float32 outputs (n, {TILE_PX}, {TILE_PX}, c) with names that end in a "
            "number, c = 1, 3, 1, 3 in the order of the numbers: inner distance and "
            "pixelwise of the cell, then of the nucleus"
        )
        raise _violation(path, "gives", signature.outputs, expected)
    first, second, third, fourth = ordered
    return Contract(inputs[0], (first, second, third, fourth))


def _fits(tensor: Tensor, channels: int) -> bool:
    """Return whether a tensor is float32 (n, 256, 256, channels).

    Sides of unknown size fit as well.
    """
    dtype, shape = tensor
    if dtype != "float32" or shape is None or len(shape) != 4:
        return False
    return shape[::3] == (-1, channels) and {*shape[1:3]} <= {TILE_PX, -1}


def _violation(
    path: Path, verb: str, tensors: Mapping[str, Tensor], expected: str
) -> InputError:
    actual = "; ".join(describe_tensors(tensors)) or "nothing"
    return InputError(
        f"{path} is not a network of Mesmer's contract: it {verb} {actual}, expected "
        f"{expected}. {REMEDY}"
    )
