"""Diameter, channels of pictures and percentiles, from configuration to labels."""

import json
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tifffile
from PIL import Image

from codexseg.artifacts.manifest import read_manifest
from codexseg.backends.base import SlideContext
from codexseg.backends.registry import create
from codexseg.config.schema import ChannelsConfig, Config, SegmentationConfig
from codexseg.core.labels.overlaps import overlaps
from codexseg.core.metrics.objects import count_matches, object_pairs
from codexseg.errors import ConfigError, InputError
from codexseg.io.slides.channels import by_name, check_channels, has_nuclei
from codexseg.pipeline import Pipeline
from codexseg.predict import ImageOptions, prepare
from codexseg.run.directory import Run
from codexseg.segment import segment
from codexseg.stages.segment import diameter as scaling
from codexseg.workflow.cache_keys import section_in_key
from tests.helpers.images import write_ome_tiff
from tests.helpers.mesmer import TOY, blobs
from tests.helpers.runs import codexseg, execute, labels, outputs
from tests.helpers.tissue import LOCAL, Local, tissue

OLD = Path(__file__).parent / "data" / "runs" / "0.1.0.zip"
WATERSHED = "backend: watershed"


def drawn(diameter, shape=(512, 512), seed=0):
    """Draw nuclei of a diameter, px, with rings on a lattice; return image and number."""
    rng = np.random.default_rng(seed)
    image = rng.normal(200, 10, (2, *shape))
    step, n = 2.0 * diameter, 0
    for cy in np.arange(step, shape[0] - step / 2, step):
        for cx in np.arange(step, shape[1] - step / 2, step):
            dy, dx = rng.uniform(-diameter / 5, diameter / 5, 2)
            y0, x0 = max(0, int(cy - step)), max(0, int(cx - step))
            y, x = np.mgrid[
                y0 : min(shape[0], int(cy + step)), x0 : min(shape[1], int(cx + step))
            ]
            distance = np.hypot(y - cy - dy, x - cx - dx) / (diameter / 2)
            image[0, y, x] += 4000 / (1 + np.exp((distance - 1) * 8))
            image[1, y, x] += 2000 * np.exp(-(((distance - 1.3) * 5) ** 2))
            n += 1
    return image.clip(0, 65535).astype(np.uint16), n


def write(folder, image, mpp=0.5, segmentation=WATERSHED, channels="", **patching):
    names = ("DAPI", "CD45", "C")[: len(image)]
    write_ome_tiff(folder / "slide.ome.tif", image, names, mpp)
    keys = {"patch_height": 200, "patch_width": 240} | patching
    path = folder / "my.yaml"
    path.write_text(
        "data: {file_name: slide.ome.tif}\n"
        f"channels: {{{channels or 'nuclear_channel: DAPI, wholecell_channel: [CD45]'}}}\n"
        f"patching: {{{', '.join(f'{k}: {v}' for k, v in keys.items())}}}\n"
        f"segmentation: {{{segmentation}}}\nreport: {{overlays: 0}}\n"
    )
    return path


def manifest(out):
    return json.loads((out / "manifest.json").read_text())["result"]


# --- the diameter of cells ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_auto_diameter_corrects_wrong_pixel_size(tmp_path, wrong):
    # Nuclei of 8 um at 0.5 um per px; the file has another pixel size.
    image, n = drawn(16)
    config = write(tmp_path, image, mpp=0.5 * wrong)
    nominal = execute(config, tmp_path / "nominal", until="repair").cells
    config = write(tmp_path, image, 0.5 * wrong, f"{WATERSHED}, diameter: auto")
    result = execute(config, tmp_path / "auto")
    assert abs(result.cells - n) <= 0.05 * n
    if wrong > 1:  # with 0.5 the nominal run finds these isolated cells, too
        assert abs(nominal - n) > 2 * abs(result.cells - n)
    shown = manifest(tmp_path / "auto")["scale"]
    assert shown == result.scale
    assert shown["mpp"] == 0.5 * wrong
    assert shown["mpp_shown"] == pytest.approx(0.5, rel=0.25)
    assert shown["diameter_um"] == pytest.approx(11 * wrong, rel=0.25)
    assert shown["cells"] > 50
    assert "scale" in (tmp_path / "auto" / "run.log").read_text()


