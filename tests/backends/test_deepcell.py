"""The worker script on a stub of deepcell, and on the package if it is installed."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from codexseg.backends.base import Backend, SlideContext, check_labels
from codexseg.backends.deepcell.backend import Deepcell
from codexseg.core.grid import Window
from codexseg.errors import (
    BackendUnavailable,
    CodexsegError,
    ConfigError,
    InputError,
    WorkerDied,
)
from tests.helpers.deepcell_env import deepcell_python

ROOT = Path(__file__).parents[2]
MESMER = ROOT / "tests" / "data" / "mesmer"
TOY = MESMER / "toy_MultiplexSegmentation"
TOKEN = "not-a-real-token"

STUB = """
import os, signal, time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
(HERE / "pid").write_text(str(os.getpid()))
with (HERE / "starts").open("a") as starts:
    starts.write("x")
start = os.environ.get("STUB_START")
if start == "slow":
    time.sleep(1)
elif start == "dies":
    os.write(2, b"first\\rlibcudart is missing\\n")
    os._exit(5)


class Mesmer:
    def __init__(self, model):
        self.model = model
        if start == "refused":
            token = os.environ["DEEPCELL_ACCESS_TOKEN"]
            print(token)
            raise ValueError(f"API token {token} is not valid.")

    def predict(self, image, batch_size, image_mpp, compartment):
        "The first pixel is the order."
        assert image.shape[0] == 1 and batch_size == 4
        print("noise")
        os.write(1, b'{"ok": "noise"}\\n')
        order = int(image[0, 0, 0, 0])
        if order == 1 or (order == 2 and not (HERE / "died").exists()):
            (HERE / "died").touch()
            os.write(2, b"last words\\n")
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == 3:
            raise ValueError("expected (None, 256, 256, 2), found (None, 256, 344, 2)")
        elif order == 4:
            (HERE / "busy").touch()
            time.sleep(60)
        elif order == 5:
            os._exit(7)
        chosen = {"both": [1, 0], "whole-cell": [1], "nuclear": [0]}[compartment]
        return (image[..., chosen] * (image_mpp / 0.5)).astype(np.int64)
