import csv
import importlib.util

import numpy as np
import pytest
import tifffile
from PIL import Image

from codexseg.cli.console import is_value, repeat_option
from codexseg.comparison.compare import compare
from codexseg.comparison.figure import disagreement_window, outline_image, side_by_side
from codexseg.comparison.window import ComparisonWindow, brightest_window, read_reference
from codexseg.config.coerce import as_config
from codexseg.core.grid import Window
from codexseg.errors import BackendUnavailable, ConfigError, InputError
from codexseg.evaluation.evaluate import evaluate
from codexseg.io.labels.finder import find_labels
from codexseg.io.labels.reader import open_labels
from codexseg.io.slides.open import open_image
from codexseg.predict import ImageOptions
from tests.helpers.drawing import draw
from tests.helpers.images import write_ome_tiff
from tests.helpers.networks import TOY_ONNX
from tests.helpers.runs import codexseg
from tests.helpers.tissue import NAMES, Local, tissue, write_slide

LOCAL, APART = "tests.helpers.tissue:Local", "tests.stages.test_report:Apart"
DAPI = ImageOptions(nucleus="DAPI")
CD45 = ImageOptions(nucleus="DAPI", wholecell=("CD45",))
FILES = {
    f"{name}_{kind}"
    for name in ("tests.helpers.tissue_Local", "tests.stages.test_report_Apart")
    for kind in ("cells.tif", "nuclei.tif", "outlines.png")
} | {"compare.png", "scores.csv"}


class Absent(Local):
    def __init__(self, config, slide):
        raise BackendUnavailable("its weights are on the moon: fetch them.")


class Sick(Local):
    def one(self, pixels, window):
        raise ValueError("the model is out of sorts")


def rows(folder):
    with (folder / "scores.csv").open(newline="") as file:
        return {row["backend"]: row for row in csv.DictReader(file)}


