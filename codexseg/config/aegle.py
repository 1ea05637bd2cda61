"""Keys of aegle, the pipeline that many CODEX configs were written for.

Such a config loads here: each of its keys that codexseg does not have is in
:data:`LEGACY`, as moved to another key, as ignored, or as refused where leaving it out
without a word would change the results.
"""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class LegacyKey:
    """What becomes of a key: where it went, what replaces it, or what to do instead."""

    action: Literal["moved", "ignored", "refused"]
    advice: str


@dataclass(frozen=True)
class Found:
    """A legacy key that a config holds."""

    key: str
    value: Any
    legacy: LegacyKey


def _moved(to: str) -> LegacyKey:
    return LegacyKey("moved", to)


def _ignored(advice: str) -> LegacyKey:
    return LegacyKey("ignored", advice)


def _refused(advice: str) -> LegacyKey:
    return LegacyKey("refused", advice)


_FOLDER = "a run is named by its folder, see --out"
_PICKLES = "the pickles are always compressed, and plain pickle.load reads them"
_COUNTS = "patches_metadata.csv holds the counts of every patch"
_REPORT = "report.html is one small file; see report.overlays and report.overlay_px"

# A key stands for all that lies below it. Deeper keys are taken first.
LEGACY: dict[str, LegacyKey] = {
    "channels.nucleus_channel": _moved("channels.nuclear_channel"),
    "patching.patch_overlap": _moved("patching.overlap"),
    "exp_id": _ignored(_FOLDER),
    "sample_id": _ignored(_FOLDER),
    "segmentation.save_segmentation_images": _ignored(
        "export.ome_tiff says whether label images are written"
    ),
    "segmentation.segmentation_pickle_compression": _ignored(_PICKLES),
    "segmentation.segmentation_pickle_compression_level": _ignored(_PICKLES),
    "segmentation.segmentation_pickle_compression_threads": _ignored(_PICKLES),
    "segmentation.segmentation_analysis": _ignored(_COUNTS),
    "segmentation.density_analysis": _ignored(_COUNTS),
    "density_analysis": _ignored(_COUNTS),
    "segmentation.repair": _ignored(
        "repair runs on any CPU; its settings are in the section repair"
    ),
    "channels_per_figure": _ignored("no figures of single channels are drawn"),
    "parallel_processing": _ignored("execution.workers, or --workers"),
    "profiling.features.compute_cov": _ignored(
        "profile.statistics: [mean, std], their ratio is the coefficient of variation"
    ),
    "profiling.features.compute_laplacian": _ignored("it is not measured"),
    "profiling": _ignored("the section profile; it needs no GPU and no cache"),
    "evaluation": _ignored("no quality score is computed"),
    "visualization": _ignored("the pictures are in report.html, see report.overlays"),
    "report.generate_report": _ignored("--until export leaves the report out"),
    "report.report_format": _ignored("the report is HTML"),
    "report.compress_images": _ignored(_REPORT),
    "report.image_max_width": _ignored(_REPORT),
    "report.image_jpeg_quality": _ignored(_REPORT),
    "report.include_pre_repair_images": _ignored(_REPORT),
    "qc_filtering": _ignored("filter the rows of cells.parquet"),
    "bftools": _ignored("channel names come from the image or data.antibodies_file"),
    "testing.data_disruption.type": _refused(
        "codexseg does not disturb images: name a disturbed copy in data.file_name, or "
        "set null"
    ),
    "testing": _ignored("images are never disturbed"),
    "tissue_extraction": _refused(
        "codexseg does not crop tissue: name the cropped image in data.file_name, and "
        "remove the section"
    ),
}


def take_legacy(data: dict[str, Any]) -> list[Found]:
    """Take the legacy keys out of a config and return them.

    A refused key that is set to null asks for nothing: it is taken out and not returned.
    `data` is changed in place.
    """
    found = []
    for key in sorted(LEGACY, key=lambda key: -key.count(".")):
        *parents, last = key.split(".")
        holder: Any = data
        for name in parents:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or last not in holder:
            continue
        value, legacy = holder.pop(last), LEGACY[key]
        if legacy.action != "refused" or value is not None:
            found.append(Found(key, value, legacy))
    return found
