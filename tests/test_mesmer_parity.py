"""Parity of the Mesmer backend with the deepcell package, run in Python 3.10."""

import numpy as np
import pytest

from codexseg.backends.base import SlideContext
from codexseg.backends.deepcell.backend import Deepcell
from codexseg.backends.panoptic.backend import Panoptic
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from tests.benchmarks.pipeline import identical
from tests.helpers.deepcell_env import deepcell_python
from tests.helpers.mesmer import SAVED_MODEL, TOY, blobs, same_objects

FG_PX = 4
"""Maximum number of differing foreground pixels; networks differ in the last bits."""
FG_OBJECTS = 2
"""Maximum number of differing objects at other pixel sizes, for the same reason."""


@pytest.fixture(scope="module")
def worker():
    """A deepcell backend shared by all tests: TensorFlow takes seconds to start."""
    config = SegmentationConfig(
        backend="deepcell", model_path=SAVED_MODEL, python=deepcell_python()
    )
    return Deepcell(config, SlideContext((300, 300), 0.5))


def both(worker, images, mpp, compartment="both"):
    """Segment images with deepcell and this package: two arrays (n, 2, y, x)."""
    shape = images.shape[2:]
    windows = [Window(0, 0, *shape)] * len(images)
    slide = SlideContext(shape, mpp)
    keys = {"compartment": compartment, "normalization": "patch"}
    theirs = worker
    theirs._slide, theirs._compartment = slide, compartment
    ours = Panoptic(SegmentationConfig(backend="panoptic", model_path=TOY, **keys), slide)
    return theirs.predict(images, windows), ours.predict(images, windows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "mpp", "dtype"),
    [
        ((300, 330), 0.5, np.uint16),
        ((300, 330), 0.5, np.float32),
        ((420, 450), 0.325, np.uint16),
        ((140, 160), 1.0, np.float32),
        ((200, 180), 0.5, np.uint8),
    ],
    ids=str,
)
def test_labels_equal_deepcell(worker, shape, mpp, dtype):
    images = blobs(shape, 1)[None]
    images = (images // (64 if dtype == np.uint8 else 1)).astype(dtype)
    for theirs, ours in zip(*both(worker, images, mpp), strict=True):
        for one, other in zip(theirs, ours, strict=True):
            assert one.max() > 10
            if mpp == 0.5:
                assert same_objects(one, other)
            else:
                assert ((one > 0) != (other > 0)).sum() <= FG_PX
                twins = identical(other, one)
                assert twins >= len(np.unique(one)) - 1 - FG_OBJECTS


@pytest.mark.slow
@pytest.mark.parametrize("compartment", ["whole-cell", "nuclear"])
def test_labels_of_one_compartment_equal_deepcell(worker, compartment):
    images = blobs((350, 330))[None]
    theirs, ours = both(worker, images, 0.4, compartment)
    for one, other in zip(theirs[0], ours[0], strict=True):
        assert same_objects(one, other)
    assert theirs.any()


@pytest.mark.slow
def test_labels_of_empty_channels_equal_deepcell(worker):
    images = np.zeros((2, 2, 300, 300), np.uint16)
    images[1, 0] = blobs((300, 300))[0]
    for theirs, ours in zip(*both(worker, images, 0.5), strict=True):
        for one, other in zip(theirs, ours, strict=True):
            assert same_objects(one, other)