def hidden(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def compared(slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "new" / "folder"
    messages = []
    result = compare(slide, [LOCAL, APART], out, options=CD45, progress=messages.append)
    return result, out, messages


# -- outputs -----------------------------------------------------------------------------


def test_every_backend_has_labels_outlines_and_a_row(compared, slide):
    result, out, messages = compared
    assert {path.name for path in out.iterdir()} == FILES
    assert set(result.files) == set(out.iterdir())
    assert messages == [f"{name}: segmenting" for name in (LOCAL, APART)]
    assert hidden(out.parent) == []
    assert result.window == Window(0, 0, 420, 460)
    for outcome in result.outcomes:
        stem = out / outcome.name.replace(":", "_")
        for kind, labels in (("cells", outcome.cells), ("nuclei", outcome.nuclei)):
            (file,) = find_labels(stem.with_name(f"{stem.name}_{kind}.tif"))
            with open_labels(file) as image:
                assert np.array_equal(image.read(result.window), labels)
            assert len(np.unique(labels)) - 1 == outcome.metrics[kind] > 30
        with tifffile.TiffFile(stem.with_name(f"{stem.name}_cells.tif")) as file:
            y, x = (file.pages[0].tags[f"{a}Resolution"].value for a in "YX")
            assert y == x == (20000, 1)
        with Image.open(stem.with_name(f"{stem.name}_outlines.png")) as picture:
            assert np.array_equal(picture, outline_image(outcome.cells, outcome.nuclei))


def test_table_agrees_with_the_labels(compared):
    result, out, _ = compared
    local, apart = result.outcomes
    table = rows(out)
    for outcome in (local, apart):
        assert int(table[outcome.name]["cells"]) == outcome.metrics["cells"]
        assert float(table[outcome.name]["cpu_s"]) > 0
    agreement = evaluate(local.cells, apart.cells).matches[0].f1
    assert float(table[LOCAL][f"f1_with_{APART}"]) == pytest.approx(agreement, rel=1e-5)
    assert local.metrics[f"f1_with_{APART}"] == apart.metrics[f"f1_with_{LOCAL}"]
    assert 0.8 < agreement < 1
    assert apart.metrics["matched_fraction"] < 0.9 < local.metrics["matched_fraction"]
    assert apart.metrics["foreground_covered"] < local.metrics["foreground_covered"]


def test_reference_labels_give_scores_and_a_panel(compared, slide, tmp_path):
    result, before, _ = compared
    truth, out = tmp_path / "truth.npy", tmp_path / "out"
    np.save(truth, result.outcomes[0].cells)
    reference = {"cell": truth, "nucleus": truth}
    (outcome,) = compare(slide, [LOCAL], out, options=CD45, reference=reference).outcomes
    assert outcome.metrics["cells_f1"] == outcome.metrics["cells_panoptic_quality"] == 1
    (match,) = evaluate(result.outcomes[0].cells, outcome.nuclei).matches
    assert outcome.metrics["nuclei_recall"] == match.recall
    sizes = []
    for path in (before, out):
        with Image.open(path / "compare.png") as picture:
            sizes.append(picture.size)
    assert sizes[0] == sizes[1]  # the image and two panels


def test_only_the_window_is_segmented(compared, slide, tmp_path):
    whole = compared[0].outcomes[0]
    truth = tmp_path / "truth.npy"
    np.save(truth, whole.cells)
    options = {"options": CD45, "reference": {"cell": truth}}
    comparison = compare(
        slide, [LOCAL], tmp_path / "o", window=(90, 220, 200, 210), **options
    )
    (outcome,) = comparison.outcomes
    assert outcome.cells.shape == (200, 210)
    inside = whole.cells[90:290, 220:430]
    assert (
        outcome.metrics["cells_f1"] == evaluate(inside, outcome.cells).matches[0].f1 > 0.9
    )


def test_network_with_weights_is_compared(slide, tmp_path):
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    comparison = compare(
        slide,
        {"watershed": None, "panoptic": TOY_ONNX},
        tmp_path / "out",
        options=ImageOptions(nucleus="dapi", wholecell=("CD45", "PANCK")),
    )
    assert [outcome.state for outcome in comparison.outcomes] == ["done", "done"]
    assert all(outcome.metrics["nuclei"] > 20 for outcome in comparison.outcomes)


# -- unavailable backends and wrong input ------------------------------------------------


def test_unavailable_and_failed_backends_are_reported_and_skipped(slide, tmp_path):
    absent, sick = (
        "tests.comparison.test_compare:Absent",
        "tests.comparison.test_compare:Sick",
    )
    messages = []
    comparison = compare(
        slide,
        [absent, LOCAL, sick],
        tmp_path / "out",
        options=DAPI,
        progress=messages.append,
    )
    assert [outcome.state for outcome in comparison.outcomes] == [
        "unavailable",
        "done",
        "failed",
    ]
    assert "on the moon" in comparison.outcomes[0].reason
    assert "out of sorts" in comparison.outcomes[2].reason
    assert len(messages) == 4
    table = rows(tmp_path / "out")
    assert table[sick]["reason"] == comparison.outcomes[2].reason
    assert table[sick]["cells"] == ""
    with pytest.raises(BackendUnavailable, match=r"Absent: its weights"):
        compare(slide, [absent], tmp_path / "no", options=DAPI)
    alone = compare(slide, [sick], tmp_path / "no", options=DAPI)
    assert alone.files == ()
    assert not (tmp_path / "no").exists()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("backends", "options", "error", "words"),
    [
        ([LOCAL, LOCAL], {}, ConfigError, "Duplicate backends: .*Name each"),
        (["watershet"], {}, ConfigError, "Backend watershet not found"),
        ([], {}, ConfigError, "No backend was named"),
        ({LOCAL: "gone"}, {}, ConfigError, "Local=gone, but this path does not exist"),
        ([LOCAL], {"options": ImageOptions("DNA")}, InputError, "Channel 'DNA' not found"),
        ([LOCAL], {"window": (0, 0, 500, 100)}, InputError, r"--window is 0 0 500 100"),
        ([LOCAL], {"window": (0, 0, 10, 100)}, InputError, "64 px a side"),
        (
            [LOCAL],
            {"reference": {"cell": "gone.tif"}},
            InputError,
            "gone.tif does not exist",
        ),
    ],
)
def test_wrong_input_writes_nothing(slide, tmp_path, backends, options, error, words):
    with pytest.raises(error, match=words):
        compare(slide, backends, tmp_path / "o", **{"options": DAPI} | options)
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_kept_without_overwrite(slide, tmp_path):
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(InputError, match=r"already contains scores\.csv"):
        compare(slide, [LOCAL], tmp_path, options=DAPI)
    assert (tmp_path / "scores.csv").read_text() == "mine"
    compare(slide, [LOCAL], tmp_path, options=DAPI, overwrite=True)
    assert LOCAL in rows(tmp_path)


def test_reference_has_the_size_of_the_image_or_of_the_window(tmp_path):
    labels = np.arange(100, dtype=np.uint32).reshape(10, 10)
    path, window = tmp_path / "labels.npy", Window(2, 3, 6, 9)
    np.save(path, labels)
    assert np.array_equal(read_reference(path, "cell", (10, 10), window), labels[2:6, 3:9])
    np.save(path, labels[:4, :6])
    assert np.array_equal(read_reference(path, "cell", (10, 10), window), labels[:4, :6])
    np.save(path, labels[:5])
    with pytest.raises(InputError, match=r"\(5, 10\), expected .*\(10, 10\).*\(4, 6\)"):
        read_reference(path, "cell", (10, 10), window)
    np.save(path, labels / 2)
    with pytest.raises(InputError, match="floats"):
        read_reference(path, "cell", (10, 10), window)


# -- windows and figures -----------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 1])
def test_brightest_window_of_a_large_image_ignores_a_smear(tmp_path, levels):
    image = np.full((1, 2100, 4200), 500, np.uint16)
    image[0, 100:1500, 1900:3300] += 300
    image[0, :60, :60] = 60000  # one bright smear
    path = write_ome_tiff(tmp_path / "a.ome.tif", image, ["DAPI"], 0.5, levels=levels)
    window = brightest_window(open_image(path), 0)
    assert window.shape == (2048, 2048)
    assert window.y0 <= 52
    assert 3300 - 2048 - 64 <= window.x0 <= 1900 + 64
    view = ComparisonWindow.open(
        as_config({"data": {"file_name": str(path)}}), (0, 0, 64, 64)
    )
    assert view.read().shape == (2, 64, 64)


def test_detail_shows_the_largest_disagreement():
    few = np.zeros((60, 80), np.uint32)
    few[5:18, 5:18] = 1
    more = few.copy()
    more[45:55, 62:75] = 2
    assert disagreement_window({"a": (few, few)}, 20) == Window(0, 0, 20, 20)
    assert disagreement_window({"a": (few, few), "b": (more, few)}, 20) == Window(
        40, 60, 60, 80
    )
    assert disagreement_window({"a": (few, few)}, 500) == Window(0, 0, 60, 60)


def test_figures_have_outlines_and_at_most_four_panels_in_a_row():
    cells = draw("111.\n111.\n111.\n....")
    nuclei = draw("....\n.1..\n....\n....")
    alone = outline_image(cells, nuclei)
    assert alone[1, 1].tolist() == [255, 255, 255]
    assert alone[2, 0].tolist() == [255, 196, 0]
    assert not alone[3].any()
    pixels, labels = tissue()[:2], np.zeros((420, 460), np.uint32)
    comparison = {f"backend {n}": (labels, labels) for n in range(5)}
    few, many = (side_by_side(pixels, dict(list(comparison.items())[:n])) for n in (3, 5))
    assert few.shape[1] == many.shape[1]
    assert many.shape[0] == 2 * few.shape[0]
    assert side_by_side(np.zeros((2, 9, 7), np.uint16), {"a": (labels[:9, :7],) * 2}).any()


# -- the command ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a.tif --backends x y --out o", "a.tif --backends x --backends y --out o"),
        ("--backends x --backends y z", "--backends x --backends y --backends z"),
        ("--backends", "--backends"),
        ("a --model p=1 q=2 -h", "a --model p=1 q=2 -h"),
    ],
)
def test_option_with_several_names_is_repeated(words, expected):
    assert repeat_option(words.split(), "--backends", is_value) == expected.split()


