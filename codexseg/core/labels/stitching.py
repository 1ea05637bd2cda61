"""Objects of the slide, assembled from the objects that patches detect.

Patches overlap, so several patches detect an object at a seam. Each patch lists the
objects that touch its core. The pixels identify an object: its first pixel in raster
order, its area and a hash of all its pixels. Equal detections form one *candidate*. A
candidate is *consistent* if the patches of all cores that it touches detect it; consistent
candidates become objects of the slide. A backend that is translation-invariant yields
consistent candidates only. All other candidates conflict, and :func:`resolve_conflicts`
accepts or rejects them in an order that depends on their pixels alone.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from codexseg.arrays import Columns, Int64, Labels, Mask, UInt64
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.kernel import kernel


@dataclass(frozen=True)
class Detections:
    """Objects of one compartment that touch the core of one patch, sorted by label.

    The field names are column names in the tables of a run.

    Attributes
    ----------
    label : (n,) uint32
        Ascending.
    first : (n,) int64
        First pixel in raster order, y * width of the slide + x.
    area : (n,) int64
        Number of pixels.
    pixels : (n,) uint64
        Sum, modulo 2**64, of the hashes of all pixel positions.
    box : (n, 4) int64
        y0, x0, y1, x1 on the slide, half-open.
    n_cores : (n,) int64
        Number of cores that the object touches.
    """

    label: Labels
    first: Int64
    area: Int64
    pixels: UInt64
    box: Int64
    n_cores: Int64

    def to_tables(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the columns, each named ``{prefix}_{field}``."""
        return {f"{prefix}_{name}": column for name, column in vars(self).items()}

    @classmethod
    def from_tables(cls, tables: Columns, prefix: str) -> "Detections":
        """Invert :meth:`to_tables`."""
        names = cls.__dataclass_fields__
        return cls(**{name: tables[f"{prefix}_{name}"] for name in names})


_NO_DETECTIONS = Detections(
    label=np.zeros(0, np.uint32),
    first=np.zeros(0, np.int64),
    area=np.zeros(0, np.int64),
    pixels=np.zeros(0, np.uint64),
    box=np.zeros((0, 4), np.int64),
    n_cores=np.zeros(0, np.int64),
)


@kernel
def _mix(position: np.int64) -> np.uint64:
    """Hash 64 bits (finaliser of splitmix64, Steele et al. 2014)."""
    z = np.uint64(position) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def _describe(
    labels: Labels, n: int, y0: int, x0: int, width: int, core: Int64
) -> tuple[Int64, Int64, UInt64, Int64, Mask]:
    """Return first, area, pixels, box and in_core of labels below n, in one pass."""
    first, area = np.zeros(n, np.int64), np.zeros(n, np.int64)
    pixels, box = np.zeros(n, np.uint64), np.zeros((n, 4), np.int64)
    in_core = np.zeros(n, np.bool_)
    for row in range(labels.shape[0]):
        y = y0 + row
        inside_y = core[0] <= y < core[2]
        for column in range(labels.shape[1]):
            label = labels[row, column]
            if label == 0:
                continue
            x = x0 + column
            position = np.int64(y) * width + x
            if area[label] == 0:
                first[label] = position
                box[label, 0] = y
                box[label, 1] = x
                box[label, 3] = x + 1
            area[label] += 1
            pixels[label] += _mix(position)
            box[label, 2] = y + 1
            box[label, 1] = min(box[label, 1], x)
            box[label, 3] = max(box[label, 3], x + 1)
            if inside_y and core[1] <= x < core[3]:
                in_core[label] = True
    return first, area, pixels, box, in_core


