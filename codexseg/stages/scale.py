"""The size of the cells of a slide, where nobody says it: `segmentation.diameter: auto`.

Twice the median, as Cellpose does it: a few windows of the slide are segmented as if its
cells were of the size that the backend was made for, and once more at the scale that the
cells found then ask for; more often where the two disagree, as they do where the pixel size
is far off. The windows lie where the slide's signal is, whatever the patches.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codexseg.arrays import Pixels
from codexseg.backends.base import Backend, check_labels, diameter_um
from codexseg.config.schema import Config
from codexseg.core.grid import Window
from codexseg.core.intensity.background import BLOCK_PX, signal_pixels
from codexseg.core.intensity.scaling import (
    SizeModel,
    choose_windows,
    equivalent_diameters,
    median_diameter,
)
from codexseg.errors import InputError
from codexseg.io.slides.base import SlideImage, resolve_mpp
from codexseg.run.directory import Row
from codexseg.stages.base import Context, Job
from codexseg.stages.pixels import FOUND, SCALE, backend_for, loaded, pixels_of, scale_job

log = logging.getLogger(__name__)

ASSUMED_MPP = 0.5
"""Pixel size of an image that does not say it, um: that of a scan at 20x."""
POSSIBLE_MPP = 0.01, 20.0
"""Pixel sizes outside, um, are no microscope's."""
WINDOW_UM = 256.0
"""Side of a window, as far as it has from 256 to 1024 px."""
MOST_PX = 2**22
"""Windows together, about."""
FEWEST, MOST = 4, 9
"""Windows, where there is signal enough."""
FLOOR_PX = 5.0
"""Least diameter that is believed, px of the slide."""
FEW_CELLS = 30
"""A median of fewer cells is doubted aloud."""

PASSES = ("first", "second", "third", "fourth")
"""At most so many; two at least."""
AGREE = 0.05
"""Passes whose medians differ by less than this part agree."""


def known_mpp(config: Config, slide: SlideImage, *, trusts_config: bool = False) -> float:
    """Return the pixel size of a slide, um.

    Parameters
    ----------
    config : Config
        With `segmentation.diameter: auto` a slide that does not say it is taken for one
        of 0.5 um per px.
    slide : SlideImage
        The slide.
    trusts_config : bool
        Whether `data.image_mpp` counts though the slide says another pixel size.

    Raises
    ------
    InputError
        If it is unknown or cannot be, or slide and config contradict each other.
    """
    said = config.data.image_mpp
    if is_mpp_assumed(config, slide):
        return ASSUMED_MPP
    from_file = None if trusts_config and said else slide.mpp
    mpp = resolve_mpp(from_file, said, slide.path)
    low, high = POSSIBLE_MPP
    if not low <= mpp <= high:
        raise InputError(
            f"{slide.path}: the pixel size is {mpp:g} um/px, expected {low:g} to {high:g}, "
            f"as light microscopes have: set data.image_mpp (--mpp) to what it is."
        )
    return mpp


def is_mpp_assumed(config: Config, slide: SlideImage) -> bool:
    """Whether the pixel size is nobody's but :data:`ASSUMED_MPP`."""
    unknown = slide.mpp is None and config.data.image_mpp is None
    return unknown and config.segmentation.diameter == "auto"


def assumption(path: object) -> str:
    """Say that the pixel size is assumed."""
    return (
        f"{path} does not say its pixel size, and neither does data.image_mpp: "
        f"{ASSUMED_MPP:g} um per px is assumed. Cells are found at the scale that they ask "
        f"for (segmentation.diameter: auto); lengths and areas in um are only as right as "
        f"that."
    )


def find_scale(context: Context) -> Row:
    """Find the diameter of the slide's cells, once; return what the summary says of it.

    The result is kept in the run, where workers and a run that goes on find it. Without
    `segmentation.diameter` there is nothing to find.
    """
    job = context.job
    wanted = job.config.segmentation.diameter
    if wanted is None:
        return {}
    typical = diameter_um(backend_for(job, None if wanted == "auto" else wanted))
    if wanted != "auto":
        return {"scale": _described(job, typical, wanted, "given")}
    own = scale_job(job)
    if not (job.run.work_path(SCALE, own.key) / FOUND).is_dir():
        job.run.begin(SCALE, own.key)
        found, cells = _estimate(Context(own, context.executor), typical)
        numbers = {"diameter_um": np.array(found or typical), "cells": np.array(cells)}
        own.write_tables(FOUND, numbers | {"is_found": np.array(found is not None)})
    known = own.tables(SCALE, FOUND)
    source = "estimated" if known["is_found"] else "not found: taken for typical"
    row = _described(job, typical, float(known["diameter_um"]), source)
    return {"scale": row | {"cells": int(known["cells"])}}


def _described(job: Job, typical: float, diameter: float, source: str) -> Row:
    mpp = job.source.mpp
    return {
        "diameter_um": round(diameter, 4),
        "diameter_px": round(diameter / mpp, 3),
        "typical_um": round(typical, 4),
        "mpp": round(mpp, 6),
        "mpp_shown": round(mpp * typical / diameter, 6),
        "factor": round(typical / diameter, 4),
        "source": source,
    }


