import csv
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from codexseg.cli.console import repeat_option
from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.evaluation.evaluate import evaluate, evaluate_files
from codexseg.io.labels.finder import find_labels
from codexseg.io.labels.reader import open_labels
from codexseg.io.labels.store import LabelStore
from tests.helpers.drawing import draw
from tests.helpers.images import write_ome_tiff, write_ome_zarr
from tests.helpers.runs import ROOT, codexseg

TRUTH = draw("""
    1111..22..
    1111..22..
    ........33
    55........
""")
PRED = draw("""
    .888..77..
    .888......
    ........66
    5555......
""")
# IoU: 1 and 8 6/8, 2 and 7 2/4, 3 and 6 1, 5 and 5 2/4.


def tiles(seed, shape=(300, 250), side=10):
    rng = np.random.default_rng(seed)
    rows, columns = (-(-n // side) for n in shape)
    labels = rng.permutation(rows * columns).reshape(rows, columns).astype(np.uint32)
    return np.kron(labels * 1_000_003, np.ones((side, side), np.uint32))[
        : shape[0], : shape[1]
    ]


def moved(labels, by=(1, 2)):
    return np.roll(labels, by, (0, 1))


def make_run(folder, cells, nuclei=None, *, done=True):
    names = ("cell",) if nuclei is None else ("cell", "nucleus")
    path = folder / "segmentation.ome.zarr"
    store = LabelStore.create(path, cells.shape, cells.shape, 0.5, names)
    window = Window(0, 0, *cells.shape)
    for name, labels in zip(names, (cells, nuclei), strict=False):
        store.write(name, window, labels.astype(np.uint32))
    (folder / "stages").mkdir()
    if done:
        (folder / "stages" / "stitch.json").write_text("{}")
    return folder


# -- arrays -------------------------------------------------------------------------------


def test_scores_of_arrays():
    scores = evaluate(TRUTH, PRED, iou=(0.5, 0.75))
    assert [match.tp for match in scores.matches] == [4, 2]
    assert scores.errors.correct == 2
    assert (scores.errors.missed, scores.errors.gained) == (2, 2)
    assert (scores.pixels.tp, scores.pixels.fp, scores.pixels.fn) == (12, 2, 4)
    assert scores.auroc is None


def test_boolean_masks_are_one_object():
    scores = evaluate(TRUTH > 0, PRED > 0)
    assert (scores.matches[0].n_true, scores.matches[0].tp) == (1, 1)


def test_border_is_ignored_for_objects_but_not_for_pixels():
    truth, pred = np.pad(TRUTH, 2), np.pad(PRED, 2)
    pred[0, 0] = 7
    plain = evaluate(truth, pred, ignore_border=0)
    scores = evaluate(truth, pred, ignore_border=2)
    assert (plain.matches[0].tp, plain.matches[0].n_pred) == (3, 4)
    assert (scores.matches[0].tp, scores.matches[0].n_pred) == (3, 3)
    assert scores.errors.n_pred == 3
    assert scores.pixels == plain.pixels


def test_probabilities_have_pixel_scores_only():
    truth = draw("1122..")
    scores = evaluate(truth, np.array([[0.9, 0.5, 0.4, 1, 0.1, 0.6]]))
    assert scores.matches == ()
    assert scores.errors is None
    assert (scores.pixels.tp, scores.pixels.fp, scores.pixels.fn) == (3, 1, 1)
    assert scores.auroc == 6 / 8


@pytest.mark.parametrize(
    ("truth", "pred", "options", "words"),
    [
        (TRUTH, PRED[1:], {}, r"\(4, 10\), but pred has \(3, 10\)"),
        (TRUTH, -PRED.astype(int), {}, "pred has labels from -8"),
        (TRUTH / 2, PRED, {}, "truth contains floats"),
        (TRUTH, PRED / 2, {}, "pred: Probabilities are 0.0 to 4.0"),
        (TRUTH, PRED, {"iou": (0.5, 50)}, "threshold is 50"),
        (TRUTH, PRED, {"iou": ()}, "No IoU threshold"),
        (TRUTH, PRED, {"ignore_border": -1}, "ignore_border is -1"),
    ],
)
def test_wrong_arrays_are_errors(truth, pred, options, words):
    with pytest.raises(InputError, match=words):
        evaluate(truth, pred, **options)


def test_scores_do_not_depend_on_windows(monkeypatch):
    truth = tiles(0)
    pred = moved(tiles(0))
    expected = evaluate(truth, pred, iou=(0.3, 0.5), ignore_border=2)
    assert expected.matches[0].tp > 100
    monkeypatch.setattr("codexseg.evaluation.evaluate.WINDOW_PX", 37)
    assert evaluate(truth, pred, iou=(0.3, 0.5), ignore_border=2) == expected


# -- files --------------------------------------------------------------------------------


def written(folder, kind, labels):
    """Write labels in a supported format; return the argument that selects them."""
    path = folder / f"a.{kind}"
    small = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    match kind:
        case "tif":
            tifffile.imwrite(path, labels)
        case "tiff":
            tifffile.imwrite(path, labels, tile=(64, 64), compression="zlib")
        case "strips.tif":
            tifffile.imwrite(path, labels, rowsperstrip=7, compression="zlib")
        case "ome.tif":
            options = {"levels": 1, "tile": (64, 64), "compression": "zlib"}
            write_ome_tiff(path, labels, axes="YX", **options)
        case "npy":
            np.save(path, labels[None].astype(np.int64))
        case "npz":
            np.savez(path, cells=labels, other=labels[:1])
            return f"{path}:cells"
        case "png":
            Image.fromarray(small.astype(np.uint16)).save(path)
        case "zarr":
            write_ome_zarr(path, labels, axes="yx", version="0.5")
        case "run":
            return make_run(path, labels)
        case "labels":
            return make_run(path, labels) / "segmentation.ome.zarr" / "labels" / "cell"
        case "store":
            return make_run(path, labels) / "segmentation.ome.zarr"
    return path


KINDS = (
    "tif",
    "tiff",
    "strips.tif",
    "ome.tif",
    "npy",
    "npz",
    "png",
    "zarr",
    "run",
    "labels",
    "store",
)


@pytest.mark.parametrize("kind", KINDS)
def test_file_formats_give_the_scores_of_arrays(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("codexseg.evaluation.evaluate.WINDOW_PX", 128)
    monkeypatch.setattr("codexseg.evaluation.evaluate.STRIP_PX", 50)
    truth, pred = tiles(0), moved(tiles(0))
    if kind == "png":  # labels must fit into 16 bits
        truth = np.unique(truth, return_inverse=True)[1].reshape(truth.shape)
        pred = moved(truth)
    np.save(tmp_path / "truth.npy", truth)
    evaluation = evaluate_files(tmp_path / "truth.npy", written(tmp_path, kind, pred))
    assert evaluation.pooled.matches == evaluate(truth, pred).matches
    assert evaluation.pooled.errors == evaluate(truth, pred).errors


def test_compartment_selects_labels_of_a_run(tmp_path):
    run = make_run(tmp_path / "run", TRUTH, PRED)
    evaluation = evaluate_files(run, run, compartment="nucleus").pooled
    assert evaluation.matches[0].n_true == 4
    assert evaluate_files(tmp_path / "run", run).pooled.matches[0].f1 == 1
    with pytest.raises(InputError, match="Choose one of cell, nucleus with --compartment"):
        evaluate_files(run, run, compartment="cytoplasm")


def test_unfinished_run_is_an_error(tmp_path):
    run = make_run(tmp_path / "run", TRUTH, done=False)
    with pytest.raises(InputError, match="not finished"):
        evaluate_files(run, run)


@pytest.fixture
def folders(tmp_path):
    """Two folders of three images: one predicted perfectly, one without predictions."""
    truth, pred = tmp_path / "truth", tmp_path / "pred"
    for folder in (truth, pred):
        folder.mkdir()
    images = {"a": (TRUTH, PRED), "b.c": (TRUTH, TRUTH), "d": (TRUTH, TRUTH * 0)}
    for name, (labels, predicted) in images.items():
        path = truth / f"{name}_masks.ome.tif"
        tifffile.imwrite(path, labels, photometric="minisblack")
        np.save(pred / f"{name}_label.npy", predicted)
    (truth / "notes.txt").write_text("not an image")
    return truth, pred


def test_folders_are_paired_by_name_and_pooled(folders):
    evaluation = evaluate_files(*folders, iou=(0.5, 0.75))
    assert [image.name for image in evaluation.images] == ["a", "b.c", "d"]
    first = evaluation.pooled.matches[0]
    assert (first.tp, first.fp, first.fn) == (8, 0, 4)
    assert first.recall == 8 / 12
    assert evaluation.means()[1]["precision"] == (0.5 + 1 + 0) / 3
    assert evaluation.pooled.errors.correct == 6
    assert evaluation.pooled.pixels.tp == 12 + 16


def test_probabilities_are_ranked_over_all_images(tmp_path):
    for name, values in {"a": [[0.2, 0.4]], "b": [[0.6, 0.8]]}.items():
        for folder, array in (
            ("truth", draw(".1")),
            ("pred", np.array(values, np.float32)),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", array)
    evaluation = evaluate_files(tmp_path / "truth", tmp_path / "pred")
    assert [image.auroc for image in evaluation.images] == [1, 1]
    assert evaluation.pooled.auroc == 0.75


def test_planes_of_stacks_are_images(tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.stack([TRUTH, TRUTH, TRUTH]))
    np.save(tmp_path / "p.npy", np.stack([PRED, TRUTH, PRED]))
    evaluation = evaluate_files(
        f"{tmp_path / 'a.npz'}:labels", tmp_path / "p.npy", iou=(0.75,)
    )
    assert [image.name for image in evaluation.images] == ["0", "1", "2"]
    assert [image.matches[0].tp for image in evaluation.images] == [2, 4, 2]


def test_images_without_a_partner_are_errors(folders):
    truth, pred = folders
    (pred / "d_label.npy").rename(pred / "e.npy")
    with pytest.raises(InputError, match=r"d_masks\.ome\.tif; in .*: e\.npy"):
        evaluate_files(truth, pred)
    with pytest.raises(InputError, match="without _masks"):
        evaluate_files(truth, pred / "a_label.npy")


def test_two_files_with_one_name_are_an_error(folders):
    truth, pred = folders
    np.save(truth / "a.npy", TRUTH)
    with pytest.raises(InputError, match=r"a\.npy and a_masks\.ome\.tif .* both named 'a'"):
        evaluate_files(truth, pred)


def broken(folder):
    whole = folder / "whole.tif"
    noise = np.random.default_rng(0).integers(0, 2**32, (64, 64), np.uint32)
    tifffile.imwrite(whole, noise, compression="zlib")
    for name, data in {"cut": whole.read_bytes()[:9000], "empty": b""}.items():
        (folder / f"{name}.tif").write_bytes(data)
    plain = folder / "plain.tif"
    tifffile.imwrite(plain, noise)
    plain.write_bytes(plain.read_bytes()[:-100])
    for name in ("no.npy", "no.png", "no.npz", "no.doc"):
        (folder / name).write_bytes(b"nothing of the kind")
    Image.new("RGB", (10, 4)).save(folder / "colour.png")
    np.save(folder / "channels.npy", np.zeros((2, 3, 4, 5), np.uint8))
    np.savez(folder / "arrays.npz", cells=TRUTH)
    (folder / "nothing").mkdir()
    tifffile.imwrite(folder / "channels.tif", np.zeros((3, 9, 9)), photometric="minisblack")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut.tif", "cannot be read"),
        ("plain.tif", "cannot be read"),
        ("empty.tif", "cannot be read"),
        ("no.npy", "cannot be read"),
        ("no.png", "cannot be read"),
        ("no.npz:a", "cannot be read"),
        ("no.doc", "Unsupported file type"),
        ("gone.tif", "does not exist"),
        ("gone.npz:a", "does not exist"),
        ("arrays.npz:a", "one of the keys cells"),
        ("arrays.npz", "one of the keys cells"),
        ("colour.png", "colour picture"),
        ("channels.npy", "expected one plane"),
        ("channels.tif", "expected one plane"),
        ("nothing", "contains no label image"),
    ],
)
def test_damaged_files_are_errors(tmp_path, name, words):
    path = broken(tmp_path) / name
    with pytest.raises(InputError, match=words) as caught:
        evaluate_files(path, path)
    assert str(path).partition(":")[0] in str(caught.value)


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_truncated_chunk_is_an_error(tmp_path, part):
    run = make_run(tmp_path / "run", tiles(0))
    (chunk,) = (run / "segmentation.ome.zarr/labels/cell/0/0").iterdir()
    chunk.write_bytes(chunk.read_bytes()[: int(part * chunk.stat().st_size)])
    with pytest.raises(InputError, match="truncated"):
        evaluate_files(run, run)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": None}])
def test_truncated_tile_is_an_error(tmp_path, options):
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 2**32, (100, 100), np.uint32)
    tifffile.imwrite(path, noise, **{"tile": (64, 64), "rowsperstrip": 20} | options)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(InputError, match="cannot be read"):
        evaluate_files(path, path)


def test_only_the_tiles_of_a_window_are_read(tmp_path):
    path = tmp_path / "large.tif"
    with tifffile.TiffWriter(path) as tif:  # most tiles are never written
        tif.write(
            (t for t in [np.full((256, 256), 7, np.uint32), *[None] * 1023]),
            shape=(8192, 8192),
            dtype=np.uint32,
            tile=(256, 256),
            compression="zlib",
        )
    (file,) = find_labels(path)
    with open_labels(file) as image:
        assert image.shape == (8192, 8192)
        part = image.read(Window(250, 250, 260, 262))
    assert part.shape == (10, 12)
    assert part.sum() == 7 * 36


# -- the command --------------------------------------------------------------------------


def read_csv(path):
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def run_evaluate(*words):
    done = codexseg("evaluate", *words)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_evaluate_command_writes_table_and_overlays(folders, tmp_path):
    out, overlay = tmp_path / "metrics.csv", tmp_path / "errors"
    words = ("--iou", 0.5, 0.75, "--errors", "--pixel", "--out", out, "--overlay", overlay)
    done = run_evaluate(*folders, *words)
    assert done.returncode == 0, done.stderr
    assert "3 images, 12 true objects, 8 predicted." in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["0.5", "8", "0", "4", "1.0000", "0.6667"] in [line[:6] for line in lines]
    assert ["0.75", "6", "2", "6", "0.7500", "0.5000"] in [line[:6] for line in lines]
    assert ["6", "6", "2", "0", "0", "0"] in [line[:6] for line in lines]
    assert done.stderr == ""
    rows = read_csv(out)
    assert [(row["image"], row["iou"], row["tp"]) for row in rows] == [
        ("pooled", "0.5", "8"),
        ("pooled", "0.75", "6"),
    ]
    assert rows[0]["recall"] == "0.666667"
    assert rows[0]["errors_missed"] == "6"
    assert rows[0]["pixels_tp"] == "28"
    assert sorted(p.name for p in overlay.iterdir()) == ["a.png", "b.c.png", "d.png"]
    with Image.open(overlay / "a.png") as picture:
        assert picture.size == (10, 4)


@pytest.mark.slow
def test_evaluate_command_by_image(folders, tmp_path):
    out = tmp_path / "deep" / "metrics.csv"
    done = run_evaluate("--iou", 0.75, *folders, "--by-image", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "averaged per image" in done.stdout
    assert "0.75   6   2   6     0.5000  0.5000" in done.stdout
    rows = read_csv(out)
    assert [(row["image"], row["tp"]) for row in rows] == [
        ("a", "2"),
        ("b.c", "4"),
        ("d", "0"),
    ]
    assert not any(name.startswith(("errors", "pixels")) for name in rows[0])


@pytest.mark.slow
def test_evaluate_command_with_probabilities(tmp_path):
    np.save(tmp_path / "t.npy", TRUTH)
    np.save(tmp_path / "p.npy", (TRUTH > 0) * np.float32(0.7))
    files = tmp_path / "t.npy", tmp_path / "p.npy"
    done = run_evaluate(*files, "--pixel", "--out", tmp_path / "m.csv")
    assert done.returncode == 0, done.stderr
    assert "AuROC" in done.stdout
    (row,) = read_csv(tmp_path / "m.csv")
    assert (row["pixels_iou"], row["pixels_auroc"]) == ("1.000000", "1.000000")
    done = run_evaluate(*files)
    assert done.returncode == 2
    assert "Add --pixel" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["truth", "gone"], "does not exist"),
        (["truth", "pred", "--iou", "2"], "IoU threshold is 2"),
        (["truth", "pred", "--iou"], "--iou"),
        (["truth", "pred", "--ignore-border", "-1"], "--ignore-border"),
    ],
)
def test_wrong_input_exits_with_2(folders, words, message):
    root = folders[0].parent
    done = codexseg("evaluate", *words, cwd=root)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_overlay_of_a_large_image_is_downsampled(tmp_path, monkeypatch):
    monkeypatch.setattr("codexseg.evaluation.evaluate.OVERLAY_PX", 100)
    monkeypatch.setattr("codexseg.evaluation.evaluate.WINDOW_PX", 64)
    np.save(tmp_path / "t.npy", tiles(0, (250, 310), 60))
    np.save(tmp_path / "p.npy", moved(tiles(0, (250, 310), 60), (3, 3)))
    path = tmp_path / "e.png"
    evaluate_files(tmp_path / "t.npy", tmp_path / "p.npy", overlay=path)
    with Image.open(path) as picture:
        small = np.asarray(picture)
    assert small.shape == (63, 78, 3)
    from codexseg.core.drawing.error_overlay import draw_errors
    from codexseg.core.labels.overlaps import overlaps

    truth, pred = np.load(tmp_path / "t.npy"), np.load(tmp_path / "p.npy")
    expected = draw_errors(truth[::4, ::4], pred[::4, ::4], overlaps(truth, pred))
    assert np.array_equal(small, expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a b --iou 0.5 0.6", "a b --iou 0.5 --iou 0.6"),
        ("--iou .5 1 a b --pixel", "--iou .5 --iou 1 a b --pixel"),
        ("a --iou 0.5 --iou 0.6 0.7 b", "a --iou 0.5 --iou 0.6 --iou 0.7 b"),
        ("a b --ignore-border 2", "a b --ignore-border 2"),
        ("--iou a", "--iou a"),
    ],
)
def test_iou_option_with_several_thresholds_is_repeated(words, expected):
    assert repeat_option(words.split(), "--iou") == expected.split()


def test_evaluate_command_imports_no_numpy():
    code = "import sys, codexseg.cli.evaluate; sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
