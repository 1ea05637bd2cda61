"""Filtering and expansion of objects after the watershed on the maps of a network."""

from collections.abc import Sequence

from codexseg.arrays import Float32, Labels
from codexseg.backends.panoptic.parameters import PostprocessingParams
from codexseg.core.algorithms.object_filters import remove_faint_objects
from codexseg.core.labels.expand import grow_labels


def postprocess(
    labels: Labels, maps: Sequence[Float32], params: PostprocessingParams
) -> Labels:
    """Remove low-confidence objects and expand the rest.

    Parameters
    ----------
    labels : (y, x) uint32
        Result of the watershed.
    maps : (distance, interior), each (y, x) float32
        Maps of the same compartment.
    params : PostprocessingParams
        Those after the watershed are used.

    Returns
    -------
    objects : (y, x) uint32
        Numbered from 1 in the order of `labels`.
    """
    distance, interior = maps
    labels = remove_faint_objects(labels, distance, params.min_peak)
    labels = remove_faint_objects(labels, interior, params.min_interior)
    min_mean = params.min_mean_interior
    labels = remove_faint_objects(labels, interior, min_mean, on_average=True)
    return grow_labels(labels, params.expansion_px) if params.expansion_px else labels