"""


@pytest.fixture
def python(tmp_path):
    """An executable that looks like a Python with deepcell."""
    files = {
        "deepcell/__init__.py": "",
        "deepcell/applications.py": STUB,
        "tensorflow/__init__.py": "from . import config, keras\n__version__ = '2.8.4'",
        "tensorflow/config.py": "def list_physical_devices(kind): return []",
        "tensorflow/keras/__init__.py": "from . import models",
        "tensorflow/keras/models.py": "def load_model(path, compile): return path",
        "deepcell-0.12.10.dist-info/METADATA": "Name: deepcell\nVersion: 0.12.10\n",
    }
    for name, text in files.items():
        path = tmp_path / "stub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    made = tmp_path / "python"
    made.write_text(
        f"#!/bin/sh\nshift\n[ $1 = -c ] || echo 'of a wrapper'\n"
        f'PYTHONPATH={tmp_path}/stub exec {sys.executable} "$@"\n'
    )
    made.chmod(0o755)
    return made


def backend(python, mpp=0.5, model=TOY, compartment="both", device="auto"):
    config = SimpleNamespace(
        python=python, model_path=model, compartment=compartment, device=device
    )
    return Deepcell(config, SlideContext((1000, 1000), mpp))


def patch(order=0, shape=(6, 5), dtype=np.uint16):
    random = np.random.default_rng(order)
    made = random.integers(10, 100, (2, *shape)).astype(dtype)
    made[0, 0, 0] = order
    return made


def predict(made, *patches):
    windows = [Window(0, 0, *p.shape[1:]) for p in patches]
    labels = made.predict(np.stack(patches), windows)
    return check_labels(labels, (len(patches), 2, *patches[0].shape[1:]), made.name)


def stub_pid(tmp_path):
    return int((tmp_path / "stub/deepcell/pid").read_text())


def starts(tmp_path):
    return len((tmp_path / "stub/deepcell/starts").read_text())


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def everything_said(error, caplog):
    return "\n".join([str(error), *getattr(error, "__notes__", []), caplog.text])


def test_worker_receives_pixels_and_returns_labels(python):
    made = backend(python, mpp=1.0)
    assert isinstance(made, Backend)
    batch = [patch(i + 10) for i in range(3)]
    labels = predict(made, *batch)
    assert labels.dtype == np.uint32
    assert labels.flags.owndata
    assert np.array_equal(labels, 2 * np.stack(batch)[:, ::-1])
    assert predict(made, patch(20, dtype=np.float32)).max() < 200


def test_no_patches_start_no_worker(python, tmp_path):
    assert backend(python).predict(np.zeros((0, 2, 8, 8), np.uint8), []).shape == (
        0,
        2,
        8,
        8,
    )
    assert not (tmp_path / "stub/deepcell/starts").exists()


@pytest.mark.parametrize(("compartment", "kept"), [("whole-cell", 0), ("nuclear", 1)])
def test_excluded_compartment_is_zero(python, compartment, kept):
    (labels,) = predict(backend(python, compartment=compartment), patch(10))
    assert np.array_equal(labels[kept], patch(10)[1 - kept])
    assert not labels[1 - kept].any()


def test_halo_is_in_pixels_of_the_slide(python):
    assert (backend(python).halo_px, backend(python).context_px) == (128, 64)
    fine = backend(python, mpp=0.377)
    assert (fine.halo_px, fine.context_px) == (170, 85)


def test_fingerprint_contains_the_weights(python, tmp_path, monkeypatch):
    name = backend(python).fingerprint()
    assert name.startswith("deepcell-0.12.10-")
    shutil.copytree(TOY, tmp_path / "other")
    assert backend(python, model=tmp_path / "other").fingerprint() == name
    with (tmp_path / "other/saved_model.pb").open("ab") as file:
        file.write(b"\0")
    assert backend(python, model=tmp_path / "other").fingerprint() != name
    monkeypatch.setenv("DEEPCELL_ACCESS_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    own = backend(python, model=None)
    assert own.fingerprint() == "deepcell-0.12.10-MultiplexSegmentation-9"
    assert "non-commercial" in own.about["licence"]


def test_scratch_files_are_in_the_folder_of_the_patches(python, tmp_path):
    folder = tmp_path / "batch-1"
    folder.mkdir()
    mapped = np.memmap(folder / "patches", np.uint16, "w+", shape=(1, 2, 6, 5))
    mapped[:] = patch(2)  # dies once: its files stay until the batch is done
    seen = []
    made = backend(python)
    made._begun().ask, ask = (
        (lambda r: seen.append(Path(r["images"])) or ask(r)),
        (made._begun().ask),
    )
    made.predict(mapped, [Window(0, 0, 6, 5)])
    assert seen[0].parents[1] == folder
    assert [path.name for path in folder.iterdir()] == ["patches"]


def test_worker_is_reused_and_ends_with_the_backend(python, tmp_path):
    made = backend(python)
    predict(made, patch(10))
    predict(made, patch(11))
    assert starts(tmp_path) == 1
    assert not is_gone(stub_pid(tmp_path))
    del made
    gc.collect()
    assert is_gone(stub_pid(tmp_path))


def test_slow_start_is_awaited(python, monkeypatch):
    monkeypatch.setenv("STUB_START", "slow")
    assert predict(backend(python), patch(10)).any()


def test_worker_is_restarted_after_its_death(python, tmp_path, caplog):
    made = backend(python)
    batch = [patch(10), patch(2)]
    assert np.array_equal(predict(made, *batch), np.stack(batch)[:, ::-1])
    assert starts(tmp_path) == 2
    assert "SIGKILL" in caplog.text
    assert "last words" in caplog.text


def test_patch_that_kills_the_worker_twice_fails_alone(python, tmp_path):
    made = backend(python)
    with pytest.raises(
        WorkerDied, match=r"signal 9 \(SIGKILL\)(.|\n)*last words(.|\n)*patch_"
    ):
        predict(made, patch(1))
    with pytest.raises(WorkerDied, match="ended with exit code 7"):
        predict(made, patch(5))
    assert starts(tmp_path) == 4
    assert predict(made, patch(10)).any()


def test_idle_worker_is_restarted_after_a_kill(python, tmp_path):
    made = backend(python)
    predict(made, patch(10))
    os.kill(stub_pid(tmp_path), signal.SIGKILL)
    assert predict(made, patch(10)).any()
    assert starts(tmp_path) == 2


def test_error_of_deepcell_is_raised_and_the_worker_continues(python, tmp_path):
    made = backend(python)
    with pytest.raises(
        CodexsegError, match=r"\(1, 6, 5, 2\): ValueError: expected"
    ) as caught:
        predict(made, patch(3))
    assert "applications.py" in "".join(caught.value.__notes__)
    assert predict(made, patch(10)).any()
    assert starts(tmp_path) == 1


@pytest.mark.parametrize(
    ("shape", "mpp", "given"),
    [
        ((200, 300), 0.5, (256, 300)),
        ((300, 255), 0.5, (300, 256)),
        ((9, 700), 0.4, (320, 700)),
        ((200, 256), 0.5, (200, 256)),
        ((300, 310), 0.4, (300, 310)),
    ],
)
def test_short_axis_is_reflected_up_to_a_tile(python, shape, mpp, given):
    """deepcell pads both axes where only one has less than a tile (its issue 709)."""
    made = backend(python, mpp)
    assert made._padded(shape) == given
    assert predict(made, patch(10, shape)).shape[-2:] == shape


def test_worker_that_cannot_start_is_tried_once(python, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_START", "dies")
    made = backend(python)
    for _ in range(2):
        with pytest.raises(
            BackendUnavailable, match=r"exit code 5(.|\n)*libcudart is missing"
        ):
            predict(made, patch(10))
    assert starts(tmp_path) == 1


def test_network_that_cannot_be_loaded_is_reported(python, tmp_path):
    path = tmp_path / "stub/tensorflow/keras/models.py"
    path.write_text("def load_model(path, compile): raise OSError(f'no {path}')")
    with pytest.raises(BackendUnavailable, match=f"OSError: no {TOY}") as caught:
        predict(backend(python), patch(10))
    assert "models.py" in "".join(caught.value.__notes__)


def test_token_is_never_shown(python, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("DEEPCELL_ACCESS_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STUB_START", "refused")
    caplog.set_level("DEBUG")
    with pytest.raises(
        BackendUnavailable, match=r"API token \*\*\* is not valid"
    ) as caught:
        predict(backend(python, model=None), patch(10))
    assert TOKEN not in everything_said(caught.value, caplog) + "".join(capfd.readouterr())
    monkeypatch.delenv("STUB_START")
    made = backend(python, model=None)
    predict(made, patch(10))
    process = psutil.Process(stub_pid(tmp_path))
    assert TOKEN not in " ".join(process.cmdline())
    assert process.environ()["DEEPCELL_ACCESS_TOKEN"] == TOKEN
    made = backend(python)  # has its weights, needs no token
    predict(made, patch(10))
    assert "DEEPCELL_ACCESS_TOKEN" not in psutil.Process(stub_pid(tmp_path)).environ()


def test_missing_weights_and_token_start_no_worker(python, tmp_path, monkeypatch):
    monkeypatch.delenv("DEEPCELL_ACCESS_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    words = "DEEPCELL_ACCESS_TOKEN is not set.*codexseg models fetch mesmer"
    with pytest.raises(BackendUnavailable, match=words):
        backend(python, model=None)


def test_weights_of_another_format_are_refused(python, tmp_path):
    with pytest.raises(ConfigError, match="is an ONNX file"):
        backend(python, model=MESMER / "toy.onnx")
    with pytest.raises(InputError, match="model_path"):
        backend(python, model=tmp_path / "nothing")


def test_missing_gpu_is_reported(python, tmp_path):
    with pytest.raises(BackendUnavailable, match=r"device is 'cuda'.*has no usable GPU"):
        predict(backend(python, device="cuda"), patch(10))
    assert is_gone(stub_pid(tmp_path))
    made = backend(python, device="cpu")
    predict(made, patch(10))
    environ = psutil.Process(stub_pid(tmp_path)).environ()
    assert environ["CUDA_VISIBLE_DEVICES"] == "-1"


@pytest.fixture
def sigint():
    """Ctrl-C counts, also where tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
