"""Cell tables as parquet, CSV and AnnData."""

import time
import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from codexseg.artifacts.columns import intensity_column, unique_names
from codexseg.errors import InputError
from codexseg.exports.anndata import write_h5ad
from codexseg.exports.tables import write_csv, write_parquet

CHANNELS = ["DAPI", "CD3, clone 1", "CD3, clone 1"]


def pieces(columns, *sizes):
    """Cut a table into pieces of these sizes, and a last one with the remaining rows."""
    bounds = np.cumsum([0, *sizes])
    for start, stop in zip(bounds, [*bounds[1:], None], strict=True):
        yield {name: values[start:stop] for name, values in columns.items()}


def cells(n, seed=0):
    rng = np.random.default_rng(seed)
    columns = {
        "cell_id": np.arange(1, n + 1, dtype=np.uint32),
        "y": rng.uniform(0, 4e4, n),
        "x": rng.uniform(0, 4e4, n),
        "area": rng.integers(1, 500, n),
        "touches_border": rng.random(n) < 0.1,
        "status": rng.choice(["trimmed", 'said "whole"'], n) if n else np.array([], str),
    }
    for channel in unique_names(CHANNELS):
        for part in ("cell", "nucleus", "cytoplasm"):
            values = (rng.integers(0, 65536 * 300, n) / 300).astype(np.float32)
            values[::5] = np.nan if part == "cytoplasm" else 0.1
            columns[intensity_column(channel, part)] = values
    return columns


def test_duplicate_names_get_suffixes():
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a-1", "a-2"]
    assert unique_names(["a", "a", "a-1"]) == ["a", "a-2", "a-1"]
    assert unique_names([]) == []


