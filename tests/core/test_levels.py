import numpy as np
import pytest

from codexseg.core.grid import Window
from codexseg.core.intensity.background import (
    BLOCK_PX,
    Blocks,
    ChannelAccumulator,
    channel_statistics,
    estimate_background,
    measure_blocks,
)
from codexseg.samples.tissue import Tissue


def covered(shape=(512, 512), seed=0, pitch=16, height=(800, 6000)):
    """Return nuclei on autofluorescence without any glass, (y, x) uint16."""
    random = np.random.default_rng(seed)
    image = np.full(shape, 700.0)
    yy, xx = np.mgrid[-12:13, -12:13]
    for y in range(12, shape[0] - 12, pitch):
        for x in range(12, shape[1] - 12, pitch):
            radius = random.uniform(4, 7)
            blob = random.uniform(*height) * np.clip(
                1.3 - (yy**2 + xx**2) / radius**2, 0, 1
            )
            image[y - 12 : y + 13, x - 12 : x + 13] += blob
    return (image + random.normal(0, 40, shape)).astype(np.uint16)


def signal(image):
    blocks = measure_blocks(image)
    *_, p999 = channel_statistics(image)
    integer = image.dtype.kind != "f"
    background = estimate_background(blocks, p999, integer=integer)
    return blocks.peak > background.threshold


@pytest.mark.parametrize("tissue", [0.0, 0.02])
def test_statistics_of_a_slide_with_and_without_tissue(tissue):
    random = np.random.default_rng(1)
    image = random.normal(400, 60, (600, 600))
    image[random.random(image.shape) < tissue] = 9000
    low, high, background, noise, p999 = channel_statistics(image.astype(np.uint16))
    assert (low, high) == (int(image.min()), int(image.max()))
    assert background == pytest.approx(400, abs=20)
    assert noise == pytest.approx(60, abs=15)
    assert (p999 > 8000) == (tissue > 0)


@pytest.mark.parametrize("shape", [(40, 50), (170, 190), (64, 700)])
def test_statistics_of_images_with_incomplete_blocks(shape):
    image = np.random.default_rng(2).normal(400, 60, shape)
    _, _, background, noise, _ = channel_statistics(image.astype(np.float32))
    assert background == pytest.approx(400, abs=40)
    assert 15 < noise < 120


def test_statistics_of_a_channel_that_is_almost_zero():
    image = np.zeros((100, 100), np.uint8)
    image[50, 50] = 9
    assert channel_statistics(image) == (0.0, 9.0, 0.0, 0.0, 0.0)


def test_background_of_tissue_without_glass_is_that_between_cells():
    image = covered()
    _, _, background, noise, _ = channel_statistics(image)
    assert background == pytest.approx(700, abs=60)
    assert noise < 160  # at most four times the real noise: nuclei are not noise


def test_blocks_of_a_slide_equal_those_of_its_windows():
    image = covered((320, 300))
    whole = measure_blocks(image)
    for name in ("level", "noise", "peak"):
        windows = [
            [
                getattr(measure_blocks(image[y : y + 128, x : x + 128]), name)
                for x in (0, 128, 256)
            ]
            for y in (0, 128, 256)
        ]
        assert np.array_equal(np.block(windows), getattr(whole, name))


def test_tissue_without_glass_is_all_signal():
    assert signal(covered(pitch=12, height=(2000, 3000))).all()


def test_glass_has_no_signal():
    image = np.random.default_rng(0).normal(300, 60, (1024, 1024)).clip(0)
    assert not signal(image.astype(np.uint16)).any()
    assert not signal(image.astype(np.float32)).any()
    few_photons = np.random.default_rng(0).poisson(0.2, (1024, 1024)).astype(np.uint8)
    assert not signal(few_photons).any()


def test_every_nucleus_overlaps_a_block_with_signal():
    side = 6 * BLOCK_PX
    window = Tissue((2 * side, 2 * side), seed=3).render(Window(0, 0, 2 * side, 2 * side))
    covered = np.kron(signal(window.pixels[0]), np.ones((BLOCK_PX, BLOCK_PX), bool))
    empty = window.cells.reshape(12, BLOCK_PX, 12, BLOCK_PX).max(axis=(1, 3)) == 0
    assert empty.any()
    assert set(np.unique(window.nuclei)) == set(np.unique(window.nuclei[covered])) | {0}
    assert not (signal(window.pixels[0]) & empty).all()


def test_blocks_of_a_flat_image():
    blocks = measure_blocks(np.full((70, 130), 7, np.uint8))
    assert isinstance(blocks, Blocks)
    assert blocks.level.shape == (2, 3)
    assert (blocks.level == 7).all()
    assert (blocks.noise == 0).all()
    assert (blocks.peak == 7).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_accumulator_over_windows_equals_the_whole_image(dtype):
    image = (covered((320, 300)) / 30).astype(dtype)
    whole, windows = ChannelAccumulator(), ChannelAccumulator()
    whole.add(image)
    for y in range(0, 320, 128):
        for x in range(0, 300, 128):
            windows.add(image[y : y + 128, x : x + 128])
    assert windows.levels() == whole.levels() == channel_statistics(image)
    assert windows.background() == whole.background()
    assert (windows.minimum, windows.maximum) == (image.min(), image.max())
    np.testing.assert_array_equal(windows.histogram, whole.histogram)
    assert windows.histogram.sum() == image.size


def test_accumulator_returns_the_blocks_of_all_images_in_order():
    images = covered((130, 70)), covered((64, 64), seed=1)
    accumulator = ChannelAccumulator()
    for image in images:
        accumulator.add(image)
    blocks = accumulator.blocks()
    for name in ("level", "noise", "peak"):
        expected = [getattr(measure_blocks(image), name).ravel() for image in images]
        np.testing.assert_array_equal(getattr(blocks, name), np.concatenate(expected))


def test_accumulator_keeps_percentiles_and_the_threshold_of_the_background():
    image = covered((320, 300))
    accumulator = ChannelAccumulator()
    accumulator.add(image)
    p999 = accumulator.percentile(99.9)
    expected = estimate_background(measure_blocks(image), p999, integer=True)
    assert accumulator.background() == expected
    assert p999 == np.percentile(image, 99.9, method="inverted_cdf")