@kernel
def _touches(
    labels: Labels,
    y0: int,
    x0: int,
    core: Int64,
    step: tuple[int, int],
    columns: int,
    in_core: Mask,
) -> list[tuple[np.int64, np.int64]]:
    """List (label, core number) for every other core that an object of this core touches.

    Pairs may repeat, but not immediately.
    """
    last = np.full(in_core.size, -1, np.int64)  # latest core of each label
    touched = [(np.int64(0), np.int64(0)) for _ in range(0)]
    for row in range(labels.shape[0]):
        y = y0 + row
        inside_y = core[0] <= y < core[2]
        for column in range(labels.shape[1]):
            x = x0 + column
            if inside_y and core[1] <= x < core[3]:
                continue
            label = labels[row, column]
            if label == 0 or not in_core[label]:
                continue
            owner = (y // step[0]) * columns + x // step[1]
            if last[label] != owner:
                last[label] = owner
                touched.append((np.int64(label), np.int64(owner)))
    return touched


def dense(labels: Labels) -> tuple[Labels, Labels | None]:
    """Renumber labels so that none exceeds the number of pixels.

    Returns
    -------
    labels : (y, x) uint32
        The input itself if its labels are small enough.
    values : (n,) uint32 or None
        Original label of each new label; None if the labels are unchanged.
    """
    if labels.size == 0 or int(labels.max()) <= labels.size:
        return labels, None
    values, inverse = np.unique(labels, return_inverse=True)
    if values[0] != 0:
        values = np.concatenate([np.zeros(1, values.dtype), values])
        inverse = inverse + 1
    return inverse.reshape(labels.shape).astype(np.uint32), values.astype(np.uint32)


def describe_objects(
    labels: Labels, outer: Window, core: Window, grid: PatchGrid
) -> Detections:
    """Describe the objects of a patch that touch its core.

    Parameters
    ----------
    labels : (y, x) uint32
        Labels of one compartment in the window `outer` of the slide.
    outer, core : Window
        Window of the labels, and the window that the patch owns.
    grid : PatchGrid
        Grid of the patch.
    """
    labels, values = dense(labels)
    n = int(labels.max()) + 1 if labels.size else 1
    bounds = np.array([core.y0, core.x0, core.y1, core.x1], np.int64)
    corner, width = (outer.y0, outer.x0), grid.shape[1]
    first, area, pixels, box, in_core = _describe(labels, n, *corner, width, bounds)
    touches = _touches(labels, *corner, bounds, grid.step, grid.counts[1], in_core)
    n_cores = np.ones(n, np.int64)
    if touches:
        n_cores += np.bincount(np.unique(np.array(touches), axis=0)[:, 0], minlength=n)

    rows = np.flatnonzero(in_core)
    label = rows.astype(np.uint32) if values is None else values[rows]
    return Detections(
        label, first[rows], area[rows], pixels[rows], box[rows], n_cores[rows]
    )


def near_cut_edge(
    detections: Detections, outer: Window, margin: int, shape: tuple[int, int]
) -> Mask:
    """Return which objects are too close to a cut edge of the window to be trusted.

    An edge is cut if the slide continues beyond it. An object is independent of the
    pixels beyond the edges if it and its neighbouring pixels are farther than `margin`
    px from every cut edge.

    Parameters
    ----------
    detections : Detections
        Objects of one patch.
    outer : Window
        Window of the labels on the slide.
    margin : int
        Distance in px over which a cut edge changes labels.
    shape : (2,) int
        Height and width of the slide.

    Returns
    -------
    near : (n,) bool
    """
    y0 = -1 if outer.y0 == 0 else outer.y0 + margin
    x0 = -1 if outer.x0 == 0 else outer.x0 + margin
    y1 = shape[0] + 1 if outer.y1 == shape[0] else outer.y1 - margin
    x1 = shape[1] + 1 if outer.x1 == shape[1] else outer.x1 - margin
    box = detections.box
    return (box[:, 0] <= y0) | (box[:, 1] <= x0) | (box[:, 2] >= y1) | (box[:, 3] >= x1)


@dataclass(frozen=True)
class Candidates:
    """Candidates of one compartment on the whole slide, in raster order.

    Attributes
    ----------
    patch, label, candidate : (detections,)
        Patch and label of each detection, and the index of its candidate.
    source_patch : (candidates,) int64
        Patch that represents the candidate: the owner of its first pixel if it detects
        the candidate, else the lowest patch that detects it.
    source_label : (candidates,) uint32
        Label of the candidate in its source patch.
    first, area, box : (candidates, ...) int64
        As in :class:`Detections`.
    consistent : (candidates,) bool
        Whether the patches of all cores that the candidate touches detect it.
    owns_first_pixel : (candidates,) bool
        Whether the core of the source patch holds the first pixel.
    """

    patch: Int64
    label: Labels
    candidate: Int64
    source_patch: Int64
    source_label: Labels
    first: Int64
    area: Int64
    box: Int64
    consistent: Mask
    owns_first_pixel: Mask


def find_candidates(detections: Mapping[int, Detections], grid: PatchGrid) -> Candidates:
    """Group equal detections of all patches into candidates.

    Parameters
    ----------
    detections : mapping of int to Detections
        Detections of one compartment by patch number, in any order.
    grid : PatchGrid
        Grid of the patches.
    """
    patches = sorted(detections)
    sizes = [len(detections[p].label) for p in patches]
    patch = np.repeat(np.array(patches, np.int64), sizes)
    tables = [vars(_NO_DETECTIONS), *(vars(detections[p]) for p in patches)]
    label, first, area, pixels, box, n_cores = (
        np.concatenate([table[name] for table in tables]) for name in tables[0]
    )
    owner = grid.owner(first // grid.shape[1], first % grid.shape[1])
    # Equal detections become neighbours, the source patch first in each group.
    order = np.lexsort((patch, patch != owner, pixels, area, first))
    key = np.stack([first[order], area[order], pixels[order].view(np.int64)])
    starts = np.ones(len(order), np.bool_)
    starts[1:] = np.any(key[:, 1:] != key[:, :-1], axis=0)
    candidate = np.empty(len(order), np.int64)
    candidate[order] = np.cumsum(starts) - 1
    sources = order[starts]
    n_detections = np.bincount(candidate, minlength=len(sources))
    return Candidates(
        patch=patch,
        label=label,
        candidate=candidate,
        source_patch=patch[sources],
        source_label=label[sources],
        first=first[sources],
        area=area[sources],
        box=box[sources],
        consistent=n_detections == n_cores[sources],
        owns_first_pixel=patch[sources] == owner[sources],
    )


def resolve_conflicts(
    candidates: Candidates,
    conflicts: Int64,
    min_remaining: float,
    discarded: Int64 | None = None,
) -> Int64:
    """Select the candidates that become objects of the slide.

    Consistent candidates are accepted. The others follow in this order: candidates whose
    source patch owns their first pixel, then larger ones, then earlier ones in raster
    order. A candidate is accepted if earlier accepted candidates leave at least
    `min_remaining` of its pixels; it receives these pixels. No pixel is assigned twice
    and no sliver is kept.

    Pixels that two earlier candidates share are subtracted twice, so the remaining area
    may be underestimated, but never overestimated.

    Parameters
    ----------
    candidates : Candidates
        All candidates of a compartment.
    conflicts : (n, 3) int64
        Rows (candidate, candidate, shared pixels) for each inconsistent candidate.
    min_remaining : float
        Fraction of the area, 0 to 1.
    discarded : (k,) int64, optional
        Candidates to reject in any case, see :func:`select_discards`.

    Returns
    -------
    accepted : (m,) int64
        Consistent candidates in raster order, then the others in the order above.
    """
    consistent = candidates.consistent
    taken = np.zeros(len(consistent), np.int64)
    order = _priority(candidates)
    if discarded is not None:
        order = order[~np.isin(order, discarded)]
    shared = _conflicts_of_each(conflicts)
    for candidate, rivals in shared.items():
        if consistent[candidate]:
            for rival, pixels in rivals.items():
                taken[rival] += pixels
    accepted = []
    for candidate in order.tolist():
        left = int(candidates.area[candidate]) - int(taken[candidate])
        if left <= 0 or left < min_remaining * int(candidates.area[candidate]):
            continue
        accepted.append(candidate)
        for rival, pixels in shared.get(candidate, {}).items():
            taken[rival] += pixels
    return np.concatenate([np.flatnonzero(consistent), np.array(accepted, np.int64)])


def select_discards(
    candidates: Candidates, conflicts: Int64, fragmented: Int64
) -> tuple[Int64, Int64]:
    """Select fragmented candidates to discard, and the candidates affected by that.

    A candidate is fragmented if it is accepted, but earlier candidates leave no
    connected component of it that is large enough. Discarding it returns pixels to later
    candidates, which may then be accepted or keep more. Therefore only the first
    fragmented candidate of each chain of conflicts is discarded, and the rest are
    examined again. Repeating this gives the result of accepting candidates one by one.

    Parameters
    ----------
    candidates, conflicts
        As for :func:`resolve_conflicts`.
    fragmented : (k,) int64
        Accepted candidates that are fragmented.

    Returns
    -------
    discarded : (m,) int64
        Candidates to discard, at least one if any is fragmented.
    affected : (l,) int64
        Candidates that change or may change, including the discarded ones. Ascending.
    """
    order = _priority(candidates).tolist()
    rank = {candidate: i for i, candidate in enumerate(order)}
    shared, to_discard = _conflicts_of_each(conflicts), set(fragmented.tolist())
    discarded, affected = [], set[int]()
    for candidate in order:
        if candidate in to_discard and candidate not in affected:
            discarded.append(candidate)
            affected.add(candidate)
        if candidate in affected:
            rivals = shared.get(candidate, {})
            affected |= {r for r in rivals if rank.get(r, -1) > rank[candidate]}
    return np.array(discarded, np.int64), np.array(sorted(affected), np.int64)


def largest_component(mask: Mask) -> Mask:
    """Keep the largest 4-connected component of a mask.

    Of several equally large ones, the first in raster order is kept.

    Parameters
    ----------
    mask : (y, x) bool

    Returns
    -------
    largest : (y, x) bool
        The input itself if it has at most one component.
    """
    components, n = ndi.label(mask)
    if n < 2:
        return mask
    area = np.bincount(components.ravel())[1:]
    return np.asarray(components == 1 + np.argmax(area))


def _priority(candidates: Candidates) -> Int64:
    """Return the inconsistent candidates in order of resolution."""
    rows = np.flatnonzero(~candidates.consistent)
    source_patch, first = candidates.source_patch[rows], candidates.first[rows]
    area, owns_first = candidates.area[rows], candidates.owns_first_pixel[rows]
    return rows[np.lexsort((source_patch, first, -area, ~owns_first))]


def _conflicts_of_each(conflicts: Int64) -> Mapping[int, Mapping[int, int]]:
    """Map each candidate to its rivals, and these to the pixels that they share.

    Of several counts for a pair, in either order, the largest is kept.
    """
    shared: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for a, b, pixels in conflicts.tolist():
        if a != b:
            shared[a][b] = shared[b][a] = max(pixels, shared[a].get(b, 0))
    return shared
