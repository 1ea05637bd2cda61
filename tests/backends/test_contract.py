from contextlib import suppress
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codexseg.backends.networks.contract import Contract, check_contract
from codexseg.backends.networks.signature import (
    append_properties,
    describe_tensors,
    graph_digest,
    read_signature,
)
from codexseg.errors import InputError
from tests.helpers.networks import (
    HEADS,
    INPUT,
    TOY_ONNX,
    TOY_SAVED_MODEL,
    field,
    onnx_bytes,
)

SEMANTIC = tuple(f"semantic_{n}" for n in range(4))
SAVED_MODEL_PB = (TOY_SAVED_MODEL / "saved_model.pb").read_bytes()

a_file = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=150,
)


@pytest.mark.parametrize("path", [TOY_ONNX, TOY_SAVED_MODEL], ids=lambda path: path.name)
def test_toy_network_fulfils_the_contract(path):
    signature = read_signature(path)
    assert describe_tensors(signature.inputs) == ["input_0 float32 (n, 256, 256, 2)"]
    assert signature.outputs["semantic_3"] == ("float32", (-1, 256, 256, 3))
    assert check_contract(signature, path) == Contract("input_0", SEMANTIC)


def test_saved_model_has_the_version_of_tensorflow():
    assert read_signature(TOY_SAVED_MODEL).metadata == {"tensorflow": "2.8.4"}


def test_properties_of_an_onnx_file_are_read(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_bytes(properties={"codexseg_source": "abc", "leer": ""}))
    assert read_signature(path).metadata == {"codexseg_source": "abc", "leer": ""}


def test_appended_properties_replace_earlier_ones_and_keep_the_graph(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_bytes(properties={"a": "1", "b": "2"}))
    digest = graph_digest(path)
    append_properties(path, {"b": "µ", "long": "x" * 300})
    assert read_signature(path).metadata == {"a": "1", "b": "µ", "long": "x" * 300}
    assert graph_digest(path) == digest


def test_graph_digest_covers_all_bytes_of_the_graph(tmp_path):
    path = tmp_path / "a.onnx"
    graph = field(2, b"x" * 3_000_000)
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 17)))
    assert graph_digest(path) == sha256(graph).hexdigest()
    more = field(11, b"")  # a second one would be merged into the first
    path.write_bytes(path.read_bytes() + field(7, more))
    assert graph_digest(path) == sha256(graph + more).hexdigest()
    with pytest.raises(InputError, match="is not an ONNX file"):
        graph_digest(tmp_path / "none.onnx")


def test_heads_are_ordered_by_the_number_in_their_names(tmp_path):
    path = tmp_path / "a.onnx"
    heads = {f"head_{n}:0": ("n", 256, 256, channels) for n, channels in
             ((10, 1), (11, 3), (2, 1), (9, 3))}  # fmt: skip
    path.write_bytes(onnx_bytes(outputs=heads))
    contract = check_contract(read_signature(path), path)
    assert contract.output_names == ("head_2:0", "head_9:0", "head_10:0", "head_11:0")


def test_sides_of_unknown_size_are_allowed(tmp_path):
    path = tmp_path / "a.onnx"
    heads = {name: ("n", "h", "w", shape[-1]) for name, shape in HEADS.items()}
    path.write_bytes(onnx_bytes(outputs=heads))
    assert check_contract(read_signature(path), path).output_names == SEMANTIC


