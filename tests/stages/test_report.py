import base64
import copy
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage as ndi

from codexseg.core.intensity.background import (
    Blocks,
    channel_statistics,
    estimate_background,
)
from codexseg.core.intensity.histogram import block_mean
from codexseg.report import figures, quality
from codexseg.report import page as report_page
from codexseg.stages.segment import stage as segment
from codexseg.workflow.timings import stage_times
from tests.helpers.images import write_ome_tiff
from tests.helpers.runs import execute, labels
from tests.helpers.tissue import NAMES, Local, segment_locally, tissue, write_slide

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Apart(Local):
    """Backend with cells without nuclei and nuclei without cells."""

    name = "apart"

    def one(self, pixels, window):
        labels = segment_locally(pixels)
        labels[0][labels[0] % 7 == 3] = 0
        labels[1][labels[1] % 5 == 1] = 0
        return labels


class Nothing(Local):
    """Backend that finds no objects."""

    name = "nothing"

    def one(self, pixels, window):
        return np.zeros(pixels.shape, np.uint32)


class Breaks(Apart):
    """Backend that raises on windows that contain the pixel (150, 300)."""

    def one(self, pixels, window):
        if window.y0 <= 150 < window.y1 and window.x0 <= 300 < window.x1:
            raise ValueError("the <model> is out of sorts")
        return super().one(pixels, window)


class Large(Local):
    """Backend that finds one object across all patches."""

    def one(self, pixels, window):
        return np.ones(pixels.shape, np.uint32)


