import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codexseg.backends.networks.convert import compared_tiles, convert_saved_model
from codexseg.backends.networks.signature import graph_digest, read_signature
from codexseg.backends.networks.weights import KNOWN, Weights, models_dir, resolve_weights
from codexseg.errors import BackendUnavailable, InputError
from tests.helpers.networks import TOY_ONNX, TOY_SAVED_MODEL, pack
from tests.helpers.runs import ROOT

# A Python without packages that follows the orders in $FAKE
FAKE = f"""#!{sys.executable}
import json, os, shutil, sys
import numpy as np
from tests.helpers.networks import TOY_ONNX, onnx_bytes
orders = json.loads(os.environ["FAKE"])
assert "DEEPCELL_ACCESS_TOKEN" not in os.environ or "find_spec" in sys.argv[2]
if "find_spec" in sys.argv[2]:
    versions = dict(tensorflow="2.21.0", tf2onnx="1.17.0", onnx="1.23.2")
    print(json.dumps(versions | orders.get("versions", {{}})))
elif sys.argv[1:3] == ["-m", "tf2onnx.convert"]:
    if "fails" in orders:
        sys.exit(orders["fails"])
    target = sys.argv[sys.argv.index("--output") + 1]
    shutil.copy(TOY_ONNX, target)
    if orders.get("heads"):
        open(target, "wb").write(onnx_bytes(outputs={{}}))
else:
    import onnxruntime
    job = json.load(open(sys.argv[3]))
    network = onnxruntime.InferenceSession(str(TOY_ONNX))
    names = [name for name, _ in job["maps"]]
    heads = network.run(names, {{job["input"]: np.load(job["tiles"])}})
    maps = [head[..., channel] for head, (_, channel) in zip(heads, job["maps"])]
    maps = np.stack(maps, axis=1)
    maps[orders.get("tile", 0), 2, 40, 50] += orders.get("off", 0)
    np.save(job["expected"], maps)
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    tiles = compared_tiles()[3:7]
    monkeypatch.setattr("codexseg.backends.networks.convert.compared_tiles", lambda: tiles)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DEEPCELL_ACCESS_TOKEN", "secret")
    monkeypatch.setenv("FAKE", "{}")
    path = tmp_path / "bin" / "python"
    path.parent.mkdir()
    path.write_text(FAKE)
    path.chmod(0o755)
    return str(path)


def left_over():
    return [path.name for path in models_dir().iterdir()] if models_dir().exists() else []


def test_conversion_is_stored_and_resolved(fake):
    weights = resolve_weights(TOY_SAVED_MODEL)
    made = convert_saved_model(weights, python=fake)
    assert made.path == models_dir() / f"{weights.digest[:16]}.onnx"
    assert made.tiles == 4
    assert made.max_abs_diff < 1e-5
    assert left_over() == [made.path.name]
    assert read_signature(made.path).metadata == {
        "codexseg_source": weights.digest,
        "codexseg_name": "toy_MultiplexSegmentation",
        "codexseg_graph": graph_digest(TOY_ONNX),
    }
    again = resolve_weights(TOY_SAVED_MODEL)
    assert (again.onnx, again.digest) == (made.path, weights.digest)
    assert resolve_weights(made.path).name == "toy_MultiplexSegmentation"


def test_conversion_of_mesmer_keeps_name_and_licence(fake, tmp_path):
    known = KNOWN["mesmer"]
    shutil.copytree(TOY_SAVED_MODEL, Path.home() / ".deepcell" / "models" / known.folder)
    made = convert_saved_model(resolve_weights(None), python=fake)
    shutil.rmtree(Path.home() / ".deepcell")
    found = resolve_weights(None)
    assert (found.path, found.name, found.licence) == (made.path, "mesmer", known.licence)
    assert found.digest == resolve_weights(TOY_SAVED_MODEL).digest
    assert not found.verified


def test_conversion_of_a_checked_tarball_is_verified(fake, monkeypatch):
    folder = Path.home() / ".deepcell" / "models"
    folder.mkdir(parents=True)
    md5 = pack(folder / "MultiplexSegmentation-9.tar.gz")
    monkeypatch.setitem(KNOWN, "mesmer", dataclasses.replace(KNOWN["mesmer"], md5=md5))
    made = convert_saved_model(resolve_weights(None), python=fake)
    assert read_signature(made.path).metadata["codexseg_md5"] == md5
    shutil.rmtree(folder)
    found = resolve_weights(None)
    assert (found.path, found.name, found.verified) == (made.path, "mesmer", True)


@pytest.mark.slow
def test_only_a_conversion_of_the_same_weights_is_replaced(fake, tmp_path):
    weights, out = resolve_weights(TOY_SAVED_MODEL), tmp_path / "my.onnx"
    for _ in range(2):
        convert_saved_model(weights, out, fake)
    for content in (TOY_ONNX.read_bytes(), b"a letter"):
        out.write_bytes(content)
        with pytest.raises(InputError, match="exists and is no conversion of"):
            convert_saved_model(weights, out, fake)
        assert out.read_bytes() == content


def test_announcement_follows_the_checks(fake, monkeypatch):
    messages = []
    monkeypatch.setenv("FAKE", '{"versions": {"tensorflow": null}}')
    with pytest.raises(BackendUnavailable):
        convert_saved_model(resolve_weights(TOY_SAVED_MODEL), None, fake, messages.append)
    assert messages == []
    monkeypatch.setenv("FAKE", "{}")
    convert_saved_model(resolve_weights(TOY_SAVED_MODEL), None, fake, messages.append)
    assert [text.split()[0] for text in messages] == ["Converting"]


def test_conversion_is_written_to_out(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = convert_saved_model(
        resolve_weights(TOY_SAVED_MODEL), Path("sub") / "my.onnx", "bin/python"
    )
    assert made.path.is_file()
    assert left_over() == []
    for out in (tmp_path, tmp_path / "my.pb"):
        with pytest.raises(InputError, match=r"Expected the name of a file, such as my\."):
            convert_saved_model(resolve_weights(TOY_SAVED_MODEL), out, fake)


@pytest.mark.parametrize("off", ["0.001", "NaN"])
def test_conversion_with_different_maps_is_discarded(fake, monkeypatch, off):
    monkeypatch.setenv("FAKE", f'{{"off": {off}, "tile": 3}}')
    with pytest.raises(
        InputError, match=r"differs from it by .* in tile 3 of \d+, .*at most 0\.0001"
    ):
        convert_saved_model(resolve_weights(TOY_SAVED_MODEL), python=fake)
    assert left_over() == []


def test_conversion_with_other_heads_is_discarded(fake, monkeypatch):
    monkeypatch.setenv("FAKE", '{"heads": true}')
    with pytest.raises(InputError, match="gives nothing, expected four float32 outputs"):
        convert_saved_model(resolve_weights(TOY_SAVED_MODEL), python=fake)
    assert left_over() == []


def test_failed_conversion_reports_the_last_output(fake, monkeypatch):
    monkeypatch.setenv("FAKE", '{"fails": "first\\nValueError: no such operator\\n"}')
    words = r"tf2onnx cannot convert .* \(exit code 1\): ValueError: no such operator\. Try"
    with pytest.raises(InputError, match=words):
        convert_saved_model(resolve_weights(TOY_SAVED_MODEL), python=fake)
    assert left_over() == []


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        (
            '{"tf2onnx": null, "onnx": null}',
            "needs tf2onnx, onnx, missing in .*pip install",
        ),
        (
            '{"tensorflow": "2.16.2"}',
            r"TensorFlow 2\.16\.2, which cannot convert",
        ),
    ],
)
def test_python_without_the_packages_is_refused(fake, monkeypatch, versions, words):
    monkeypatch.setenv("FAKE", f'{{"versions": {versions}}}')
    with pytest.raises(BackendUnavailable, match=words):
        convert_saved_model(resolve_weights(TOY_SAVED_MODEL), python=fake)


def test_path_that_is_no_python_is_refused(tmp_path):
    for python in (tmp_path / "none", shutil.which("false")):
        with pytest.raises(BackendUnavailable, match=r"does not run .*Correct --python"):
            convert_saved_model(resolve_weights(TOY_SAVED_MODEL), python=str(python))


def test_missing_tensorflow_is_reported_with_the_extra(monkeypatch):
    if (
        subprocess.run([sys.executable, "-c", "import tf2onnx"], check=False).returncode
        == 0
    ):
        pytest.skip("this Python has tf2onnx")
    with pytest.raises(BackendUnavailable, match=r"Install the extra 'mesmer' \(in a cl"):
        convert_saved_model(resolve_weights(TOY_SAVED_MODEL))


def test_onnx_file_is_not_converted():
    with pytest.raises(InputError, match="is an ONNX file already"):
        convert_saved_model(resolve_weights(TOY_ONNX))


def test_network_with_another_contract_is_not_converted(tmp_path):
    copy = shutil.copytree(TOY_SAVED_MODEL, tmp_path / "copy")
    graph = copy / "saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"\n\nsemantic_3", b"\n\nsemantic_2"))
    with pytest.raises(InputError, match="not a network of Mesmer's contract"):
        convert_saved_model(resolve_weights(copy))


def test_compared_tiles_differ_and_are_in_range():
    tiles = compared_tiles()
    assert tiles.shape[1:] == (256, 256, 2)
    assert tiles.dtype == np.float32
    assert (tiles.min(), tiles.max()) == (0, 1)
    assert len({tile.tobytes() for tile in tiles}) == len(tiles)
    np.testing.assert_array_equal(tiles, compared_tiles())


def test_conversion_with_tensorflow_runs(tmp_path):
    python = os.environ.get("CODEXSEG_TF_PYTHON")
    if not python:
        pytest.skip("CODEXSEG_TF_PYTHON names no Python with tensorflow and tf2onnx")
    weights = resolve_weights(TOY_SAVED_MODEL)
    made = convert_saved_model(weights, python=python)
    assert made.max_abs_diff < 1e-5
    assert resolve_weights(made.path) == Weights(
        made.path, "onnx", "toy_MultiplexSegmentation", weights.digest
    )