def test_interrupted_request_leaves_no_answer_for_the_next(python, tmp_path):
    made = backend(python)
    predict(made, patch(10))
    first = stub_pid(tmp_path)

    def interrupt():
        wait_for((tmp_path / "stub/deepcell/busy").exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        predict(made, patch(4))
    thread.join()
    assert is_gone(first)
    assert np.array_equal(predict(made, patch(11))[0], patch(11)[::-1])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_parent(python, tmp_path, number):
    code = (
        "import sys; from tests.backends.test_deepcell import *; "
        "predict(backend(Path(sys.argv[1])), patch(4))"
    )
    env = os.environ | {"TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code, python], cwd=ROOT, env=env)
    wait_for((tmp_path / "stub/deepcell/busy").exists)
    parent.send_signal(number)
    parent.wait(60)
    wait_for(lambda: is_gone(stub_pid(tmp_path)))


# From here on: deepcell 0.12.10 itself, with the toy network


@pytest.fixture(scope="module")
def golden():
    return np.load(MESMER / "golden.npz")


@pytest.fixture(scope="module")
def live():
    return backend(deepcell_python())


def assert_same_objects(ours, theirs):
    """Equal up to numbers; another processor may round a few pixels elsewhere."""
    assert np.count_nonzero((ours > 0) != (theirs > 0)) <= 20
    for found, expected in zip(ours, theirs, strict=True):
        numbers = np.unique(expected[expected > 0])
        assert abs(len(np.unique(found[found > 0])) - len(numbers)) <= 1
        pairs, counts = np.unique(
            [found.ravel(), expected.ravel()], axis=1, return_counts=True
        )
        most = {n: counts[(pairs[1] == n) & (pairs[0] > 0)].max(initial=0) for n in numbers}
        areas = {n: np.count_nonzero(expected == n) for n in numbers}
        assert sum(most[n] >= 0.9 * areas[n] for n in numbers) >= len(numbers) - 1


@pytest.mark.slow
def test_labels_equal_deepcell(live, golden):
    assert_same_objects(predict(live, golden["image"])[0], golden["labels"])
    assert_same_objects(predict(live, golden["image_u16"])[0], golden["labels_u16"])
    small = golden["image"][:, :200, :200]
    first, second = predict(live, small, small)
    assert_same_objects(first, golden["labels_small"])
    assert np.array_equal(first, second)
    assert not predict(live, np.zeros((2, 256, 256), np.uint16)).any()


def test_labels_at_another_pixel_size(live, golden, monkeypatch):
    # the same worker: starting one takes seconds
    monkeypatch.setattr(live, "_slide", SlideContext((1000, 1000), 0.377))
    assert_same_objects(predict(live, golden["image"])[0], golden["labels_0377"])
    monkeypatch.setattr(live, "_compartment", "whole-cell")
    cells, nuclei = predict(live, golden["image"])[0]
    assert_same_objects(cells[None], golden["cells_0377"][None])
    assert not nuclei.any()


@pytest.mark.slow
def test_labels_after_the_worker_was_killed(live, golden, caplog):
    image = golden["image"][:, :256, :256]
    expected = predict(live, image)[0]
    (worker,) = (
        child
        for child in psutil.Process().children()
        if child.cmdline()[:1] == [str(deepcell_python())]
    )
    before = worker.cpu_times().user

    def kill():
        wait_for(lambda: worker.cpu_times().user > before + 0.3)
        worker.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    labels = predict(live, *[image] * 4)
    thread.join()
    assert "SIGKILL" in caplog.text
    assert all(np.array_equal(found, expected) for found in labels)
