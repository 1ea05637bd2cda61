"""Labels and columns per object that a backend returns."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from codexseg.backends.base import (
    Backend,
    BackendResult,
    check_result,
    object_columns_of,
)
from codexseg.errors import ConfigError, InputError

SHAPE = (2, 2, 6, 8)


class Scored:
    """Backend with a confidence and a class of every object: a bright pixel is a cell."""

    name = "scored"
    mpp = None
    halo_px = 4
    channels = ("nucleus",)
    object_columns: ClassVar[Mapping[str, Any]] = {
        "confidence": "float32",
        "class": "int32",
    }

    def fingerprint(self):
        return "scored 1"

    def predict(self, patches, windows):
        labels = np.zeros(patches.shape, np.int64)
        columns = []
        for (nucleus, _), (cells, nuclei) in zip(patches, labels, strict=True):
            bright = nucleus > 0
            nuclei[bright] = cells[bright] = np.arange(1, bright.sum() + 1)
            table = {
                "label": nuclei[bright][::-1],
                "confidence": nucleus[bright][::-1] / 10.0,
                "class": (nucleus[bright][::-1] > 4).astype(np.int64),
            }
            columns.append({"cell": table, "nucleus": table})
        return BackendResult(labels, columns)


@pytest.fixture
def patches():
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[0, 0, 1, 1], pixels[0, 0, 3, 5] = 3, 9
    return pixels


@pytest.fixture
def result(patches):
    return Scored().predict(patches, [None, None])


def with_table(result, **columns):
    table = {**result.columns[0]["cell"], **columns}
    return BackendResult(result.labels, [{"cell": table}, {}])


def test_backend_with_columns_satisfies_the_protocol():
    assert isinstance(Scored(), Backend)
    assert object_columns_of(Scored()) == {"confidence": "float32", "class": "int32"}
    assert object_columns_of(Scored) == object_columns_of(Scored())


def test_columns_are_cast_and_sorted_by_label(result):
    checked = check_result(result, SHAPE, Scored())
    assert checked.labels.dtype == np.uint32
    assert checked.labels.flags.writeable
    for compartment in ("cell", "nucleus"):
        table = checked.columns[0][compartment]
        assert table["label"].tolist() == [1, 2]
        assert table["label"].dtype == np.uint32
        assert table["confidence"].dtype == np.float32
        assert np.allclose(table["confidence"], [0.3, 0.9])
        assert table["class"].dtype == np.int32
        assert table["class"].tolist() == [0, 1]


def test_patch_without_objects_has_empty_tables(result):
    empty = check_result(result, SHAPE, Scored()).columns[1]
    assert {name: len(column) for name, column in empty["cell"].items()} == {
        "label": 0,
        "confidence": 0,
        "class": 0,
    }


def test_missing_compartment_gets_an_empty_table(result):
    only_cells = [{"cell": patch["cell"]} for patch in result.columns]
    checked = check_result(BackendResult(result.labels, only_cells), SHAPE, Scored())
    assert checked.columns[0]["cell"]["label"].size == 2
    assert checked.columns[0]["nucleus"]["class"].dtype == np.int32
    assert checked.columns[0]["nucleus"]["class"].size == 0


@pytest.mark.parametrize("columns", [(), [{}, {}]])
def test_declared_columns_are_optional(result, columns):
    checked = check_result(BackendResult(result.labels, columns), SHAPE, Scored())
    assert [patch["cell"]["label"].size for patch in checked.columns] == [0, 0]


def test_labels_alone_are_a_result(result):
    checked = check_result(result.labels, SHAPE, Scored())
    assert np.array_equal(checked.labels, result.labels)
    assert [patch["nucleus"]["confidence"].size for patch in checked.columns] == [0, 0]


def test_rows_of_labels_outside_the_image_are_dropped(result):
    extra = with_table(result, label=[2, 77], confidence=[0.5, 0.1], **{"class": [1, 2]})
    table = check_result(extra, SHAPE, Scored()).columns[0]["cell"]
    assert table["label"].tolist() == [2]
    assert table["class"].tolist() == [1]


def test_labels_without_a_row_are_allowed(result):
    one = with_table(result, label=[2], confidence=[0.5], **{"class": [1]})
    assert check_result(one, SHAPE, Scored()).columns[0]["cell"]["label"].tolist() == [2]


def test_result_of_a_window_has_one_item(result):
    window = BackendResult(result.labels[0], result.columns[:1])
    checked = check_result(window, SHAPE[1:], Scored())
    assert checked.labels.shape == SHAPE[1:]
    assert len(checked.columns) == 1
    plain = check_result(result.labels[0], SHAPE[1:], Scored())
    assert np.array_equal(plain.labels, checked.labels)


def test_labels_of_another_shape_are_refused(result):
    with pytest.raises(InputError, match="expected labels of shape"):
        check_result(result, (3, 2, 6, 8), Scored())
    with pytest.raises(InputError, match="expected labels of shape"):
        check_result(BackendResult([1, 2]), SHAPE[1:], Scored())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"class": [1.0, 2.0]}, "'class' of dtype float64. Expected int32"),
        ({"class": [1, 2**40]}, f"'class' with {2**40}. Expected values of int32"),
        ({"class": ["a", "b"]}, "'class' of dtype <U1. Expected int32"),
        ({"confidence": [1.0, 1e300]}, "Expected values of float32"),
        ({"confidence": [[1.0], [2.0]]}, r"shape \(2, 1\). Expected \(k,\)"),
        ({"confidence": [1.0]}, "different lengths: .*'confidence': 1"),
        ({"label": [0, 1]}, "with 0 or a repeated label"),
        ({"label": [2, 2]}, "with 0 or a repeated label"),
        ({"label": [-1, 2]}, "'label' with -1. Expected values of uint32"),
        ({"area": [1, 2]}, "Expected 'label' and all columns that it declares"),
    ],
)
def test_columns_that_break_the_contract_are_refused(result, columns, message):
    with pytest.raises(InputError, match=f"Backend 'scored' returned .*{message}"):
        check_result(with_table(result, **columns), SHAPE, Scored())


def test_missing_column_is_refused(result):
    table = dict(result.columns[0]["cell"])
    del table["class"]
    with pytest.raises(InputError, match="Expected 'label' and all columns"):
        check_result(BackendResult(result.labels, [{"cell": table}, {}]), SHAPE, Scored())


@pytest.mark.parametrize("columns", [[{}], [{"cells": {}}, {}], [None, {}]])
def test_columns_of_other_patches_or_compartments_are_refused(result, columns):
    with pytest.raises(InputError, match=r"returned .*columns .* Expected"):
        check_result(BackendResult(result.labels, columns), SHAPE, Scored())


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"Class": "int32"}, "Expected lower-case letters"),
        ({"mean intensity": "float32"}, "Expected lower-case letters"),
        ({"label": "uint32"}, "'label', which is reserved"),
        ({"score": "complex64"}, "dtype 'complex64'. Expected one of int8"),
        ({"score": "bool"}, "dtype 'bool'"),
        ({"score": np.float32}, "dtype <class 'numpy.float32'>"),
        (["score"], "Expected a mapping of names"),
    ],
)
def test_invalid_declaration_is_refused(declared, message):
    class Wrong(Scored):
        object_columns = declared

    with pytest.raises(ConfigError, match=f"Backend 'scored' declares .*{message}"):
        object_columns_of(Wrong())


def test_backend_without_a_declaration_has_no_columns(result):
    class Plain:
        name = "plain"

    assert object_columns_of(Plain()) == {}
    table = {"label": [1]}
    checked = check_result(
        BackendResult(result.labels, [{"cell": table}, {}]), SHAPE, Plain()
    )
    assert list(checked.columns[0]["cell"]) == ["label"]
