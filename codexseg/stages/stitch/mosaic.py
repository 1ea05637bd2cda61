"""Compose the whole-slide label image in any window from the labels of the patches.

Every window is composed in the same way. Objects on which patches agree come first, from
the labels of the core that contains each pixel. Conflicting objects follow in the order of
their resolution: each as its source patch sees it, on pixels that are still free. At last,
fragments become background. So two windows agree on every pixel that they share.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from codexseg.arrays import Int64, Labels, Mask
from codexseg.artifacts.columns import COMPARTMENTS, columns_of
from codexseg.artifacts.patch_labels import PatchLabels
from codexseg.core.grid import Patch, PatchGrid, Window, pixels_in_window
from codexseg.core.labels.operations import relabel
from codexseg.run.records import StageRecords

SEAMS = "seams"
"""Table with the final resolution."""


@dataclass(frozen=True, eq=False)
class CompartmentSeams:
    """Ids of the objects of one compartment on the slide.

    Attributes
    ----------
    detection_offset : (patches + 1,) int64
        Rows of the detections of each patch.
    detection_label : (detections,) uint32
        Label of a detection in its patch.
    detection_id : (detections,) uint32
        Id of the object if patches agree on it, else 0.
    candidate : (k,) int64
        Conflicting objects in the order of their resolution.
    id : (k,) uint32
        Their ids.
    area : (k,) int64
        Their pixels in the source patch.
    source_patch, source_label : (k,) int64, (k,) uint32
        Patch that shows them, and their label there.
    box : (k, 4) int64
        y0, x0, y1, x1 in the source patch, on the slide.
    fragments : (f,) int64
        Pixels that become background, y * width + x, ascending.
    """

    detection_offset: Int64
    detection_label: Labels
    detection_id: Labels
    candidate: Int64
    id: Labels
    area: Int64
    source_patch: Int64
    source_label: Labels
    box: Int64
    fragments: Int64

    def detections(self, patch: int) -> Int64:
        """Return the rows of the detections of a patch."""
        start, stop = self.detection_offset[patch : patch + 2]
        return np.arange(start, stop)

    def overlaps(self, window: Window) -> Mask:
        """Return which conflicting objects may have pixels in a window."""
        return overlaps_window(self.box, window)


@dataclass(frozen=True, eq=False)
class Seams:
    """The resolution of conflicts at seams.

    Attributes
    ----------
    segmented : (s,) int64
        Patches with labels.
    seen : (patches, 4) int64
        Window that each patch saw: y0, x0, y1, x1.
    compartments : mapping of str to CompartmentSeams
        By compartment.
    """

    segmented: Int64
    seen: Int64
    compartments: Mapping[str, CompartmentSeams]

    def write(self, records: StageRecords, name: str = SEAMS) -> None:
        """Write the tables."""
        table = {"segmented": self.segmented, "seen": self.seen}
        for compartment, seams in self.compartments.items():
            table |= {f"{compartment}.{key}": array for key, array in vars(seams).items()}
        records.write_table(name, table)

    @classmethod
    def read(cls, records: StageRecords, name: str = SEAMS) -> "Seams":
        """Open the tables."""
        table = records.read_table(name)
        compartments = {
            name: CompartmentSeams(**columns_of(table, name, CompartmentSeams))
            for name in COMPARTMENTS
        }
        return cls(table["segmented"], table["seen"], compartments)

    def patches_with_objects(self, grid: PatchGrid) -> list[int]:
        """Return the patches whose cores contain pixels of objects, in order."""
        patches = set(self.segmented.tolist())
        for seams in self.compartments.values():
            for box in seams.box.tolist():
                patches |= {patch.number for patch, _ in cores_in(grid, Window(*box))}
        return sorted(patches)


@dataclass(frozen=True, eq=False)
class MosaicWindow:
    """A window of the slide in the ids of its objects.

    Attributes
    ----------
    window : Window
        Its position.
    ids : (2, y, x) uint32
        Cells, nuclei.
    same_label : (y, x) bool
        Pixels at which the backend gave cell and nucleus one label, and pixels of
        conflicting objects, for which that is unknown.
    """

    window: Window
    ids: Labels
    same_label: Mask = field(repr=False)


def compose_window(labels: PatchLabels, seams: Seams, window: Window) -> MosaicWindow:
    """Compose a window of the slide.

    Parameters
    ----------
    labels : PatchLabels
        Labels of the patches.
    seams : Seams
        The resolution to use.
    window : Window
        Any window of the slide.
    """
    ids = np.zeros((2, *window.shape), np.uint32)
    same_label = np.zeros(window.shape, np.bool_)
    for patch, part in cores_in(labels.grid, window):
        at = part.within(window)
        ids[:, *at], same_label[at] = _consistent_objects(labels, seams, patch, part)
    mosaic = MosaicWindow(window, ids, same_label)
    _add_conflicting(labels, seams, mosaic)
    return mosaic


def _consistent_objects(
    labels: PatchLabels, seams: Seams, patch: Patch, window: Window
) -> tuple[Labels, Mask]:
    """Return ids (2, y, x) and equal labels of the objects on which patches agree.

    Parameters
    ----------
    window : Window
        Inside the core of the patch.
    """
    if patch.number not in seams.segmented:
        return np.zeros((2, *window.shape), np.uint32), np.zeros(window.shape, np.bool_)
    original = labels.read(patch.number, window)
    ids = np.empty_like(original)
    for c, compartment in enumerate(COMPARTMENTS):
        known = seams.compartments[compartment]
        rows = known.detections(patch.number)
        rows = rows[known.detection_id[rows] > 0]
        ids[c] = relabel(original[c], known.detection_label[rows], known.detection_id[rows])
    return ids, (original[0] == original[1]) & (original[0] > 0)


def _add_conflicting(labels: PatchLabels, seams: Seams, mosaic: MosaicWindow) -> None:
    """Add conflicting objects on free pixels, then remove fragments; in place."""
    window = mosaic.window
    for c, compartment in enumerate(COMPARTMENTS):
        known = seams.compartments[compartment]
        for part, mask, number in _conflicting_objects(labels, seams, c, window):
            at = part.within(window)
            ids = mosaic.ids[c][at]
            ids[mask & (ids == 0)] = number
            mosaic.same_label[at] |= mask
        y, x = pixels_in_window(known.fragments, window, labels.grid.shape[1])
        mosaic.ids[c][y, x] = 0


def _conflicting_objects(
    labels: PatchLabels, seams: Seams, compartment: int, window: Window
) -> Iterator[tuple[Window, Mask, int]]:
    """Yield window, pixels and id of each conflicting object, in order of resolution."""
    known = seams.compartments[COMPARTMENTS[compartment]]
    read: dict[int, tuple[Window, Labels]] = {}
    for row in np.flatnonzero(known.overlaps(window)):
        source = int(known.source_patch[row])
        if source not in read:
            seen = Window(*seams.seen[source].tolist())
            part = seen.intersection(window)
            if part is None:
                continue
            read[source] = part, labels.read(source, part, seen)[compartment]
        shown, image = read[source]
        part = Window(*known.box[row].tolist()).intersection(shown)
        if part is not None:
            mask = image[part.within(shown)] == known.source_label[row]
            yield part, mask, int(known.id[row])


def cores_in(grid: PatchGrid, window: Window) -> Iterator[tuple[Patch, Window]]:
    """Yield the patches whose cores overlap a window, and the overlaps."""
    for patch in grid.near(window):
        part = patch.core.intersection(window)
        if part is not None:
            yield patch, part


def overlaps_window(boxes: Int64, window: Window) -> Mask:
    """Return which boxes (n, 4) share a pixel with a window."""
    rows = (boxes[:, 0] < window.y1) & (boxes[:, 2] > window.y0)
    return rows & (boxes[:, 1] < window.x1) & (boxes[:, 3] > window.x0)


def bounding_window(boxes: Int64) -> Window:
    """Return the smallest window that contains boxes (n, 4); an empty one for none."""
    if len(boxes) == 0:
        return Window(0, 0, 0, 0)
    y0, x0 = boxes[:, :2].min(axis=0).tolist()
    y1, x1 = boxes[:, 2:].max(axis=0).tolist()
    return Window(y0, x0, y1, x1)
