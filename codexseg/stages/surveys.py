"""Surveys of a backend: passes over the whole slide before its patches are segmented.

What a slide_pass finds lies as arrays in a work folder of its own, a few files a piece, and
is read memory-mapped. It depends on the slide and the backend alone: a run that is stopped
goes on with the pieces that are left, also with other patches. Once all patches are
segmented nobody needs it, and it goes: it can be large.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial

from codexseg.arrays import Pixels
from codexseg.backends.base import slide_passes_of
from codexseg.backends.slide_pass import Arrays, SlidePass, SlideView
from codexseg.core.grid import Window
from codexseg.core.intensity.background import has_signal
from codexseg.run.directory import Row, Run, Tables, digest
from codexseg.stages.base import Context, Job
from codexseg.stages.keys import section_in_key
from codexseg.stages.pixels import backend_of, diameter_of, loaded, pixels_of

SLIDE_PASS = "slide_pass"
"""What the work folders of slide_passes begin with."""
_CONCLUSION = "all"


class View:
    """The slide and what slide_passes have found, as a worker sees them."""

    def __init__(self, job: Job) -> None:
        self._job, self._loaded = job, loaded(job)
        self._concluded: dict[str, Tables] = {}
        self.shape = job.source.shape[1:]
        both = self._loaded.shown
        self.bounds = (
            min(found.minimum if found else 0.0 for found in both),
            max(found.maximum if found else 0.0 for found in both),
        )

    def read(self, window: Window) -> Pixels:
        """Read (2, y, x): nucleus, whole cell."""
        return pixels_of(self._job, window)

    def has_signal(self, window: Window) -> bool:
        """Whether any block under the window holds signal."""
        return has_signal(self._loaded.signal, window)

    def block_result(self, slide_pass: str, piece: int) -> Arrays:
        """Return what a slide_pass found in a piece."""
        job = self._job.at(slide_pass)
        return job.run.arrays(job.stage, job.key, piece)

    def summary(self, slide_pass: str) -> Arrays:
        """Return what a slide_pass concluded."""
        if slide_pass not in self._concluded:
            job = self._job.at(slide_pass)
            tables = job.run.tables(job.stage, job.key, _CONCLUSION)
            self._concluded[slide_pass] = dict(tables)
        return self._concluded[slide_pass]


def _slide_pass_job(job: Job) -> Job:
    """Return the job of the slide_passes: its key knows the slide and the backend only."""
    depends_on: Row = {
        "load": job.keys["load"],
        "backend": backend_of(job).fingerprint(),
        "config": section_in_key(job.config, "segmentation"),
    }
    if job.config.segmentation.diameter is not None:
        depends_on["diameter_um"] = diameter_of(job)
    return replace(job, stage=SLIDE_PASS, keys={**job.keys, SLIDE_PASS: digest(depends_on)})


@lru_cache(maxsize=1)
def view_of(job: Job) -> View:
    """Return the view of a job, made once per worker."""
    return View(_slide_pass_job(job))


def run_slide_passes(context: Context) -> Row:
    """Do the slide_passes that the backend asks for; return figures for the summary."""
    job, figures = context.job, Row()
    slide_passes = slide_passes_of(backend_of(job))
    if not slide_passes:
        return figures
    own = _slide_pass_job(job)
    view = View(own)
    job.run.begin(SLIDE_PASS, own.key)
    for slide_pass in slide_passes:
        part = own.at(slide_pass.name)
        rows = Context(own, context.executor).map_patches(
            partial(_visit, slide_pass.name),
            range(slide_pass.n_blocks(view)),
            unit=slide_pass.unit,
            part=slide_pass.name,
        )
        part.write_tables(_CONCLUSION, dict(slide_pass.reduce(view)))
        for row in rows.values():
            figures |= row["notes"]
        counts = sum((Counter(row["counts"]) for row in rows.values()), Counter[str]())
        figures |= {name: counts[name] for name in sorted(counts)}
    return figures


def _visit(name: str, job: Job, pieces: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """SlidePass pieces. Runs in a worker."""
    slide_pass = _named(job, name)
    view: SlideView = _own_view(job.at(""))
    for piece in pieces:
        finding = slide_pass.map_block(piece, view)
        yield (
            piece,
            {
                "arrays": list(finding.arrays),
                "files": job.run.write_arrays(job.stage, job.key, piece, finding.arrays),
                "counts": dict(finding.counts),
                "notes": dict(finding.notes),
            },
        )


@lru_cache(maxsize=1)
def _own_view(job: Job) -> View:
    return View(job)


def _named(job: Job, name: str) -> SlidePass:
    return next(s for s in slide_passes_of(backend_of(job)) if s.name == name)


def discard_slide_passes(run: Run) -> None:
    """Remove what slide_passes have found."""
    run.forget(SLIDE_PASS)


def slide_pass_progress(run: Run) -> str:
    """Say how far the slide_passes of a segmentation that is under way have come."""
    folders = (run.path / "work").glob(f"{SLIDE_PASS}.*")
    began = [path for path in folders if (path / "total.json").exists()]
    if not began:
        return ""
    latest = max(began, key=lambda path: (path / "total.json").stat().st_mtime)
    name, _, key = latest.name.rpartition("-")
    done, total = run.progress(name, key)
    return f"{name.partition('.')[2]} pass: {done} of {total} pieces"
