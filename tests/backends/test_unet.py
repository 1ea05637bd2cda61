import json

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from codexseg.backends.base import (
    Backend,
    ChannelStatistics,
    SlideContext,
    WholeSlideBackend,
)
from codexseg.backends.networks.weights import UNET
from codexseg.backends.panoptic.backend import Panoptic
from codexseg.backends.slide_pass import InMemory
from codexseg.backends.unet.backend import Unet
from codexseg.backends.unet.postprocessing import (
    REACH_PX,
    depth_map,
    depth_params,
    margin_px,
)
from codexseg.backends.unet.spec import (
    ObjectParams,
    UnetSpec,
    limits,
    read_spec,
    scale_to_unit,
)
from codexseg.config.schema import SegmentationConfig
from codexseg.core.algorithms.deep_watershed import deep_watershed
from codexseg.core.grid import Window
from codexseg.core.intensity.background import channel_statistics
from codexseg.errors import ConfigError, InputError
from tests.helpers.mesmer import TOY, same_objects
from tests.helpers.networks import field, value_info
from tests.helpers.runs import LABELS, codexseg, execute, labels
from tests.helpers.tissue import tissue, write_config, write_slide


def tensor(name, array):
    """Write a TensorProto."""
    kind = {"f": 1, "i": 7}[array.dtype.kind]
    dims = b"".join(field(1, n) for n in array.shape)
    return dims + field(2, kind) + field(8, name.encode()) + field(9, array.tobytes())


def node(kind, inputs, output, **attributes):
    """Write a NodeProto whose attributes are lists of integers."""
    parts = b"".join(field(1, name.encode()) for name in inputs)
    parts += field(2, output.encode()) + field(4, kind.encode())
    for name, values in attributes.items():
        ints = b"".join(field(8, value) for value in values)
        parts += field(5, field(1, name.encode()) + ints + field(20, 7))
    return parts


def write_unet(path, spec, metadata=None, light=0.5):
    """Write a network that blurs each input (7 px); bright pixels are foreground."""
    n_in, n_out = len(spec.inputs), len(spec.outputs)
    kernel = np.zeros((n_out, n_in, 7, 7), np.float32)
    for i in range(n_out):
        kernel[i, i % n_in] = 40 / 49
    tensors = [tensor("k", kernel), tensor("b", np.full(n_out, -40 * light, np.float32))]
    nodes = [
        node("Transpose", ["x"], "a", perm=[0, 3, 1, 2]),
        node("Conv", ["a", "k", "b"], "c", pads=[3, 3, 3, 3]),
        node("Sigmoid", ["c"], "d"),
        node("Transpose", ["d"], "y", perm=[0, 2, 3, 1]),
    ]
    graph = b"".join(field(1, one) for one in nodes) + field(2, b"unet")
    graph += b"".join(field(5, one) for one in tensors)
    graph += field(11, value_info("x", ("n", "h", "w", n_in), 1))
    graph += field(12, value_info("y", ("n", "h", "w", n_out), 1))
    text = spec.to_json() if metadata is None else metadata
    entry = field(1, UNET.encode()) + field(2, text.encode())
    path.write_bytes(
        field(1, 8) + field(7, graph) + field(8, field(2, 17)) + field(14, entry)
    )
    return path


BOTH = UnetSpec(("nucleus", "wholecell"), ("cells", "nuclei"))
NUCLEI = UnetSpec(("nucleus",), ("nuclei",))


@pytest.fixture
def net(tmp_path):
    return write_unet(tmp_path / "net.onnx", BOTH)


def unet(path, image, mpp=0.5, **settings):
    levels = [ChannelStatistics(*channel_statistics(channel)) for channel in image]
    config = SegmentationConfig(backend="unet", model_path=path, **settings)
    return Unet(config, SlideContext(image.shape[1:], mpp, *levels))


def surveyed(path, image, **settings):
    backend, view = unet(path, image, **settings), InMemory(image)
    for slide_pass in backend.slide_passes:
        view.execute(slide_pass)
    return backend, view


def discs(shape, seed=0, count=60):
    """Draw (2, y, x): discs of 5 to 12 px, many of which touch, in both channels."""
    rng = np.random.default_rng(seed)
    image = rng.normal(300, 20, (2, *shape))
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for _ in range(count):
        y, x = rng.uniform((0, 0), shape)
        radius = rng.uniform(5, 12)
        distance = np.hypot(yy - y, xx - x)
        image[0][distance < radius] = 4000
        image[1][distance < radius - 1] = 4000
    return image.clip(0).astype(np.uint16)