def _with(**changes):
    return {**HEADS, **changes}


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"inputs": {"x": ("n", 512, 512, 2)}}, r"reads x float32 \(n, 512, 512, 2\), exp"),
        ({"inputs": {"x": ("n", 2, 256, 256)}}, r"reads x float32 \(n, 2, 256, 256\), exp"),
        ({"inputs": {"x": (1, 256, 256, 2)}}, r"reads x float32 \(1, 256, 256, 2\), expec"),
        (
            {"inputs": {**INPUT, "y": ("n",)}},
            r"reads input_0 .*; y float32 \(n\), expected",
        ),
        ({"inputs": {}}, "reads nothing, expected one float32 input"),
        (
            {"outputs": {"semantic_0": ("n", 256, 256, 1)}},
            "gives semantic_0 .*expected four",
        ),
        ({"outputs": _with(semantic_1=("n", 256, 256, 2))}, r"semantic_1 float32 .*, 2\)"),
        ({"outputs": _with(semantic_4=("n", 256, 256, 1))}, "semantic_4"),
        ({"outputs": _with(semantic_3=("n", 128, 128, 3))}, "128, 128, 3"),
        ({"outputs": dict(zip("abcd", HEADS.values(), strict=True))}, "end in a number"),
        ({"dtype": 10}, "semantic_0 float16"),
    ],
)
def test_error_lists_the_actual_tensors(tmp_path, network, words):
    path = tmp_path / "other.onnx"
    path.write_bytes(onnx_bytes(**network))
    with pytest.raises(InputError, match=words) as caught:
        check_contract(read_signature(path), path)
    assert str(path) in str(caught.value)
    assert "model_path" in str(caught.value)


def test_repeated_head_of_a_saved_model_is_refused(tmp_path):
    # semantic_3 becomes semantic_2, twice there: in a map the last one counts
    data = SAVED_MODEL_PB.replace(b"\n\nsemantic_3", b"\n\nsemantic_2")
    assert data != SAVED_MODEL_PB
    (tmp_path / "saved_model.pb").write_bytes(data)
    with pytest.raises(InputError, match="expected four float32 outputs"):
        check_contract(read_signature(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 not a network at all", "damaged, cut off or of another format"),
        (field(7, b""), "no operator set"),
        (field(8, field(2, 17)), "no graph"),
        (field(7, 5), "field 7 is a number"),
        (b"\xff" * 20, "a number ends"),
        (field(7, field(11, field(1, b"\xff\xfe"))) + field(8, b""), "utf-8"),
    ],
)
def test_invalid_onnx_file_is_refused(tmp_path, content, words):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_signature(path)
    assert "is not an ONNX file" in str(caught.value)


def test_invalid_saved_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"contains no saved_model\.pb"):
        read_signature(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_signature(tmp_path / "none.onnx")
    (tmp_path / "saved_model.pb").write_bytes(field(1, 1) + field(2, field(2, b"graph")))
    with pytest.raises(InputError, match="none of 1 graphs has the signature serving_def"):
        read_signature(tmp_path)


@a_file
@given(end=st.integers(0, TOY_ONNX.stat().st_size))
def test_truncated_onnx_file_is_refused_or_read_correctly(tmp_path, end):
    path = tmp_path / "half.onnx"
    path.write_bytes(TOY_ONNX.read_bytes()[:end])
    try:
        found = read_signature(path)
    except InputError:
        return
    assert found == read_signature(TOY_ONNX)


@a_file
@given(end=st.integers(0, len(SAVED_MODEL_PB) - 1))
def test_truncated_saved_model_is_refused(tmp_path, end):
    (tmp_path / "saved_model.pb").write_bytes(SAVED_MODEL_PB[:end])
    with pytest.raises(InputError, match="is not a SavedModel folder"):
        read_signature(tmp_path)


@a_file
@given(data=st.data(), whole=st.sampled_from([SAVED_MODEL_PB, TOY_ONNX.read_bytes()]))
def test_corrupt_bytes_raise_nothing_but_input_error(tmp_path, data, whole):
    folder = whole is SAVED_MODEL_PB
    path = tmp_path if folder else tmp_path / "x.onnx"
    broken = bytearray(whole)
    for at in data.draw(st.lists(st.integers(-600, 600), min_size=1, max_size=5)):
        broken[at] = data.draw(st.integers(0, 255))
    (tmp_path / "saved_model.pb" if folder else path).write_bytes(broken)
    with suppress(InputError):  # nothing else
        check_contract(read_signature(path), path)
