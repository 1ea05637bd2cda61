"""From the objects that patches see to the objects of the slide.

Neighbouring patches overlap, so an object at a seam is seen by several of them. Each
patch lists the objects that touch its core. An object is known by its pixels: its first
pixel in raster order, its area and a hash of all of them. Patches that list the same
pixels *agree*, and the object is the slide's. A backend whose labels do not depend on
where a window lies gives nothing but agreement. Otherwise the versions that patches do
not agree on are rivals, and are settled in an order that depends on their pixels alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from codexseg.core.grid import PatchGrid, Window
from codexseg.core.kernel import kernel

Labels = NDArray[np.uint32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Objects:
    """The objects of one compartment that touch the core of one patch, by label.

    Attributes
    ----------
    label : (n,) uint32
        Ascending.
    first : (n,) int64
        First pixel in raster order, y * width of the slide + x.
    area : (n,) int64
        Pixels.
    pixels : (n,) uint64
        Sum, modulo 2**64, of a hash of each pixel's place.
    box : (n, 4) int64
        y0, x0, y1, x1 on the slide, half-open.
    n_cores : (n,) int64
        How many cores the object touches.
    """

    label: Labels
    first: Ints
    area: Ints
    pixels: NDArray[np.uint64]
    box: Ints
    n_cores: Ints

    def to_tables(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the columns under names that start with `prefix`."""
        return {f"{prefix}_{name}": column for name, column in vars(self).items()}

    @classmethod
    def from_tables(cls, tables: Mapping[str, NDArray[Any]], prefix: str) -> "Objects":
        """Invert :meth:`to_tables`."""
        names = cls.__dataclass_fields__
        return cls(**{name: tables[f"{prefix}_{name}"] for name in names})


@kernel
def _mix(place: np.int64) -> np.uint64:
    """Hash 64 bits (the finaliser of splitmix64, Steele et al. 2014)."""
    z = np.uint64(place) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def _describe(
    labels: Labels,
    y0: np.int64,
    x0: np.int64,
    width: np.int64,
    core: Ints,
    first: Ints,
    area: Ints,
    pixels: NDArray[np.uint64],
    box: Ints,
    in_core: NDArray[np.bool_],
) -> None:
    for row in range(labels.shape[0]):
        y = y0 + row
        inside_y = core[0] <= y < core[2]
        for column in range(labels.shape[1]):
            label = labels[row, column]
            if label == 0:
                continue
            x = x0 + column
            place = np.int64(y) * width + x
            if area[label] == 0:
                first[label] = place
                box[label, 0] = y
                box[label, 1] = x
                box[label, 3] = x + 1
            area[label] += 1
            pixels[label] += _mix(place)
            box[label, 2] = y + 1
            box[label, 1] = min(box[label, 1], x)
            box[label, 3] = max(box[label, 3], x + 1)
            if inside_y and core[1] <= x < core[3]:
                in_core[label] = True


@kernel
def _touches(
    labels: Labels,
    y0: np.int64,
    x0: np.int64,
    core: Ints,
    step: Ints,
    columns: np.int64,
    in_core: NDArray[np.bool_],
    last: Ints,
) -> list[tuple[np.int64, np.int64]]:
    """List (label, core) where pixels of listed objects lie in other patches' cores."""
    found = [(np.int64(0), np.int64(0)) for _ in range(0)]
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
                found.append((np.int64(label), np.int64(owner)))
    return found


def dense(labels: Labels) -> tuple[Labels, Labels | None]:
    """Return labels that do not exceed the number of pixels, and what they stood for.

    The second is None where nothing had to be changed.
    """
    if labels.size == 0 or int(labels.max()) <= labels.size:
        return labels, None
    values, inverse = np.unique(labels, return_inverse=True)
    if values[0] != 0:
        values = np.concatenate([np.zeros(1, values.dtype), values])
        inverse = inverse + 1
    return inverse.reshape(labels.shape).astype(np.uint32), values.astype(np.uint32)