def test_touching_discs_are_separated_by_shape():
    yy, xx = np.mgrid[:60, :90]
    image = (np.hypot(yy - 30, xx - 30) < 15) | (np.hypot(yy - 30, xx - 54) < 13)
    objects = ObjectParams()
    constants = depth_params(objects)
    maps = depth_map(image.astype(np.float32), objects)
    found, _ = deep_watershed(
        *maps,
        h=constants.h,
        interior_threshold=constants.interior_threshold,
        smoothing_px=constants.smoothing_px,
        min_area=constants.min_area,
    )
    assert found.max() == 2
    assert np.array_equal(found > 0, image)
    assert found[30, 20] != found[30, 60]
    left = found == found[30, 20]
    assert abs(np.flatnonzero(left.any(axis=0)).max() - 43) <= 2  # the waist


@pytest.mark.parametrize("seed", range(3))
def test_depth_does_not_depend_on_pixels_beyond_its_reach(seed):
    rng = np.random.default_rng(seed)
    image = np.ones((420, 430), np.float32)
    image[tuple(rng.integers(0, 420, (2, 6)))] = 0
    objects = ObjectParams(smoothing_px=1.7)
    whole, margin = depth_map(image, objects), margin_px(objects)
    part = depth_map(image[40:400, 20:390], objects)
    inner = np.s_[:, margin:-margin, margin:-margin]
    assert np.array_equal(part[inner], whole[:, 40:400, 20:390][inner])
    assert whole.max() == 1
    assert (depth_map(np.ones((30, 30), np.float32), objects) == 1).all()
    assert REACH_PX > 20


def test_intensities_are_scaled_to_0_to_1():
    statistics = ChannelStatistics(10, 500, 20, 3, 420)
    assert limits(statistics, "range") == (10, 500)
    assert limits(statistics, "levels") == (20, 420)
    unit = scale_to_unit(np.array([[0, 20, 120, 900]], np.uint16), 20, 420)
    assert unit.tolist() == [[0, 0, 0.25, 1]]
    assert not scale_to_unit(np.ones((2, 2)), 5, 5).any()


def test_objects_of_both_compartments_are_segmented(net):
    image = discs((300, 400))
    backend, view = surveyed(net, image)
    cells, nuclei = backend.segment_window(Window(0, 0, 300, 400), view)
    assert 25 < cells.max() <= 60
    assert 25 < nuclei.max() <= 60
    light = image[0] > 2000
    assert (light & (cells > 0)).sum() / (light | (cells > 0)).sum() > 0.85


def test_single_output_fills_its_compartment(tmp_path):
    path = write_unet(tmp_path / "n.onnx", NUCLEI)
    image = discs((200, 200))
    backend = unet(path, image, compartment="nuclear", normalization="patch")
    found = backend.predict(image[None], [Window(0, 0, 200, 200)])[0]
    assert found[1].max() > 5
    assert not found[0].any()
    with pytest.raises(ConfigError, match=r"segments nuclei only.*'nuclear'"):
        unet(path, image)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 99), st.sampled_from([None, 0.4, 0.8]), st.data())
def test_window_has_the_objects_of_the_slide(tmp_path_factory, seed, mpp, data):
    spec = UnetSpec(BOTH.inputs, BOTH.outputs, mpp=mpp)
    path = write_unet(tmp_path_factory.mktemp("net") / "net.onnx", spec)
    image = discs((430, 520), seed)
    backend, view = surveyed(path, image)
    whole = backend.segment_window(Window(0, 0, 430, 520), view)
    y0, x0 = data.draw(st.integers(0, 100)), data.draw(st.integers(0, 150))
    window = Window(y0, x0, y0 + 330, x0 + 370)
    part = backend.segment_window(window, view)
    margin = backend.context_px
    inner = [
        0 if edge in (0, end) else margin
        for edge, end in ((y0, 0), (x0, 0), (window.y1, 430), (window.x1, 520))
    ]
    core = np.zeros(window.shape, bool)
    core[inner[0] : 330 - inner[2], inner[1] : 370 - inner[3]] = True
    for one, other in zip(part, whole[:, *window.slices], strict=True):
        # objects inside the margin are those of the slide
        inside = np.setdiff1d(np.unique(one[core]), np.unique(one[~core]))
        assume(inside.any())
        for label in inside[inside > 0]:
            mask = one == label
            twins = np.unique(other[mask])
            assert len(twins) == 1
            assert np.array_equal(other == twins[0], mask)


def test_image_has_the_pixel_size_of_training(tmp_path):
    """At half the pixel size discs are twice as large, and the same are found."""
    path = write_unet(tmp_path / "net.onnx", UnetSpec(BOTH.inputs, BOTH.outputs, mpp=0.5))
    image = discs((200, 260), count=25)
    fine = np.kron(image, np.ones((1, 2, 2), np.uint16))
    coarse_labels, fine_labels = (
        backend.segment_window(Window(0, 0, *view.shape), view)
        for backend, view in (surveyed(path, image), surveyed(path, fine, mpp=0.25))
    )
    assert unet(path, fine, 0.25).halo_px == 2 * unet(path, image, 0.5).halo_px
    assert fine_labels.shape == (2, 400, 520)
    agree = (fine_labels[0, ::2, ::2] > 0) == (coarse_labels[0] > 0)
    assert agree.mean() > 0.98
    assert fine_labels[0].max() == coarse_labels[0].max()


