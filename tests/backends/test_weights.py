import dataclasses
import io
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codexseg.backends.networks import weights
from codexseg.backends.networks.runtime import choose_runtime
from codexseg.backends.networks.signature import append_properties, graph_digest
from codexseg.backends.networks.weights import (
    KNOWN,
    converted_path,
    models_dir,
    resolve_weights,
)
from codexseg.backends.process_cache import file_hash
from codexseg.errors import BackendUnavailable, ConfigError, InputError
from tests.helpers.networks import TOY, TOY_ONNX, TOY_SAVED_MODEL, onnx_bytes, pack

LICENCE = KNOWN["mesmer"].licence


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


@pytest.fixture
def deepcell(home):
    folder = home / ".deepcell" / "models"
    folder.mkdir(parents=True)
    return folder


def publish(deepcell, monkeypatch):
    """Put the toy where deepcell keeps Mesmer, and let its md5 be known."""
    md5 = pack(deepcell / "MultiplexSegmentation-9.tar.gz")
    monkeypatch.setitem(KNOWN, "mesmer", dataclasses.replace(KNOWN["mesmer"], md5=md5))
    return md5


def put_conversion(title="MultiplexSegmentation-9", source="ab" * 32, md5=""):
    properties = {"codexseg_source": source, "codexseg_title": title}
    models_dir().mkdir(parents=True, exist_ok=True)
    path = converted_path(source)
    path.write_bytes(onnx_bytes(properties={**properties, "codexseg_licence": LICENCE}))
    more = {"codexseg_graph": graph_digest(path), "codexseg_md5": md5}
    append_properties(path, more)
    return path


def left_over():
    return [path.name for path in models_dir().iterdir()] if models_dir().exists() else []


def test_saved_model_is_resolved_from_its_folder_or_the_parent():
    found = resolve_weights(TOY_SAVED_MODEL)
    assert (found.path, found.kind) == (TOY_SAVED_MODEL, "saved_model")
    assert (found.name, found.licence, found.onnx) == (TOY_SAVED_MODEL.name, None, None)
    assert resolve_weights(TOY) == found


def test_digest_of_an_onnx_file_is_that_of_its_bytes():
    found = resolve_weights(TOY_ONNX)
    assert (found.path, found.kind, found.name) == (TOY_ONNX, "onnx", "toy")
    assert found.digest == file_hash(TOY_ONNX, "sha256")
    assert found.known is None
    assert not found.is_conversion


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar.gz", "w:gz"), ("a.TGZ", "w:gz"), ("a.tar", "w")]
)
def test_tarball_is_unpacked_once_and_has_the_same_digest(tmp_path, name, mode):
    md5 = pack(tmp_path / name, mode)
    found = resolve_weights(tmp_path / name)
    assert found.path == models_dir() / md5 / "MultiplexSegmentation"
    assert found.digest == resolve_weights(TOY_SAVED_MODEL).digest
    assert left_over() == [md5]
    before = (found.path / "saved_model.pb").stat()
    assert resolve_weights(tmp_path / name) == found
    assert (found.path / "saved_model.pb").stat() == before


def test_digest_of_a_saved_model_covers_names_and_bytes_only(tmp_path):
    copy = shutil.copytree(TOY_SAVED_MODEL, tmp_path / "copy")
    digest = resolve_weights(TOY_SAVED_MODEL).digest
    (copy / "keras_metadata.pb").unlink()
    (copy / "variables" / ".DS_Store").write_text("x")
    assert resolve_weights(copy).digest == digest
    index = copy / "variables" / "variables.index"
    index.write_bytes(index.read_bytes() + b"x")
    assert resolve_weights(copy).digest != digest


def test_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_bytes())
    digest = resolve_weights(path).digest
    monkeypatch.setattr("hashlib.file_digest", None)
    assert resolve_weights(path).digest == digest
    monkeypatch.undo()
    path.write_bytes(onnx_bytes(properties={"a": "b"}))
    assert file_hash(path, "sha256") != digest


def test_conversion_has_the_digest_of_its_source():
    source = resolve_weights(TOY_SAVED_MODEL)
    path = put_conversion(source=source.digest, title="")
    assert resolve_weights(TOY_SAVED_MODEL).onnx == path
    found = resolve_weights(path)
    assert (found.kind, found.digest, found.licence) == ("onnx", source.digest, LICENCE)
    assert found.is_conversion