def test_diameter_does_not_change_pixel_size_of_outputs(tmp_path):
    import pandas as pd

    image, _ = drawn(16)
    config = write(tmp_path, image, 1.0, f"{WATERSHED}, diameter: 22.0")
    result = execute(config, tmp_path / "run", until="export")
    assert result.scale["source"] == "given"
    assert result.scale["mpp_shown"] == 0.5
    cells = pd.read_csv(tmp_path / "run" / "cells.csv")
    assert (cells["cell_area_um2"] / cells["cell_area_px"]).to_numpy() == pytest.approx(1.0)
    half = write(tmp_path, image, 0.5, WATERSHED)
    execute(half, tmp_path / "half", until="repair")
    assert np.array_equal(labels(tmp_path / "run"), labels(tmp_path / "half"))


def test_typical_diameter_gives_the_same_labels_as_none(tmp_path):
    image, _ = drawn(16, (300, 300))
    execute(write(tmp_path, image), tmp_path / "without", until="repair")
    config = write(tmp_path, image, 0.5, f"{WATERSHED}, diameter: 11")
    execute(config, tmp_path / "with", until="repair")
    assert np.array_equal(labels(tmp_path / "without"), labels(tmp_path / "with"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"workers": 2}, {}])
def test_estimated_diameter_does_not_depend_on_patches_or_workers(tmp_path, options):
    image, _ = drawn(13, (400, 420))
    auto = f"{WATERSHED}, diameter: auto"
    config = write(tmp_path, image, 0.7, auto)
    first = execute(config, tmp_path / "first", until="export")
    if not options:
        text = config.read_text().replace("200", "128").replace("240", "300")
        config.write_text(text)
    second = execute(config, tmp_path / "b", until="export", **options)
    assert first.scale == second.scale
    assert np.array_equal(labels(tmp_path / "first"), labels(tmp_path / "b"))
    if options:
        assert outputs(tmp_path / "first") == outputs(tmp_path / "b")


def test_run_stopped_after_the_estimate_reuses_it(tmp_path, monkeypatch):
    image, _ = drawn(13, (300, 320))
    config = write(tmp_path, image, 0.7, f"{WATERSHED}, diameter: auto")
    whole = execute(config, tmp_path / "whole")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("codexseg.stages.segment.stage.run_slide_passes", stop)
        with pytest.raises(KeyboardInterrupt):
            execute(config, tmp_path / "again")
    with monkeypatch.context() as patched:
        patched.setattr("codexseg.stages.segment.diameter.agreed_diameter", stop)
        result = execute(config, tmp_path / "again")
    assert result.scale == whole.scale
    assert outputs(tmp_path / "again") == outputs(tmp_path / "whole")
    # A run that is up to date keeps the scale in the manifest.
    execute(config, tmp_path / "again")
    assert manifest(tmp_path / "again")["scale"] == whole.scale


def test_run_stopped_within_the_estimate_measures_remaining_windows(tmp_path, monkeypatch):
    image, _ = drawn(13, (500, 520))
    config = write(tmp_path, image, 1.0, f"{WATERSHED}, diameter: auto")
    whole = execute(config, tmp_path / "whole", until="segment")
    measured, real = [], scaling.diameters_um

    def once(*args, **options):
        measured.append(args)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(scaling, "diameters_um", once)
    with pytest.raises(KeyboardInterrupt):
        execute(config, tmp_path / "again")
    assert execute(config, tmp_path / "again", until="segment").scale == whole.scale
    work = tmp_path / "again" / "work"
    n_windows = len(list(work.glob("scale.first-*/0*.json")))
    n_passes = sum(len(list(work.glob(f"scale.{name}-*"))) for name in scaling.PASSES)
    assert n_passes >= 2
    assert len(measured) == n_passes * n_windows + 1 > 4


@pytest.mark.parametrize("true", [3.0, 5.0, 10.0, 20.0, 40.0])
def test_diameter_passes_are_repeated_until_two_agree(true, caplog):
    asked = []

    def half_right(diameter, number):
        """Return a size between the expected and the true diameter."""
        asked.append(diameter)
        assert number == len(asked) - 1
        return [np.full(100, np.sqrt(diameter * true))]

    diameter, cells = scaling.agreed_diameter(half_right, 10.0, 0.1)
    assert diameter == pytest.approx(true, rel=0.1)
    assert cells == 100
    assert 2 <= len(asked) <= len(scaling.PASSES)
    disagree = f"the last two of {len(scaling.PASSES)} passes differ by"
    assert (disagree in caplog.text) == (true in (3.0, 40.0))


