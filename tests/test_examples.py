import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run_example(name, *words):
    """Run an example as a user does; return what it printed."""
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


def test_every_example_has_its_test():
    tested = {"quickstart", "read_results", "own_backend", "arrays", "spec_workflow"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_quickstart(quickstart):
    folder, printed = quickstart
    assert f"cells in {folder / 'run'}" in printed
    assert int(printed.split()[0]) > 300
    assert "CD3_cell_mean" in printed


def test_read_results_finds_one_cell_everywhere(quickstart):
    printed = run_example("read_results", quickstart[0] / "run").splitlines()
    area = printed[0].split()[2]
    assert int(area) > 0
    for line, reader in zip(printed[1:3], ("OME-Zarr", "OME-TIFF"), strict=True):
        assert line.startswith(f"{reader}: {area} px")
    assert f"pickle: {area} px" in printed


def test_own_backend(tmp_path):
    printed = run_example("own_backend", tmp_path)
    assert printed.endswith("the same pixels: True\n")
    assert "cores of 200 px: 0 cells" not in printed


def test_arrays(tmp_path):
    printed = run_example("arrays", tmp_path)
    assert "(6, 512, 512) uint16, 0.5 um/px" in printed
    assert printed.count("segmented: ") == 2
    assert "cells with a nucleus of their own" in printed


def test_spec_workflow(tmp_path):
    printed = run_example("spec_workflow", tmp_path)
    assert printed.count("matched: ") == 4
    assert "matched_seg_res_batch.pickle: 4 patches of cell_matched_mask" in printed
