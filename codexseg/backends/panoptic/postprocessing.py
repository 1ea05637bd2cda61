"""From flooded maps of a network to its objects: what it doubts goes, the rest grows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codexseg.backends.panoptic.parameters import Constants
from codexseg.core.algorithms.object_filters import remove_faint_objects
from codexseg.core.labels.expand import grow_labels
from codexseg.core.labels.operations import Labels


def finished(
    labels: Labels, maps: Sequence[NDArray[np.float32]], constants: Constants
) -> Labels:
    """Drop the objects that the network doubts, and let the others grow.

    Parameters
    ----------
    labels : (y, x) uint32
        What the flood made of the maps.
    maps : (distance, interior), each (y, x) float32
        Those of the labels' compartment.
    constants : Constants
        Those that follow the flood are used.

    Returns
    -------
    objects : (y, x) uint32
        Numbered from 1 in the order of the flood's.
    """
    distance, interior = maps
    labels = remove_faint_objects(labels, distance, constants.least_peak)
    labels = remove_faint_objects(labels, interior, constants.least_interior)
    least_mean = constants.least_mean_interior
    labels = remove_faint_objects(labels, interior, least_mean, on_average=True)
    return grow_labels(labels, constants.growth_px) if constants.growth_px else labels
