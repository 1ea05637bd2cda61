"""Keys of aegle, the existing pipeline for CODEX slides.

Configurations of aegle load here. :data:`LEGACY` contains each of their keys that codexseg
does not have: moved to another key, ignored, or refused because ignoring it would change
the results.
"""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class LegacyKey:
    """How a key is treated, and the key or the advice that replaces it."""

    action: Literal["moved", "ignored", "refused"]
    advice: str


@dataclass(frozen=True)
class LegacyValue:
    """A legacy key of a configuration and its value."""

    key: str
    value: Any
    legacy: LegacyKey


def _moved(to: str) -> LegacyKey:
    return LegacyKey("moved", to)


def _ignored(advice: str) -> LegacyKey:
    return LegacyKey("ignored", advice)


def _refused(advice: str) -> LegacyKey:
    return LegacyKey("refused", advice)


_FOLDER = "use --out, the folder of a run names it"
_PICKLES = "the pickles are always compressed, and plain pickle.load reads them"
_COUNTS = "patches_metadata.csv contains the counts of every patch"
_REPORT = "report.html is one small file, see report.overlays and report.overlay_px"

# A key includes all keys below it. Deeper keys are taken first.
LEGACY: dict[str, LegacyKey] = {
    "channels.nucleus_channel": _moved("channels.nuclear_channel"),
    "patching.patch_overlap": _moved("patching.overlap"),
    "exp_id": _ignored(_FOLDER),
    "sample_id": _ignored("use data.sample to name the sample"),
    "segmentation.save_segmentation_images": _ignored(
        "ome_tiff in export.formats writes label images"
    ),
    "segmentation.segmentation_pickle_compression": _ignored(_PICKLES),
    "segmentation.segmentation_pickle_compression_level": _ignored(_PICKLES),
    "segmentation.segmentation_pickle_compression_threads": _ignored(_PICKLES),
    "segmentation.segmentation_analysis": _ignored(_COUNTS),
    "segmentation.density_analysis": _ignored(_COUNTS),
    "density_analysis": _ignored(_COUNTS),
    "segmentation.repair": _ignored(
        "repair runs on any CPU, its settings are in the section repair"
    ),
    "channels_per_figure": _ignored("single channels are not drawn"),
    "parallel_processing": _ignored("use execution.workers or --workers"),
    "profiling.features.compute_cov": _ignored(
        "use profile.statistics: [mean, std], their ratio is the coefficient of variation"
    ),
    "profiling.features.compute_laplacian": _ignored("it is not measured"),
    "profiling": _ignored("use the section profile, which needs no GPU and no cache"),
    "evaluation": _ignored("no quality score is computed"),
    "visualization": _ignored("report.html contains the pictures, see report.overlays"),
    "report.generate_report": _ignored("use --until export to omit the report"),
    "report.report_format": _ignored("the report is HTML"),
    "report.compress_images": _ignored(_REPORT),
    "report.image_max_width": _ignored(_REPORT),
    "report.image_jpeg_quality": _ignored(_REPORT),
    "report.include_pre_repair_images": _ignored(_REPORT),
    "qc_filtering": _ignored("filter the rows of cells.parquet"),
    "bftools": _ignored("channel names come from the image or data.antibodies_file"),
    "testing.data_disruption.type": _refused(
        "codexseg does not disturb images. Set data.file_name to a disturbed copy, or "
        "this key to null"
    ),
    "testing": _ignored("images are never disturbed"),
    "tissue_extraction": _refused(
        "codexseg does not crop tissue. Set data.file_name to the cropped image, and "
        "remove this section"
    ),
}


def take_legacy(data: dict[str, Any]) -> list[LegacyValue]:
    """Remove the legacy keys from a configuration and return them.

    A refused key that is null has no effect: it is removed and not returned.

    Parameters
    ----------
    data : dict
        The sections; changed in place.
    """
    taken = []
    for key in sorted(LEGACY, key=lambda key: -key.count(".")):
        *parents, last = key.split(".")
        holder: Any = data
        for name in parents:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or last not in holder:
            continue
        value, legacy = holder.pop(last), LEGACY[key]
        if legacy.action != "refused" or value is not None:
            taken.append(LegacyValue(key, value, legacy))
    return taken
