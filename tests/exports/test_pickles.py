"""Pickles for a plain pickle.load."""

import io
import pickle
import pickletools
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from codexseg.errors import InputError
from codexseg.exports.pickles import join_pickle, write_pickle, write_pickle_item

GLOBALS = {
    *("zlib decompress", "numpy frombuffer", "numpy reshape"),
    *("builtins bytearray", "builtins float", "builtins int", "builtins bool"),
    *("builtins str", "builtins set"),
}


def discs(size, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.uint32)
    y, x = np.ogrid[:size, :size]
    for label, (cy, cx) in enumerate(rng.uniform(0, size, (size * size // 300, 2)), 1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < 64] = label
    return labels


def load(path):
    with path.open("rb") as file:
        return pickle.load(file)


def written_globals(path):
    """Names that a reader imports: the strings before each STACK_GLOBAL."""
    names, strings = set(), []
    for operation, argument, _ in pickletools.genops(path.read_bytes()):
        if "UNICODE" in operation.name:
            strings.append(argument)
        elif operation.name == "STACK_GLOBAL":
            names.add(" ".join(strings[-2:]))
        assert operation.name not in ("GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4")
    return names


def same(actual, items):
    assert type(actual) is type(items)
    if isinstance(items, np.ndarray):
        assert actual.dtype == items.dtype
        assert actual.flags.writeable
        np.testing.assert_array_equal(actual, items)
    elif isinstance(items, dict):
        assert list(actual) == list(items)
        for key, value in items.items():
            same(actual[key], value)
    elif isinstance(items, (list, tuple)):
        assert len(actual) == len(items)
        for value, expected in zip(actual, items, strict=True):
            same(value, expected)
    else:
        assert actual == items


ITEMS = [
    {
        "cell": discs(40),
        "view": discs(40)[3:30:2, ::-1],
        "fortran": np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
        "none": np.zeros((0, 3), bool),
        "scalar": np.array(7, np.int8),
        "names": np.array(["CD3", "Ki-67", ""]),
        "matching_stats": {"matched": 12, "fraction": 0.5, "nested": {"a": [1, (2, None)]}},
    },
    {},
    {"error": "patch 2: the backend raised", "cell": discs(40), "bytes": b"x" * 100_000},
]


def test_plain_load_returns_items(tmp_path):
    path = tmp_path / "seg.pickle"
    write_pickle(path, iter(ITEMS))
    same(load(path), ITEMS)
    assert written_globals(path) <= GLOBALS
    assert list(tmp_path.iterdir()) == [path]
    pickletools.dis(path.read_bytes(), out=io.StringIO())  # checks stack and frames
    # Python's own unpickler reads frames more strictly than the C one
    with path.open("rb") as file:
        same(pickle._Unpickler(file).load(), ITEMS)


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=3),
            arrays(
                st.sampled_from(["<u4", ">u2", "|b1", "<f8", "<c8", "<U2", "|S3"]),
                array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
            )
            | st.floats(allow_nan=False)
            | st.integers()
            | st.text(),
            max_size=3,
        ),
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_items_round_trip(tmp_path_factory, items):
    path = tmp_path_factory.mktemp("pickles") / "any.pickle"
    write_pickle(path, items)
    same(load(path), items)


def test_numpy_scalars_become_python_scalars(tmp_path):
    path = tmp_path / "scalars.pickle"
    values = [np.float64(0.5), np.float32(0.25), np.uint32(7), np.bool_(True), np.str_("a")]  # noqa: FBT003
    write_pickle(path, [{"values": values}])
    assert load(path) == [{"values": [0.5, 0.25, 7, True, "a"]}]
    kinds = [type(value) for value in load(path)[0]["values"]]
    assert kinds == [float, float, int, bool, str]
    assert written_globals(path) <= GLOBALS


def test_reading_needs_no_codexseg(tmp_path):
    path = tmp_path / "seg.pickle"
    write_pickle(path, ITEMS)
    code = (
        "import sys, pickle; sys.modules['codexseg'] = None\n"
        "items = pickle.load(open(sys.argv[1], 'rb'))\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'scipy', 'pandas', 'zarr', 'skimage'}, loaded\n"
        "print(len(items), items[0]['cell'].dtype, items[0]['cell'].sum())"
    )
    command = [sys.executable, "-I", "-c", code, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["3", "uint32", str(discs(40).sum())]


def test_memory_is_one_item_and_file_is_compressed(tmp_path):
    size = 512
    path = tmp_path / "many.pickle"

    def items():
        for shift in range(50):
            yield {"cell": template + np.uint32(shift), "nucleus": template.copy()}

    template = discs(size)
    write_pickle(tmp_path / "warm.pickle", [{"cell": template}])
    tracemalloc.start()
    write_pickle(path, items())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    item_bytes = 2 * template.nbytes
    assert peak < 2 * item_bytes  # the array and its compressed bytes
    assert path.stat().st_size < 50 * 2 * template.size  # one byte per pixel
    assert len(load(path)) == 50


def test_equal_items_give_equal_bytes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    write_pickle(one, ITEMS)
    write_pickle(two, [dict(item) for item in ITEMS])
    assert one.read_bytes() == two.read_bytes()


def test_joined_items_equal_items_written_together(tmp_path):
    parts = [tmp_path / f"{i}.part" for i in range(len(ITEMS))]
    for part, item in zip(parts, ITEMS, strict=True):
        write_pickle_item(part, item)
    join_pickle(tmp_path / "joined", parts)
    write_pickle(tmp_path / "one", ITEMS)
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "one").read_bytes()
    join_pickle(tmp_path / "none", [])
    assert load(tmp_path / "none") == []


def test_shared_array_is_stored_twice(tmp_path):
    path, labels = tmp_path / "shared.pickle", discs(20)
    write_pickle(path, [{"a": labels, "b": labels}, {"a": labels}])
    same(load(path), [{"a": labels, "b": labels}, {"a": labels}])


@pytest.mark.parametrize(
    "value", [Path("x"), np.array([None]), np.datetime64("2020"), print, object, {1: set}]
)
def test_objects_of_other_classes_are_refused(tmp_path, value):
    path = tmp_path / "seg.pickle"
    path.write_bytes(b"before")
    with pytest.raises(InputError, match="numbers, strings, arrays of these"):
        write_pickle(path, [{"fine": 1}, {"value": value}])
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_empty_list_is_written(tmp_path):
    write_pickle(tmp_path / "none.pickle", [])
    assert load(tmp_path / "none.pickle") == []
