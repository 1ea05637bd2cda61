import csv
import importlib.util

import numpy as np
import pytest
import tifffile
from PIL import Image

from codexseg.cli.console import is_no_option, spread
from codexseg.comparison.compare import compare
from codexseg.comparison.figure import outlines_alone, place_of_dispute, side_by_side
from codexseg.comparison.window import Scene, brightest_window, read_truth
from codexseg.core.grid import Window
from codexseg.errors import BackendUnavailable, ConfigError, InputError
from codexseg.evaluation.evaluate import evaluate
from codexseg.io.labels.finder import find_labels
from codexseg.io.labels.reader import open_labels
from codexseg.io.slides.open import open_image
from codexseg.segment import as_config
from tests.drawing import draw
from tests.helpers.runs import codexseg
from tests.helpers.tissue import NAMES, Local, tissue, write_slide
from tests.images import write_ome_tiff
from tests.networks import TOY_ONNX

LOCAL, APART = "tests.helpers.tissue:Local", "tests.stages.test_report:Apart"
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
def both(slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "new" / "folder"
    told = []
    options = {"nucleus": "DAPI", "wholecell": ["CD45"], "out": out}
    result = compare(slide, [LOCAL, APART], progress=told.append, **options)
    return result, out, told


# -- what comes out ------------------------------------------------------------------------


def test_every_backend_has_labels_pictures_and_a_row(both, slide):
    result, out, told = both
    assert {path.name for path in out.iterdir()} == FILES
    assert set(result.files) == set(out.iterdir())
    assert told == [f"{name}: segmenting" for name in (LOCAL, APART)]
    assert hidden(out.parent) == []
    assert result.window == Window(0, 0, 420, 460)
    for one in result.outcomes:
        stem = out / one.name.replace(":", "_")
        for kind, labels in (("cells", one.cells), ("nuclei", one.nuclei)):
            (file,) = find_labels(stem.with_name(f"{stem.name}_{kind}.tif"))
            with open_labels(file) as image:
                assert np.array_equal(image.read(result.window), labels)
            assert len(np.unique(labels)) - 1 == one.figures[kind] > 30
        with tifffile.TiffFile(stem.with_name(f"{stem.name}_cells.tif")) as file:
            y, x = (file.pages[0].tags[f"{a}Resolution"].value for a in "YX")
            assert y == x == (20000, 1)
        with Image.open(stem.with_name(f"{stem.name}_outlines.png")) as picture:
            assert np.array_equal(picture, outlines_alone(one.cells, one.nuclei))


def test_the_table_tells_what_the_labels_show(both):
    result, out, _ = both
    local, apart = result.outcomes
    table = rows(out)
    for one in (local, apart):
        assert int(table[one.name]["cells"]) == one.figures["cells"]
        assert float(table[one.name]["cpu_s"]) > 0
    agreement = evaluate(local.cells, apart.cells).matches[0].f1
    assert float(table[LOCAL][f"f1_with_{APART}"]) == pytest.approx(agreement, rel=1e-5)
    assert local.figures[f"f1_with_{APART}"] == apart.figures[f"f1_with_{LOCAL}"]
    assert 0.8 < agreement < 1
    assert apart.figures["matched_fraction"] < 0.9 < local.figures["matched_fraction"]
    assert apart.figures["foreground_covered"] < local.figures["foreground_covered"]


def test_a_truth_gives_scores_and_a_panel(both, slide, tmp_path):
    result, before, _ = both
    truth, out = tmp_path / "truth.npy", tmp_path / "out"
    np.save(truth, result.outcomes[0].cells)
    options = {"nucleus": "DAPI", "truth": truth, "truth_nuclei": truth, "out": out}
    found = compare(slide, [LOCAL], wholecell=["CD45"], **options)
    (one,) = found.outcomes
    assert one.figures["cells_f1"] == one.figures["cells_panoptic_quality"] == 1
    (match,) = evaluate(result.outcomes[0].cells, one.nuclei).matches
    assert one.figures["nuclei_recall"] == match.recall
    sizes = []
    for path in (before, out):
        with Image.open(path / "compare.png") as picture:
            sizes.append(picture.size)
    assert sizes[0] == sizes[1]  # the image, and two more


def test_a_window_is_all_that_is_segmented(both, slide, tmp_path):
    whole = both[0].outcomes[0]
    truth = tmp_path / "truth.npy"
    np.save(truth, whole.cells)
    options = {"nucleus": "DAPI", "wholecell": ["CD45"], "truth": truth}
    found = compare(
        slide, [LOCAL], window=(90, 220, 200, 210), out=tmp_path / "o", **options
    )
    (one,) = found.outcomes
    assert one.cells.shape == (200, 210)
    inside = whole.cells[90:290, 220:430]
    assert one.figures["cells_f1"] == evaluate(inside, one.cells).matches[0].f1 > 0.9


def test_the_network_is_compared_too(slide, tmp_path):
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    found = compare(
        slide,
        ["watershed", "panoptic"],
        nucleus="dapi",
        wholecell=["CD45", "PANCK"],
        models={"panoptic": TOY_ONNX},
        out=tmp_path / "out",
    )
    assert [one.state for one in found.outcomes] == ["done", "done"]
    assert all(one.figures["nuclei"] > 20 for one in found.outcomes)


# -- what cannot be had, and what is wrong -------------------------------------------------


def test_the_others_go_on(slide, tmp_path):
    absent, sick = "tests.test_compare:Absent", "tests.test_compare:Sick"
    told = []
    options = {"nucleus": "DAPI", "out": tmp_path / "out", "progress": told.append}
    found = compare(slide, [absent, LOCAL, sick], **options)
    assert [one.state for one in found.outcomes] == ["unavailable", "done", "failed"]
    assert "on the moon" in found.outcomes[0].reason
    assert "out of sorts" in found.outcomes[2].reason
    assert len(told) == 4
    table = rows(tmp_path / "out")
    assert table[sick]["reason"] == found.outcomes[2].reason
    assert table[sick]["cells"] == ""
    with pytest.raises(BackendUnavailable, match=r"Absent: its weights"):
        compare(slide, [absent], nucleus="DAPI", out=tmp_path / "no")
    alone = compare(slide, [sick], nucleus="DAPI", out=tmp_path / "no")
    assert alone.files == ()
    assert not (tmp_path / "no").exists()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("backends", "options", "error", "words"),
    [
        ([LOCAL, LOCAL], {}, ConfigError, "expected different ones"),
        (["watershet"], {}, ConfigError, "no backend watershet"),
        ([LOCAL], {"models": {"mesmer": TOY_ONNX}}, ConfigError, "names mesmer"),
        ([LOCAL], {"models": {LOCAL: "gone"}}, ConfigError, "nothing there"),
        ([LOCAL], {"nucleus": "DNA"}, InputError, "no channel 'DNA'"),
        ([LOCAL], {"window": (0, 0, 500, 100)}, InputError, r"--window is 0 0 500 100"),
        ([LOCAL], {"window": (0, 0, 10, 100)}, InputError, "64 px a side"),
        ([LOCAL], {"truth": "gone.tif"}, InputError, "gone.tif does not exist"),
    ],
)
def test_wrong_input_writes_nothing(slide, tmp_path, backends, options, error, words):
    with pytest.raises(error, match=words):
        compare(slide, backends, **{"nucleus": "DAPI", "out": tmp_path / "o"} | options)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_stay(slide, tmp_path):
    (tmp_path / "scores.csv").write_text("mine")
    options = {"nucleus": "DAPI", "out": tmp_path}
    with pytest.raises(InputError, match=r"holds scores\.csv already"):
        compare(slide, [LOCAL], **options)
    assert (tmp_path / "scores.csv").read_text() == "mine"
    compare(slide, [LOCAL], overwrite=True, **options)
    assert LOCAL in rows(tmp_path)


