"""Compatibility with runs of earlier versions."""

import pickle
import zipfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from codexseg import CodexPatches
from tests.helpers.runs import codexseg, labels

OLD = sorted((Path(__file__).parent / "data" / "runs").glob("*.zip"))


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def run(request, tmp_path):
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_outputs_of_an_earlier_version_are_readable(run):
    cells = pd.read_csv(run / "cells.csv")
    assert len(cells) == 27
    assert labels(run).max() == 27
    assert pd.read_parquet(run / "cells.parquet")["cell_id"].tolist() == list(range(1, 28))
    assert anndata.read_h5ad(run / "cells.h5ad").n_obs == 27
    for name in ("original", "matched"):
        with (run / f"{name}_seg_res_batch.pickle").open("rb") as file:
            items = pickle.load(file)
        assert (
            len(items) == pd.read_csv(run / "patches_metadata.csv")["is_informative"].sum()
        )


def test_status_reads_a_run_of_an_earlier_version(run):
    status = codexseg("status", run)
    assert status.returncode == 0, status.stderr
    assert len(status.stdout.splitlines()) == 9


def test_codex_patches_reads_a_run_of_an_earlier_version(run):
    patches = CodexPatches(run)
    assert patches.patches_metadata["n_cells"].sum() == 27
    seen = [np.unique(item["cell_matched_mask"]) for item in patches.repaired_seg_res_batch]
    assert sorted(set(np.concatenate(seen)) - {0}) == list(range(1, 28))


def test_status_explains_why_an_earlier_run_is_recomputed_from_stitch(run):
    lines = {line.split()[0]: line for line in codexseg("status", run).stdout.splitlines()}
    for stage in ("load", "patch", "flag", "segment"):
        assert "done" in lines[stage].split()
    for stage in ("stitch", "repair"):
        assert "stale" in lines[stage]
        assert "the stages stitch and repair changed order" in lines[stage]