def test_auto_diameter_without_cells_uses_the_pixel_size_and_warns(tmp_path, caplog):
    rng = np.random.default_rng(0)
    image = rng.normal(300, 10, (2, 300, 300)).astype(np.uint16)
    config = write(tmp_path, image, 0.5, f"{WATERSHED}, diameter: auto")
    result = execute(config, tmp_path / "run")
    assert result.cells == 0
    assert result.scale["mpp_shown"] == result.scale["mpp"] == 0.5
    assert result.scale["source"].startswith("not found")
    assert "no cells are found" in caplog.text


def test_missing_pixel_size_is_assumed_with_auto_diameter_only(tmp_path, caplog):
    image, n = drawn(14, (300, 300))
    config = write(tmp_path, image, None, f"{WATERSHED}, diameter: auto")
    result = execute(config, tmp_path / "run")
    assert abs(result.cells - n) <= 0.1 * n
    assert "0.5 um per px is assumed" in caplog.text
    assert result.scale["mpp"] == 0.5
    with pytest.raises(InputError, match="diameter: auto"):
        execute(write(tmp_path, image, None), tmp_path / "other")
    with pytest.raises(InputError, match="pixel size"):
        execute(write(tmp_path, image, None, f"{WATERSHED}, diameter: 9"), tmp_path / "o")


@pytest.mark.slow
@pytest.mark.parametrize("diameter", ["auto", 12])
def test_diameter_with_backend_of_unknown_cell_size_is_an_error(tmp_path, diameter):
    image, _ = drawn(14, (200, 200))
    config = write(
        tmp_path, image, 0.5, f"backend: 'tests.helpers.tissue:Local', diameter: {diameter}"
    )
    done = codexseg("run", config)
    assert done.returncode == 2
    assert "the backend 'local' has no known cell size" in done.stderr
    assert not (tmp_path / "my_codexseg").exists()


@pytest.mark.parametrize("compartment", ["both", "nuclear"])
def test_watershed_backend_has_diameter_of_its_compartment(compartment):
    config = SegmentationConfig(backend="watershed", compartment=compartment)
    backend = create(config, SlideContext((99, 99), 0.5))
    assert backend.diameter_um == {"both": 11, "nuclear": 8}[compartment]


def test_segment_scales_arrays_by_diameter(caplog):
    image, n = drawn(32, (512, 512))
    patches = np.moveaxis(image, 0, -1)[None]
    settings = {"segmentation": {"backend": "watershed"}}
    (nominal,) = segment(patches, settings, image_mpp=0.5)
    (given,) = segment(patches, settings, image_mpp=0.5, diameter=22)
    (right,) = segment(patches, settings, image_mpp=0.25)
    assert np.array_equal(given["cell"], right["cell"])
    (auto,) = segment(patches, settings, diameter="auto")
    assert "0.5 um per px is assumed" in caplog.text
    found = [len(np.unique(r["cell"])) - 1 for r in (nominal, given, auto)]
    assert abs(found[1] - n) <= 2 >= abs(found[2] - n)
    with pytest.raises(ConfigError, match="has no known cell size"):
        segment(
            patches, {"segmentation": {"backend": LOCAL}}, image_mpp=0.5,
            diameter="auto",
        )  # fmt: skip


# --- channels of pictures -----------------------------------------------------------------

RGB = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("keys", "names", "nucleus", "wholecell"),
    [
        ({"mode": "RGB"}, RGB, "blue", ("green",)),
        ({"mode": "RGB", "nucleus": "red", "cell": "blue"}, RGB, "red", ("blue",)),
        ({"mode": "auto"}, RGB, "blue", ("green",)),
        ({"mode": "auto"}, ("Channel 0", "Channel 1", "Channel 2"), "Channel 2",
         ("Channel 1",)),
        ({"mode": "auto", "nucleus": "grey"}, ("grey",), "grey", ()),
        ({"mode": "L", "nucleus": "grey"}, ("x",), "x", ()),
        ({"mode": "L", "nucleus": "grey", "cell": "grey"}, ("x",), "x", ("x",)),
        ({"mode": "auto", "wholecell_channel": ("CD3",)}, ("CD3", "DAPI"), "DAPI",
         ("CD3",)),
        ({"mode": "auto"}, ("DAPI",), "DAPI", ()),
        ({"mode": "auto"}, ("A", "B", "C"), "DAPI", ()),
    ],
)  # fmt: skip
def test_channel_mode_selects_nuclear_and_wholecell_channels(
    keys, names, nucleus, wholecell
):
    found = by_name(ChannelsConfig(**keys), names)
    assert (found.nuclear_channel, found.wholecell_channel) == (nucleus, wholecell)
    assert found.mode == "names"
    assert by_name(found, names) == found