def test_a_truth_is_of_the_image_or_of_the_window(tmp_path):
    labels = np.arange(100, dtype=np.uint32).reshape(10, 10)
    path, window = tmp_path / "labels.npy", Window(2, 3, 6, 9)
    np.save(path, labels)
    assert np.array_equal(read_truth(path, "cell", (10, 10), window), labels[2:6, 3:9])
    np.save(path, labels[:4, :6])
    assert np.array_equal(read_truth(path, "cell", (10, 10), window), labels[:4, :6])
    np.save(path, labels[:5])
    with pytest.raises(InputError, match=r"\(5, 10\), expected .*\(10, 10\).*\(4, 6\)"):
        read_truth(path, "cell", (10, 10), window)
    np.save(path, labels / 2)
    with pytest.raises(InputError, match="floats"):
        read_truth(path, "cell", (10, 10), window)


# -- where, and how it looks ---------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 1])
def test_the_brightest_window_of_a_large_image(tmp_path, levels):
    image = np.full((1, 2100, 4200), 500, np.uint16)
    image[0, 100:1500, 1900:3300] += 300
    image[0, :60, :60] = 60000  # one bright smear
    path = write_ome_tiff(tmp_path / "a.ome.tif", image, ["DAPI"], 0.5, levels=levels)
    window = brightest_window(open_image(path), 0)
    assert window.shape == (2048, 2048)
    assert window.y0 <= 52
    assert 3300 - 2048 - 64 <= window.x0 <= 1900 + 64
    scene = Scene.open(as_config({"data": {"file_name": str(path)}}), (0, 0, 64, 64))
    assert scene.read().shape == (2, 64, 64)


def test_the_detail_is_where_backends_differ():
    one = np.zeros((60, 80), np.uint32)
    one[5:18, 5:18] = 1
    other = one.copy()
    other[45:55, 62:75] = 2
    assert place_of_dispute({"a": (one, one)}, 20) == Window(0, 0, 20, 20)
    assert place_of_dispute({"a": (one, one), "b": (other, one)}, 20) == Window(
        40, 60, 60, 80
    )
    assert place_of_dispute({"a": (one, one)}, 500) == Window(0, 0, 60, 60)


def test_pictures():
    cells = draw("111.\n111.\n111.\n....")
    nuclei = draw("....\n.1..\n....\n....")
    alone = outlines_alone(cells, nuclei)
    assert alone[1, 1].tolist() == [255, 255, 255]
    assert alone[2, 0].tolist() == [255, 196, 0]
    assert not alone[3].any()
    pixels, labels = tissue()[:2], np.zeros((420, 460), np.uint32)
    found = {f"backend {n}": (labels, labels) for n in range(5)}
    few, many = (side_by_side(pixels, dict(list(found.items())[:n])) for n in (3, 5))
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
def test_backends_take_all_names_that_follow(words, expected):
    assert spread(words.split(), "--backends", is_no_option) == expected.split()


def test_the_command(slide, tmp_path):
    absent = "tests.test_compare:Absent"
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
    for words in ((absent,), ("watershed", "--model", "watershed"), ("watershed",)):
        wrong = codexseg("compare", slide, "--backends", *words, "--out", tmp_path / "out")
        assert wrong.returncode == 2, wrong.stdout
        assert wrong.stderr.startswith("codexseg: ")
        assert "Traceback" not in wrong.stderr