def describe(labels: Labels, outer: Window, core: Window, grid: PatchGrid) -> Objects:
    """List the objects of a patch that touch its core.

    Parameters
    ----------
    labels : (y, x) uint32
        Labels of one compartment in the window `outer` of the slide.
    outer, core : Window
        What the labels cover, and what the patch owns.
    grid : PatchGrid
        The grid that the patch belongs to.
    """
    labels, values = dense(labels)
    n = int(labels.max()) + 1 if labels.size else 1
    first, area = np.zeros(n, np.int64), np.zeros(n, np.int64)
    pixels, box = np.zeros(n, np.uint64), np.zeros((n, 4), np.int64)
    in_core = np.zeros(n, np.bool_)
    bounds = np.array([core.y0, core.x0, core.y1, core.x1], np.int64)
    corner = np.int64(outer.y0), np.int64(outer.x0)
    width = np.int64(grid.shape[1])
    _describe(labels, *corner, width, bounds, first, area, pixels, box, in_core)

    step, columns = np.array(grid.step, np.int64), np.int64(grid.counts[1])
    last = np.full(n, -1, np.int64)
    touches = _touches(labels, *corner, bounds, step, columns, in_core, last)
    n_cores = np.ones(n, np.int64)
    if touches:
        n_cores += np.bincount(np.unique(np.array(touches), axis=0)[:, 0], minlength=n)

    listed = np.flatnonzero(in_core)
    names = listed.astype(np.uint32) if values is None else values[listed]
    return Objects(
        names, first[listed], area[listed], pixels[listed], box[listed], n_cores[listed]
    )


