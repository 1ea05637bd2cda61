"""The tables of a run have the declared columns."""

import pandas as pd
import pytest

from codexseg.artifacts.columns import (
    CHANNEL_COLUMNS,
    PATCH_COLUMNS,
    QUALITY_COLUMNS,
    TIMING_COLUMNS,
    UNMATCHED_COLUMNS,
    cell_columns,
    empty_table,
    names_of,
    unique_names,
)
from tests.helpers.runs import execute
from tests.helpers.tissue import NAMES, write_config, write_slide


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_slide(folder)
    config = write_config(folder)
    settings = "profile: {statistics: [mean, p95], solidity: true}\n"
    config.write_text(config.read_text() + settings)
    return execute(config, folder / "run").path


def dtypes(table):
    return {name: str(dtype) for name, dtype in table.dtypes.items()}


@pytest.mark.slow
def test_cells_parquet_has_the_declared_columns_and_dtypes(run):
    declared = cell_columns(NAMES, ("mean", "p95"), solidity=True)
    table = pd.read_parquet(run / "cells.parquet")
    assert dtypes(table) == {column.name: column.dtype for column in declared}


def test_unmatched_parquet_has_the_declared_columns(run):
    table = pd.read_parquet(run / "unmatched.parquet")
    assert list(table) == names_of(UNMATCHED_COLUMNS)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("patches_metadata.csv", PATCH_COLUMNS),
        ("channel_stats.csv", CHANNEL_COLUMNS),
        ("timings.csv", TIMING_COLUMNS),
        ("quality.csv", QUALITY_COLUMNS),
    ],
)
def test_csv_files_have_the_declared_columns(run, name, columns):
    assert list(pd.read_csv(run / name)) == names_of(columns)


def test_every_column_has_a_description_of_one_line():
    every = (
        *PATCH_COLUMNS,
        *QUALITY_COLUMNS,
        *UNMATCHED_COLUMNS,
        *cell_columns(NAMES, ("mean",)),
    )
    for column in every:
        assert column.description
        assert "\n" not in column.description


def test_empty_table_has_the_declared_dtypes():
    table = empty_table(UNMATCHED_COLUMNS)
    assert table["original_id"].dtype == "uint32"
    assert {len(values) for values in table.values()} == {0}


def test_equal_channel_names_become_distinct():
    assert unique_names(["CD3", "CD3", "CD3-1"]) == ["CD3", "CD3-2", "CD3-1"]
