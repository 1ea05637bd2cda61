import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codexseg.core.intensity.background import (
    Blocks,
    channel_statistics,
    estimate_background,
    signal_threshold,
)
from codexseg.core.intensity.histogram import block_mean
from codexseg.core.metrics.reference_free import (
    FRACTIONS,
    OTHERS,
    Tally,
    foreground_bins,
    quality_metrics,
    sizes,
    tally_pixels,
)
from tests.helpers.drawing import draw

CELLS = draw("""
    11..22..
    11..22..
    ....22..
    ....22..
    ........
    .....3..
    ........
    ........
""")
# Signal in the upper left, the upper right and the lower left bin of 4 px.
FOREGROUND = np.array([[True, True], [True, False]])
PIXELS = np.full((2, 8, 8), 100, np.uint16)
PIXELS[0, CELLS > 0] = 300


def metrics_of(
    labels=CELLS,
    pixels=PIXELS,
    foreground=FOREGROUND,
    counts=(2, 3, 4),
    backgrounds=(0.0, 0.0),
):
    areas = sizes(np.unique(labels[labels > 0], return_counts=True)[1])
    return quality_metrics(
        tally_pixels(labels, pixels, foreground), areas, counts, backgrounds, 0.5
    )


def test_metrics_counted_by_hand():
    metrics = metrics_of()
    assert set(metrics) == {*FRACTIONS, *OTHERS}
    assert metrics["cells_matched"] == 2 / 3
    assert metrics["nuclei_matched"] == 2 / 4
    assert metrics["matched_fraction"] == 2 / 5
    assert metrics["foreground_fraction"] == 48 / 64
    assert metrics["foreground_covered"] == 12 / 48
    assert metrics["background_covered"] == 1 / 16
    assert metrics["cells_on_foreground"] == 12 / 13
    assert metrics["nuclear_signal_in_cells"] == 12 * 300 / (12 * 300 + 36 * 100)
    assert metrics["cells_per_100_um2"] == 3 / (48 * 0.25 / 100)
    assert metrics["median_cell_diameter_um"] == 2 * math.sqrt(4 / math.pi) * 0.5
    areas = np.array([4, 8, 1])
    assert metrics["size_cv"] == pytest.approx(areas.std() / areas.mean())
    assert metrics["size_cv_robust"] == pytest.approx(1.4826 * 3 / 4)
    assert metrics["size_score"] == pytest.approx(1 / (math.log(areas.std()) + 1))
    assert metrics["inside_cv"] == metrics["outside_cv"] == 0


def test_intensities_count_above_the_background():
    metrics = metrics_of(backgrounds=(50.0, None))
    assert metrics["nuclear_signal_in_cells"] == 12 * 250 / (12 * 250 + 36 * 50)
    pixels = PIXELS.copy()
    pixels[0, 4, :4] = 140, 60, 140, 60
    outside = pixels[0][(CELLS == 0) & np.kron(FOREGROUND, np.ones((4, 4), bool))]
    metrics = metrics_of(pixels=pixels, backgrounds=(50.0, None))
    assert metrics["outside_cv"] == pytest.approx(outside.std() / (outside.mean() - 50))
    assert metrics["inside_cv"] == 0


def test_metrics_without_a_denominator_are_nan():
    empty = quality_metrics(
        Tally.empty(64), sizes(np.zeros(0, np.int64)), (0, 0, 0), (0.0, None), 0.5
    )
    defined = {name for name, value in empty.items() if not math.isnan(value)}
    assert defined == {"foreground_fraction", "background_covered"}
    single = metrics_of(
        draw("1...\n....\n....\n...."), PIXELS[:, :4, :4], FOREGROUND[:1, :1]
    )
    assert math.isnan(single["size_cv"])
    assert math.isnan(single["size_score"])
    assert math.isnan(single["background_covered"])
    equal = metrics_of(np.kron(draw("12\n34"), np.ones((4, 4), np.uint32)))
    assert equal["size_cv"] == 0
    assert math.isnan(equal["size_score"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_signal_threshold_equals_that_of_the_background(dtype):
    rng = np.random.default_rng(0)
    pixels = rng.normal(40, 3, (256, 256)).clip(0)
    pixels[20:60, 30:90] += 150
    for image in (pixels.astype(dtype), np.full((128, 128), 7, dtype)):
        _, _, level, noise, p999 = channel_statistics(image)
        integer = np.dtype(dtype).kind != "f"
        blocks = Blocks(
            *(np.full((3, 3), v, np.float32) for v in (level, noise / 4, level))
        )
        expected = estimate_background(blocks, p999, integer=integer).threshold
        assert signal_threshold(level, noise, p999, integer=integer) == pytest.approx(
            expected, rel=1e-6
        )


def test_foreground_is_signal_in_any_channel():
    pixels = np.zeros((2, 9, 8), np.uint16)
    pixels[0, :4, :4], pixels[1, 8, 4:] = 10, 10
    foreground = foreground_bins(pixels, (9.0, 9.0))
    assert foreground.tolist() == [[True, False], [False, False], [False, True]]
    foreground = foreground_bins(pixels, (9.0, np.inf))
    assert foreground.tolist() == [[True, False], [False, False], [False, False]]


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_tallies_of_windows_add_up_to_the_whole(y, x, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (31, 31), np.uint32)
    pixels = rng.integers(0, 65536, (2, 31, 31), np.uint16)
    foreground = block_mean(pixels[0], 4) > 33000
    whole = tally_pixels(labels, pixels, foreground)
    total = Tally.empty()
    for ys in (slice(0, y), slice(y, 31)):
        for xs in (slice(0, x), slice(x, 31)):
            at = ys.start // 4, xs.start // 4
            total += tally_pixels(
                labels[ys, xs],
                pixels[:, ys, xs],
                foreground[at[0] :, at[1] :],
                (ys.start % 4, xs.start % 4),
            )
    assert np.array_equal(total.counts, whole.counts)
    assert np.array_equal(total.sums, whole.sums)
    is_foreground = np.kron(foreground, np.ones((4, 4), bool))[:31, :31]
    inside = pixels[1][is_foreground & (labels > 0)].astype(np.float64)
    assert whole.counts.tolist() == [
        31 * 31,
        is_foreground.sum(),
        (labels > 0).sum(),
        (is_foreground & (labels > 0)).sum(),
    ]
    assert whole.sums[1, 0].tolist() == [inside.sum(), (inside**2).sum()]
