"""Seams: which patch speaks for which object, and which objects are the slide's.

:mod:`codexseg.core.labels.stitching` decides; this module reads the patches' labels for
it, and
has :mod:`codexseg.stages.painting` show what is left of an object.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.matching import pair_table
from codexseg.core.labels.operations import relabel
from codexseg.core.labels.stitching import (
    Objects,
    Versions,
    choose_drops,
    find_versions,
    largest_piece,
    settle,
)
from codexseg.run.directory import Arrays, Row, Tables
from codexseg.stages.base import Context, Job
from codexseg.stages.painting import (
    SEAMS,
    Painted,
    bounds,
    listings,
    overlapping,
    paint,
    read_view,
    seams_of,
)
from codexseg.stages.pixels import grid_of
from codexseg.stages.segment import COMPARTMENTS

PIECES = "pieces"
"""What the passes over the pieces of disputed objects are called, with their number."""

Ints = NDArray[np.int64]


def segmented(job: Job) -> list[int]:
    """Return the patches that have labels."""
    return [p for p, row in job.rows("segment").items() if row["status"] == "done"]


def join(context: Context) -> list[Versions]:
    """Decide which objects are the slide's; write the tables that painting reads.

    Returns the versions of both compartments. The accepted ones have an id, 1..n in
    raster order: the table "seams".
    """
    job = context.job
    grid, patches = grid_of(job), segmented(job)
    found = []
    for name in COMPARTMENTS:  # one at a time: these lists grow with the cells
        listed = (Objects.from_tables(job.tables("segment", p), name) for p in patches)
        found.append(find_versions(dict(zip(patches, listed, strict=True)), grid))
    views = _views(job, grid)
    seams: Tables = {"segmented": np.array(patches, np.int64), "view": views}
    rivals = _rivals(context, found, views)
    job.write_tables(SEAMS, _settled(context, found, rivals, seams))
    return found


def _settled(
    context: Context, found: list[Versions], rivals: list[Ints], seams: Tables
) -> Tables:
    """Settle until all that stands is in one piece, large enough; add it to the tables.

    Workers keep the tables that they have read: each turn has a name of its own.
    """
    job, least = context.job, context.job.config.stitch.min_remaining
    dropped = [np.zeros(0, np.int64) for _ in found]
    visit, judged = _speakers(found), dict[int, Arrays]()
    for turn in count():
        for c, name in enumerate(COMPARTMENTS):
            accepted = settle(found[c], rivals[c], least, dropped[c])
            seams = seams | _table(found[c], accepted, name, len(seams["view"]))
        if visit:
            job.write_tables(f"{SEAMS}-{turn}", seams)
            context.map_patches(judge_pieces, visit, part=f"{PIECES}{turn}")
            stage = f"{job.stage}.{PIECES}{turn}"
            judged |= {p: job.tables(stage, p) for p in visit}
        visit = []
        for c, name in enumerate(COMPARTMENTS):
            torn = _gathered(judged, f"{name}_torn")
            if len(torn) == 0:
                continue
            gone, touched = choose_drops(found[c], rivals[c], torn)
            dropped[c] = np.concatenate([dropped[c], gone])
            visit += found[c].speaker[touched].tolist()
        visit = sorted(set(visit))
        if not visit:
            break
    crumbs = {n: np.sort(_gathered(judged, f"{n}_crumbs")) for n in COMPARTMENTS}
    return seams | {f"{name}_crumbs": places for name, places in crumbs.items()}


def _speakers(found: list[Versions]) -> list[int]:
    """Return the patches that speak for versions which not all agree on."""
    speakers: Ints = np.concatenate([v.speaker[~v.agreed] for v in found])
    return [int(patch) for patch in np.unique(speakers)]


def _gathered(tables: dict[int, Arrays], name: str) -> Ints:
    """Bring one column of all patches together."""
    return np.concatenate([np.zeros(0, np.int64), *(t[name] for t in tables.values())])


def _views(job: Job, grid: PatchGrid) -> Ints:
    """Return the window that each patch saw: its outer one, or what that grew to.

    (n, 4): y0, x0, y1, x1; all 0 for a patch without labels.
    """
    views = np.zeros((len(grid), 4), np.int64)
    for number, row in job.rows("segment").items():
        if row["status"] == "done":
            outer = grid[number].outer
            views[number] = row.get("window", (outer.y0, outer.x0, outer.y1, outer.x1))
    return views


def _table(versions: Versions, accepted: Ints, name: str, n_patches: int) -> Tables:
    """Give ids to what was accepted; disputed objects stand apart, in their order."""
    ids = np.zeros(len(versions.first), np.uint32)
    in_order = np.sort(accepted)  # versions are in raster order
    ids[in_order] = np.arange(1, len(in_order) + 1, dtype=np.uint32)
    disputed = accepted[~versions.agreed[accepted]]
    listed = np.where(versions.agreed[versions.version], ids[versions.version], 0)
    counts = np.bincount(versions.patch, minlength=n_patches)
    return {
        f"{name}_accepted": in_order,
        f"{name}_offset": np.concatenate([[0], np.cumsum(counts)]),
        f"{name}_label": versions.label,
        f"{name}_id": listed.astype(np.uint32),
        f"{name}_crumbs": np.zeros(0, np.int64),
        f"{name}_disputed_version": disputed,
        f"{name}_disputed_area": versions.area[disputed],
        f"{name}_disputed_id": ids[disputed],
        f"{name}_disputed_patch": versions.speaker[disputed],
        f"{name}_disputed_label": versions.name[disputed],
        f"{name}_disputed_box": versions.box[disputed],
    }


# -- rivals: how many pixels do versions share that patches do not agree on? ---------------


def _rivals(context: Context, found: list[Versions], views: Ints) -> list[Ints]:
    job = context.job
    patches = _speakers(found)
    if not patches:
        return [np.zeros((0, 3), np.int64) for _ in found]
    tables: Tables = {"view": views}
    for name, versions in zip(COMPARTMENTS, found, strict=True):
        counts = np.bincount(versions.patch, minlength=len(views))
        tables |= {
            f"{name}_offset": np.concatenate([[0], np.cumsum(counts)]),
            f"{name}_label": versions.label,
            f"{name}_version": versions.version,
            f"{name}_disputed": ~versions.agreed[versions.version]
            & (versions.speaker[versions.version] == versions.patch),
            f"{name}_box": versions.box[versions.version],
        }
    job.write_tables("versions", tables)
    context.map_patches(measure_rivals, patches, part="rivals")
    measured = [job.tables("repair.rivals", p) for p in patches]
    return [np.concatenate([m[name] for m in measured]) for name in COMPARTMENTS]


@lru_cache(maxsize=1)
def _versions_of(job: Job) -> Arrays:
    return dict(job.tables("repair", "versions"))


def measure_rivals(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Count the pixels that disputed objects share with what others see. In a worker."""
    tables = _versions_of(job)
    for number in patches:
        rivals: Tables = {}
        for c, name in enumerate(COMPARTMENTS):
            rows = listings(tables, name, number)
            mine = rows[tables[f"{name}_disputed"][rows]]
            found = [np.zeros((0, 3), np.int64)]
            if len(mine):
                box = bounds(tables[f"{name}_box"][mine])
                near = np.flatnonzero(overlapping(tables["view"], box))
                others = (int(other) for other in near if other != number)
                found += [_shared(job, c, mine, (number, other)) for other in others]
            rivals[name] = np.concatenate(found)
        job.write_tables(number, rivals)
        yield number, {}


