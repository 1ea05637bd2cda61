"""Constants of post-processing travel in the network's file."""

import json

import numpy as np
import pytest

from codexseg.backends.base import SlideContext
from codexseg.backends.networks.weights import resolve_weights
from codexseg.backends.panoptic.backend import Panoptic
from codexseg.backends.panoptic.parameters import (
    CONSTANTS,
    MESMER,
    PostprocessingParams,
    params_of,
    to_json,
)
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.errors import InputError
from tests.helpers.mesmer import TOY, golden


def varint(value):
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def with_metadata(path, text):
    """Append a metadata_props entry: protobuf messages are joined by writing on."""
    entry = b"".join(
        bytes([number << 3 | 2]) + varint(len(part)) + part
        for number, part in ((1, CONSTANTS.encode()), (2, text.encode()))
    )
    path.write_bytes(TOY.read_bytes() + bytes([14 << 3 | 2]) + varint(len(entry)) + entry)
    return path


def test_parameters_of_mesmer_are_the_default():
    assert params_of(resolve_weights(TOY)) == MESMER


def test_parameters_survive_a_round_trip(tmp_path):
    cell, nucleus = (
        PostprocessingParams(0.05, 0.3, 1.0, 10),
        PostprocessingParams(0.1, 0.5, 0.5, 20),
    )
    path = with_metadata(tmp_path / "net.onnx", to_json(cell, nucleus))
    assert params_of(resolve_weights(path)) == (cell, nucleus)


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "{}",
        '{"cell": {"h": 1}, "nucleus": {"h": 1}}',
        to_json(PostprocessingParams(2.0), PostprocessingParams(0.1)),
        to_json(PostprocessingParams(0.1, min_area=0), PostprocessingParams(0.1)),
        json.dumps([1, 2]),
    ],
)
def test_invalid_parameters_are_refused(tmp_path, text):
    path = with_metadata(tmp_path / "net.onnx", text)
    with pytest.raises(InputError, match=r"net\.onnx.*constants"):
        params_of(resolve_weights(path))


def test_stored_parameters_are_used_by_the_backend(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 3000, (1, 2, 256, 256)).astype(np.uint16)
    image[:, :, 40:80, 40:90] += 9000

    def segment(path):
        config = SegmentationConfig(backend="panoptic", model_path=path)
        backend = Panoptic(config, SlideContext((256, 256), 0.5))
        return backend.predict(image, [Window(0, 0, 256, 256)])[0]

    strict = PostprocessingParams(0.075, min_area=10**6), PostprocessingParams(0.1)
    path = with_metadata(tmp_path / "net.onnx", to_json(*strict))
    plain, chosen = segment(TOY), segment(path)
    assert plain[0].any()
    assert not chosen[0].any()
    assert np.array_equal(plain[1], chosen[1])


def test_missing_optional_parameters_have_defaults(tmp_path):
    text = json.loads(to_json(*MESMER))
    for newer in ("least_mean_interior", "least_interior", "least_peak", "growth_px"):
        for constants in text.values():
            del constants[newer]
        path = with_metadata(tmp_path / f"{newer}.onnx", json.dumps(text))
        assert params_of(resolve_weights(path)) == MESMER


@pytest.mark.slow
@pytest.mark.parametrize("name", ["min_peak", "min_interior", "min_mean_interior"])
def test_objects_with_a_faint_centre_are_removed(tmp_path, name):
    image, whole = golden()["image"], Window(0, 0, *golden()["image"].shape[1:])
    counts = []
    for least in (0.0, 0.5, 0.99):
        cell = PostprocessingParams(0.075, **{name: least})
        path = with_metadata(tmp_path / f"{least}.onnx", to_json(cell, MESMER[1]))
        config = SegmentationConfig(backend="panoptic", model_path=path)
        backend = Panoptic(config, SlideContext(whole.shape, 0.5))
        counts.append(int(backend.predict(image[None], [whole])[0][0].max()))
    assert counts[0] >= counts[1] > counts[2]


def test_expansion_takes_background_and_no_neighbours(tmp_path):
    image, whole = golden()["image"], Window(0, 0, *golden()["image"].shape[1:])

    def segment(growth):
        cell = PostprocessingParams(0.075, expansion_px=growth)
        path = with_metadata(tmp_path / f"{growth}.onnx", to_json(cell, MESMER[1]))
        config = SegmentationConfig(backend="panoptic", model_path=path)
        backend = Panoptic(config, SlideContext(whole.shape, 0.5))
        return backend.predict(image[None], [whole])[0]

    plain, grown = segment(0.0), segment(2.0)
    assert np.array_equal(grown[0][plain[0] > 0], plain[0][plain[0] > 0])
    assert np.count_nonzero(grown[0]) > 1.1 * np.count_nonzero(plain[0])
    assert np.array_equal(grown[1], plain[1])
