"""Compare several backends on one window of an image.

Each backend runs through the same pipeline as `codexseg run`, in a temporary run
directory. All detected objects are evaluated, including unmatched ones, which
`codexseg predict` omits.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from codexseg.artifacts.labels import ORIGINAL
from codexseg.backends.registry import names as known_backends
from codexseg.comparison.outputs import (
    BackendOutcome,
    Comparison,
    References,
    check_targets,
    move_files,
    scratch_folder,
    slug,
    write_outputs,
)
from codexseg.comparison.window import ComparisonWindow, read_reference
from codexseg.config.schema import Config
from codexseg.core.grid import Window
from codexseg.core.metrics.reference_free import FRACTIONS, OTHERS
from codexseg.errors import BackendUnavailable, ConfigError, InputError, describe_error
from codexseg.evaluation.evaluate import evaluate
from codexseg.pipeline import Pipeline
from codexseg.predict import ImageOptions, prepare
from codexseg.report.quality import judge_patches, patches_to_judge, quality_rows
from codexseg.stages.plan import load_plan
from codexseg.workflow.timings import stage_times
from codexseg.workflow.worker import WorkerState

__all__ = ["BackendOutcome", "Comparison", "compare"]

log = logging.getLogger(__name__)

IOU = 0.5
SCORES = ("precision", "recall", "f1", "panoptic_quality", "mean_matched_score")
"""Scores of each backend against reference labels, objects matched at :data:`IOU`."""

Backends = Sequence[str] | Mapping[str, str | Path | None]
Progress = Callable[[str], None]


def compare(
    image: str | Path,
    backends: Backends,
    out: str | Path,
    *,
    options: ImageOptions | None = None,
    reference: Mapping[str, str | Path] | None = None,
    window: Sequence[int] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda text: None,
) -> Comparison:
    """Segment one image with several backends and compare the results.

    Parameters
    ----------
    image : path
        See `codexseg.predict.prepare`.
    backends : sequence of str, or mapping of str to path
        Different names of backends; a mapping contains their weights, or None.
    out : path
        Folder of the outputs; created if missing. compare.png shows the image and the
        outlines of each backend; BACKEND_outlines.png, BACKEND_cells.tif and
        BACKEND_nuclei.tif those of one; scores.csv has a row per backend.
    options : ImageOptions, optional
        Channels and pixel size. `backends` replaces its backend and weights.
    reference : mapping of str to path, optional
        True labels of the compartments "cell" and "nucleus", of the image or the window,
        see `codexseg.io.labels.finder.find_labels`.
    window : four ints, optional
        y0, x0, height, width, px. By default the whole image; in images larger than
        2048 px the brightest window of 2048 x 2048 px.
    workers : int, optional
        Number of processes.
    overwrite : bool
        Replace existing output files.
    progress : callable
        Called with a message at each step.

    Returns
    -------
    Comparison
        Unavailable and failed backends are included, with the reason.

    Raises
    ------
    ConfigError, InputError
        If the input is wrong; nothing is written.
    BackendUnavailable
        If all backends are unavailable; nothing is written.
    """
    image, out = Path(image).absolute(), Path(out).absolute()
    options = options or ImageOptions()
    weights = _check_backends(backends)
    check_targets(out, list(weights), overwrite=overwrite)
    configs = {
        name: prepare(
            image, out, replace(options, backend=name, model=path)
        ).pipeline.config
        for name, path in weights.items()
    }
    view = ComparisonWindow.open(next(iter(configs.values())), window)
    references = {
        compartment: read_reference(Path(path), compartment, view.shape, view.window)
        for compartment, path in (reference or {}).items()
    }
    with scratch_folder(out) as scratch:
        folder = Path(scratch)
        outcomes = _segment_all(_pipelines(view, configs, folder), workers, progress)
        outcomes = [_with_scores(outcome, outcomes, references) for outcome in outcomes]
        result = Comparison(view.window, view.shape, tuple(outcomes))
        if not result.done:
            return result
        write_outputs(folder / "out", view, result, references)
        return replace(result, files=move_files(folder / "out", out))


def _check_backends(backends: Backends) -> dict[str, str | Path | None]:
    """Return the weights of each backend, or None."""
    weights = (
        dict(backends) if isinstance(backends, Mapping) else dict.fromkeys(backends, None)
    )
    if not backends:
        raise ConfigError("No backend was named. Name at least one.")
    if len({slug(name) for name in weights}) < len(backends):
        raise ConfigError(
            f"Duplicate backends: {', '.join(backends)}. Name each backend once."
        )
    unknown = [n for n in weights if ":" not in n and n not in known_backends()]
    if unknown:
        raise ConfigError(
            f"Backend {', '.join(unknown)} not found, expected some of "
            f"{', '.join(known_backends())}, or 'module:Class'."
        )
    for name, path in weights.items():
        if path is not None and not Path(path).exists():
            raise ConfigError(f"--model is {name}={path}, but this path does not exist.")
    return weights


# -- segmentation --------------------------------------------------------------------------


def _pipelines(
    view: ComparisonWindow, configs: Mapping[str, Config], folder: Path
) -> dict[str, Pipeline]:
    """Write the window to a file, and return a pipeline on it for each backend."""
    path = folder / "window.ome.tif"
    view.write(path)
    return {
        name: Pipeline(
            view.config_of_file(config, path),
            folder / "runs" / slug(name),
            override_mpp=True,
        )
        for name, config in configs.items()
    }


def _segment_all(
    pipelines: Mapping[str, Pipeline], workers: int | None, progress: Progress
) -> list[BackendOutcome]:
    """Segment the window with all backends, after checking which are available."""
    unavailable: dict[str, str] = {}
    for name, pipeline in pipelines.items():
        try:
            pipeline.check()
        except BackendUnavailable as error:
            unavailable[name] = str(error)
            progress(f"{name}: unavailable (reason below)")
    if len(unavailable) == len(pipelines):
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in unavailable.items())
        raise BackendUnavailable(f"All backends are unavailable:\n{reasons}")
    outcomes = []
    for name, pipeline in pipelines.items():
        if name in unavailable:
            outcomes.append(BackendOutcome(name, "unavailable", unavailable[name]))
            continue
        progress(f"{name}: segmenting")
        outcomes.append(_segment(name, pipeline, workers))
        if outcomes[-1].reason:
            progress(f"{name}: failed (reason below)")
    return outcomes


def _segment(name: str, pipeline: Pipeline, workers: int | None) -> BackendOutcome:
    """Segment the window with one backend; an error of the backend is its outcome."""
    try:
        result = pipeline.execute(workers=workers, until="repair")
    except (OSError, InputError):
        raise  # caused by the disk or the image, not by the backend
    except Exception as error:  # reported in both tables; the exit code is 1
        log.info("backend %s", name, exc_info=error)
        return BackendOutcome(name, "failed", describe_error(error))
    plan = load_plan(pipeline.run)
    state = WorkerState(plan.inputs("repair", plan.completed_keys()))
    if result.failed_patches:
        record = state.inputs.records("segment").read(result.failed_patches[0]) or {}
        return BackendOutcome(name, "failed", str(record.get("note", "")))
    whole = Window(0, 0, *state.grid.shape)
    judged = dict(judge_patches(state.inputs, patches_to_judge(state)))
    (*_, quality) = quality_rows(state, judged)
    _, cpu = stage_times(pipeline.run.timings_path)["segment"]
    metrics = {k: float(quality[k]) for k in ("cells", "nuclei", "pairs")}
    metrics |= {"cpu_s": cpu} | {k: float(quality[k]) for k in (*FRACTIONS, *OTHERS)}
    cells, nuclei = (state.labels.read(image, whole) for image in ORIGINAL.values())
    return BackendOutcome(name, cells=cells, nuclei=nuclei, metrics=metrics)


def _with_scores(
    outcome: BackendOutcome, outcomes: Sequence[BackendOutcome], references: References
) -> BackendOutcome:
    """Add scores against the reference labels and the agreement with other backends."""
    if outcome.state != "done":
        return outcome
    metrics = dict(outcome.metrics)
    for compartment, title, labels in (
        ("cell", "cells", outcome.cells),
        ("nucleus", "nuclei", outcome.nuclei),
    ):
        if compartment in references:
            (match,) = evaluate(references[compartment], labels, iou=(IOU,)).matches
            metrics |= {f"{title}_{name}": getattr(match, name) for name in SCORES}
    for peer in outcomes:
        if peer.state == "done" and peer.name != outcome.name:
            (match,) = evaluate(peer.cells, outcome.cells, iou=(IOU,)).matches
            metrics |= {f"f1_with_{peer.name}": match.f1}
    return replace(outcome, metrics=metrics)