class Page(HTMLParser):
    """Parser that checks the nesting of tags and collects text and pictures."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text("utf-8")
        self.open, self.tags, self.pictures, self.words = [], [], [], []
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def boxes(self, kind):
        return re.findall(
            rf'<section class="box {kind}">(.*?)</section>', self.source, re.S
        )

    def decoded(self):
        data = (src.removeprefix("data:image/jpeg;base64,") for src in self.pictures)
        return [Image.open(io.BytesIO(base64.b64decode(d))) for d in data]


def write(
    folder, backend="Local", image=None, extra="", channels="wholecell_channel: [CD45]"
):
    write_slide(folder, image)
    path = folder / "my.yaml"
    path.write_text(
        "data: {file_name: slide.ome.tif}\n"
        f"channels: {{nuclear_channel: DAPI, {channels}}}\n"
        "patching: {patch_height: 150, patch_width: 160, overlap: 0}\n"
        f'segmentation: {{backend: "tests.stages.test_report:{backend}", '
        "save_segmentation_pickle: false}\n"
        "export: {h5ad: false, ome_tiff: false, csv: false}\n" + extra
    )
    return path


def page_of(folder, *args, **options):
    options.setdefault("extra", "report: {overlay_px: 128}\n")
    result = execute(write(folder, *args, **options), folder / "run")
    return Page(result.path / "report.html"), result


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("usual"), "Apart", image=tissue(empty=230))


def test_page_refers_to_no_other_file(usual):
    page, result = usual
    assert (result.path / "report.html").stat().st_size < 3e6
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not re.search(r"https?:|url\(|@import", page.source)


def test_page_contains_counts_of_the_tables(usual):
    page, result = usual
    cells = pd.read_parquet(result.path / "cells.parquet")
    alone = pd.read_parquet(result.path / "unmatched.parquet")
    kinds = alone.compartment.value_counts()
    assert kinds["cell"] > 5 < kinds["nucleus"]
    assert "<h1>slide.ome.tif</h1>" in page.source
    assert f"{len(cells)} cells in the table" in page.text
    assert f"Unmatched: left out, and why {kinds['cell']} {kinds['nucleus']}" in page.text
    totals = len(cells) + kinds["cell"], len(cells) + kinds["nucleus"]
    assert f"Found by the backend {totals[0]} {totals[1]}" in page.text
    assert (
        f"{100 * len(cells) / (sum(totals) - len(cells)):.1f} % matched"
        in page.text.replace("\u202f", " ")
    )
    assert f"median {cells.cell_area_um2.median():.0f}" in page.text
    assert f"median {cells.nucleus_area_um2.median():.0f}" in page.text
    _, height, width = tissue().shape
    assert f"{width} \u00d7 {height} px" in page.text
    assert "apart 1" in page.text
    assert page.boxes("bad") == page.boxes("warn") == []


def qualities(run):
    return pd.read_csv(run / "quality.csv", dtype={"patch_id": str}, index_col="patch_id")


def test_quality_equals_values_from_labels_and_pixels(usual):
    page, result = usual
    table, metadata = (
        qualities(result.path),
        pd.read_csv(result.path / "patches_metadata.csv"),
    )
    assert len(table) == len(metadata) + 1
    patches, slide = table.iloc[:-1], table.loc["slide"]
    for name in ("cells", "nuclei"):
        assert patches[name].tolist() == metadata[f"n_{name}"].tolist()
        assert patches[name].sum() == slide[name]
    assert slide.pairs < slide.cells != slide.nuclei > slide.pairs
    assert slide.cells_matched == pytest.approx(slide.pairs / slide.cells, rel=1e-5)
    assert slide.nuclei_matched == pytest.approx(slide.pairs / slide.nuclei, rel=1e-5)

    image, cells = tissue(empty=230), labels(result.path, "cell_original")
    foreground = np.zeros(cells.shape, bool)
    for channel in image[:2]:
        _, _, level, noise, p999 = channel_statistics(channel)
        blocks = Blocks(*(np.full((9, 9), v, np.float32) for v in (level, noise / 4, 0)))
        limit = estimate_background(blocks, p999, integer=True).threshold
        squares = block_mean(channel, 4) > limit
        foreground |= np.kron(squares, np.ones((4, 4), bool))[:420, :460]
    covered = (foreground & (cells > 0)).sum()
    assert slide.foreground_fraction == pytest.approx(foreground.mean(), rel=1e-5)
    assert slide.foreground_covered == pytest.approx(covered / foreground.sum(), rel=1e-5)
    assert slide.cells_on_foreground == pytest.approx(covered / (cells > 0).sum(), rel=1e-5)
    areas = np.bincount(cells.ravel())[1:]
    assert slide.size_cv == pytest.approx(areas.std() / areas.mean(), rel=1e-5)

    assert "Quality without a reference" in page.text
    assert f"Signal covered by cells {100 * slide.foreground_covered:.0f} %" in page.text
    assert f"Spread of cell sizes {slide.size_cv:.2f}" in page.text


def test_quality_of_the_slide_does_not_depend_on_patches(tmp_path):
    config, rows = write(tmp_path, extra="report: {overlays: 0}\n"), []
    text = config.read_text()
    for name, (height, width) in {"a": (77, 461), "b": (150, 90)}.items():
        changed = text.replace("patch_height: 150", f"patch_height: {height}")
        config.write_text(changed.replace("patch_width: 160", f"patch_width: {width}"))
        run = execute(config, tmp_path / name).path
        rows.append((run / "quality.csv").read_text().splitlines()[-1])
    assert rows[0] == rows[1]


def test_interrupted_quality_measures_only_remaining_windows(usual, monkeypatch):
    _, result = usual
    config, path = result.path.parent / "my.yaml", result.path / "quality.csv"
    before = path.read_bytes()
    path.unlink()
    measured = []

    def stops(job, window):
        measured.append(window)
        if len(measured) == 4:
            raise KeyboardInterrupt
        return tally(job, window)

    tally = quality._tally
    monkeypatch.setattr(quality, "_tally", stops)
    with pytest.raises(KeyboardInterrupt):
        execute(config, result.path)
    assert not path.exists()
    execute(config, result.path)
    assert path.read_bytes() == before
    assert len(measured) == len(set(measured)) + 1


def test_report_of_earlier_version_stays_done(usual):
    _, result = usual
    config, marker = result.path.parent / "my.yaml", result.path / "stages" / "report.json"
    record = json.loads(marker.read_text())
    assert record["summary"]["written"] == ["report.html", "quality.csv"]
    old, kept = copy.deepcopy(record), (result.path / "quality.csv").read_bytes()
    old["summary"]["written"] = ["report.html"]
    old["files"] = {"report.html": record["files"]["report.html"]}
    marker.write_text(json.dumps(old))
    (result.path / "quality.csv").unlink()
    states = [stage.state for stage in execute(config, result.path).stages]
    assert states == ["done"] * 9
    assert not (result.path / "quality.csv").exists()
    execute(config, result.path, force="report")
    assert (result.path / "quality.csv").read_bytes() == kept


def test_page_contains_estimated_diameter(usual):
    _, result = usual
    config, marker = result.path.parent / "my.yaml", result.path / "stages" / "segment.json"
    record = json.loads(marker.read_text())
    record["summary"]["scale"] = {
        "diameter_um": 7.25,
        "factor": 1.4,
        "source": "two passes",
    }
    marker.write_text(json.dumps(record))
    execute(config, result.path, force="report")
    words = "Cell diameter 7.2 \u00b5m, two passes; the image was looked at 1.40 times"
    assert words in Page(result.path / "report.html").text


def test_page_lists_patches_stages_and_described_files(usual):
    page, result = usual
    metadata = pd.read_csv(result.path / "patches_metadata.csv")
    for status in ("done", "skipped"):
        rows = page.source.count(f'<tr class="{status}-row">')
        assert rows == (metadata.status == status).sum() > 0
    for stage in (
        "load",
        "patch",
        "flag",
        "segment",
        "repair",
        "stitch",
        "profile",
        "export",
    ):
        assert f"<td>{stage}</td>" in page.source
    files = page.source.split("<h2>Files</h2>")[1].split("</table>")[0]
    listed = dict(re.findall(r"<code>(.*?)</code>.*<td>(.*?)</td>", files))
    assert {"cells.parquet", "unmatched.parquet", "segmentation.ome.zarr"} <= set(listed)
    assert all(listed.values())


def test_pictures_show_cells_across_seams(usual):
    page, _ = usual
    overview, *shown = page.decoded()
    assert max(overview.size) == figures.OVERVIEW_PX
    assert 3 <= len(shown) <= 6
    for picture in shown:
        assert picture.size == (128, 128)
        yellow, white = (
            np.abs(np.asarray(picture, int) - colour).max(axis=2) < 60
            for colour in (figures.COLOURS["cell_line"], figures.COLOURS["nucleus_line"])
        )
        assert yellow.any()
        assert white.any()
    assert "Across a seam" in page.text
    assert re.search(r"\d+ across seams", page.text)
    assert "Most unmatched" in page.text
    assert 'class="seam"' in page.source


def test_repeated_report_has_identical_pictures(usual):
    page, result = usual
    execute(result.path.parent / "my.yaml", result.path, from_stage="report")
    assert Page(result.path / "report.html").pictures == page.pictures


def test_failed_patches_are_listed_with_position_and_reason(tmp_path):
    page, result = page_of(tmp_path, "Breaks")
    (box,) = page.boxes("bad")
    assert result.failed_patches
    for patch in result.failed_patches:
        assert f"patch {patch} (y " in box
    assert "the &lt;model&gt; is out of sorts" in box
    assert f"{len(result.failed_patches)} patch" in page.text
    red = np.asarray(page.decoded()[0], int)[:, :, 0].max()
    assert red > 200
    assert page.source.count('<rect class="failed"') == len(result.failed_patches)
    table = qualities(result.path)
    failed = table.index.isin([str(patch) for patch in result.failed_patches])
    assert table.foreground_fraction.isna().tolist() == failed.tolist()


def test_slide_without_signal_is_reported(tmp_path):
    page, result = page_of(tmp_path, image=tissue(n=0))
    assert result.cells == 0
    (box,) = page.boxes("bad")
    assert "No patch holds signal" in box
    assert "no cells were found; this is the brightest spot" in page.text
    assert len(page.pictures) == 2


def test_result_without_cells_is_reported(tmp_path):
    page, _ = page_of(tmp_path, "Nothing")
    (box,) = page.boxes("bad")
    assert "No cells were found" in box
    assert "<h2>Sizes</h2>" not in page.source
    assert "<h2>Quality without a reference</h2>" not in page.source


def test_objects_that_may_be_cut_give_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "MAX_EXTENDED_PX", 0)
    page, _ = page_of(tmp_path, "Large")
    (box,) = page.boxes("warn")
    assert "may be cut" in box


def test_channel_and_run_names_are_escaped(tmp_path):
    evil = '<script>alert("&")</script>'
    path = write(
        tmp_path, extra="report: {overlays: 0}\n", channels="wholecell_channel: []"
    )
    write_ome_tiff(tmp_path / "slide.ome.tif", tissue(), [*NAMES[:2], evil], 0.5)
    page = Page(execute(path, tmp_path / "<b>run").path / "report.html")
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.text
    assert "Whole-cell channel none" in page.text
    assert len(page.pictures) == 1


def test_large_grid_lists_first_patches_only(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "MAX_ROWS", 3)
    monkeypatch.setattr(figures, "READ_WHOLE_PX", 100)
    page, _ = page_of(tmp_path)
    assert "The first 3 of 9; patches_metadata.csv lists them all." in page.text
    assert max(page.decoded()[0].size) == figures.OVERVIEW_PX


def test_stage_times_sum_driver_and_workers(tmp_path):
    lines = ["stage,patch,wall_s,cpu_s", "load,0,1,1", "load,driver,1.5,1.2"]
    lines += ["segment,0,9,9", "segment,driver,5,1"]
    lines += ["segment,0,4,4", "segment,1,4,4", "segment,driver,4,0.5", "report,driver,1,1"]
    path = tmp_path / "timings.csv"
    path.write_text("\n".join(lines) + "\n")
    times = stage_times(path)
    assert {name: times[name] for name in ("load", "segment")} == {
        "load": (1.5, 1.2),
        "segment": (4.0, 8.5),
    }


def test_histogram_counts_every_value_once():
    values = ndi.gaussian_filter(np.random.default_rng(0).random(5000), 1) * 90
    histogram = report_page._histogram(values)
    assert sum(histogram["counts"]) == 5000
    assert 10 <= len(histogram["counts"]) <= 80
    first = histogram["counts"][0]
    assert first == (values < histogram["width"]).sum()
