from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.segmentation import find_boundaries

from codexseg.config.schema import Config, SegmentationConfig
from codexseg.core.grid import Window
from codexseg.errors import CodexsegError, ConfigError, InputError
from codexseg.segment import as_config, get_boundary, segment, separate_masks
from tests.helpers.drawing import draw
from tests.helpers.tissue import Local, segment_locally, tissue, write_config, write_slide

LOCAL = {"backend": "tests.helpers.tissue:Local"}
KEYS = ["cell", "nucleus", "cell_boundary", "nucleus_boundary"]


class Recording(Local):
    """Backend that records its instances and calls."""

    made: ClassVar[list["Recording"]] = []

    def __init__(self, config, slide):
        super().__init__(config, slide)
        self.calls = []
        Recording.made.append(self)

    def predict(self, patches, windows):
        self.calls.append((patches, list(windows)))
        return super().predict(patches, windows)


def recorded(patches, mpp=0.5, **segmentation):
    """Segment with the recording backend; return it and the masks."""
    config = {"backend": "tests.test_segment:Recording", **segmentation}
    masks = segment(patches, {"segmentation": config}, image_mpp=mpp)
    return Recording.made.pop(), masks


def patches_of(n=3, shape=(150, 130), dtype=np.uint16):
    images = [tissue(shape, 12, seed, empty=40)[:2] for seed in range(n)]
    return np.moveaxis(np.stack(images), 1, -1).astype(dtype)


# -- separate_masks and get_boundary ------------------------------------------------------


def test_separate_masks_returns_views_of_cells_and_nuclei():
    predictions = np.arange(2 * 3 * 4 * 2, dtype=np.int64).reshape(2, 3, 4, 2)
    cells, nuclei = separate_masks(predictions)
    assert [len(cells), len(nuclei)] == [2, 2]
    for n in range(2):
        np.testing.assert_array_equal(cells[n], predictions[n, :, :, 0])
        np.testing.assert_array_equal(nuclei[n], predictions[n, :, :, 1])
        assert np.shares_memory(cells[n], predictions)
        assert np.shares_memory(nuclei[n], predictions)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (
            np.zeros((3, 4, 2), int),
            r"\(3, 4, 2\), expected \(n, y, x, 2\).*predictions\[None\]",
        ),
        (np.zeros((1, 2, 3, 4), int), r"\(1, 2, 3, 4\), expected"),
        (np.zeros((1, 3, 4, 2)), "dtype float64, expected integer"),
    ],
)
def test_predictions_of_wrong_shape_or_dtype_are_an_error(predictions, message):
    with pytest.raises(InputError, match=message):
        separate_masks(predictions)


def test_boundaries_have_the_labels_of_their_objects():
    mask = draw("""
        1111.
        11112
        11112
        1111.
        .....
    """)
    expected = draw("""
        ...1.
        ...12
        ...12
        1111.
        .....
    """)
    boundary = get_boundary([mask.astype(np.int32), expected * 0])
    np.testing.assert_array_equal(boundary[0], expected)
    assert not boundary[1].any()
    assert boundary[0].dtype == np.uint32


@given(st.lists(arrays(np.int32, (6, 7), elements=st.integers(0, 3)), max_size=3))
def test_boundaries_equal_inner_boundaries_of_skimage(masks):
    for mask, boundary in zip(masks, get_boundary(masks), strict=True):
        inner = find_boundaries(mask, mode="inner", connectivity=1)
        np.testing.assert_array_equal(boundary, np.where(inner, mask, 0))


def test_boundary_of_float_mask_is_an_error():
    with pytest.raises(InputError, match=r"masks\[1\] has dtype float64"):
        get_boundary([np.zeros((2, 2), int), np.zeros((2, 2))])


# -- segment ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32, np.float64])
def test_segment_returns_labels_of_the_backend(dtype):
    patches = patches_of(dtype=dtype)
    found = segment(patches, {"segmentation": LOCAL}, image_mpp=0.5)
    assert len(found) == len(patches)
    for masks, patch in zip(found, patches, strict=True):
        cells, nuclei = segment_locally(np.moveaxis(patch, -1, 0))
        assert list(masks) == KEYS
        assert {m.dtype.name for m in masks.values()} == {"uint32"}
        np.testing.assert_array_equal(masks["cell"], cells)
        np.testing.assert_array_equal(masks["nucleus"], nuclei)
        np.testing.assert_array_equal(masks["cell_boundary"], get_boundary([cells])[0])
        np.testing.assert_array_equal(masks["nucleus_boundary"], get_boundary([nuclei])[0])
        assert masks["nucleus"].any()