def reach_cut_edge(
    objects: Objects, outer: Window, margin: int, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Tell which objects come so near to a cut edge of the window that they may be wrong.

    An edge is cut where the slide goes on behind it. An object is proven where it and
    its neighbouring pixels lie farther than `margin` px from every cut edge: whatever
    lies behind the edge, it would be the same.
    """
    y0 = -1 if outer.y0 == 0 else outer.y0 + margin
    x0 = -1 if outer.x0 == 0 else outer.x0 + margin
    y1 = shape[0] + 1 if outer.y1 == shape[0] else outer.y1 - margin
    x1 = shape[1] + 1 if outer.x1 == shape[1] else outer.x1 - margin
    box = objects.box
    return (box[:, 0] <= y0) | (box[:, 1] <= x0) | (box[:, 2] >= y1) | (box[:, 3] >= x1)


@dataclass(frozen=True)
class Versions:
    """Every version of every object of one compartment over the slide.

    A *listing* is an object in the list of a patch; equal listings are one version.

    Attributes
    ----------
    patch, label, version : (listings,)
        Which patch lists which label, and which version that is.
    speaker, name, first, area, box : (versions, ...)
        The patch that speaks for the version (the one whose core holds its first
        pixel, else the lowest that lists it), its label there, and its pixels.
    agreed : (versions,) bool
        Whether all patches whose cores it touches list it.
    at_home : (versions,) bool
        Whether the speaker's core holds the first pixel.
    """

    patch: Ints
    label: Labels
    version: Ints
    speaker: Ints
    name: Labels
    first: Ints
    area: Ints
    box: Ints
    agreed: NDArray[np.bool_]
    at_home: NDArray[np.bool_]


def find_versions(objects: Mapping[int, Objects], grid: PatchGrid) -> Versions:
    """Bring the lists of all patches together."""
    patches = sorted(objects)
    sizes = [len(objects[p].label) for p in patches]
    patch = np.repeat(np.array(patches, np.int64), sizes)

    def column(name: str, empty: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([empty, *(getattr(objects[p], name) for p in patches)])

    label = column("label", np.zeros(0, np.uint32))
    first = column("first", np.zeros(0, np.int64))
    area = column("area", np.zeros(0, np.int64))
    pixels = column("pixels", np.zeros(0, np.uint64))
    box = column("box", np.zeros((0, 4), np.int64))
    n_cores = column("n_cores", np.zeros(0, np.int64))

    home = grid.owner(first // grid.shape[1], first % grid.shape[1])
    # Equal versions come together, the speaker first; versions are in raster order.
    order = np.lexsort((patch, patch != home, pixels, area, first))
    key = np.stack([first[order], area[order], pixels[order].view(np.int64)])
    starts = np.ones(len(order), np.bool_)
    starts[1:] = np.any(key[:, 1:] != key[:, :-1], axis=0)
    version = np.empty(len(order), np.int64)
    version[order] = np.cumsum(starts) - 1
    heads = order[starts]
    holders = np.bincount(version, minlength=len(heads))
    return Versions(
        patch=patch,
        label=label,
        version=version,
        speaker=patch[heads],
        name=label[heads],
        first=first[heads],
        area=area[heads],
        box=box[heads],
        agreed=holders == n_cores[heads],
        at_home=patch[heads] == home[heads],
    )


def settle(
    versions: Versions, rivals: Ints, min_remaining: float, dropped: Ints | None = None
) -> Ints:
    """Decide which versions are the slide's.

    What patches agree on stands. The others come in this order: first those whose
    speaker owns their first pixel, then the larger, then the earlier in raster order.
    One stands if at least `min_remaining` of its pixels are left by those before it; it
    gets the pixels that are left. So no pixel is given twice and no sliver is kept.

    Pixels that two of those before it share are counted as taken by both, so a version
    may be refused a little early; what it gets is never less than was counted.

    Parameters
    ----------
    versions : Versions
        All versions of a compartment.
    rivals : (n, 3) int64
        Rows (version, version, pixels shared), for each version that is not agreed on.
    min_remaining : float
        Fraction of the area, 0 to 1.
    dropped : (k,) int64, optional
        Versions that do not stand whatever is left of them, see :func:`choose_drops`.

    Returns
    -------
    accepted : (m,) int64
        Versions: those agreed on in raster order, then the others in their order.
    """
    stands = versions.agreed
    taken = np.zeros(len(stands), np.int64)
    order = _in_order(versions)
    if dropped is not None:
        order = order[~np.isin(order, dropped)]
    shared = _partners(rivals)
    for version, rows in shared.items():
        if stands[version]:
            for other, pixels in rows:
                taken[other] += pixels
    accepted = []
    for version in order.tolist():
        left = int(versions.area[version]) - int(taken[version])
        if left <= 0 or left < min_remaining * int(versions.area[version]):
            continue
        accepted.append(version)
        for other, pixels in shared.get(version, []):
            taken[other] += pixels
    later = np.array(accepted, np.int64)
    return np.concatenate([np.flatnonzero(versions.agreed), later])


def choose_drops(versions: Versions, rivals: Ints, torn: Ints) -> tuple[Ints, Ints]:
    """Choose which torn versions are dropped now, and tell what may change by that.

    A torn version stands, but those before it leave no piece of it that is large enough.
    Without it others after it keep more, or stand where they did not: of a chain of
    rivals the first is dropped and the rest judged again. So in the end each version is
    judged by those that stand before it, as if they were taken one by one.

    Parameters
    ----------
    versions, rivals
        As :func:`settle` takes them.
    torn : (k,) int64
        Versions that stand and are torn.

    Returns
    -------
    dropped, touched : (m,), (l,) int64
        Versions to drop, one at least; these and all that may change by that.
    """
    order = _in_order(versions).tolist()
    rank = {version: i for i, version in enumerate(order)}
    shared, wanted = _partners(rivals), set(torn.tolist())
    dropped, touched = [], set[int]()
    for version in order:
        if version in wanted and version not in touched:
            dropped.append(version)
            touched.add(version)
        if version in touched:
            later = (other for other, _ in shared.get(version, []))
            touched |= {v for v in later if rank.get(v, -1) > rank[version]}
    return np.array(dropped, np.int64), np.array(sorted(touched), np.int64)


def largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest piece of a mask (y, x), the first in raster order among equals.

    Pixels are of one piece where they share edges.
    """
    pieces, n = ndi.label(mask)
    if n < 2:
        return mask
    area = np.bincount(pieces.ravel())[1:]
    return np.asarray(pieces == 1 + np.argmax(area))


def _in_order(versions: Versions) -> Ints:
    """Return the versions that are not agreed on in the order of their claims."""
    disputed = np.flatnonzero(~versions.agreed)
    speaker, first = versions.speaker[disputed], versions.first[disputed]
    area, at_home = versions.area[disputed], versions.at_home[disputed]
    return disputed[np.lexsort((speaker, first, -area, ~at_home))]


def _partners(rivals: Ints) -> dict[int, list[tuple[int, int]]]:
    """List for each version its rivals, with the pixels that the two share."""
    shared: dict[int, list[tuple[int, int]]] = {}
    for one, other, pixels in _unordered(rivals).tolist():
        shared.setdefault(one, []).append((other, pixels))
        shared.setdefault(other, []).append((one, pixels))
    return shared


def _unordered(rivals: Ints) -> Ints:
    """Keep each pair of rivals once, whichever of the two reported it."""
    rows: Ints = np.concatenate([np.sort(rivals[:, :2], axis=1), rivals[:, 2:]], axis=1)
    rows = rows[np.lexsort((-rows[:, 2], rows[:, 1], rows[:, 0]))]
    if len(rows) == 0:
        return rows
    starts = np.concatenate([[True], np.any(rows[1:, :2] != rows[:-1, :2], axis=1)])
    return np.asarray(rows[starts & (rows[:, 0] != rows[:, 1])])
