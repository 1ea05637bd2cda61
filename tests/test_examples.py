import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run_example(name, *words):
    """Run an example in a subprocess and return its standard output."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, run_example("quickstart", folder)


def test_every_example_is_tested():
    tested = {"quickstart", "read_results", "own_backend", "arrays", "spec_workflow"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.slow
def test_quickstart_prints_cells_and_markers(quickstart):
    folder, printed = quickstart
    assert f"cells in {folder / 'run'}" in printed
    assert int(printed.split()[0]) > 300
    assert "CD3_cell_mean" in printed


@pytest.mark.slow
def test_read_results_prints_the_same_area_from_each_file(quickstart):
    printed = run_example("read_results", quickstart[0] / "run").splitlines()
    area = printed[0].split()[2]
    assert int(area) > 0
    for line, reader in zip(printed[1:3], ("OME-Zarr", "OME-TIFF"), strict=True):
        assert line.startswith(f"{reader}: {area} px")
    assert f"pickle: {area} px" in printed


@pytest.mark.slow
def test_own_backend_gives_the_same_pixels_with_any_grid(tmp_path):
    printed = run_example("own_backend", tmp_path)
    assert printed.endswith("the same pixels: True\n")
    assert "cores of 200 px: 0 cells" not in printed


@pytest.mark.slow
def test_arrays_prints_cells_with_nuclei(tmp_path):
    printed = run_example("arrays", tmp_path)
    assert "(6, 512, 512) uint16, 0.5 um/px" in printed
    assert printed.count("segmented: ") == 2
    assert "cells with a nucleus of their own" in printed


@pytest.mark.slow
def test_spec_workflow_matches_four_patches(tmp_path):
    printed = run_example("spec_workflow", tmp_path)
    assert printed.count("matched: ") == 4
    assert "matched_seg_res_batch.pickle: 4 patches of cell_matched_mask" in printed
