import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codexseg.core.intensity.background import (
    Blocks,
    channel_statistics,
    estimate_background,
)
from codexseg.core.intensity.histogram import block_mean
from codexseg.core.metrics.reference_free import (
    FRACTIONS,
    OTHERS,
    Tally,
    foreground_squares,
    quality_metrics,
    signal_threshold,
    sizes,
    tally_pixels,
)
from tests.drawing import draw

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
# The upper left, the upper right and the lower left square of 4 px have signal.
SQUARES = np.array([[True, True], [True, False]])
LIGHT = np.full((2, 8, 8), 100, np.uint16)
LIGHT[0, CELLS > 0] = 300


def judged(
    labels=CELLS, pixels=LIGHT, squares=SQUARES, counts=(2, 3, 4), levels=(0.0, 0.0)
):
    areas = sizes(np.unique(labels[labels > 0], return_counts=True)[1])
    return quality_metrics(
        tally_pixels(labels, pixels, squares), areas, counts, levels, 0.5
    )


def test_figures_of_a_picture():
    found = judged()
    assert set(found) == {*FRACTIONS, *OTHERS}
    assert found["cells_matched"] == 2 / 3
    assert found["nuclei_matched"] == 2 / 4
    assert found["matched_fraction"] == 2 / 5
    assert found["foreground_fraction"] == 48 / 64
    assert found["foreground_covered"] == 12 / 48
    assert found["background_covered"] == 1 / 16
    assert found["cells_on_foreground"] == 12 / 13
    assert found["nuclear_signal_in_cells"] == 12 * 300 / (12 * 300 + 36 * 100)
    assert found["cells_per_100_um2"] == 3 / (48 * 0.25 / 100)
    assert found["median_cell_diameter_um"] == 2 * math.sqrt(4 / math.pi) * 0.5
    areas = np.array([4, 8, 1])
    assert found["size_cv"] == pytest.approx(areas.std() / areas.mean())
    assert found["size_cv_robust"] == pytest.approx(1.4826 * 3 / 4)
    assert found["size_score"] == pytest.approx(1 / (math.log(areas.std()) + 1))
    assert found["inside_cv"] == found["outside_cv"] == 0


def test_light_counts_above_the_background():
    found = judged(levels=(50.0, None))
    assert found["nuclear_signal_in_cells"] == 12 * 250 / (12 * 250 + 36 * 50)
    pixels = LIGHT.copy()
    pixels[0, 4, :4] = 140, 60, 140, 60
    outside = pixels[0][(CELLS == 0) & np.kron(SQUARES, np.ones((4, 4), bool))]
    found = judged(pixels=pixels, levels=(50.0, None))
    assert found["outside_cv"] == pytest.approx(outside.std() / (outside.mean() - 50))
    assert found["inside_cv"] == 0


def test_what_is_not_there_has_no_figure():
    nothing = quality_metrics(
        Tally.empty(64), sizes(np.zeros(0, np.int64)), (0, 0, 0), (0.0, None), 0.5
    )
    known = {name for name, value in nothing.items() if not math.isnan(value)}
    assert known == {"foreground_fraction", "background_covered"}
    one = judged(draw("1...\n....\n....\n...."), LIGHT[:, :4, :4], SQUARES[:1, :1])
    assert math.isnan(one["size_cv"])
    assert math.isnan(one["size_score"])
    assert math.isnan(one["background_covered"])
    same = judged(np.kron(draw("12\n34"), np.ones((4, 4), np.uint32)))
    assert same["size_cv"] == 0
    assert math.isnan(same["size_score"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_threshold_is_that_of_signal(dtype):
    rng = np.random.default_rng(0)
    pixels = rng.normal(40, 3, (256, 256)).clip(0)
    pixels[20:60, 30:90] += 150
    for image in (pixels.astype(dtype), np.full((128, 128), 7, dtype)):
        _, _, level, noise, p999 = channel_statistics(image)
        whole = np.dtype(dtype).kind != "f"
        blocks = Blocks(
            *(np.full((3, 3), v, np.float32) for v in (level, noise / 4, level))
        )
        expected = estimate_background(blocks, p999, integer=whole).threshold
        assert signal_threshold(level, noise, p999, integer=whole) == pytest.approx(
            expected, rel=1e-6
        )


def test_foreground_of_any_channel():
    pixels = np.zeros((2, 9, 8), np.uint16)
    pixels[0, :4, :4], pixels[1, 8, 4:] = 10, 10
    squares = foreground_squares(pixels, (9.0, 9.0))
    assert squares.tolist() == [[True, False], [False, False], [False, True]]
    squares = foreground_squares(pixels, (9.0, np.inf))
    assert squares.tolist() == [[True, False], [False, False], [False, False]]


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_windows_add_up_wherever_they_are_cut(y, x, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (31, 31), np.uint32)
    pixels = rng.integers(0, 65536, (2, 31, 31), np.uint16)
    squares = block_mean(pixels[0], 4) > 33000
    whole = tally_pixels(labels, pixels, squares)
    total = Tally.empty()
    for ys in (slice(0, y), slice(y, 31)):
        for xs in (slice(0, x), slice(x, 31)):
            at = ys.start // 4, xs.start // 4
            total += tally_pixels(
                labels[ys, xs],
                pixels[:, ys, xs],
                squares[at[0] :, at[1] :],
                (ys.start % 4, xs.start % 4),
            )
    assert np.array_equal(total.counts, whole.counts)
    assert np.array_equal(total.sums, whole.sums)
    fg = np.kron(squares, np.ones((4, 4), bool))[:31, :31]
    inside = pixels[1][fg & (labels > 0)].astype(np.float64)
    assert whole.counts.tolist() == [
        31 * 31,
        fg.sum(),
        (labels > 0).sum(),
        (fg & (labels > 0)).sum(),
    ]
    assert whole.sums[1, 0].tolist() == [inside.sum(), (inside**2).sum()]
