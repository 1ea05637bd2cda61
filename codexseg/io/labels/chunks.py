"""Which chunks whole-slide labels lie in, so that no two cores share one.

Chunks follow the cores of the grid: on every level on which the cores begin on a pixel,
a whole number of chunks fills a core. So every core is written alone, with its part of
the coarser levels.
"""

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.labels import ngff

_SMALLEST_CHUNK_PX = 128
_CODEC_LIMIT_BYTES = 2**31 - 17


def chunk_length(step: int) -> int:
    """Length of the chunks of which a whole number fills a core.

    Parameters
    ----------
    step : int
        Height or width of a core, px.

    Returns
    -------
    int
        The largest divisor of `step` that is at most 1024; where that is below 128 and
        not `step` itself, the smallest one above 1024, for a prime the whole step.
    """
    divisors = [n for n in range(1, int(step**0.5) + 1) if step % n == 0]
    divisors += [step // n for n in divisors]
    largest = max(n for n in divisors if n <= ngff.CHUNK_PX)
    if largest == step or largest >= _SMALLEST_CHUNK_PX:
        return largest
    return min(n for n in divisors if n > ngff.CHUNK_PX)


def core_levels(shape: tuple[int, int], step: tuple[int, int]) -> int:
    """Count the coarser levels that can be written core by core, like the full size.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the slide, px.
    step : (int, int)
        Height and width of a core, px.

    Returns
    -------
    int
        The last level at which cores begin on a pixel and are at least 128 px long.
    """
    last = 0
    for level in range(1, len(ngff.level_shapes(shape))):
        part = 2**level
        for core, length in zip(step, shape, strict=True):
            if core < length and (core % part or core // part < _SMALLEST_CHUNK_PX):
                return last
        last = level
    return last


def level_chunks(shape: tuple[int, int], step: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the chunks of each level, those of cores where cores write it."""
    chunks = []
    by_core = core_levels(shape, step)
    for level, (height, width) in enumerate(ngff.level_shapes(shape)):
        if level <= by_core:
            part = 2**level
            core = -(-step[0] // part), -(-step[1] // part)
            chunks.append(_chunks((height, width), core))
        else:
            chunks.append((min(height, ngff.CHUNK_PX), min(width, ngff.CHUNK_PX)))
    return chunks


def require_whole_chunks(
    window: Window, shape: tuple[int, int], chunks: tuple[int, int]
) -> None:
    """Refuse a window that other processes may write into at the same time."""
    for span, length, chunk in zip(window.slices, shape, chunks, strict=True):
        inside = 0 <= span.start < span.stop <= length
        whole = span.start % chunk == 0 and (span.stop % chunk == 0 or span.stop == length)
        if not (inside and whole):
            raise InputError(
                f"{window} is not made of whole chunks of {chunks} px of the slide of "
                f"{shape} px; write the cores of the grid that the store was created for."
            )


def _chunks(shape: tuple[int, int], step: tuple[int, int]) -> tuple[int, int]:
    # Where one core spans the slide, nothing has to divide it.
    dy, dx = (
        chunk_length(core) if core < length else min(ngff.CHUNK_PX, length)
        for core, length in zip(step, shape, strict=True)
    )
    if 4 * dy * dx > _CODEC_LIMIT_BYTES:
        raise InputError(
            f"cores of {step} px need chunks of {(dy, dx)} px, more than a codec takes; "
            f"choose a patch_height and a patch_width that are multiples of 512."
        )
    return dy, dx
