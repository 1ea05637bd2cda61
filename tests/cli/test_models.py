import importlib.util
import shutil
import subprocess
import sys

import pytest

from codexseg.backends.networks.signature import append_properties, graph_digest
from codexseg.backends.networks.weights import resolve_weights
from codexseg.backends.tiled.instanseg_weights import FILE_NAME
from tests.helpers.networks import TOY, TOY_ONNX, TOY_SAVED_MODEL, onnx_bytes, pack
from tests.helpers.runs import ROOT, codexseg


@pytest.fixture
def models(tmp_path):
    """Run `codexseg models` with an empty home and cache."""

    def run(*words, **env):
        home = {"HOME": str(tmp_path), "CODEXSEG_CACHE": str(tmp_path / "cache")}
        away = {"CODEXSEG_PYTHON310": "", "DEEPCELL_ACCESS_TOKEN": "", "HTTPS_PROXY": ""}
        return codexseg("models", *words, **away | home | env)

    return run


@pytest.mark.parametrize("command", ["list", "fetch", "convert", "check", "setup-deepcell"])
def test_every_models_command_has_help(models, command):
    done = models(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_models_import_loads_only_console_and_errors():
    code = """
import sys
import codexseg.cli.models
ours = {name for name in sys.modules if name.startswith("codexseg")}
expected = {"codexseg", "codexseg.errors"}
expected |= {"codexseg.cli", "codexseg.cli.models", "codexseg.cli.console"}
sys.exit(str(ours ^ expected) if ours != expected or "numpy" in sys.modules else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_check_measures_network_of_the_contract(models):
    done = models("check", TOY_ONNX)
    assert done.returncode == 0, done.stderr
    for words in (
        "reads        input_0 float32 (n, 256, 256, 2)",
        "heads        semantic_0: 1, semantic_1: 3, semantic_2: 1, semantic_3: 3",
        "runtime      onnxruntime on",
        "test tiles   nucleus interior 0.000 to 1.000",
        "CPU s",
        "This network fulfils Mesmer's contract",
    ):
        assert words in done.stdout
    assert done.stderr == ""


def test_check_of_network_with_other_outputs_exits_with_2(models, tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(onnx_bytes(outputs={"semantic_0": ("n", 256, 256, 3)}))
    done = models("check", path)
    assert done.returncode == 2
    assert "gives        semantic_0 float32 (n, 256, 256, 3)" in done.stdout
    assert "expected four float32 outputs" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_of_network_without_graph_exits_with_2(models, tmp_path):
    path = tmp_path / "no_graph.onnx"
    path.write_bytes(onnx_bytes())  # a signature without a graph
    done = models("check", path)
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_list_without_installed_weights(models, tmp_path):
    done = models("list")
    assert done.returncode == 0, done.stderr
    for words in (
        "mesmer         MultiplexSegmentation-9",
        "non-commercial",
        "https://github.com/vanvalenlab",
        "codexseg models fetch mesmer",
        "codexseg models setup-deepcell",
    ):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_list_shows_installed_and_damaged_weights(models, tmp_path):
    folder = tmp_path / ".deepcell" / "models"
    folder.mkdir(parents=True)
    pack(folder / "MultiplexSegmentation-9.tar.gz")
    cache = tmp_path / "cache" / "models"
    cache.mkdir(parents=True)
    (cache / "0123.onnx").write_bytes(TOY_ONNX.read_bytes())
    listed = models("list")
    assert listed.returncode == 0, listed.stderr
    assert "expected a1dfbce2594f927b9112f23a0a1739e0" in listed.stdout
    assert "0123.onnx (ONNX, 14.4 kB)" in listed.stdout
    assert "runtime      onnxruntime" in listed.stdout
    (cache / "0123.onnx").write_bytes(b"")
    listed = models("list")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("0123.onnx is not an ONNX file") == 1


def test_list_shows_error_of_damaged_conversion_once(models, tmp_path):
    cache = tmp_path / "cache" / "models"
    cache.mkdir(parents=True)
    (cache / "0123.onnx").write_bytes(b"")
    listed = models("list")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("0123.onnx") == 1


def test_list_marks_unverified_weights(models, tmp_path):
    folder = tmp_path / ".deepcell" / "models" / "MultiplexSegmentation"
    shutil.copytree(TOY_SAVED_MODEL, folder)
    listed = models("list")
    assert f"here         {folder} (SavedModel, 185.0 kB) (not verified: " in listed.stdout
    if importlib.util.find_spec("tensorflow") is None:
        assert "'codexseg models convert mesmer'" in listed.stdout


def put_conversion(tmp_path):
    """Put a conversion of the toy SavedModel into the cache."""
    digest = resolve_weights(TOY_SAVED_MODEL).digest
    path = tmp_path / "cache" / "models" / f"{digest[:16]}.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(TOY_ONNX.read_bytes())
    properties = {"codexseg_source": digest, "codexseg_graph": graph_digest(path)}
    append_properties(path, properties)
    return path, digest


@pytest.mark.slow
def test_check_shows_source_of_digest(models, tmp_path):
    path, digest = put_conversion(tmp_path)
    of = " (of the SavedModel that it was made from)"
    assert f"  digest       {digest}{of}\n" in models("check", path).stdout
    done = models("check", TOY_SAVED_MODEL)
    assert f"  digest       {digest}\n" in done.stdout
    assert "runtime      onnxruntime" in done.stdout
    assert of not in models("check", TOY_ONNX).stdout


def test_remedy_contains_the_path_of_the_command_line(models, tmp_path):
    if importlib.util.find_spec("tensorflow") is not None:
        pytest.skip("this Python has TensorFlow")
    pack(tmp_path / "my.tgz")
    done = models("check", tmp_path / "my.tgz")
    assert done.returncode == 2
    assert f"'codexseg models convert {tmp_path / 'my.tgz'}'" in done.stderr


def test_fetch_without_token_exits_with_2(models):
    done = models("fetch", "mesmer")
    assert done.returncode == 2
    assert "DEEPCELL_ACCESS_TOKEN is not set" in done.stderr
    assert (
        "Weights 'lung' not found, expected one of mesmer, instanseg"
        in models("fetch", "lung").stderr
    )


def test_instanseg_list_fetch_and_check_offline(models, tmp_path):
    listed = models("list").stdout
    for words in (
        "instanseg      InstanSeg 0.1.1 fluorescence_nuclei_and_cells",
        "Apache-2.0",
        "'codexseg models fetch instanseg'",
    ):
        assert words in listed
    done = models("fetch", "instanseg", CODEXSEG_OFFLINE="1")
    assert done.returncode == 2
    assert "CODEXSEG_OFFLINE is set" in done.stderr
    assert "Traceback" not in done.stderr
    done = models("check", "instanseg")
    assert done.returncode == 2
    assert "The weights of instanseg are not on this machine" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_list_shows_sha256_of_damaged_instanseg(models, tmp_path):
    path = tmp_path / "cache" / "models" / FILE_NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of it")
    listed = models("list")
    assert listed.returncode == 0, listed.stderr
    assert f"{path} (10 bytes) has sha256 " in listed.stdout


def test_check_of_damaged_torchscript_exits_with_2(models, tmp_path):
    path = tmp_path / "own.pt"
    path.write_bytes(b"no network")
    done = models("check", path)
    assert done.returncode == 2
    assert "own            TorchScript" in done.stdout
    has_torch = importlib.util.find_spec("torch") is not None
    words = "cannot be loaded by torch" if has_torch else "'codexseg[instanseg]'"
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_fetch_keeps_installed_weights(models, tmp_path):
    folder = tmp_path / ".deepcell" / "models"
    folder.mkdir(parents=True)
    md5 = pack(folder / "MultiplexSegmentation-9.tar.gz")
    code = (
        "import dataclasses, codexseg.cli.app\n"
        "from codexseg.backends.networks.weights import KNOWN\n"
        f"KNOWN['mesmer'] = dataclasses.replace(KNOWN['mesmer'], md5={md5!r})\n"
        "codexseg.cli.app.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "models", "fetch", "mesmer"],
        cwd=ROOT,
        env={"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Already there: " in done.stdout
    assert "Licence" not in done.stdout


def test_convert_without_python_or_with_existing_onnx(models, tmp_path):
    done = models("convert", TOY_SAVED_MODEL, "--python", tmp_path / "none")
    assert done.returncode == 2
    assert "Correct --python" in done.stderr
    assert done.stdout == ""
    done = models("convert", TOY_ONNX)
    assert done.returncode == 0
    assert "Already converted" in done.stdout
    assert "models fetch mesmer" in models("convert", "mesmer").stderr


def test_check_accepts_folder_around_saved_model(models):
    done = models("check", TOY)
    assert f"{TOY_SAVED_MODEL} (" in done.stdout


def test_setup_keeps_existing_deepcell_environment(models, tmp_path):
    python = tmp_path / "python"
    answers = "*version_info*) echo 3.10;; *) echo 0.12.10;;"
    python.write_text(f'#!/bin/sh\ncase "$3" in {answers} esac\n')
    python.chmod(0o755)
    done = models("setup-deepcell", CODEXSEG_PYTHON310=str(python))
    assert (done.returncode, done.stdout) == (0, f"Already there: {python}\n"), done.stderr
    assert not (tmp_path / "cache").exists()
