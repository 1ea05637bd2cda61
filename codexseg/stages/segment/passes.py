"""Slide passes: a backend's passes over the whole slide before patches are segmented.

Results are stored as arrays in a work folder of their own, a few files per block, and are
read memory-mapped. They depend on the slide and the backend only: a stopped run resumes
with the remaining blocks, even with other patches. They can be large and are deleted once
all patches are segmented.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from codexseg.arrays import Columns, Pixels
from codexseg.backends.base import slide_passes_of
from codexseg.backends.slide_pass import SlidePass
from codexseg.core.grid import Window
from codexseg.core.intensity.background import has_signal
from codexseg.run.directory import Run, digest
from codexseg.run.records import Record, StageRecords
from codexseg.stages.segment.backend import backend_worker, known_diameter
from codexseg.workflow.cache_keys import section_in_key
from codexseg.workflow.stage import Finished, StageContext, StageInputs
from codexseg.workflow.timings import SLIDE_PASS_STAGES
from codexseg.workflow.worker import worker_state

SLIDE_PASS = SLIDE_PASS_STAGES[0]
_SUMMARY = "all"


class RunSlideView:
    """The slide and the results of slide passes in a worker.

    Parameters
    ----------
    inputs : StageInputs
        Of the slide passes.

    Attributes
    ----------
    shape : (int, int)
        Height and width of the slide, px.
    bounds : (float, float)
        Lowest and highest intensity of both segmentation channels.
    """

    def __init__(self, inputs: StageInputs) -> None:
        self._inputs = inputs
        self._statistics = worker_state(inputs).statistics
        self._worker = backend_worker(inputs, known_diameter(inputs))
        self._summaries: dict[str, Columns] = {}
        self.shape = inputs.slide.shape[1:]
        known = self._statistics.as_seen_by_backend
        self.bounds = (
            min(channel.minimum if channel else 0.0 for channel in known),
            max(channel.maximum if channel else 0.0 for channel in known),
        )

    def read(self, window: Window) -> Pixels:
        """Read (2, y, x): nucleus, whole cell."""
        return self._worker.read(window)

    def has_signal(self, window: Window) -> bool:
        """Return whether any block under the window holds signal."""
        return has_signal(self._statistics.signal, window)

    def block_result(self, slide_pass: str, block: int) -> Columns:
        """Return the arrays of a block of a pass."""
        return self._records(slide_pass).open_arrays(block)

    def summary(self, slide_pass: str) -> Columns:
        """Return the summary of a pass."""
        if slide_pass not in self._summaries:
            table = self._records(slide_pass).read_table(_SUMMARY)
            self._summaries[slide_pass] = dict(table)
        return self._summaries[slide_pass]

    def _records(self, slide_pass: str) -> StageRecords:
        return self._inputs.part(slide_pass).own


def slide_pass_inputs(inputs: StageInputs, fingerprint: str) -> StageInputs:
    """Return the inputs of the slide passes: they depend on slide and backend only."""
    depends_on: Record = {
        "load": inputs.keys["load"],
        "backend": fingerprint,
        "config": section_in_key(inputs.config, "segmentation"),
    }
    if inputs.config.segmentation.diameter is not None:
        depends_on["diameter_um"] = known_diameter(inputs)
    keys = {**inputs.keys, SLIDE_PASS: digest(depends_on)}
    return replace(inputs, stage=SLIDE_PASS, keys=keys)


def open_slide_view(inputs: StageInputs) -> RunSlideView:
    """Return the view of a backend on the slide and its pass results, in a worker.

    Parameters
    ----------
    inputs : StageInputs
        Of the stage segment.
    """
    backend = backend_worker(inputs, known_diameter(inputs)).backend
    return RunSlideView(slide_pass_inputs(inputs, backend.fingerprint()))


def run_slide_passes(context: StageContext) -> Record:
    """Run the slide passes of the backend; return counts and notes for the summary."""
    inputs, summary = context.inputs, Record()
    backend = backend_worker(inputs, known_diameter(inputs)).backend
    passes = slide_passes_of(backend)
    if not passes:
        return summary
    own = slide_pass_inputs(inputs, backend.fingerprint())
    inputs.run.begin(SLIDE_PASS, own.key)
    view = RunSlideView(own)
    for slide_pass in passes:
        part = own.part(slide_pass.name)
        records = StageContext(own, context.executor).map_patches(
            partial(_map_blocks, slide_pass.name),
            range(slide_pass.n_blocks(view)),
            unit=slide_pass.unit,
            part=slide_pass.name,
        )
        part.own.write_table(_SUMMARY, dict(slide_pass.reduce(view)))
        for record in records.values():
            summary |= record["notes"]
        counts = sum((Counter(r["counts"]) for r in records.values()), Counter[str]())
        summary |= {name: counts[name] for name in sorted(counts)}
    return summary


def _map_blocks(name: str, inputs: StageInputs, blocks: Sequence[int]) -> Finished:
    """Process blocks of a pass. Runs in a worker."""
    slide_pass = _named(inputs, name)
    view = RunSlideView(inputs.part(""))
    for block in blocks:
        result = slide_pass.map_block(block, view)
        yield (
            block,
            {
                "arrays": list(result.arrays),
                "files": inputs.own.write_arrays(block, result.arrays),
                "counts": dict(result.counts),
                "notes": dict(result.notes),
            },
        )


def _named(inputs: StageInputs, name: str) -> SlidePass:
    backend = backend_worker(inputs, known_diameter(inputs)).backend
    return next(p for p in slide_passes_of(backend) if p.name == name)


def discard_slide_passes(run: Run) -> None:
    """Delete the results of slide passes."""
    for stage in SLIDE_PASS_STAGES:
        run.forget(stage)


def slide_pass_progress(run: Run) -> str:
    """Describe the progress of the current slide pass; "" if there is none."""
    folders = (run.path / "work").glob(f"{SLIDE_PASS}.*")
    begun = [path for path in folders if (path / "total.json").exists()]
    if not begun:
        return ""
    latest = max(begun, key=lambda path: (path / "total.json").stat().st_mtime)
    name, _, key = latest.name.rpartition("-")
    finished, total = run.records(name, key).progress()
    return f"{name.partition('.')[2]} pass: {finished} of {total} blocks"