def test_grey_picture_has_nuclei_only_if_nucleus_is_grey():
    found = by_name(ChannelsConfig(mode="auto"), ("grey",))
    assert (found.mode, found.wholecell_channel) == ("L", ("grey",))
    assert not has_nuclei(found)
    assert by_name(found, ("grey",)) == found
    assert has_nuclei(by_name(ChannelsConfig(mode="L", nucleus="grey"), ("grey",)))


@pytest.mark.parametrize(
    ("keys", "names", "words"),
    [
        ({"mode": "L"}, RGB, "has 3 (red, green, blue). Set channels.mode to RGB or auto."),
        ({"mode": "RGB"}, ("grey",), "has 1 (grey). Set channels.mode to L or auto."),
        (
            {"mode": "RGB"},
            ("A",) * 9,
            "has 9 (A, A, A, A, ...). Set channels.mode to names or auto.",
        ),
        ({"mode": "RGB", "cell": "grey"}, RGB, "channels.cell is grey"),
        ({}, RGB, "set channels.mode to RGB or auto"),
        ({}, ("grey",), "set channels.mode to L or auto"),
    ],
)
def test_channels_that_do_not_fit_the_picture_are_an_error(keys, names, words):
    config = Config(channels=ChannelsConfig(**keys))
    with pytest.raises((InputError, ConfigError)) as caught:
        check_channels(config, names)
    assert words in str(caught.value)


@pytest.fixture
def picture(tmp_path):
    """Write nuclei in blue and rings in green, as a picture and as a slide."""
    image, n = drawn(16, (300, 300))
    eight = (image / 32).clip(0, 255).astype(np.uint8)
    rgb = np.stack([np.zeros_like(eight[0]), eight[1], eight[0]], axis=-1)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    write_ome_tiff(tmp_path / "a.ome.tif", np.moveaxis(rgb, -1, 0), RGB, 0.5)
    Image.fromarray(eight[0]).save(tmp_path / "grey.png")
    return n


def predict(folder, image, *words):
    words = ("--backend", "watershed", "--out", folder / "out", "--overwrite", *words)
    return codexseg("predict", folder / image, *words)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "RGB"},
        {"mode": "auto"},
        {"nucleus": "blue", "wholecell": ("green",)},
        {"mode": "RGB", "nucleus": "blue", "wholecell": ("green",)},
        {"mode": "auto", "nucleus": "blue", "wholecell": ("green",)},
    ],
)
def test_options_select_channels_of_colour_picture(tmp_path, options):
    (tmp_path / "a.png").touch()  # only the configuration is made
    prediction = prepare(tmp_path / "a.png", tmp_path, ImageOptions(**options))
    channels = by_name(prediction.pipeline.config.channels, RGB)
    assert (channels.nuclear_channel, channels.wholecell_channel) == ("blue", ("green",))


@pytest.mark.slow
def test_colour_picture_gives_the_labels_of_a_slide_with_its_channels(tmp_path, picture):
    import pandas as pd

    done = predict(tmp_path, "a.png", "--mpp", "0.5", "--mode", "RGB")
    assert done.returncode == 0, done.stderr
    cells = tifffile.imread(tmp_path / "out" / "a_cells.tif")
    assert cells.max() == picture
    columns = pd.read_csv(tmp_path / "out" / "a_cells.csv").columns
    assert {f"{colour}_cell_mean" for colour in RGB} <= set(columns)
    options = ImageOptions(nucleus="blue", wholecell=("green",), backend="watershed")
    slide = prepare(tmp_path / "a.ome.tif", tmp_path / "out", options)
    slide.execute(overwrite=True)
    assert np.array_equal(cells, tifffile.imread(tmp_path / "out" / "a_cells.tif"))


