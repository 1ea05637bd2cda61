"""Segmentation of one image in memory, as the stages segment and stitch do it on disk."""

import numpy as np

from codexseg.arrays import Columns, Float64, Labels, Mask, Pixels
from codexseg.artifacts.columns import COMPARTMENTS
from codexseg.artifacts.objects import SlideObjects, fill_columns
from codexseg.artifacts.slide_statistics import SlideStatistics
from codexseg.backends.base import (
    Backend,
    BackendResult,
    WholeSlideBackend,
    check_result,
    diameter_um,
    is_paired,
    object_columns_of,
    slide_passes_of,
)
from codexseg.backends.slide_pass import InMemory
from codexseg.config.schema import Config
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.intensity.background import signal_pixels
from codexseg.core.labels.operations import relabel
from codexseg.core.labels.stitching import describe_objects, find_candidates
from codexseg.io.slides.base import SlideImage
from codexseg.stages.segment.backend import make_backend
from codexseg.stages.segment.diameter import (
    agreed_diameter,
    diameters_um,
    measured_windows,
)
from codexseg.stages.segment.prediction import (
    drop_without_signal,
    predict_patches,
    predict_window,
)
from codexseg.workflow.pixels import read_pixels


class ImageSegmenter:
    """Segments one image in memory: a slide of one patch.

    Parameters
    ----------
    image : SlideImage
        The image.
    mpp : float
        Micrometres per pixel.
    config : Config
        The configuration, with channels by name.
    statistics : SlideStatistics
        Statistics of the image.
    """

    def __init__(
        self, image: SlideImage, mpp: float, config: Config, statistics: SlideStatistics
    ) -> None:
        shape = image.shape[1:]
        self._image, self._mpp = image, mpp
        self._config, self._statistics = config, statistics
        self.window = Window(0, 0, *shape)
        self.grid = PatchGrid(shape, shape, (0, 0))
        self.backend = self._make_backend(self._diameter())

    @property
    def object_columns(self) -> dict[str, str]:
        """Per-object columns of the backend: name to dtype."""
        return object_columns_of(self.backend)

    def objects(
        self,
    ) -> tuple[dict[str, SlideObjects], dict[str, Labels], Mask | None]:
        """Segment the image and number its objects in raster order.

        Returns
        -------
        objects : dict of str to SlideObjects
            By compartment.
        labels : dict of str to (y, x) uint32
            By compartment, in the numbers of the objects.
        same_label : (y, x) bool or None
            Where cell and nucleus have one label; None if labels do not pair them.
        """
        result, compartment = self._segment(), self._config.segmentation.compartment
        labels, (columns,) = result.labels, result.columns
        drop_without_signal(labels, signal_pixels(self._statistics.signal, self.window))
        objects, numbered = {}, {}
        for name, image in zip(COMPARTMENTS, labels, strict=True):
            objects[name], numbered[name] = self._number(image, columns[name])
        by_label = is_paired(self.backend) or compartment == "nuclear"
        same_label = (labels[0] == labels[1]) & (labels[0] > 0) if by_label else None
        return objects, numbered, same_label

    def _read(self, window: Window) -> Pixels:
        settings = self._config.segmentation
        return read_pixels(self._image, window, self._statistics, settings)

    def _make_backend(self, diameter: float | None) -> Backend:
        return make_backend(
            self._config, self.grid.shape, self._mpp, self._statistics, diameter=diameter
        )

    def _diameter(self) -> float | None:
        """Return the diameter of the cells, um; None: that of the backend."""
        wanted = self._config.segmentation.diameter
        if wanted != "auto":
            return wanted
        typical = diameter_um(self._make_backend(None))
        signal = self._statistics.signal
        windows = measured_windows(signal, self.grid.shape, self._mpp)

        def measure(diameter: float, number: int) -> list[Float64]:
            del number
            backend = self._make_backend(diameter)
            return [
                diameters_um(
                    backend,
                    self._read(window),
                    window,
                    self._mpp,
                    compartment=self._config.segmentation.compartment,
                    signal=signal_pixels(signal, window),
                )
                for window in windows
            ]

        diameter, _ = agreed_diameter(measure, typical, self._mpp)
        return diameter or typical

    def _segment(self) -> BackendResult:
        """Return labels (2, y, x) and columns of the image."""
        backend, shape = self.backend, (2, *self.grid.shape)
        if not self._statistics.signal.any():  # not informative: a run skips it
            return check_result(np.zeros(shape, np.uint32), shape, backend)
        pixels, compartment = self._read(self.window), self._config.segmentation.compartment
        passes = slide_passes_of(backend)
        if isinstance(backend, WholeSlideBackend) and passes:
            known = self._statistics.as_seen_by_backend
            bounds = (
                min(channel.minimum if channel else 0.0 for channel in known),
                max(channel.maximum if channel else 0.0 for channel in known),
            )
            view = InMemory(pixels, passes, signal=self._statistics.signal, bounds=bounds)
            return predict_window(backend, self.window, view, compartment)
        (result,) = predict_patches(backend, pixels[None], [self.window], compartment)
        return result

    def _number(self, labels: Labels, columns: Columns) -> tuple[SlideObjects, Labels]:
        """Return the objects of a compartment, numbered in raster order."""
        detections = describe_objects(labels, self.window, self.window, self.grid)
        known = find_candidates({0: detections}, self.grid)
        filled = fill_columns(detections.label, columns, self.object_columns)
        rows = np.searchsorted(detections.label, known.source_label)
        ids = np.arange(1, len(known.first) + 1, dtype=np.uint32)
        by_name = {name: values[rows] for name, values in filled.items()}
        objects = SlideObjects(
            first=known.first,
            area=known.area,
            box=known.box,
            source_patch=known.source_patch,
            source_label=known.source_label,
            detected_first=known.first,
            columns=by_name,
        )
        return objects, relabel(labels, known.source_label, ids)