def test_edited_conversion_has_the_digest_of_its_bytes():
    source = resolve_weights(TOY_SAVED_MODEL)
    path = put_conversion(source=source.digest)
    append_properties(path, {"note": "not of the graph"})
    assert resolve_weights(path).digest == source.digest
    content = path.read_bytes()
    path.write_bytes(content.replace(b"input_0", b"input_1"))
    assert path.stat().st_size == len(content)
    found = resolve_weights(path)
    assert (found.digest, found.name) == (file_hash(path, "sha256"), path.stem)
    assert (found.is_conversion, found.licence) == (False, LICENCE)
    assert resolve_weights(TOY_SAVED_MODEL).onnx is None
    with pytest.raises(BackendUnavailable):
        resolve_weights(None)


def test_source_without_a_graph_digest_is_ignored(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_bytes(properties={"codexseg_source": "ab" * 32}))
    assert resolve_weights(path).digest == file_hash(path, "sha256")


def test_conversion_of_other_weights_is_skipped():
    digest = resolve_weights(TOY_SAVED_MODEL).digest
    put_conversion(source=digest[:16] + "0" * 48)
    assert resolve_weights(TOY_SAVED_MODEL).onnx is None


def test_mesmer_is_resolved_from_the_cache_of_deepcell(home, deepcell, monkeypatch):
    md5 = publish(deepcell, monkeypatch)
    found = resolve_weights(None)
    assert found.path == models_dir() / md5 / "MultiplexSegmentation"
    assert (found.name, found.licence) == ("mesmer", LICENCE)
    assert found.known is KNOWN["mesmer"]
    assert found.verified
    shutil.copy(deepcell / "MultiplexSegmentation-9.tar.gz", home / "my weights.tgz")
    assert resolve_weights(Path("~/my weights.tgz")) == found


def test_mesmer_is_resolved_from_the_folder_without_the_tarball(deepcell):
    folder = shutil.copytree(TOY_SAVED_MODEL, deepcell / "MultiplexSegmentation")
    found = resolve_weights(None)
    assert (found.path, found.name, found.licence) == (folder, "mesmer", LICENCE)
    assert not found.verified
    by_path = resolve_weights(folder)  # of whatever version, but of that licence
    assert (by_path.name, by_path.licence) == ("MultiplexSegmentation", LICENCE)
    assert by_path.known is None


def test_mesmer_has_saved_model_and_conversion(deepcell, monkeypatch):
    publish(deepcell, monkeypatch)
    path = put_conversion(source=resolve_weights(TOY_SAVED_MODEL).digest)
    found = resolve_weights(None)
    assert (found.kind, found.onnx, found.verified) == ("saved_model", path, True)
    assert choose_runtime(found, "auto") == "onnxruntime"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    assert choose_runtime(found, "tensorflow") == "tensorflow"


def test_mesmer_is_resolved_from_the_conversion_alone():
    path = put_conversion()
    put_conversion(source="cd" * 32, title="another")
    found = resolve_weights(None)
    assert (found.path, found.kind, found.name) == (path, "onnx", "mesmer")
    assert not found.verified
    put_conversion(md5=KNOWN["mesmer"].md5)
    assert resolve_weights(None).verified
    put_conversion(source="ef" * 32)
    with pytest.raises(InputError, match="several conversions of MultiplexSegmentation-9"):
        resolve_weights(None)


def test_damaged_conversion_is_reported():
    path = put_conversion()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=f"{path.name} is damaged. Delete it"):
        resolve_weights(None)


def test_missing_mesmer_is_reported_with_the_command(home):
    with pytest.raises(BackendUnavailable, match="codexseg models fetch mesmer") as caught:
        resolve_weights(None)
    assert "segmentation.model_path" in str(caught.value)
    assert str(home) in str(caught.value)


