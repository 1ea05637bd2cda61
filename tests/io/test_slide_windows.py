"""Windows of slides: pixels, levels, identity and pickling."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides.open import open_image
from codexseg.io.slides.window import SlideWindow, crop_slide
from tests.helpers.images import pixels, write_ome_tiff, write_ome_zarr, write_qptiff

NAMES = ("DAPI", "CD3", "PanCK")
HEIGHT, WIDTH = 150, 171


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """One slide of each kind: rounded up, rounded down, two levels in 16 px chunks."""
    folder, array = tmp_path_factory.mktemp("slides"), pixels((3, HEIGHT, WIDTH))
    tiles = {"tile": (32, 32), "compression": "zlib"}
    return [
        open_image(
            write_ome_tiff(folder / "a.ome.tif", array, NAMES, 0.5, levels=2, **tiles)
        ),
        open_image(write_qptiff(folder / "a.qptiff", array, NAMES, 0.5, levels=2)),
        open_image(
            write_ome_zarr(folder / "a.zarr", array, NAMES, 0.5, levels=2, chunk=16)
        ),
    ]


def windows(limit=(HEIGHT, WIDTH)):
    """Draw (y0, x0, height, width) inside a slide."""
    spans = [
        st.integers(0, n - 1).flatmap(
            lambda start, n=n: st.tuples(st.just(start), st.integers(1, n - start))
        )
        for n in limit
    ]
    return st.tuples(*spans).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))


@settings(deadline=None)
@given(window=windows(), channel=st.integers(0, 2), number=st.sampled_from([0, 2]))
def test_window_equals_slice_of_slide_on_every_level(slides, window, channel, number):
    y0, x0, height, width = window
    part = crop_slide(slides[number], window)
    assert part.shape == (3, height, width)
    edges = [y0, x0, *({y0 + height} - {HEIGHT}), *({x0 + width} - {WIDTH})]
    factors = [f for f in (1, 2, 4) if all(edge % f == 0 for edge in edges)]
    expected = pixels((3, HEIGHT, WIDTH))[channel, y0 : y0 + height, x0 : x0 + width]
    # the writers of these tests keep every second pixel
    coarser = [expected[::factor, ::factor] for factor in factors]
    assert part.levels == tuple(level.shape for level in coarser)
    for level, plane in enumerate(coarser):
        assert np.array_equal(part.read(channel, Window(0, 0, *plane.shape), level), plane)


@settings(deadline=None)
@given(data=st.data())
def test_window_of_window_equals_window_of_slide(slides, data):
    outer = data.draw(windows())
    inner = data.draw(windows(outer[2:]))
    part = crop_slide(crop_slide(slides[0], outer), inner)
    y0, x0, height, width = inner
    direct = crop_slide(slides[0], (outer[0] + y0, outer[1] + x0, height, width))
    assert part.fingerprint() == direct.fingerprint()
    assert part.levels == direct.levels
    block = Window(0, 0, height, width)
    assert np.array_equal(part.read(1, block), direct.read(1, block))


def test_window_keeps_metadata_of_slide(slides):
    for slide in slides:
        part = crop_slide(slide, (8, 16, 64, 96))
        assert isinstance(part, SlideWindow)
        for name in ("path", "format", "dtype", "channel_names", "mpp", "panel_file"):
            assert getattr(part, name) == getattr(slide, name)


@pytest.mark.parametrize(
    ("window", "levels"),
    [
        ((8, 16, 64, 96), ((64, 96), (32, 48), (16, 24))),
        ((2, 16, 64, 96), ((64, 96), (32, 48))),
        ((8, 16, 62, 96), ((62, 96), (31, 48))),
        ((8, 17, 64, 96), ((64, 96),)),
        ((8, 16, 64, 95), ((64, 95),)),
        ((8, 16, HEIGHT - 8, 96), ((142, 96), (71, 48), (36, 24))),
        ((0, 0, HEIGHT, WIDTH), ((150, 171), (75, 86), (38, 43))),
    ],
)
def test_window_has_levels_on_which_its_edges_are_pixel_borders(slides, window, levels):
    assert crop_slide(slides[0], window).levels == levels


def test_window_at_edge_that_level_rounds_away_has_no_such_level(slides):
    qptiff = slides[1]
    assert qptiff.levels == ((150, 171), (75, 85), (37, 42))
    assert crop_slide(qptiff, (0, 168, 8, 3)).levels == ((8, 3), (4, 1))
    assert crop_slide(qptiff, (148, 0, 2, 8)).levels == ((2, 8), (1, 4))


def test_fingerprint_depends_on_slide_and_window(slides):
    window = (8, 16, 64, 96)
    prints = [crop_slide(slide, window).fingerprint() for slide in slides]
    prints += [
        slides[0].fingerprint(),
        crop_slide(slides[0], (8, 16, 96, 64)).fingerprint(),
    ]
    prints.append(crop_slide(slides[0], (0, 0, HEIGHT, WIDTH)).fingerprint())
    assert len(set(prints)) == len(prints)
    assert crop_slide(slides[0], list(window)).fingerprint() == prints[0]


def test_window_pickles_as_slide_and_window(slides):
    for slide in slides:
        part = crop_slide(slide, (8, 16, 64, 96))
        payload = pickle.dumps(part)
        assert len(payload) < 1000
        copy = pickle.loads(payload)
        assert copy.fingerprint() == part.fingerprint()
        assert copy.levels == part.levels
        block = Window(3, 4, 30, 40)
        assert np.array_equal(copy.read(2, block), part.read(2, block))


def test_open_image_takes_a_window(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", pixels())
    part = open_image(path, window=(10, 20, 30, 40))
    assert np.array_equal(part.read(1, Window(0, 0, 30, 40)), pixels()[1, 10:40, 20:60])


@pytest.mark.parametrize(
    "window",
    [
        (-1, 0, 5, 5),
        (0, -1, 5, 5),
        (0, 0, 0, 5),
        (0, 0, 5, 0),
        (0, 0, HEIGHT + 1, 5),
        (0, 0, 5, WIDTH + 1),
        (HEIGHT, 0, 1, 1),
    ],
)
def test_window_outside_slide_is_refused(slides, window):
    with pytest.raises(InputError, match=r"not inside .*150 px high and 171 px wide"):
        crop_slide(slides[0], window)


@pytest.mark.parametrize("window", [(0, 0, 5), (0.5, 0, 5, 5), (0, 0, 5, "5"), 7])
def test_window_of_other_type_is_refused(slides, window):
    with pytest.raises(InputError, match="Expected four integers"):
        crop_slide(slides[0], window)


def test_block_outside_window_is_refused(slides):
    part = crop_slide(slides[0], (8, 16, 64, 96))
    with pytest.raises(InputError, match="height 64 and width 96"):
        part.read(0, Window(0, 0, 65, 5))


def test_damaged_tile_under_window_is_refused(tmp_path):
    array = pixels()
    path = write_ome_zarr(tmp_path / "a.zarr", array, NAMES, chunk=64)
    (path / "0" / "1.1.1").write_bytes(b"broken")
    part = crop_slide(open_image(path), (64, 64, 32, 32))
    with pytest.raises(InputError, match=r"a.zarr: channel 1 \('CD3'\)"):
        part.read(1, Window(0, 0, 32, 32))