@pytest.mark.parametrize("normalization", ["slide", "patch"])
def test_watershed_labels_of_floats_agree_with_integers(normalization):
    config = {"segmentation": {"normalization": normalization}}
    whole, real = (
        segment(patches_of(2, dtype=dtype), config, image_mpp=0.5)
        for dtype in (np.uint16, np.float32)
    )
    for one, other in zip(whole, real, strict=True):
        # percentiles of floats are rounded to 0.8 %
        counts = one["cell"].max(), other["cell"].max()
        assert counts[0] > 5
        assert abs(int(counts[0]) - int(counts[1])) <= 1
        assert np.mean((one["cell"] > 0) != (other["cell"] > 0)) < 0.01


def test_patch_normalization_does_not_depend_on_the_other_patches():
    patches = patches_of(2)
    patches[1] = patches[1] // 8
    config = {"segmentation": {"backend": "watershed", "normalization": "patch"}}
    together = segment(patches, config, image_mpp=0.5)
    for number in range(2):
        alone = segment(patches[number : number + 1], config, image_mpp=0.5)[0]
        np.testing.assert_array_equal(together[number]["cell"], alone["cell"])
    by_slide = {"segmentation": {"backend": "watershed"}}
    dim = segment(patches, by_slide, image_mpp=0.5)[1]["cell"]
    assert not np.array_equal(dim, together[1]["cell"])


def test_batch_size_follows_memory_budget_and_keeps_labels():
    patches = patches_of(5)
    all_at_once, expected = recorded(patches)
    bytes_per_patch = 64 * 150 * 130
    in_twos, found = recorded(patches, batch_memory_gb=2.5 * bytes_per_patch / 2**30)
    one_by_one, _ = recorded(patches, batch_memory_gb=1e-9)
    sizes = [
        [len(batch) for batch, _ in backend.calls]
        for backend in (all_at_once, in_twos, one_by_one)
    ]
    assert sizes == [[5], [2, 2, 1], [1] * 5]
    for masks, same in zip(found, expected, strict=True):
        for key in KEYS:
            np.testing.assert_array_equal(masks[key], same[key])
    assert all(batch.flags.c_contiguous for batch, _ in in_twos.calls)


def test_patches_of_different_sizes_are_stacked_into_one_slide():
    shapes = [(150, 130), (150, 130), (90, 160), (150, 130)]
    patches = [patches_of(1, shape)[0] for shape in shapes]
    backend, found = recorded(patches)
    assert [masks["cell"].shape for masks in found] == shapes
    assert [batch.shape for batch, _ in backend.calls] == [
        (2, 2, 150, 130),
        (1, 2, 90, 160),
        (1, 2, 150, 130),
    ]
    # The windows place the patches in one column.
    assert backend.slide.shape == (540, 160)
    assert [window for _, windows in backend.calls for window in windows] == [
        Window(0, 0, 150, 130),
        Window(150, 0, 300, 130),
        Window(300, 0, 390, 160),
        Window(390, 0, 540, 130),
    ]


def test_statistics_equal_those_of_a_run(tmp_path):
    from codexseg.codex_patches import CodexPatches
    from tests.helpers.runs import execute

    write_slide(tmp_path)
    config = write_config(tmp_path, split_mode="full_image")
    run = CodexPatches(execute(config, tmp_path / "run", until="flag").path)
    tables = run._state("flag").statistics.tables
    backend, _ = recorded(run.valid_patches)
    assert backend.slide.nucleus == tables.nucleus
    assert backend.slide.wholecell == tables.wholecell
    assert (backend.slide.shape, backend.slide.mpp) == ((420, 460), 0.5)


def test_zero_channel_means_no_wholecell_channel():
    patches = patches_of(2)
    assert recorded(patches)[0].slide.has_wholecell
    patches[..., 1] = 0
    slide = recorded(patches)[0].slide
    assert (slide.has_wholecell, slide.wholecell) == (False, None)


@pytest.mark.parametrize("compartment", ["nuclear", "whole-cell"])
def test_single_compartment_gives_its_labels_only(compartment):
    both = recorded(patches_of(1))[1][0]
    masks = recorded(patches_of(1), compartment=compartment)[1][0]
    if compartment == "nuclear":
        np.testing.assert_array_equal(masks["cell"], both["nucleus"])
        np.testing.assert_array_equal(masks["nucleus"], both["nucleus"])
    else:
        np.testing.assert_array_equal(masks["cell"], both["cell"])
        assert not masks["nucleus"].any()


def test_no_patches_give_no_masks():
    assert segment([], {}, image_mpp=0.5) == []
    assert segment(np.zeros((0, 9, 9, 2)), {}, image_mpp=0.5) == []


