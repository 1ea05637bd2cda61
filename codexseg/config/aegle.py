"""Keys of aegle, the existing pipeline for CODEX slides.

Configurations of aegle load here. The tables contain each of their keys that codexseg does
not have. A key includes all keys below it.
"""

from typing import Any

_FOLDER = "use --out, the folder of a run names it"
_PICKLES = "the pickles are always compressed, and plain pickle.load reads them"
_COUNTS = "patches_metadata.csv contains the counts of every patch"
_REPORT = "report.html is one small file, see report.overlays and report.overlay_px"

MOVED = {
    "channels.nucleus_channel": "channels.nuclear_channel",
    "patching.patch_overlap": "patching.overlap",
}
"""Keys that have another name, and that name."""

IGNORED = {
    "exp_id": _FOLDER,
    "sample_id": "use data.sample to name the sample",
    "segmentation.save_segmentation_images": (
        "ome_tiff in export.formats writes label images"
    ),
    "segmentation.segmentation_pickle_compression": _PICKLES,
    "segmentation.segmentation_pickle_compression_level": _PICKLES,
    "segmentation.segmentation_pickle_compression_threads": _PICKLES,
    "segmentation.segmentation_analysis": _COUNTS,
    "segmentation.density_analysis": _COUNTS,
    "density_analysis": _COUNTS,
    "segmentation.repair": "repair runs on any CPU, its settings are in the section repair",
    "channels_per_figure": "single channels are not drawn",
    "parallel_processing": "use execution.workers or --workers",
    "profiling.features.compute_cov": (
        "use profile.statistics: [mean, std], their ratio is the coefficient of variation"
    ),
    "profiling.features.compute_laplacian": "it is not measured",
    "profiling": "use the section profile, which needs no GPU and no cache",
    "evaluation": "no quality score is computed",
    "visualization": "report.html contains the pictures, see report.overlays",
    "report.generate_report": "use --until export to omit the report",
    "report.report_format": "the report is HTML",
    "report.compress_images": _REPORT,
    "report.image_max_width": _REPORT,
    "report.image_jpeg_quality": _REPORT,
    "report.include_pre_repair_images": _REPORT,
    "qc_filtering": "filter the rows of cells.parquet",
    "bftools": "channel names come from the image or data.antibodies_file",
    "testing": "images are never disturbed",
}
"""Keys without effect, and the advice that replaces them."""

REFUSED = {
    "testing.data_disruption.type": (
        "codexseg does not disturb images. Set data.file_name to a disturbed copy, or "
        "this key to null"
    ),
    "tissue_extraction": (
        "codexseg does not crop tissue. Set data.file_name to the cropped image, and "
        "remove this section"
    ),
}
"""Keys that are errors because ignoring them would change the results, and the remedy."""


def take_legacy(data: dict[str, Any]) -> dict[str, Any]:
    """Remove the legacy keys from a configuration and return them with their values.

    A refused key that is null has no effect: it is removed and not returned.

    Parameters
    ----------
    data : dict
        The sections; changed in place.
    """
    taken = {}
    # deeper keys are taken first
    for key in sorted([*MOVED, *IGNORED, *REFUSED], key=lambda key: -key.count(".")):
        *parents, last = key.split(".")
        holder: Any = data
        for name in parents:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or last not in holder:
            continue
        value = holder.pop(last)
        if key not in REFUSED or value is not None:
            taken[key] = value
    return taken
