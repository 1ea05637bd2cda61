"""Cell diameter of a slide: `segmentation.diameter: auto`, and the pixel size.

The diameter is twice the median, as in Cellpose (Stringer et al., Nature Methods 18,
2021): a few windows are segmented as if their cells had the size that the backend expects,
and again at the scale of the cells that were found, until two passes agree. The windows
are placed where the slide has signal, whatever the patches.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np

from codexseg.arrays import Float64, Mask, Pixels
from codexseg.artifacts.warnings import RunWarning, as_json
from codexseg.backends.base import Backend, check_result, diameter_um
from codexseg.config.schema import Config
from codexseg.core.grid import Window
from codexseg.core.intensity.background import BLOCK_PX, signal_pixels
from codexseg.core.intensity.scaling import (
    choose_windows,
    equivalent_diameters,
    median_diameter,
)
from codexseg.errors import InputError
from codexseg.io.slides.base import SlideImage, resolve_mpp
from codexseg.run.records import Record
from codexseg.stages.segment.backend import (
    DIAMETER,
    DIAMETER_TABLE,
    backend_worker,
    diameter_inputs,
)
from codexseg.workflow.stage import Finished, StageContext, StageInputs
from codexseg.workflow.worker import worker_state

log = logging.getLogger(__name__)

ASSUMED_MPP = 0.5
"""Pixel size of an image without one, um: that of a scan at 20x."""
POSSIBLE_MPP = 0.01, 20.0
"""Pixel sizes outside are not those of a microscope, um."""
WINDOW_UM = 256.0
"""Side of a window, if that is 256 to 1024 px."""
MAX_PX = 2**22
"""Pixels of all windows, about."""
MIN_WINDOWS, MAX_WINDOWS = 4, 9
"""Number of windows, if there is enough signal."""
MIN_DIAMETER_PX = 5.0
"""Smallest plausible diameter, px of the slide."""
MIN_CELLS = 30
"""A median of fewer cells gives a warning."""
PASSES = ("first", "second", "third", "fourth")
"""At most this many passes, at least two."""
TOLERANCE = 0.05
"""Two passes agree if their medians differ by less than this fraction."""

_SETTING = "segmentation.diameter"


# -- pixel size ---------------------------------------------------------------------------


def known_mpp(config: Config, slide: SlideImage, *, override_mpp: bool = False) -> float:
    """Return the pixel size of a slide, um.

    Parameters
    ----------
    config : Config
        With `segmentation.diameter: auto`, 0.5 um per px is assumed for a slide without a
        pixel size.
    slide : SlideImage
        The slide.
    override_mpp : bool
        Whether `data.image_mpp` replaces a different pixel size of the slide.

    Raises
    ------
    InputError
        If the pixel size is unknown or impossible, or slide and configuration differ.
    """
    configured = config.data.image_mpp
    if is_mpp_assumed(config, slide):
        return ASSUMED_MPP
    from_file = None if override_mpp and configured else slide.mpp
    mpp = resolve_mpp(from_file, configured, slide.path)
    low, high = POSSIBLE_MPP
    if not low <= mpp <= high:
        raise InputError(
            f"{slide.path}: the pixel size is {mpp:g} um/px. Expected {low:g} to {high:g}, "
            f"as in light microscopy. Set data.image_mpp (--mpp) to the true value."
        )
    return mpp


def is_mpp_assumed(config: Config, slide: SlideImage) -> bool:
    """Return whether neither slide nor configuration give the pixel size."""
    unknown = slide.mpp is None and config.data.image_mpp is None
    return unknown and config.segmentation.diameter == "auto"


def assumed_mpp_warning(path: object) -> RunWarning:
    """Return the warning that the pixel size is assumed."""
    return RunWarning(
        "assumed_pixel_size",
        ASSUMED_MPP,
        "data.image_mpp",
        f"Neither {path} nor data.image_mpp give a pixel size. {ASSUMED_MPP:g} um per px "
        f"is assumed, so lengths and areas in um are approximate. Set data.image_mpp.",
    )


# -- the diameter of a run ----------------------------------------------------------------


def find_diameter(context: StageContext) -> Record:
    """Determine the diameter of the cells once; return it for the summary.

    The result is stored in the run, for workers and for a resumed run. Without
    `segmentation.diameter` the summary is empty.
    """
    inputs = context.inputs
    wanted = inputs.config.segmentation.diameter
    if wanted is None:
        return {}
    first = backend_worker(inputs, None if wanted == "auto" else wanted).backend
    typical, mpp = diameter_um(first), inputs.slide.mpp
    if wanted != "auto":
        return {"scale": _describe(mpp, typical, wanted, "given")}
    own = diameter_inputs(inputs)
    if not own.own.has_table(DIAMETER_TABLE):
        inputs.run.begin(DIAMETER, own.key)
        estimate, cells = _estimate(StageContext(own, context.executor), typical)
        own.own.write_table(
            DIAMETER_TABLE,
            {
                "diameter_um": np.array(estimate or typical),
                "cells": np.array(cells),
                "is_found": np.array(estimate is not None),
            },
        )
    table = own.own.read_table(DIAMETER_TABLE)
    source = "estimated" if table["is_found"] else "not found: taken for typical"
    diameter, cells = float(table["diameter_um"]), int(table["cells"])
    scale = _describe(mpp, typical, diameter, source) | {"cells": cells}
    few = [few_cells_warning(cells)] if table["is_found"] and cells < MIN_CELLS else []
    missing = [] if table["is_found"] else [no_cells_warning(mpp)]
    return {"scale": scale, "warnings": as_json([*few, *missing])}


def _describe(mpp: float, typical: float, diameter: float, source: str) -> Record:
    return {
        "diameter_um": round(diameter, 4),
        "diameter_px": round(diameter / mpp, 3),
        "typical_um": round(typical, 4),
        "mpp": round(mpp, 6),
        "mpp_shown": round(mpp * typical / diameter, 6),
        "factor": round(typical / diameter, 4),
        "source": source,
    }


def _estimate(context: StageContext, typical: float) -> tuple[float | None, int]:
    """Return the diameter, um (None: no cells were found), and the number of cells."""
    inputs = context.inputs
    signal = worker_state(inputs).statistics.signal
    windows = measured_windows(signal, inputs.slide.shape[1:], inputs.slide.mpp)

    def measure(diameter: float, number: int) -> list[Float64]:
        return _measure(context, windows, diameter, number)

    return agreed_diameter(measure, typical, inputs.slide.mpp)


class Measure(Protocol):
    """Measures cells at the scale for a diameter, um."""

    def __call__(self, diameter: float, number: int) -> list[Float64]:
        """Return the diameters that a pass finds, um, one array per window."""


def agreed_diameter(
    measure: Measure, typical: float, mpp: float
) -> tuple[float | None, int]:
    """Repeat measurements at the scale of their median until two passes agree.

    Parameters
    ----------
    measure : callable
        Measures cells.
    typical : float
        Diameter that the backend expects, um.
    mpp : float
        Micrometres per pixel: a diameter below 5 px is implausible.

    Returns
    -------
    diameter : float or None
        Median of the last pass, um; None, with a warning, if a pass found no cells.
    cells : int
        Number of cells in the last pass.
    """
    floor, cells, diameter = MIN_DIAMETER_PX * mpp, 0, typical
    for number in range(len(PASSES)):
        measured = measure(diameter, number)
        cells, median = sum(map(len, measured)), median_diameter(measured, floor)
        if median is None:
            log.info("no cells on %d windows (pass %d)", len(measured), number + 1)
            no_cells_warning(mpp).log()
            return None, 0
        change, diameter = abs(median / diameter - 1), median
        if number and change < TOLERANCE:
            break
    else:
        log.warning(
            "segmentation.diameter: auto: the last two of %d passes differ by %.0f %%. "
            "Check the result, or set the diameter in um.",
            len(PASSES),
            100 * change,
        )
    if cells < MIN_CELLS:
        few_cells_warning(cells).log()
    log.info("cells measure %.2f um (median of %d)", diameter, cells)
    return diameter, cells


def no_cells_warning(mpp: float) -> RunWarning:
    """Return the warning that no cells were found to measure."""
    return RunWarning(
        "diameter_not_found",
        mpp,
        _SETTING,
        f"segmentation.diameter: auto: no cells are found in the measured windows. The "
        f"image is used at its pixel size, {mpp:g} um. Set it in um.",
    )


def few_cells_warning(cells: int) -> RunWarning:
    """Return the warning that few cells were measured."""
    return RunWarning(
        "diameter_of_few_cells",
        cells,
        _SETTING,
        f"segmentation.diameter: auto is based on {cells} cells only. Check the result, or "
        f"set the diameter in um.",
    )


def measured_windows(signal: Mask, shape: tuple[int, int], mpp: float) -> list[Window]:
    """Choose windows of about 256 um, a few million px in all.

    Parameters
    ----------
    signal : (y, x) bool
        Which blocks of 64 px hold signal.
    shape : (int, int)
        Height and width of the slide, px.
    mpp : float
        Micrometres per pixel.
    """
    side = round(WINDOW_UM / mpp / BLOCK_PX) * BLOCK_PX
    side = min(max(side, 256), 1024)
    count = min(max(MAX_PX // side**2, MIN_WINDOWS), MAX_WINDOWS)
    return choose_windows(signal, shape, side, count)


def _measure(
    context: StageContext, windows: Sequence[Window], diameter: float, number: int
) -> list[Float64]:
    """Measure the cells of all windows, at the scale for cells of `diameter` um."""
    if not windows:
        return []
    name = PASSES[number]
    visit = partial(_measure_windows, tuple(windows), diameter)
    context.map_patches(visit, range(len(windows)), unit="window", part=name)
    records = context.inputs.part(name).own
    return [records.read_columns(i)["diameters_um"] for i in range(len(windows))]


def _measure_windows(
    windows: Sequence[Window], diameter: float, inputs: StageInputs, numbers: Sequence[int]
) -> Finished:
    """Measure the cells of windows. Runs in a worker."""
    worker = backend_worker(inputs, diameter)
    signal = worker_state(inputs).statistics.signal
    for number in numbers:
        window = windows[number]
        diameters = diameters_um(
            worker.backend,
            worker.read(window),
            window,
            inputs.slide.mpp,
            compartment=inputs.config.segmentation.compartment,
            signal=signal_pixels(signal, window),
        )
        inputs.own.write_columns(number, {"diameters_um": diameters})
        yield number, {"cells": len(diameters)}


def diameters_um(
    backend: Backend,
    pixels: Pixels,
    window: Window,
    mpp: float,
    *,
    compartment: str,
    signal: Mask | None = None,
) -> Float64:
    """Return the diameters of the cells in an image, um.

    Parameters
    ----------
    backend : Backend
        Made for the scale at which it sees the image.
    pixels : (2, y, x)
        The image.
    window : Window
        Its position on the slide.
    mpp : float
        Micrometres per pixel of the image.
    compartment : str
        The configured compartment.
    signal : (y, x) bool, optional
        Where the image has signal.
    """
    result = check_result(
        backend.predict(pixels[None], [window]), (1, *pixels.shape), backend
    )
    cells = result.labels[0, 1 if compartment == "nuclear" else 0]
    return equivalent_diameters(cells, signal) * mpp