def with_value(value, dtype=np.float32):
    patches = patches_of(2).astype(dtype)
    patches[1, 3, 4, 0] = value
    return patches


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (patches_of(1)[0], r"\(150, 130, 2\), expected \(n, y, x, 2\).*patches\[None\]"),
        (np.zeros((1, 2, 9, 9), np.uint8), r"patch 0 has shape \(2, 9, 9\), expected"),
        (np.zeros((1, 0, 9, 2), np.uint8), r"patch 0 has shape \(0, 9, 2\), expected"),
        ([patches_of(1)[0], patches_of(1)[0, ..., 0]], "patch 1 has shape"),
        (
            [patches_of(1)[0], patches_of(1, dtype=np.float32)[0]],
            "float32.* before it uint16",
        ),
        (patches_of(1) > 0, "dtype bool, expected intensities"),
        (with_value(np.nan), "patch 1 has intensities from nan to nan, expected finite"),
        (with_value(np.inf), "patch 1 has intensities from .* to inf, expected finite"),
        (with_value(-1), "patch 1 has intensities from -1.0 to"),
        (with_value(-1, np.int64), "patch 1 has intensities from -1 to"),
        (with_value(70_000, np.int32), r"to 70000.*\.astype\(numpy\.float32\)"),
    ],
)
def test_invalid_patches_are_an_error(patches, message):
    with pytest.raises(InputError, match=message):
        segment(patches, {"segmentation": LOCAL}, image_mpp=0.5)


def test_labels_of_wrong_shape_from_backend_are_an_error():
    with pytest.raises(InputError, match="Backend 'wrong' returned"):
        segment(
            patches_of(1),
            {"segmentation": {"backend": "tests.helpers.tissue:Wrong"}},
            image_mpp=1,
        )


# -- configurations -----------------------------------------------------------------------


def test_configuration_may_be_model_section_path_or_mapping(tmp_path):
    yaml = tmp_path / "my.yaml"
    yaml.write_text(
        "data: {image_mpp: 0.5}\nsegmentation: {backend: 'tests.helpers.tissue:Local'}\n"
    )
    sections = {"data": {"image_mpp": 0.5}, "segmentation": LOCAL}
    expected = segment(patches_of(1), sections)[0]["cell"]
    section = SegmentationConfig.model_validate(LOCAL)
    for config in (Config.model_validate(sections), yaml, str(yaml)):
        np.testing.assert_array_equal(segment(patches_of(1), config)[0]["cell"], expected)
    found = segment(patches_of(1), section, image_mpp=0.5)[0]["cell"]
    np.testing.assert_array_equal(found, expected)


def test_image_mpp_overrides_the_configuration():
    config = {"backend": "tests.test_segment:Recording"}
    segment(
        patches_of(1), {"data": {"image_mpp": 0.5}, "segmentation": config}, image_mpp=0.3
    )
    assert Recording.made.pop().slide.mpp == 0.3


def test_mapping_changes_only_its_keys():
    base = Config.model_validate(
        {"data": {"image_mpp": 0.4}, "segmentation": {"watershed": {"expansion_um": 3}}}
    )
    changes = {"segmentation": {"watershed": {"membrane_weight": 0.5}}, "repair": None}
    config = as_config(changes, base)
    assert config.segmentation.watershed.expansion_um == 3
    assert config.segmentation.watershed.membrane_weight == 0.5
    assert (config.data, config.repair) == (base.data, Config().repair)


@pytest.mark.parametrize(
    ("config", "mpp", "message"),
    [
        ({}, None, r"data\.image_mpp is missing.*image_mpp=0\.5"),
        (SegmentationConfig(), None, r"data\.image_mpp is missing"),
        ({}, 0, r"data\.image_mpp: got 0, .*greater than 0"),
        (
            {"segmentation": {"bakend": "x"}},
            1,
            r"segmentation\.bakend: unknown key; did you mean",
        ),
        ({"segmentation": "mesmer"}, 1, "segmentation: got 'mesmer'"),
        ({"segmentation": {"backend": "watershet"}}, 1, "Did you mean 'watershed'"),
        (["segmentation"], 1, "is a list. Expected a Config"),
        ("nowhere.yaml", 1, "Configuration nowhere.yaml not found"),
    ],
)
def test_invalid_configuration_is_an_error(config, mpp, message):
    with pytest.raises(ConfigError, match=message) as caught:
        segment(patches_of(1), config, image_mpp=mpp)
    assert isinstance(caught.value, CodexsegError)


def test_error_lists_all_problems_of_a_mapping():
    with pytest.raises(ConfigError, match=r"(?s)device.*min_overlap"):
        as_config({"segmentation": {"device": "tpu"}, "repair": {"min_overlap": 2}})