def _shared(job: Job, compartment: int, mine: Ints, patches: tuple[int, int]) -> Ints:
    """Count shared pixels of disputed objects of one patch and all of another."""
    tables, name = _versions_of(job), COMPARTMENTS[compartment]
    views = [Window(*tables["view"][p].tolist()) for p in patches]
    window = views[0].intersection(views[1])
    if window is not None:
        window = window.intersection(bounds(tables[f"{name}_box"][mine]))
    if window is None:
        return np.zeros((0, 3), np.int64)
    labels, theirs = (
        read_view(job, p, view, window)[compartment]
        for p, view in zip(patches, views, strict=True)
    )
    rows = listings(tables, name, patches[1])
    number = [
        relabel(
            image, tables[f"{name}_label"][r], np.arange(1, len(r) + 1, dtype=np.uint32)
        )
        for image, r in ((labels, mine), (theirs, rows))
    ]
    pairs = pair_table(*number, interior=np.ones(window.shape, np.bool_))
    version = tables[f"{name}_version"]
    sides = version[mine[pairs.cell - 1]], version[rows[pairs.nucleus - 1]]
    return np.stack([*sides, pairs.shared], axis=1).astype(np.int64)


# -- pieces: what do others leave of a disputed object? ------------------------------------


def judge_pieces(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Look at what is left of the disputed objects that patches speak for. In a worker.

    An object that lost pixels keeps the largest piece of what is left: the pixels of the
    others are crumbs. It is torn if that piece is too small to stand for it.
    """
    grid, turn = grid_of(job), f"{SEAMS}-{job.stage.partition(PIECES)[2]}"
    seams = seams_of(job, turn)
    for number in patches:
        rows = [
            np.flatnonzero(seams[f"{n}_disputed_patch"] == number) for n in COMPARTMENTS
        ]
        boxes = (
            seams[f"{n}_disputed_box"][r] for n, r in zip(COMPARTMENTS, rows, strict=True)
        )
        view = paint(job, grid, bounds(np.concatenate([*boxes])), turn)
        tables: Tables = {}
        for c, name in enumerate(COMPARTMENTS):
            tables |= _pieces(
                job,
                view,
                c,
                {
                    column: seams[f"{name}_disputed_{column}"][rows[c]]
                    for column in ("version", "id", "area", "box")
                },
            )
        job.write_tables(number, tables)
        yield number, {}


def _pieces(job: Job, view: Painted, compartment: int, objects: Arrays) -> Tables:
    """Say which objects are torn, and where the crumbs of the others lie."""
    least, width = job.config.stitch.min_remaining, job.source.shape[2]
    torn, crumbs = np.zeros(len(objects["id"]), np.bool_), [np.zeros(0, np.int64)]
    for row, (number, area) in enumerate(zip(objects["id"], objects["area"], strict=True)):
        box = Window(*objects["box"][row].tolist())
        left = view.ids[compartment][box.within(view.window)] == number
        if left.sum() == area:
            continue  # as its speaker sees it, be it of one piece or not
        kept = largest_piece(left)
        torn[row] = kept.sum() < least * area
        if not torn[row]:
            y, x = np.nonzero(left & ~kept)
            crumbs.append((y + box.y0) * width + x + box.x0)
    name = COMPARTMENTS[compartment]
    return {
        f"{name}_torn": objects["version"][torn],
        f"{name}_crumbs": np.concatenate(crumbs),
    }
