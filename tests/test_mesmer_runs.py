"""Runs of the panoptic backend on slides, with the toy network."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from codexseg.backends.panoptic.passes import ContrastPass, LevelPass, TilesPass
from codexseg.backends.slide_pass import InMemory
from codexseg.codex_patches import CodexPatches
from codexseg.core.grid import Window
from codexseg.pipeline import Pipeline
from tests.helpers.images import write_ome_tiff
from tests.helpers.mesmer import TOY, blobs, panoptic, same_objects
from tests.helpers.runs import LABELS, ROOT, codexseg, execute, labels, outputs

SHAPE = (540, 620)


def slide(folder, mpp=0.5, image=None):
    pixels = blobs(SHAPE) if image is None else image
    return write_ome_tiff(folder / "slide.ome.tif", pixels, ("DAPI", "CD45"), mpp)


def write_config(folder, name="my", segmentation="", data="", **patching):
    path = folder / f"{name}.yaml"
    keys = {"patch_height": 200, "patch_width": 230, "overlap": 0.0} | patching
    path.write_text(
        f"data: {{file_name: slide.ome.tif{data}}}\n"
        "channels: {nuclear_channel: DAPI, wholecell_channel: [CD45]}\n"
        f"patching: {{{', '.join(f'{k}: {v}' for k, v in keys.items())}}}\n"
        f'segmentation: {{backend: panoptic, model_path: "{TOY}"{segmentation}}}\n'
        "export: {ome_tiff: false, h5ad: false}\n"
        "report: {overlays: 0}\n"
    )
    return path


@pytest.fixture(scope="module", params=[0.5, 0.377, 0.8])
def untiled(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("untiled")
    slide(folder, request.param)
    config = write_config(folder, split_mode="full_image")
    assert execute(config, folder / "run").cells > 100
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "grid",
    [
        {"patch_height": 128, "patch_width": 128},
        {"patch_height": 200, "patch_width": -1, "overlap": 0.2},
        {"split_mode": "quarters"},
    ],
    ids=str,
)
def test_labels_do_not_depend_on_patch_grid(untiled, grid, tmp_path):
    config = write_config(untiled, "tiled", **grid)
    execute(config, tmp_path / "tiled", until="repair")
    for name in LABELS:
        ours, expected = labels(tmp_path / "tiled", name), labels(untiled / "run", name)
        np.testing.assert_array_equal(ours, expected, err_msg=name)


@pytest.mark.slow
def test_slide_labels_equal_those_of_one_image(untiled):
    mpp = Pipeline.from_run(untiled / "run").slide().mpp
    image = tifffile.imread(untiled / "slide.ome.tif")
    backend, view = panoptic(SHAPE, mpp), InMemory(image)
    for slide_pass in backend.slide_passes:
        view.execute(slide_pass)
    masks = backend.segment_window(Window(0, 0, *SHAPE), view)
    for name, expected in zip(LABELS[2:], masks, strict=True):
        assert same_objects(labels(untiled / "run", name), expected)


@pytest.mark.slow
def test_two_workers_write_identical_files(tmp_path):
    slide(tmp_path)
    config = write_config(tmp_path)
    execute(config, tmp_path / "one")
    execute(config, tmp_path / "two", workers=2)
    one, two = outputs(tmp_path / "one"), outputs(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    slide(folder, image=blobs(SHAPE).astype(np.float32) / 3)
    config = write_config(folder)
    done = deadly(0, config, folder / "run")
    assert done.returncode == 0, done.stderr
    return config, int(re.search(r"files (\d+)", done.stdout)[1]), folder / "run"


def deadly(n, config, out):
    words = ["run", str(config), "--out", str(out)]
    return subprocess.run(
        [sys.executable, "-m", "tests.helpers.killer", str(n), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.15, 0.3, 0.45])
def test_resume_after_sigkill_gives_identical_files(finished, share, tmp_path):
    config, n_files, run = finished
    killed = deadly(int(n_files * share), config, tmp_path / "run")
    assert killed.returncode == -9
    again = codexseg("run", config, "--out", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    ours, expected = outputs(tmp_path / "run"), outputs(run)
    assert ours.keys() == expected.keys()
    assert [name for name in ours if ours[name] != expected[name]] == []


def test_pass_files_are_deleted_after_segmentation(finished):
    _, _, run = finished
    assert not list((run / "work").glob("slide_pass*"))
    summary = json.loads((run / "stages" / "segment.json").read_text())["summary"]
    assert summary["tiles"] > 0
    assert (summary["runtime"], summary["device"]) == ("onnxruntime", "cpu")


@pytest.fixture
def visits(monkeypatch):
    """Record the blocks that slide passes compute; stop at the n-th of the network."""
    seen, stop = [], [0]
    for slide_pass in (LevelPass, ContrastPass, TilesPass):
        real = slide_pass.map_block

        def map_block(self, block, view, real=real):
            if self.name == "network" and [n for n, _ in seen].count("network") == stop[0]:
                raise KeyboardInterrupt
            seen.append((self.name, block))
            return real(self, block, view)

        monkeypatch.setattr(slide_pass, "map_block", map_block)
    monkeypatch.setattr("codexseg.core.algorithms.tiles.BLOCK_TILES", 1)
    return seen, stop


@pytest.mark.slow
def test_resumed_pass_skips_finished_blocks(visits, tmp_path):
    seen, stop = visits
    stop[0] = 4
    slide(tmp_path)
    config = write_config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        execute(config, tmp_path / "run")
    status = {s.stage: s for s in Pipeline.from_run(tmp_path / "run").status()}
    assert status["segment"].why == "network pass: 4 of 9 blocks"
    stop[0] = -1
    execute(write_config(tmp_path, "other", patch_height=300), tmp_path / "run")
    assert len(seen) == len(set(seen))
    assert [name for name, _ in seen].count("network") == 9


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["row", "array", "conclusion"])
def test_damaged_pass_files_are_computed_again(visits, damage, tmp_path):
    _, stop = visits
    stop[0] = 5
    slide(tmp_path)
    config = write_config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        execute(config, tmp_path / "run")
    work = tmp_path / "run" / "work"
    if damage == "row":
        next(work.glob("slide_pass.contrast-*/000000.json")).unlink()
    elif damage == "array":
        path = next(work.glob("slide_pass.network-*/000003.cell_distance.npy"))
        path.write_bytes(path.read_bytes()[:999])
    else:
        for path in work.glob("slide_pass.range-*/all/*.npy"):
            path.write_bytes(path.read_bytes()[:99])
    stop[0] = -1
    execute(config, tmp_path / "run", until="repair")
    execute(config, tmp_path / "whole", until="repair")
    for name in LABELS:
        ours, expected = labels(tmp_path / "run", name), labels(tmp_path / "whole", name)
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.slow
def test_finished_run_is_readable_without_its_weights(tmp_path, caplog):
    slide(tmp_path)
    network = tmp_path / "net.onnx"
    network.write_bytes(TOY.read_bytes())
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace(str(TOY), "net.onnx"))
    execute(config, tmp_path / "run")
    assert len(CodexPatches(tmp_path / "run").valid_patches) > 0
    network.rename(tmp_path / "moved.onnx")
    states = {s.state for s in Pipeline.from_run(tmp_path / "run").status()}
    assert states == {"done"}
    assert "net.onnx" in caplog.text
    assert len(CodexPatches(tmp_path / "run").valid_patches) > 0
    config.write_text(config.read_text().replace("net.onnx", "moved.onnx"))
    states = {s.state for s in Pipeline.from_yaml(config, tmp_path / "run").status()}
    assert states == {"done"}


def test_manifest_contains_path_and_digest_of_weights(finished):
    _, _, run = finished
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["execution"]["weights_path"] == str(TOY)
    backend = manifest["result"]["backend"]
    assert backend["name"] == "panoptic"
    assert "weights_path" not in backend
    assert len(backend["weights_digest"]) == 64


def test_device_and_memory_keys_keep_stages_up_to_date(finished):
    config, _, run = finished
    keys = ", batch_memory_gb: 0.2, device: cpu, runtime: onnxruntime"
    other = write_config(config.parent, "other", segmentation=keys)
    assert {s.state for s in Pipeline.from_yaml(other, run).status()} == {"done"}


@pytest.mark.slow
def test_patch_normalization_of_one_patch_equals_slide_normalization(tmp_path):
    slide(tmp_path)
    config = write_config(
        tmp_path, segmentation=", normalization: patch", split_mode="full_image"
    )
    execute(config, tmp_path / "patch", until="repair")
    whole = write_config(tmp_path, "whole", split_mode="full_image")
    execute(whole, tmp_path / "slide", until="repair")
    for name in LABELS[2:]:
        one, other = labels(tmp_path / "patch", name), labels(tmp_path / "slide", name)
        assert same_objects(one, other)


def test_empty_slide_gives_no_cells(tmp_path):
    slide(tmp_path, image=np.full((2, *SHAPE), 300, np.uint16))
    result = execute(write_config(tmp_path), tmp_path / "run")
    assert result.cells == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: (p / "net").mkdir(), "saved_model.pb"),
        (lambda p: (p / "net").write_bytes(TOY.read_bytes()[:5000]), "net"),
        (lambda p: None, "net"),
    ],
    ids=["no SavedModel", "truncated", "absent"],
)
def test_invalid_weights_exit_with_2_and_write_nothing(make, words, tmp_path):
    slide(tmp_path)
    make(tmp_path)
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace(str(TOY), "net"))
    done = codexseg("run", config, "--out", tmp_path / "run")
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_missing_gpu_exits_with_2(tmp_path):
    slide(tmp_path)
    config = write_config(tmp_path, segmentation=", device: cuda")
    done = codexseg("run", config, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "segmentation.device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_damaged_labels_of_a_patch_are_computed_again(damage, tmp_path):
    slide(tmp_path)
    config = write_config(tmp_path)
    execute(config, tmp_path / "whole", until="segment")
    expected = outputs(tmp_path / "whole")
    (tmp_path / "whole" / "stages" / "segment.json").unlink()  # as after an interruption
    chunk = tmp_path / "whole" / "patches.zarr" / "original" / "c" / "4" / "0" / "0" / "0"
    content = chunk.read_bytes()
    chunk.unlink() if damage == "gone" else chunk.write_bytes(content[:-99])
    execute(config, tmp_path / "whole", until="segment")
    assert outputs(tmp_path / "whole") == expected
