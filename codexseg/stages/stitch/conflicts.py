"""Conflicts at seams: choose the objects of the slide from those of the patches.

:mod:`codexseg.core.labels.stitching` decides. This module reads the patches' labels for
it, and measures what conflicting objects keep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import numpy as np

from codexseg.arrays import Columns, Int64
from codexseg.artifacts.columns import COMPARTMENTS, columns_of
from codexseg.artifacts.objects import SlideObjects
from codexseg.artifacts.patch_labels import (
    PatchLabels,
    read_detections,
    read_object_column,
)
from codexseg.artifacts.patches import segmented_patches
from codexseg.core.grid import Window
from codexseg.core.labels.matching import pair_table
from codexseg.core.labels.operations import relabel
from codexseg.core.labels.stitching import (
    Candidates,
    find_candidates,
    largest_component,
    resolve_conflicts,
    select_discards,
)
from codexseg.stages.stitch.mosaic import (
    SEAMS,
    CompartmentSeams,
    Seams,
    bounding_window,
    compose_window,
    overlaps_window,
)
from codexseg.workflow.stage import Finished, StageContext, StageInputs
from codexseg.workflow.worker import worker_state

CANDIDATES = "candidates"
"""Table of candidates for the workers."""
OVERLAPS, FRAGMENTS = "overlaps", "fragments"
"""Passes over the patches with conflicting candidates."""

_NONE = np.zeros(0, np.int64)


def patch_labels(inputs: StageInputs) -> PatchLabels:
    """Return the labels of the segmented patches."""
    grid = worker_state(inputs).grid
    return PatchLabels(inputs.run.patches, inputs.records("segment"), grid)


@dataclass(frozen=True)
class Resolution:
    """The objects of the slide.

    Attributes
    ----------
    seams : Seams
        Ids of the objects: 1 to n in raster order of their first pixels.
    objects : dict of str to SlideObjects
        By compartment; row i has the id i + 1.
    n_conflicting : dict of str to int
        Number of candidates on which patches disagree, by compartment.
    """

    seams: Seams
    objects: dict[str, SlideObjects]
    n_conflicting: dict[str, int]


def resolve_seams(context: StageContext) -> Resolution:
    """Choose the objects of the slide; write the seams."""
    inputs = context.inputs
    labels = patch_labels(inputs)
    patches = segmented_patches(labels.records)
    candidates = {}
    for name in COMPARTMENTS:  # one at a time: these lists grow with the cells
        tables = (labels.records.read_columns(patch) for patch in patches)
        detections = (read_detections(table, name) for table in tables)
        listed = dict(zip(patches, detections, strict=True))
        candidates[name] = find_candidates(listed, labels.grid)
    seen = labels.seen_windows()
    overlaps = _measure_overlaps(context, candidates, seen)
    empty = Seams(np.array(patches, np.int64), seen, {})
    final, accepted, kept = _resolve_until_whole(context, candidates, overlaps, empty)
    seams, objects = _number(final, candidates, accepted, kept)
    seams.write(inputs.own)
    if inputs.backend.object_columns:
        objects = _with_object_columns(inputs, objects)
    n_conflicting = {name: int((~c.consistent).sum()) for name, c in candidates.items()}
    return Resolution(seams, objects, n_conflicting)


# -- overlaps: pixels that conflicting candidates share -----------------------------------


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """Detections of one compartment, as workers use them to measure overlaps.

    Attributes
    ----------
    offset : (patches + 1,) int64
        Rows of each patch.
    label, candidate : (n,) uint32, (n,) int64
        Label in the patch, and candidate.
    is_source : (n,) bool
        Whether the patch is the source of a conflicting candidate.
    box : (n, 4) int64
        Of the candidate.
    """

    offset: Int64
    label: np.ndarray
    candidate: Int64
    is_source: np.ndarray
    box: Int64

    def rows(self, patch: int) -> Int64:
        """Return the rows of a patch."""
        start, stop = self.offset[patch : patch + 2]
        return np.arange(start, stop)


def _measure_overlaps(
    context: StageContext, candidates: Mapping[str, Candidates], seen: Int64
) -> dict[str, Int64]:
    """Return rows (candidate, candidate, shared pixels) by compartment."""
    patches = _source_patches(candidates)
    if not patches:
        return {name: np.zeros((0, 3), np.int64) for name in COMPARTMENTS}
    inputs = context.inputs
    table: dict[str, np.ndarray] = {"seen": seen}
    for name, known in candidates.items():
        conflicting = ~known.consistent[known.candidate]
        is_source = conflicting & (known.source_patch[known.candidate] == known.patch)
        rows = CandidateRows(
            _offsets(known.patch, len(seen)),
            known.label,
            known.candidate,
            is_source,
            known.box[known.candidate],
        )
        table |= {f"{name}.{key}": array for key, array in vars(rows).items()}
    inputs.own.write_table(CANDIDATES, table)
    context.map_patches(measure_overlaps, patches, part=OVERLAPS)
    measured = [inputs.part(OVERLAPS).own.read_columns(patch) for patch in patches]
    return {name: np.concatenate([m[name] for m in measured]) for name in COMPARTMENTS}


def _source_patches(candidates: Mapping[str, Candidates]) -> list[int]:
    """Return the source patches of conflicting candidates."""
    sources = [known.source_patch[~known.consistent] for known in candidates.values()]
    return [int(patch) for patch in np.unique(np.concatenate(sources))]


def _offsets(patches: Int64, n: int) -> Int64:
    return np.concatenate([[0], np.cumsum(np.bincount(patches, minlength=n))])


def measure_overlaps(inputs: StageInputs, patches: Sequence[int]) -> Finished:
    """Count pixels that conflicting candidates share with others. Runs in a worker."""
    labels = patch_labels(inputs)
    table = inputs.part("").own.read_table(CANDIDATES)
    seen = table["seen"]
    for number in patches:
        overlaps = {}
        for c, name in enumerate(COMPARTMENTS):
            rows = CandidateRows(**columns_of(table, name, CandidateRows))
            mine = rows.rows(number)
            mine = mine[rows.is_source[mine]]
            shared = [np.zeros((0, 3), np.int64)]
            if len(mine):
                box = bounding_window(rows.box[mine])
                near = np.flatnonzero(overlaps_window(seen, box)).tolist()
                shared += [
                    _shared_pixels(labels, rows, c, mine, (number, neighbour), seen)
                    for neighbour in near
                    if neighbour != number
                ]
            overlaps[name] = np.concatenate(shared)
        inputs.own.write_columns(number, overlaps)
        yield number, {}


def _shared_pixels(
    labels: PatchLabels,
    rows: CandidateRows,
    compartment: int,
    mine: Int64,
    patches: tuple[int, int],
    seen: Int64,
) -> Int64:
    """Count pixels that candidates of one patch share with those of a neighbour."""
    windows = [Window(*seen[patch].tolist()) for patch in patches]
    window = windows[0].intersection(windows[1])
    if window is not None:
        window = window.intersection(bounding_window(rows.box[mine]))
    if window is None:
        return np.zeros((0, 3), np.int64)
    theirs = rows.rows(patches[1])
    numbered = [
        relabel(
            labels.read(patch, window, seen_window)[compartment],
            rows.label[listed],
            np.arange(1, len(listed) + 1, dtype=np.uint32),
        )
        for patch, seen_window, listed in zip(patches, windows, (mine, theirs), strict=True)
    ]
    pairs = pair_table(*numbered, interior=np.ones(window.shape, np.bool_))
    sides = (
        rows.candidate[mine[pairs.cell - 1]],
        rows.candidate[theirs[pairs.nucleus - 1]],
    )
    return np.stack([*sides, pairs.shared], axis=1).astype(np.int64)


# -- resolution ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Kept:
    """Pixels that conflicting objects keep, by compartment.

    Attributes
    ----------
    candidate : (n,) int64
        The objects.
    first, area : (n,) int64
        First pixel and number of the pixels.
    box : (n, 4) int64
        y0, x0, y1, x1.
    is_fragmented : (n,) bool
        Whether no piece is large enough.
    """

    candidate: Int64
    first: Int64
    area: Int64
    box: Int64
    is_fragmented: np.ndarray


def _resolve_until_whole(
    context: StageContext,
    candidates: Mapping[str, Candidates],
    overlaps: Mapping[str, Int64],
    empty: Seams,
) -> tuple[Seams, dict[str, Int64], dict[str, Kept]]:
    """Resolve until every accepted object keeps one piece that is large enough.

    Workers cache the tables of a name, so each turn has a name of its own.
    """
    inputs = context.inputs
    min_remaining = inputs.config.stitch.min_remaining
    discarded = dict.fromkeys(COMPARTMENTS, _NONE)
    visit, judged = _source_patches(candidates), dict[int, Columns]()
    accepted: dict[str, Int64] = {}
    seams = empty
    for turn in count():
        accepted = {
            name: resolve_conflicts(known, overlaps[name], min_remaining, discarded[name])
            for name, known in candidates.items()
        }
        seams = replace(
            seams,
            compartments={
                name: _compartment(candidates[name], accepted[name], len(empty.seen))
                for name in COMPARTMENTS
            },
        )
        if visit:
            seams.write(inputs.own, f"{SEAMS}-{turn}")
            part = f"{FRAGMENTS}{turn}"
            context.map_patches(partial(find_fragments, turn), visit, part=part)
            records = inputs.part(part).own
            judged |= {patch: records.read_columns(patch) for patch in visit}
        visit = []
        for name, known in candidates.items():
            kept = _gather_kept(judged, name)
            fragmented = kept.candidate[kept.is_fragmented]
            if len(fragmented) == 0:
                continue
            gone, touched = select_discards(known, overlaps[name], fragmented)
            discarded[name] = np.concatenate([discarded[name], gone])
            visit += known.source_patch[touched].tolist()
        visit = sorted(set(visit))
        if not visit:
            break
    fragments = {n: np.sort(_gather(judged, f"{n}.fragments", _NONE)) for n in COMPARTMENTS}
    seams = replace(
        seams,
        compartments={
            name: replace(known, fragments=fragments[name])
            for name, known in seams.compartments.items()
        },
    )
    return seams, accepted, {name: _gather_kept(judged, name) for name in COMPARTMENTS}


def _gather(judged: Mapping[int, Columns], column: str, empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *(table[column] for table in judged.values())])


def _gather_kept(judged: Mapping[int, Columns], compartment: str) -> Kept:
    """Collect what workers measured for a compartment."""
    empty = {"box": np.zeros((0, 4), np.int64), "is_fragmented": np.zeros(0, np.bool_)}
    return Kept(
        **{
            key: _gather(judged, f"{compartment}.{key}", empty.get(key, _NONE))
            for key in Kept.__dataclass_fields__
        }
    )


def _compartment(
    candidates: Candidates, accepted: Int64, n_patches: int, ids: np.ndarray | None = None
) -> CompartmentSeams:
    """Return accepted candidates with ids, by default in the order of candidates."""
    if ids is None:
        ids = np.zeros(len(candidates.first), np.uint32)
        ids[np.sort(accepted)] = np.arange(1, len(accepted) + 1, dtype=np.uint32)
    conflicting = accepted[~candidates.consistent[accepted]]
    consistent = candidates.consistent[candidates.candidate]
    return CompartmentSeams(
        detection_offset=_offsets(candidates.patch, n_patches),
        detection_label=candidates.label,
        detection_id=np.where(consistent, ids[candidates.candidate], 0).astype(np.uint32),
        candidate=conflicting,
        id=ids[conflicting],
        area=candidates.area[conflicting],
        source_patch=candidates.source_patch[conflicting],
        source_label=candidates.source_label[conflicting],
        box=candidates.box[conflicting],
        fragments=_NONE,
    )


def find_fragments(turn: int, inputs: StageInputs, patches: Sequence[int]) -> Finished:
    """Measure what conflicting objects of source patches keep. Runs in a worker.

    An object that lost pixels keeps the largest piece of the rest; its other pieces are
    fragments. It is fragmented if that piece is too small.
    """
    labels = patch_labels(inputs)
    seams = Seams.read(inputs.part("").own, f"{SEAMS}-{turn}")
    min_remaining = inputs.config.stitch.min_remaining
    for number in patches:
        rows = {
            name: np.flatnonzero(known.source_patch == number)
            for name, known in seams.compartments.items()
        }
        boxes = [seams.compartments[name].box[rows[name]] for name in COMPARTMENTS]
        mosaic = compose_window(labels, seams, bounding_window(np.concatenate(boxes)))
        table: dict[str, np.ndarray] = {}
        for c, name in enumerate(COMPARTMENTS):
            known = seams.compartments[name]
            kept, fragments = _measure_kept(
                known,
                rows[name],
                mosaic.ids[c],
                mosaic.window,
                min_remaining,
                labels.grid.shape[1],
            )
            columns = vars(kept) | {"fragments": fragments}
            table |= {f"{name}.{key}": array for key, array in columns.items()}
        inputs.own.write_columns(number, table)
        yield number, {}


def _measure_kept(
    seams: CompartmentSeams,
    rows: Int64,
    ids: np.ndarray,
    window: Window,
    min_remaining: float,
    width: int,
) -> tuple[Kept, Int64]:
    """Return what objects keep in a composed window, and the pixels of their fragments."""
    n = len(rows)
    is_fragmented = np.zeros(n, np.bool_)
    first, area, box = np.zeros(n, np.int64), seams.area[rows], seams.box[rows].copy()
    fragments = [_NONE]
    for i, row in enumerate(rows):
        place = Window(*box[i].tolist())
        left = ids[place.within(window)] == seams.id[row]
        if left.sum() != area[i]:
            kept = largest_component(left)
            is_fragmented[i] = kept.sum() < min_remaining * area[i]
            if not is_fragmented[i]:
                y, x = np.nonzero(left & ~kept)
                fragments.append((y + place.y0) * width + x + place.x0)
            left, area[i] = kept, kept.sum()
        y, x = np.nonzero(left)
        if len(y):
            first[i] = (y[0] + place.y0) * width + x[0] + place.x0
            box[i, :2] = place.y0 + y.min(), place.x0 + x.min()
            box[i, 2:] = place.y0 + y.max() + 1, place.x0 + x.max() + 1
    kept_objects = Kept(seams.candidate[rows], first, area, box, is_fragmented)
    return kept_objects, np.concatenate(fragments)


def _number(
    seams: Seams,
    candidates: Mapping[str, Candidates],
    accepted: Mapping[str, Int64],
    kept: Mapping[str, Kept],
) -> tuple[Seams, dict[str, SlideObjects]]:
    """Give accepted objects ids in raster order of the first pixels that they keep."""
    compartments, objects = {}, {}
    for name, known in candidates.items():
        first, area, box = known.first.copy(), known.area.copy(), known.box.copy()
        measured = kept[name]
        first[measured.candidate] = measured.first
        area[measured.candidate] = measured.area
        box[measured.candidate] = measured.box
        rows = np.sort(accepted[name])  # candidates are in raster order
        rows = rows[np.argsort(first[rows], kind="stable")]
        ids = np.zeros(len(first), np.uint32)
        ids[rows] = np.arange(1, len(rows) + 1, dtype=np.uint32)
        numbered = _compartment(known, accepted[name], len(seams.seen), ids)
        fragments = seams.compartments[name].fragments
        compartments[name] = replace(numbered, fragments=fragments)
        objects[name] = SlideObjects(
            first=first[rows],
            area=area[rows],
            box=box[rows],
            source_patch=known.source_patch[rows],
            source_label=known.source_label[rows],
            detected_first=known.first[rows],
        )
    return replace(seams, compartments=compartments), objects


def _with_object_columns(
    inputs: StageInputs, objects: Mapping[str, SlideObjects]
) -> dict[str, SlideObjects]:
    """Add the per-object columns of the backend, read from the source patches."""
    records, declared = inputs.records("segment"), inputs.backend.object_columns
    filled = {}
    for name, known in objects.items():
        columns = {key: np.zeros(len(known), dtype) for key, dtype in declared.items()}
        for patch in np.unique(known.source_patch):
            rows = np.flatnonzero(known.source_patch == patch)
            table = records.read_columns(int(patch))
            at = np.searchsorted(
                read_detections(table, name).label, known.source_label[rows]
            )
            for column, values in columns.items():
                values[rows] = read_object_column(table, name, column)[at]
        filled[name] = replace(known, columns=columns)
    return filled
