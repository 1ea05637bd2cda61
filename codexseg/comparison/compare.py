"""Several backends on one image, side by side, and how they agree.

Each backend segments the image through the pipeline that `codexseg run` uses, in a run
directory of its own that is removed afterwards. Judged is all that a backend found;
`codexseg predict` leaves out what has no partner.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from codexseg.backends.registry import names as known_backends
from codexseg.comparison.outputs import (
    Comparison,
    Outcome,
    Truths,
    check_targets,
    make_parent,
    move_files,
    slug,
    write_files,
)
from codexseg.comparison.window import Scene, read_truth
from codexseg.config.schema import Config
from codexseg.core.grid import Window
from codexseg.core.metrics.reference_free import FRACTIONS, OTHERS
from codexseg.errors import BackendUnavailable, ConfigError, InputError
from codexseg.evaluation.evaluate import evaluate
from codexseg.pipeline import Pipeline
from codexseg.predict import prepare
from codexseg.stages.base import Job
from codexseg.stages.chain import open_chain
from codexseg.stages.quality import judge_patches, patches_to_judge, quality_rows
from codexseg.stages.report import stage_times
from codexseg.stages.stitch import store_of

__all__ = ["Comparison", "Outcome", "compare"]

log = logging.getLogger(__name__)

IOU = 0.5
SCORES = ("precision", "recall", "f1", "panoptic_quality", "mean_matched_score")
"""Of each backend against a truth, objects matched at :data:`IOU`."""

Progress = Callable[[str], None]


def compare(
    image: str | Path,
    backends: Sequence[str],
    *,
    out: str | Path,
    nucleus: str | None = None,
    wholecell: Sequence[str] = (),
    mode: str | None = None,
    models: Mapping[str, Path] | None = None,
    truth: str | Path | None = None,
    truth_nuclei: str | Path | None = None,
    window: Sequence[int] | None = None,
    mpp: float | None = None,
    panel: str | Path | None = None,
    diameter: float | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda words: None,
) -> Comparison:
    """Segment one image with several backends, and compare what they found.

    Parameters
    ----------
    image, nucleus, wholecell, mode, mpp, panel, diameter
        See `codexseg.predict.prepare`.
    backends : sequence of str
        Names of backends, each once.
    out : path
        Folder of the outputs; made where it is missing. compare.png shows the image and
        what each backend found; BACKEND_outlines.png, BACKEND_cells.tif and
        BACKEND_nuclei.tif hold one; scores.csv has a row per backend.
    models : mapping of backend to path, optional
        Weights.
    truth, truth_nuclei : path, optional
        True labels of cells and of nuclei, of the image or of the window, see
        `codexseg.io.labels.finder.find_labels`.
    window : four ints, optional
        y0, x0, height, width, px. Otherwise the whole image, or of one that is larger
        than 2048 px its brightest window of 2048 x 2048 px.
    workers : int, optional
        Processes.
    overwrite : bool
        Replace files that have the names of the outputs.
    progress : callable
        Told what is being done.

    Returns
    -------
    Comparison
        Backends that are unavailable or failed are in it, with the reason.

    Raises
    ------
    ConfigError, InputError
        If the input is wrong; nothing was written.
    BackendUnavailable
        If none of the backends can be had; nothing was written.
    """
    image, out = Path(image).absolute(), Path(out).absolute()
    names = _check_names(backends, models or {})
    check_targets(out, names, overwrite=overwrite)
    how: dict[str, Any] = {
        "nucleus": nucleus,
        "wholecell": wholecell,
        "mode": mode,
        "mpp": mpp,
        "panel": panel,
        "diameter": diameter,
    }
    plans = {
        name: prepare(
            image, out=out, backend=name, model_path=(models or {}).get(name), **how
        ).pipeline.config
        for name in names
    }
    scene = Scene.open(next(iter(plans.values())), window)
    truths = {
        kind: read_truth(Path(path), kind, scene.shape, scene.window)
        for kind, path in (("cell", truth), ("nucleus", truth_nuclei))
        if path is not None
    }
    make_parent(out)
    with TemporaryDirectory(prefix=".compare-", dir=out.parent) as scratch:
        folder = Path(scratch)
        pipelines = _pipelines(scene, plans, folder)
        outcomes = _segment_all(pipelines, workers, progress)
        outcomes = [_judged(one, outcomes, truths) for one in outcomes]
        result = Comparison(scene.window, scene.shape, tuple(outcomes))
        if not result.done:
            return result
        write_files(folder / "out", scene, result, truths)
        return replace(result, files=move_files(folder / "out", out))


# -- what is wrong with the input ----------------------------------------------------------


def _check_names(backends: Sequence[str], models: Mapping[str, Path]) -> dict[str, str]:
    """Return the backends, and what their files are called after."""
    names = {name: slug(name) for name in backends}
    if not names or len({*names.values()}) < len(backends):
        raise ConfigError(
            f"the backends are {', '.join(backends) or 'none'}, expected different ones."
        )
    unknown = [n for n in names if ":" not in n and n not in known_backends()]
    if unknown:
        raise ConfigError(
            f"there is no backend {', '.join(unknown)}, expected some of "
            f"{', '.join(known_backends())}, or 'module:Class'."
        )
    strangers = [name for name in models if name not in names]
    if strangers:
        raise ConfigError(
            f"--model names {', '.join(strangers)}, expected one of {', '.join(names)}."
        )
    for name, path in models.items():
        if not Path(path).exists():
            raise ConfigError(f"--model {name}={path}: there is nothing there.")
    return names


# -- segmenting ----------------------------------------------------------------------------


def _pipelines(
    scene: Scene, plans: Mapping[str, Config], folder: Path
) -> dict[str, Pipeline]:
    """Cut the window out, and have a run of it for each backend."""
    part = folder / "window.ome.tif"
    scene.write(part)
    return {
        name: Pipeline(
            scene.narrowed(plan, part),
            folder / "runs" / slug(name),
            trusts_config_mpp=True,
        )
        for name, plan in plans.items()
    }


def _segment_all(
    pipelines: Mapping[str, Pipeline], workers: int | None, progress: Progress
) -> list[Outcome]:
    """Have every backend segment the window; what cannot be had is known before."""
    missing: dict[str, str] = {}
    for name, pipeline in pipelines.items():
        try:
            pipeline.source()
        except BackendUnavailable as error:
            missing[name] = str(error)
            progress(f"{name}: unavailable; why follows at the end")
    if len(missing) == len(pipelines):
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in missing.items())
        raise BackendUnavailable(f"none of the backends can be had:\n{reasons}")
    found = []
    for name, pipeline in pipelines.items():
        if name in missing:
            found.append(Outcome(name, "unavailable", missing[name]))
            continue
        progress(f"{name}: segmenting")
        found.append(_segment(name, pipeline, workers))
        if found[-1].reason:
            progress(f"{name}: failed; why follows at the end")
    return found


def _segment(name: str, pipeline: Pipeline, workers: int | None) -> Outcome:
    """Segment the window with one backend; its fault is the outcome, the others go on."""
    try:
        result = pipeline.execute(workers=workers, until="stitch")
    except (OSError, InputError):
        raise  # the disk's fault, or the image's, is nobody's outcome
    except Exception as error:  # named in the tables; the exit code is 1
        log.info("backend %s", name, exc_info=error)
        return Outcome(name, "failed", f"{type(error).__name__}: {error}")
    chain = open_chain(pipeline.run)
    job = Job(pipeline.run, chain.config, chain.source, "stitch", chain.keys_done())
    if result.failed_patches:
        row = job.rows("segment")[result.failed_patches[0]]
        return Outcome(name, "failed", str(row["note"]))
    store, whole = store_of(job), Window(0, 0, *chain.source.shape[1:])
    (*_, quality) = quality_rows(job, dict(judge_patches(job, patches_to_judge(job))))
    _, cpu = stage_times(pipeline.run.timings_path)["segment"]
    figures = {k: float(quality[k]) for k in ("cells", "nuclei", "pairs")}
    figures |= {"cpu_s": cpu} | {k: float(quality[k]) for k in (*FRACTIONS, *OTHERS)}
    cells, nuclei = (store.read(f"{kind}_original", whole) for kind in ("cell", "nucleus"))
    return Outcome(name, cells=cells, nuclei=nuclei, figures=figures)


def _judged(one: Outcome, outcomes: Sequence[Outcome], truths: Truths) -> Outcome:
    """Add how well a backend fits the truth, and the other backends."""
    if one.state != "done":
        return one
    figures = dict(one.figures)
    for kind, title, labels in (
        ("cell", "cells", one.cells),
        ("nucleus", "nuclei", one.nuclei),
    ):
        if kind in truths:
            (match,) = evaluate(truths[kind], labels, iou=(IOU,)).matches
            figures |= {f"{title}_{name}": getattr(match, name) for name in SCORES}
    for other in outcomes:
        if other.state == "done" and other.name != one.name:
            (match,) = evaluate(other.cells, one.cells, iou=(IOU,)).matches
            figures[f"f1_with_{other.name}"] = match.f1
    return replace(one, figures=figures)