@pytest.mark.slow
def test_picture_without_pixel_size_needs_mpp_or_diameter(tmp_path, picture):
    done = predict(tmp_path, "a.png")
    assert done.returncode == 2
    assert "--diameter is segmentation.diameter" in done.stderr
    done = predict(tmp_path, "a.png", "--diameter", "auto")
    assert done.returncode == 0, done.stderr
    assert "0.5 um per px is assumed" in done.stderr
    assert tifffile.imread(tmp_path / "out" / "a_cells.tif").max() == picture
    with pytest.raises(ConfigError, match="expected 1 to 200 um, 'auto' or null"):
        prepare(tmp_path / "a.png", tmp_path, ImageOptions(diameter="large"))


@pytest.mark.slow
def test_grey_picture_needs_nucleus_option_for_watershed(tmp_path, picture):
    done = predict(tmp_path, "grey.png", "--mpp", "0.5")
    assert done.returncode == 2
    assert "Set channels.mode to L and channels.nucleus to grey" in done.stderr
    assert "--nucleus is channels.nucleus" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    options = ImageOptions(mode="L", nucleus="grey", mpp=0.5, backend="watershed")
    prepare(tmp_path / "grey.png", tmp_path / "out", options).execute()
    assert tifffile.imread(tmp_path / "out" / "grey_cells.tif").max() == picture


class Cells(Local):
    """Backend that segments the whole-cell channel and needs no nuclei."""

    needs_nucleus = False
    channels = ("nucleus", "wholecell")

    def one(self, pixels, window):
        assert not pixels[0].any()
        assert self.slide.nucleus is None
        assert not self.slide.has_nucleus
        masks = super().one(pixels[::-1] * np.uint16(32), window)
        masks[1] = 0
        return masks


def test_backend_without_nuclei_segments_grey_picture(tmp_path, picture):
    config = tmp_path / "grey.yaml"
    config.write_text(
        "data: {file_name: grey.png, image_mpp: 0.5}\nchannels: {mode: L}\n"
        "segmentation: {backend: 'tests.test_scale:Cells', compartment: whole-cell}\n"
        "patching: {patch_height: 120, patch_width: 120}\nreport: {overlays: 0}\n"
    )
    result = execute(config, tmp_path / "run", until="export")
    assert result.cells == picture
    assert [s.state for s in Pipeline.from_yaml(config, tmp_path / "run").status()] == [
        *["done"] * 8, "missing",
    ]  # fmt: skip


