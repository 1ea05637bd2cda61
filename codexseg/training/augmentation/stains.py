"""Light that follows labels: a stain of some cells, nuclei that differ in brightness.

Tissues differ in which cells a marker stains, and where in the cell. Drawn by the labels
of real tissue, such stains have its shapes, and the network does not learn one tissue's.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from codexseg.core.labels.operations import inner_boundary
from codexseg.core.labels.stitching import dense
from codexseg.training.augmentation.illumination import field
from codexseg.training.data.examples import Labels, Rng

Pixels = NDArray[np.float32]

_NESTS = 6, 6
_LEFT_OUT = 0.1, 0.9
_RIMS_PX = 0.6, 1.5
_GRAIN_PX = 1.0
_SPREAD = 0.3


def painted(membrane: Pixels, cells: Labels, nuclei: Labels | None, rng: Rng) -> Pixels:
    """Stain some cells, which lie in nests: their membrane, their cytoplasm, or both.

    Parameters
    ----------
    membrane : (y, x) float32
    cells, nuclei : (y, x) uint32
        Where the stain goes; nuclei stay free of it.
    rng : Generator
        All that is random.

    Returns
    -------
    stained : (y, x) float32
    """
    cells, _ = dense(cells)
    highest = int(cells.max(initial=0))
    if highest == 0:
        return membrane
    nests = field(cells.shape, _NESTS, rng)
    areas = np.bincount(cells.ravel(), minlength=highest + 1)
    where = np.bincount(cells.ravel(), nests.ravel(), highest + 1) / np.maximum(areas, 1)
    light = np.exp(rng.normal(0, _SPREAD, highest + 1))
    is_cell = areas > 0
    is_cell[0] = False
    least = np.quantile(where[is_cell], rng.uniform(*_LEFT_OUT))
    light[~is_cell | (where < least)] = 0
    stain = light.astype(np.float32)[cells]
    rim = ndimage.gaussian_filter(stain * inner_boundary(cells), rng.uniform(*_RIMS_PX))
    inside = stain if nuclei is None else stain * (nuclei == 0)
    inside = ndimage.gaussian_filter(inside, rng.uniform(*_RIMS_PX))
    strong, weak = rng.uniform(0.3, 1.2), rng.uniform(0, 0.6)
    if rng.random() < 0.3:
        strong, weak = weak, strong
    paint = np.float32(strong) * rim / max(float(rim.max()), 1e-6)
    paint += np.float32(weak) * inside / max(float(inside.max()), 1e-6)
    grain = ndimage.gaussian_filter(rng.standard_normal(cells.shape, np.float32), _GRAIN_PX)
    paint *= np.exp(np.float32(rng.uniform(0, 1.5)) * grain)
    if rng.random() < 0.5:
        return np.asarray(np.maximum(membrane, paint), np.float32)
    return np.asarray(membrane + paint, np.float32)


def flickered(nucleus: Pixels, nuclei: Labels | None, rng: Rng, spread: float) -> Pixels:
    """Make nuclei brighter or darker, each by itself.

    Parameters
    ----------
    nucleus : (y, x) float32
    nuclei : (y, x) uint32 or None
    rng : Generator
        All that is random.
    spread : float
        Greatest standard deviation of the logarithm of a nucleus's light.
    """
    if nuclei is None:
        return nucleus
    nuclei, _ = dense(nuclei)
    light = rng.normal(0, rng.uniform(0, spread), int(nuclei.max(initial=0)) + 1)
    light[0] = 0
    soft = ndimage.gaussian_filter(light.astype(np.float32)[nuclei], _GRAIN_PX)
    return np.asarray(nucleus * np.exp(soft), np.float32)
