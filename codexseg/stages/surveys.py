"""Surveys of a backend: passes over the whole slide before its patches are segmented.

What a survey finds lies as arrays in a work folder of its own, a few files a piece, and
is read memory-mapped. It depends on the slide and the backend alone: a run that is stopped
goes on with the pieces that are left, also with other patches. Once all patches are
segmented nobody needs it, and it goes: it can be large.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial

from codexseg.backends.base import Arrays, Pixels, SlideView, Survey, surveys_of
from codexseg.core.grid import Window
from codexseg.core.intensity.background import has_signal
from codexseg.run.directory import Row, Run, Tables, digest
from codexseg.stages.base import Context, Job
from codexseg.stages.keys import section_in_key
from codexseg.stages.pixels import backend_of, diameter_of, loaded, pixels_of

SURVEY = "survey"
"""What the work folders of surveys begin with."""
_CONCLUSION = "all"


class View:
    """The slide and what surveys have found, as a worker sees them."""

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

    def found(self, survey: str, piece: int) -> Arrays:
        """Return what a survey found in a piece."""
        job = self._job.at(survey)
        return job.run.arrays(job.stage, job.key, piece)

    def concluded(self, survey: str) -> Arrays:
        """Return what a survey concluded."""
        if survey not in self._concluded:
            job = self._job.at(survey)
            tables = job.run.tables(job.stage, job.key, _CONCLUSION)
            self._concluded[survey] = dict(tables)
        return self._concluded[survey]


def _survey_job(job: Job) -> Job:
    """Return the job of the surveys: its key knows the slide and the backend only."""
    depends_on: Row = {
        "load": job.keys["load"],
        "backend": backend_of(job).fingerprint(),
        "config": section_in_key(job.config, "segmentation"),
    }
    if job.config.segmentation.diameter is not None:
        depends_on["diameter_um"] = diameter_of(job)
    return replace(job, stage=SURVEY, keys={**job.keys, SURVEY: digest(depends_on)})


@lru_cache(maxsize=1)
def view_of(job: Job) -> View:
    """Return the view of a job, made once per worker."""
    return View(_survey_job(job))


def survey_slide(context: Context) -> Row:
    """Do the surveys that the backend asks for; return figures for the summary."""
    job, figures = context.job, Row()
    surveys = surveys_of(backend_of(job))
    if not surveys:
        return figures
    own = _survey_job(job)
    view = View(own)
    job.run.begin(SURVEY, own.key)
    for survey in surveys:
        part = own.at(survey.name)
        rows = Context(own, context.executor).map_patches(
            partial(_visit, survey.name),
            range(survey.pieces(view)),
            unit=survey.unit,
            part=survey.name,
        )
        part.write_tables(_CONCLUSION, dict(survey.conclude(view)))
        for row in rows.values():
            figures |= row["words"]
        counts = sum((Counter(row["counts"]) for row in rows.values()), Counter[str]())
        figures |= {name: counts[name] for name in sorted(counts)}
    return figures


def _visit(name: str, job: Job, pieces: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Survey pieces. Runs in a worker."""
    survey = _named(job, name)
    view: SlideView = _own_view(job.at(""))
    for piece in pieces:
        finding = survey.visit(piece, view)
        yield (
            piece,
            {
                "arrays": list(finding.arrays),
                "files": job.run.write_arrays(job.stage, job.key, piece, finding.arrays),
                "counts": dict(finding.counts),
                "words": dict(finding.words),
            },
        )


@lru_cache(maxsize=1)
def _own_view(job: Job) -> View:
    return View(job)


def _named(job: Job, name: str) -> Survey:
    return next(s for s in surveys_of(backend_of(job)) if s.name == name)


def drop_surveys(run: Run) -> None:
    """Remove what surveys have found."""
    run.forget(SURVEY)


def survey_progress(run: Run) -> str:
    """Say how far the surveys of a segmentation that is under way have come."""
    folders = (run.path / "work").glob(f"{SURVEY}.*")
    began = [path for path in folders if (path / "total.json").exists()]
    if not began:
        return ""
    latest = max(began, key=lambda path: (path / "total.json").stat().st_mtime)
    name, _, key = latest.name.rpartition("-")
    done, total = run.progress(name, key)
    return f"{name.partition('.')[2]} pass: {done} of {total} pieces"