GRIDS = [
    {"patch_height": 64, "patch_width": 64},
    {"patch_height": 100, "patch_width": 130, "overlap": 0.3},
]


@pytest.mark.slow
def test_run_does_not_depend_on_patches(tmp_path):
    net = write_unet(tmp_path / "dim.onnx", BOTH, light=0.2)
    write_slide(tmp_path, tissue((340, 380), 70, empty=120))
    runs = []
    for number, grid in enumerate([{"split_mode": "full_image"}, *GRIDS]):
        config = write_config(tmp_path, "x", name=f"c{number}", **grid)
        settings = yaml.safe_load(config.read_text())
        settings["segmentation"] = {
            "backend": "codexseg.backends.unet.backend:Unet",
            "model_path": str(net),
        }
        config.write_text(yaml.safe_dump(settings))
        runs.append(tmp_path / f"run{number}")
        assert execute(config, runs[-1], until="repair").cells > 15
    for run in runs[1:]:
        for name in LABELS:
            np.testing.assert_array_equal(labels(run, name), labels(runs[0], name))


def test_patch_equals_a_slide_of_its_size(net):
    image = discs((270, 290))
    backend, view = surveyed(net, image)
    whole = Window(0, 0, 270, 290)
    for one, other in zip(
        backend.predict(image[None], [whole])[0],
        backend.segment_window(whole, view),
        strict=True,
    ):
        assert same_objects(one, other)


def test_tile_without_signal_is_not_predicted(net):
    image = discs((500, 700))

    class Empty(InMemory):
        def has_signal(self, window):
            return window.x0 < 200

    backend, view = unet(net, image), Empty(image)
    (slide_pass,) = backend.slide_passes
    counts = slide_pass.map_block(0, view).counts
    assert counts["tiles"] > 0
    assert counts["tiles_without_signal"] > 0


def test_slide_without_contrast_has_no_objects(net):
    image = np.full((2, 200, 220), 700, np.uint16)
    backend, view = surveyed(net, image)
    assert not backend.segment_window(Window(0, 0, 200, 220), view).any()


def test_backend_fulfils_the_protocol(net):
    backend = unet(net, discs((100, 100)))
    assert isinstance(backend, Backend)
    assert isinstance(backend, WholeSlideBackend)
    assert [s.name for s in backend.slide_passes] == ["network"]
    assert backend.fingerprint().startswith("unet-1-")
    assert backend.about["weights"] == "net"
    assert backend.mpp is None
    assert backend.context_px == 64


def test_networks_of_another_kind_are_refused(net):
    with pytest.raises(InputError, match="backend to 'unet'"):
        Panoptic(
            SegmentationConfig(backend="panoptic", model_path=net),
            SlideContext((9, 9), 0.5),
        )
    with pytest.raises(InputError, match="backend to 'panoptic'"):
        unet(TOY, discs((50, 50)))


def test_invalid_metadata_are_refused(tmp_path, net):
    image = discs((50, 50))
    slide = SlideContext(image.shape[1:], 0.5, has_wholecell=False)
    with pytest.raises(ConfigError, match="model_path is missing"):
        Unet(SegmentationConfig(backend="unet"), slide)
    with pytest.raises(ConfigError, match="wholecell_channel"):
        Unet(SegmentationConfig(backend="unet", model_path=net), slide)
    colour = UnetSpec(("red", "green", "blue"), ("cells", "nuclei"))
    with pytest.raises(InputError, match="red, green, blue"):
        unet(write_unet(tmp_path / "c.onnx", colour), image)
    backend = Unet(
        SegmentationConfig(backend="unet", model_path=net), SlideContext((50, 50), 1)
    )
    with pytest.raises(InputError, match="statistics of the nucleus"):
        backend.predict(image[None], [Window(0, 0, 50, 50)])
    metadata = json.loads(BOTH.to_json())
    for wrong in (
        {"inputs": ["nucleus"]},
        {"outputs": ["tissue"]},
        {"scaling": "log"},
        {"mpp": -1},
        {"version": 7},
        {"objects": {"cells": {"h_px": 0, "smoothing_px": 1, "min_area": 5}}},
    ):
        write_unet(tmp_path / "w.onnx", BOTH, json.dumps(metadata | wrong))
        with pytest.raises(InputError, match="contains invalid metadata"):
            read_spec(tmp_path / "w.onnx")
    whole = net.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.onnx"):
        unet(tmp_path / "cut.onnx", image)


@pytest.mark.slow
def test_command_reports_a_network_of_another_kind(tmp_path, net):
    write_slide(tmp_path)
    config = write_config(tmp_path)
    settings = yaml.safe_load(config.read_text())
    settings["segmentation"] = {"backend": "panoptic", "model_path": str(net)}
    config.write_text(yaml.safe_dump(settings))
    done = codexseg("run", config, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "'unet'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "patches.zarr").exists()
