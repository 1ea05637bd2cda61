"""Predictions of a backend, checked and reduced to the configured compartment.

Used by the stage segment, and in memory by :func:`codexseg.segment.segment_image` and
:func:`codexseg.segment.segment`.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from codexseg.arrays import Labels, Mask, Pixels
from codexseg.backends.base import (
    Backend,
    BackendResult,
    WholeSlideBackend,
    check_result,
)
from codexseg.backends.slide_pass import SlideView
from codexseg.core.grid import Window
from codexseg.core.labels.operations import any_where, object_table, relabel


def predict_patches(
    backend: Backend, patches: Pixels, windows: Sequence[Window], compartment: str
) -> Iterator[BackendResult]:
    """Predict patches of one shape; yield the result of each, with labels (2, y, x).

    Parameters
    ----------
    backend : Backend
        Any backend.
    patches : (n, 2, y, x)
        Pixels in the intensities that the backend expects.
    windows : sequence of Window
        Their positions on the slide.
    compartment : str
        The configured compartment.

    Raises
    ------
    InputError
        If the result of the backend is invalid.
    """
    batch = check_result(backend.predict(patches, windows), patches.shape, backend)
    for labels, columns in zip(batch.labels, batch.columns, strict=True):
        yield _choose(BackendResult(labels, (columns,)), compartment)


def predict_window(
    backend: WholeSlideBackend, window: Window, slide: SlideView, compartment: str
) -> BackendResult:
    """Predict a window of a slide after the slide passes; labels (2, y, x).

    Parameters
    ----------
    backend : WholeSlideBackend
        Backend with slide passes.
    window : Window
        Any window of the slide.
    slide : SlideView
        The slide and the results of the passes.
    compartment : str
        The configured compartment.

    Raises
    ------
    InputError
        If the result of the backend is invalid.
    """
    result = backend.segment_window(window, slide)
    return _choose(check_result(result, (2, *window.shape), backend), compartment)


def _choose(result: BackendResult, compartment: str) -> BackendResult:
    """Return the result of one window for a compartment.

    The other compartment is emptied; with "nuclear", each nucleus is its own cell.
    """
    (cells, nuclei), (columns,) = result.labels, result.columns
    if compartment == "whole-cell":
        return BackendResult(np.stack([cells, np.zeros_like(nuclei)]), result.columns)
    if compartment == "nuclear":
        columns = {**columns, "cell": columns["nucleus"]}
        return BackendResult(np.stack([nuclei, nuclei]), (columns,))
    return result


def drop_without_signal(labels: Labels, signal: Mask) -> None:
    """Remove objects without any signal, in place.

    A patch without signal is not segmented, so these objects would depend on the grid.

    Parameters
    ----------
    labels : (2, y, x) uint32
        Cells and nuclei.
    signal : (y, x) bool
        Pixels in blocks with signal.
    """
    if signal.all():
        return
    for compartment in labels:
        if any_where(compartment, ~signal):
            kept = object_table(np.where(signal, compartment, np.uint32(0))).label
            compartment[...] = relabel(compartment, kept, kept)