@pytest.mark.parametrize("n", [0, 1, 70_000])
def test_parquet_round_trip(tmp_path, n):
    path, columns = tmp_path / "cells.parquet", cells(n)
    write_parquet(path, pieces(columns, n // 3), {"mpp": "0.5"})
    table = pq.read_table(path)
    found = {name: table.column(name).to_numpy() for name in table.column_names}
    assert list(found) == list(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        if values.dtype.kind != "U":
            assert found[name].dtype == values.dtype
    assert pq.read_schema(path).metadata[b"mpp"] == b"0.5"
    assert pq.ParquetFile(path).num_row_groups == -(-n // 65536)
    assert len(pd.read_parquet(path)) == n
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("n", [0, 1, 3000])
def test_csv_is_read_by_pandas(tmp_path, n):
    path, columns = tmp_path / "cells.csv", cells(n)
    write_csv(path, pieces(columns, n // 3))
    frame = pd.read_csv(path)
    assert list(frame) == list(columns)
    for name, values in columns.items():
        if n and values.dtype == np.float32:
            read = frame[name].to_numpy(np.float32)
            np.testing.assert_array_equal(read, values, err_msg=name)
        elif values.dtype.kind == "f":
            np.testing.assert_allclose(frame[name].astype(float), values, rtol=1e-15)
        else:
            assert frame[name].tolist() == values.tolist()


def test_csv_bytes(tmp_path):
    columns = {
        "cell_id": np.array([1, 2], np.uint32),
        "CD3_cell_mean": np.array([0.1, np.nan], np.float32),
        "a, b": np.array([True, False]),
    }
    write_csv(tmp_path / "cells.csv", [columns])
    lines = (tmp_path / "cells.csv").read_text().splitlines()
    assert lines == ['cell_id,CD3_cell_mean,"a, b"', "1,0.1,true", "2,,false"]


@pytest.mark.parametrize("n", [0, 1, 300])
def test_h5ad_is_read_by_anndata(tmp_path, n):
    path, columns = tmp_path / "cells.h5ad", cells(n)
    words = {"mpp": 0.5, "panel": {"nuclear": "DAPI"}}
    write_h5ad(path, pieces(columns, n // 3), n, CHANNELS, 0.5, words)
    found = anndata.read_h5ad(path)
    assert found.shape == (n, 3)
    assert found.var_names.tolist() == ["DAPI", "CD3, clone 1", "CD3, clone 1-1"]
    assert found.obs_names.tolist() == [str(i) for i in columns["cell_id"]]
    assert set(found.obs) == {"cell_id", "y", "x", "area", "touches_border", "status"}
    assert found.obs["status"].tolist() == columns["status"].tolist()
    micrometres = np.stack([columns["x"], columns["y"]], axis=1) * 0.5
    np.testing.assert_array_equal(found.obsm["spatial"], micrometres)
    layers = {name: found.layers[name] for name in ("nucleus", "cytoplasm")}
    parts = {"cell": found.X} | layers
    for c, name in enumerate(found.var_names):
        for part, matrix in parts.items():
            assert matrix.dtype == np.float32
            np.testing.assert_array_equal(
                matrix[:, c], columns[intensity_column(name, part)], err_msg=part
            )
    assert found.uns["mpp"] == 0.5
    assert found.uns["panel"]["nuclear"] == "DAPI"


@pytest.mark.slow
def test_pieces_of_a_table_do_not_change_bytes(tmp_path):
    def write(folder, *sizes):
        write_parquet(
            tmp_path / f"{folder}.parquet", pieces(table, *sizes), {"a": "b", "c": "d"}
        )
        write_csv(tmp_path / f"{folder}.csv", pieces(table, *sizes))
        write_h5ad(
            tmp_path / f"{folder}.h5ad",
            pieces(table, *sizes),
            n,
            CHANNELS,
            0.5,
            {"a": 1},
        )

    n = 140_000
    table = cells(n)
    write("one")
    time.sleep(1.1)  # changes a time stamp, if there is one
    write("two", 0, 1, 70_000, 65_536)
    for kind in ("parquet", "csv", "h5ad"):
        one, two = (tmp_path / f"{folder}.{kind}" for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), kind


@pytest.mark.parametrize("write", [write_parquet, write_csv])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": np.zeros(2), "b": np.zeros(3)}, "equal lengths"),
        ({"a": np.zeros((2, 2))}, "equal lengths"),
        ({"a": np.zeros(2, complex)}, "'a' has dtype complex128"),
    ],
)
def test_invalid_tables_are_refused(tmp_path, write, columns, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path / "cells", [columns])
    assert not list(tmp_path.iterdir())


def test_h5ad_reports_missing_columns(tmp_path):
    columns = cells(3)
    del columns["DAPI_nucleus_mean"]
    with pytest.raises(InputError, match=r"lacks 'DAPI_nucleus_mean'.*statistics"):
        write_h5ad(tmp_path / "cells.h5ad", [columns], 3, CHANNELS, 0.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [2, 4])
def test_h5ad_refuses_wrong_cell_count(tmp_path, rows):
    with pytest.raises(InputError, match=f"expected {rows}"):
        write_h5ad(tmp_path / "cells.h5ad", [cells(3)], rows, CHANNELS, 0.5)
    assert not list(tmp_path.iterdir())


def test_h5ad_replaces_slashes_in_names(tmp_path):
    columns = cells(3)
    columns["CD3/8_cell_median"] = np.arange(3.0)
    write_h5ad(tmp_path / "cells.h5ad", [columns], 3, CHANNELS, 0.5)
    found = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert found.obs["CD3-8_cell_median"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("write", [write_parquet, write_csv])
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "at least one piece"),
        ([{"a": np.zeros(2)}, {"b": np.zeros(2)}], "same columns"),
        ([{"a": np.zeros(2)}, {"a": np.zeros((2, 2))}], "equal lengths"),
    ],
)
def test_pieces_with_different_columns_are_refused(tmp_path, write, parts, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path / "cells", iter(parts))
    assert not list(tmp_path.iterdir())


def test_memory_is_a_few_pieces(tmp_path):
    piece = {"cell_id": np.arange(20_000), "a": np.random.default_rng(0).random(20_000)}
    write_parquet(tmp_path / "warm.parquet", [piece])
    tracemalloc.start()
    write_parquet(tmp_path / "cells.parquet", (dict(piece) for _ in range(100)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15 * 16 * 20_000  # bytes; all pieces together have 100 times 16
    assert pq.ParquetFile(tmp_path / "cells.parquet").metadata.num_rows == 2_000_000