def _estimate(context: Context, typical: float) -> tuple[float | None, int]:
    """Return the diameter, um (None: no cells were found), and the number of cells."""
    windows = windows_of(context.job)

    def measure(diameter: float, number: int) -> list[NDArray[np.float64]]:
        return _measure(context, windows, diameter, number)

    return agreed_diameter(measure, typical, context.job.source.mpp)


class Measure(Protocol):
    """Measures cells at the scale for cells of a diameter, um."""

    def __call__(self, diameter: float, number: int) -> list[NDArray[np.float64]]:
        """Return the diameters that a pass finds, um, in as many arrays as windows."""


def agreed_diameter(
    measure: Measure, typical: float, mpp: float
) -> tuple[float | None, int]:
    """Take the median of the cells' diameters, and again at its scale, until both agree.

    Parameters
    ----------
    measure : callable
        Measures cells.
    typical : float
        The diameter that the backend was made for, um.
    mpp : float
        Real pixel size, um: a diameter below 5 px is not believed.

    Returns
    -------
    diameter : float or None
        Median of the last pass, um; None where one found no cells: a warning says so.
    cells : int
        How many there were in the last pass.
    """
    floor, cells, diameter = FLOOR_PX * mpp, 0, typical
    for number in range(len(PASSES)):
        found = measure(diameter, number)
        cells, median = sum(map(len, found)), median_diameter(found, floor)
        if median is None:
            log.warning(
                "segmentation.diameter: auto: no cells are found on %d windows (pass %d), "
                "so the image is taken at its pixel size, %g um; give the diameter of its "
                "cells in um.",
                len(found),
                number + 1,
                mpp,
            )
            return None, 0
        change, diameter = abs(median / diameter - 1), median
        if number and change < AGREE:
            break
    else:
        log.warning(
            "segmentation.diameter: auto: the size of the cells is still in doubt after %d "
            "passes (the last two differ by %.0f %%): look at the result, or give the "
            "diameter in um.",
            len(PASSES),
            100 * change,
        )
    if cells < FEW_CELLS:
        log.warning(
            "segmentation.diameter: auto rests on %d cells only: look at the result, or "
            "give the diameter in um.",
            cells,
        )
    log.info("cells measure %.2f um (median of %d)", diameter, cells)
    return diameter, cells


def windows_of(job: Job) -> list[Window]:
    """Return where on the slide cells are measured: it depends on the slide alone."""
    return choose(loaded(job).signal, job.source.shape[1:], job.source.mpp)


def choose(signal: NDArray[np.bool_], shape: tuple[int, int], mpp: float) -> list[Window]:
    """Choose windows of about 256 um, a few million px in all."""
    side = round(WINDOW_UM / mpp / BLOCK_PX) * BLOCK_PX
    side = min(max(side, 256), 1024)
    return choose_windows(signal, shape, side, min(max(MOST_PX // side**2, FEWEST), MOST))


def _measure(
    context: Context, windows: Sequence[Window], diameter: float, number: int
) -> list[NDArray[np.float64]]:
    """Measure the cells of all windows, at the scale for cells of `diameter` um."""
    if not windows:
        return []
    name = PASSES[number]
    visit = partial(_visit, tuple(windows), diameter, number)
    pieces = range(len(windows))
    context.map_patches(visit, pieces, unit="window", part=name)
    job = context.job
    return [job.tables(f"{SCALE}.{name}", p)["diameters_um"] for p in pieces]


def _visit(
    windows: Sequence[Window],
    diameter: float,
    number: int,
    job: Job,
    pieces: Sequence[int],
) -> Iterator[tuple[int, Row]]:
    """Measure the cells of windows. Runs in a worker."""
    backend, signal = backend_for(job, diameter), loaded(job).signal
    for piece in pieces:
        window = windows[piece]
        found = diameters_um(
            backend,
            pixels_of(job, window),
            window,
            job.source.mpp,
            (job.config.segmentation.compartment, signal_pixels(signal, window)),
            is_first=number == 0,
        )
        job.write_tables(piece, {"diameters_um": found})
        yield piece, {"cells": len(found)}


def diameters_um(
    backend: Backend,
    pixels: Pixels,
    window: Window,
    mpp: float,
    looked_at: tuple[str, NDArray[np.bool_] | None],
    *,
    is_first: bool,
) -> NDArray[np.float64]:
    """Return the diameters of the cells in an image, um at its real pixel size.

    Parameters
    ----------
    backend : Backend
        Made for the scale at which it is to see the image. One with `size_model` and
        `style` estimates in the first pass.
    pixels : (2, y, x)
        The image.
    window : Window
        Where on the slide it lies.
    mpp : float
        Its real pixel size, um.
    looked_at : (str, (y, x) bool or None)
        The compartment that is asked for, and where signal lies.
    is_first : bool
        Whether nothing is known yet.
    """
    model: SizeModel | None = getattr(backend, "size_model", None)
    if is_first and model is not None:
        return model.predict(backend.style(pixels[None]))  # type: ignore[attr-defined]
    labels = check_labels(
        backend.predict(pixels[None], [window]), (1, *pixels.shape), backend.name
    )
    compartment, signal = looked_at
    cells = labels[0, 1 if compartment == "nuclear" else 0]
    return equivalent_diameters(cells, signal) * mpp