@pytest.mark.slow
def test_compare_command_with_an_unavailable_backend(slide, tmp_path):
    absent = "tests.comparison.test_compare:Absent"
    done = codexseg(
        "compare",
        slide,
        *("--backends", LOCAL, APART, absent),
        *("--nuclear", "DAPI", "--wholecell", NAMES[1], NAMES[2]),
        *("--window", 0, 210, 200, 240, "--out", tmp_path / "out"),
    )
    assert done.returncode == 1, done.stderr
    assert "y 0 to 200, x 210 to 450 px of 420 x 460 px" in done.stdout
    assert "signal covered" in done.stdout
    assert "Agreement" in done.stdout
    assert f"{absent} unavailable: its weights are on the moon" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert hidden(tmp_path) == []
    for words, message in (
        ((absent,), "already contains compare.png"),
        (("watershed", "--model", "watershed"), "expected NAME=PATH"),
        (("watershed", "--model", "mesmer=w.onnx"), "--model names mesmer, expected one"),
        (("watershed", "watershed"), "Duplicate backends: watershed, watershed. Name"),
        (("watershed",), "already contains compare.png"),
    ):
        out = tmp_path / ("out" if len(words) == 1 else "new")
        wrong = codexseg("compare", slide, "--backends", *words, "--out", out)
        assert wrong.returncode == 2, wrong.stdout
        assert wrong.stderr.startswith("codexseg: ")
        assert message in wrong.stderr
        assert "Traceback" not in wrong.stderr