def test_status_of_picture_run_works_without_the_picture(tmp_path, picture):
    config = tmp_path / "p.yaml"
    config.write_text(
        "data: {file_name: a.png, image_mpp: 0.5}\nchannels: {mode: auto}\n"
        "segmentation: {backend: watershed}\nreport: {overlays: 0}\n"
    )
    execute(config, tmp_path / "run", until="flag")
    assert manifest(tmp_path / "run")["config"]["channels"]["nuclear_channel"] == "blue"
    (tmp_path / "a.png").unlink()
    done = codexseg("status", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == [
        *["done"] * 3, *["missing"] * 6,
    ]  # fmt: skip


# --- percentiles --------------------------------------------------------------------------


class Fixed(Local):
    """Backend that segments pixels above 0.6 and records the statistics of the slide."""

    statistics: ClassVar = {}

    def one(self, pixels, window):
        assert pixels.dtype == np.float32
        assert pixels.min() >= 0
        Fixed.statistics[self.slide.nucleus] = self.slide.wholecell
        return super().one(pixels * np.float32(1000 / 0.6), window)


FIXED = "backend: 'tests.test_scale:Fixed', percentiles: [1, 99]"


def test_labels_with_percentiles_do_not_depend_on_gain_and_offset(tmp_path):
    image = tissue(empty=0)[:2]
    results = []
    for number, pixels in enumerate((image, image * np.uint16(3) + np.uint16(500))):
        Fixed.statistics.clear()
        execute(write(tmp_path, pixels, 0.5, FIXED), tmp_path / f"{number}", until="repair")
        (channels,) = Fixed.statistics.items()
        results.append((labels(tmp_path / f"{number}"), channels))
    (expected, channels), (scaled, scaled_channels) = results
    assert expected.max() > 20
    assert np.array_equal(expected, scaled)
    for statistics, others in zip(channels, scaled_channels, strict=True):
        assert vars(statistics) == pytest.approx(vars(others), rel=1e-3)
        assert statistics.minimum == 0
        assert 0.8 < statistics.p999 <= statistics.maximum < 20


def test_labels_with_slide_percentiles_do_not_depend_on_patches(tmp_path):
    image = tissue()[:2]
    execute(write(tmp_path, image, 0.5, FIXED), tmp_path / "one", until="repair")
    config = write(tmp_path, image, 0.5, FIXED, split_mode="full_image")
    execute(config, tmp_path / "two", until="repair")
    assert labels(tmp_path / "one").max() > 20
    assert np.array_equal(labels(tmp_path / "one"), labels(tmp_path / "two"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "normalization"),
    [
        ("wholecell_channel: [CD45]", "slide"),
        ("wholecell_channel: [CD45, C]", "slide"),
        ("wholecell_channel: [CD45, C], wholecell_merge: scaled", "slide"),
        ("wholecell_channel: []", "slide"),
        ("wholecell_channel: [CD45]", "patch"),
    ],
)
def test_watershed_labels_agree_with_and_without_percentiles(tmp_path, keys, normalization):
    image = tissue((300, 330), empty=0)
    common = f"{WATERSHED}, normalization: {normalization}"
    found = []
    for number, more in enumerate(("", ", percentiles: [1, 99]")):
        config = write(tmp_path, image, 0.5, common + more, keys)
        execute(config, tmp_path / f"{number}", until="repair")
        found.append(labels(tmp_path / f"{number}"))
    assert found[0].max() > 20
    assert count_matches(object_pairs(overlaps(*found)), 0.7).f1 > 0.9


def test_network_with_slide_passes_uses_diameter_and_percentiles(tmp_path):
    image = blobs((300, 340))
    keys = f"backend: panoptic, model_path: {TOY}, percentiles: [1, 99], diameter: 8"
    found = []
    for side in (130, 400):
        config = write(tmp_path, image, 0.5, keys, patch_height=side, patch_width=side)
        result = execute(config, tmp_path / f"{side}", until="repair")
        found.append(labels(tmp_path / f"{side}"))
    assert result.scale["mpp_shown"] == 0.625
    assert found[0].max() > 20
    assert np.array_equal(*found)


def test_percentiles_do_not_scale_flat_channel(tmp_path):
    image = np.full((2, 200, 200), 7, np.uint16)
    image[0, 50:60, 50:60] = 5000  # less than 1 % of the pixels
    config = write(tmp_path, image, 0.5, f"{WATERSHED}, percentiles: [1, 99]")
    assert execute(config, tmp_path / "run", until="repair").cells == 1


def test_segment_scales_arrays_by_percentiles():
    image = tissue(empty=0)[:2]
    patches = np.moveaxis(image, 0, -1)[None]
    settings = {
        "data": {"image_mpp": 0.5},
        "segmentation": {"backend": "tests.test_scale:Fixed", "percentiles": [1, 99]},
    }
    for normalization in ("slide", "patch"):
        settings["segmentation"]["normalization"] = normalization
        (one,) = segment(patches, settings)
        (two,) = segment(patches * np.uint16(3) + np.uint16(500), settings)
        assert one["cell"].max() > 20
        assert np.array_equal(one["cell"], two["cell"])


# --- keys of stages -----------------------------------------------------------------------


def test_default_values_of_added_keys_keep_markers_of_old_runs(tmp_path):
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path)
    run = Run(tmp_path)
    config = Config.model_validate(read_manifest(run).config)
    for stage in ("load", "segment"):
        was = run.marker(stage)["depends_on"]["config"]
        assert {name: section_in_key(config, name) for name in was} == was


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("channels", {"mode": "L"}),
        ("segmentation", {"diameter": "auto"}),
        ("segmentation", {"diameter": 9.0}),
        ("segmentation", {"percentiles": [1, 99]}),
    ],
)
def test_changed_scale_keys_are_in_stage_key(section, keys):
    default = section_in_key(Config(), section)
    changed = section_in_key(Config.model_validate({section: keys}), section)
    assert default == {k: v for k, v in changed.items() if k in default}
    assert {k: changed[k] for k in keys} == keys
    unused = Config.model_validate({"channels": {"cell": "red", "nucleus": "grey"}})
    assert section_in_key(unused, "channels") == section_in_key(Config(), "channels")
