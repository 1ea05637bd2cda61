"""Chunk sizes of whole-slide labels, chosen so that no two cores share a chunk.

On every pyramid level on which the cores begin on a pixel border, a whole number of
chunks fills a core. Each core can thus be written on its own, coarser levels included.
"""

from math import isqrt

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.labels import ngff

_MIN_CHUNK_PX = 128
_CODEC_LIMIT_BYTES = 2**31 - 17


def chunk_length(step: int) -> int:
    """Return the chunk length for cores of a given length.

    Parameters
    ----------
    step : int
        Height or width of a core, px.

    Returns
    -------
    int
        The largest divisor of `step` up to 1024. If that is below 128 and not `step`
        itself, the smallest divisor above 1024 (for a prime, `step`).
    """
    divisors = [n for n in range(1, isqrt(step) + 1) if step % n == 0]
    divisors += [step // n for n in divisors]
    largest = max(n for n in divisors if n <= ngff.CHUNK_PX)
    if largest == step or largest >= _MIN_CHUNK_PX:
        return largest
    return min(n for n in divisors if n > ngff.CHUNK_PX)


def core_levels(shape: tuple[int, int], step: tuple[int, int]) -> int:
    """Return the number of coarser levels that can be written core by core.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the slide, px.
    step : (int, int)
        Height and width of a core, px.

    Returns
    -------
    int
        The last level on which cores begin on a pixel border and are at least 128 px
        long.
    """
    last = 0
    for level in range(1, len(ngff.level_shapes(shape))):
        factor = 2**level
        for core, length in zip(step, shape, strict=True):
            if core < length and (core % factor or core // factor < _MIN_CHUNK_PX):
                return last
        last = level
    return last


def level_chunks(shape: tuple[int, int], step: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the chunk shape of each level, full resolution first."""
    chunks = []
    last = core_levels(shape, step)
    for level, (height, width) in enumerate(ngff.level_shapes(shape)):
        size, factor = (height, width), 2**level
        core = (-(-step[0] // factor), -(-step[1] // factor)) if level <= last else size
        chunks.append(_chunks(size, core))
    return chunks


def require_whole_chunks(
    window: Window, shape: tuple[int, int], chunks: tuple[int, int]
) -> None:
    """Raise InputError if a window cuts a chunk that another process may write."""
    for span, length, chunk in zip(window.slices, shape, chunks, strict=True):
        inside = 0 <= span.start < span.stop <= length
        whole = span.start % chunk == 0 and (span.stop % chunk == 0 or span.stop == length)
        if not (inside and whole):
            raise InputError(
                f"{window} does not consist of whole chunks of {chunks} px of the slide of "
                f"{shape} px. Write the cores of the grid that the store was created for."
            )


def _chunks(shape: tuple[int, int], step: tuple[int, int]) -> tuple[int, int]:
    # A core that spans the slide needs no divisor.
    dy, dx = (
        chunk_length(core) if core < length else min(ngff.CHUNK_PX, length)
        for core, length in zip(step, shape, strict=True)
    )
    if 4 * dy * dx > _CODEC_LIMIT_BYTES:
        raise InputError(
            f"Cores of {step} px need chunks of {(dy, dx)} px, which exceed the limit of "
            f"the codec. Choose a patch_height and a patch_width that are multiples of 512."
        )
    return dy, dx