def test_wrong_md5_is_reported_with_file_and_remedy(deepcell):
    md5 = pack(deepcell / "MultiplexSegmentation-9.tar.gz")
    words = rf"-9\.tar\.gz .*has md5 {md5}, expected {KNOWN['mesmer'].md5}.*models fetch"
    with pytest.raises(InputError, match=words):
        resolve_weights(None)
    assert left_over() == []


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"'mesmerr'\. Expected mesmer"):
        resolve_weights(None, known="mesmerr")
    with pytest.raises(ConfigError, match=r"segmentation\.model_path is missing"):
        resolve_weights(None, known=None)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=40,
)
@given(st.data(), st.sampled_from(["w:gz", "w"]))
def test_truncated_tarball_leaves_no_files(tmp_path, data, mode):
    shutil.rmtree(models_dir(), ignore_errors=True)
    path = tmp_path / ("cut.tar" if mode == "w" else "cut.tgz")
    pack(path, mode)
    content = path.read_bytes()
    end = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:end])
    found = None
    with suppress(InputError):
        found = resolve_weights(path)
    if found is None:
        assert left_over() == []
    else:  # a tar ends with zeros that nobody needs
        assert mode == "w"
        assert found.digest == resolve_weights(TOY_SAVED_MODEL).digest


def test_truncated_tarball_is_reported(tmp_path):
    path = tmp_path / "cut.tar.gz"
    pack(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"cut\.tar\.gz \(\d+ bytes\) cannot be unpacked"):
        resolve_weights(path)


def test_tarball_with_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    pack(path)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # of gzip's sum
    path.write_bytes(content)
    with pytest.raises(InputError, match="CRC check failed"):
        resolve_weights(path)
    assert left_over() == []


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../../evil"])
def test_tarball_with_members_outside_its_folder_is_refused(tmp_path, name):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(TOY_SAVED_MODEL, "model")
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InputError, match="outside of its folder"):
        resolve_weights(path)
    assert left_over() == []


def test_links_in_a_tarball_are_skipped(tmp_path):
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(TOY_SAVED_MODEL, "model")
        link = tarfile.TarInfo("model/assets")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("model/assets/written"), io.BytesIO())
    assert not (resolve_weights(path).path / "assets").is_symlink()
    assert not (tmp_path / "written").exists()


def test_folder_with_no_or_several_saved_models_is_refused(tmp_path):
    with pytest.raises(InputError, match="contains none, expected one SavedModel"):
        resolve_weights(tmp_path)
    for name in "ab":
        shutil.copytree(TOY_SAVED_MODEL, tmp_path / name)
    with pytest.raises(InputError, match=r"contains several SavedModels \(a, b\)"):
        resolve_weights(tmp_path)
    with pytest.raises(
        InputError, match=r"nothing does not exist\. Set segmentation\.model_path"
    ):
        resolve_weights(tmp_path / "nothing")
    (tmp_path / "model.h5").write_text("x")
    with pytest.raises(InputError, match="Unsupported file type"):
        resolve_weights(tmp_path / "model.h5")


@pytest.mark.parametrize("lost", ["variables.index", "variables.data-00000-of-00001"])
def test_saved_model_without_variables_is_refused(tmp_path, lost):
    copy = shutil.copytree(TOY_SAVED_MODEL, tmp_path / "copy")
    (copy / "variables" / lost).unlink()
    with pytest.raises(
        InputError, match=r"not complete: its folder variables/ contains var"
    ):
        resolve_weights(copy)


def test_read_only_cache_is_reported(tmp_path, monkeypatch):
    pack(tmp_path / "a.tgz")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set CODEXSEG_CACHE"):
        resolve_weights(tmp_path / "a.tgz")


def test_concurrent_unpacking_is_safe(tmp_path, monkeypatch):
    md5 = pack(tmp_path / "a.tgz")
    check = weights._saved_model_in

    def meanwhile(folder, asked):
        if not (models_dir() / md5).exists():
            shutil.copytree(folder, models_dir() / md5)
        return check(folder, asked)

    monkeypatch.setattr(weights, "_saved_model_in", meanwhile)
    assert (
        resolve_weights(tmp_path / "a.tgz").path
        == models_dir() / md5 / "MultiplexSegmentation"
    )
    assert left_over() == [md5]


def test_tarball_above_the_maximum_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("codexseg.backends.networks.archive.MAX_BYTES", 1000)
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "cache"))
    tarball = tmp_path / "big.tar.gz"
    with tarfile.open(tarball, "w:gz") as archive:
        info = tarfile.TarInfo("net/saved_model.pb")
        info.size = 4000
        archive.addfile(info, io.BytesIO(bytes(4000)))
    with pytest.raises(InputError, match="more than 1000 bytes"):
        resolve_weights(tarball)
    assert not list((tmp_path / "cache").rglob("saved_model.pb"))
