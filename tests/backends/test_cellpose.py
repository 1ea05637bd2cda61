"""Cellpose adapter, tested on a stub of the package in both major versions."""

import hashlib
import sys
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage as ndi

from codexseg.backends import optional as packages
from codexseg.backends import process_cache
from codexseg.backends.base import SlideContext, is_paired
from codexseg.backends.registry import create
from codexseg.backends.tiled import cellpose as adapter
from codexseg.config.schema import SegmentationConfig
from codexseg.core.grid import Window
from codexseg.errors import BackendUnavailable, ConfigError, InputError

NAMES = {"3.1.1.2": ("cyto3", "nucleitorch_0"), "4.0.8": ("cpsam", "cpsam")}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a stub of cellpose into sys.modules that records the arguments of its models."""

    def install(version, weights=None):
        calls, loaded = [], []

        class CellposeModel:
            def __init__(self, gpu=False, pretrained_model=None):  # noqa: FBT002
                if "broken" in str(pretrained_model):
                    raise RuntimeError("not a model\nat line 3")
                loaded.append((gpu, pretrained_model))

            def eval(self, x, **settings):
                calls.append((x, settings))
                plane = x if x.ndim == 2 else x[..., 0]
                masks = ndi.label(plane > 0.5)[0]
                return masks.squeeze().astype(np.uint16), [], []

        module, models = ModuleType("cellpose"), ModuleType("cellpose.models")
        models.CellposeModel = CellposeModel
        torch = ModuleType("torch")
        torch.cuda = ModuleType("cuda")
        torch.cuda.is_available = lambda: False
        for name, one in (
            ("cellpose", module),
            ("cellpose.models", models),
            ("torch", torch),
        ):
            monkeypatch.setitem(sys.modules, name, one)
        for place in (packages, adapter):
            monkeypatch.setattr(place, "package_version", lambda _: version)
        process_cache._load.cache_clear()
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(folder))
        for name in NAMES.get(version, ()) if weights is None else weights:
            (folder / name).write_bytes(name.encode())
        return calls, loaded, folder

    yield install
    process_cache._load.cache_clear()


def config(**settings):
    return SegmentationConfig(backend="cellpose", device="cpu", **settings)


def made(mpp=0.5, *, has_wholecell=True, **settings):
    slide = SlideContext((90, 100), mpp, has_wholecell=has_wholecell)
    return create(config(**settings), slide)


def picture():
    image = np.zeros((2, 90, 100), np.uint16)
    image[1, 20:40, 20:42] = 900
    image[0, 26:34, 25:35] = 500
    image[0, 70:80, 70:80] = 500
    return image


def segment(backend, image=None):
    image = picture() if image is None else image
    return backend.predict(image[None], [Window(0, 0, *image.shape[1:])])[0]


@pytest.mark.parametrize("version", NAMES)
def test_cells_use_both_channels_and_nuclei_one(package, version):
    calls, loaded, folder = package(version)
    labels = segment(made())
    cells, nuclei = NAMES[version]
    expected = {str(folder / cells), str(folder / nuclei)}
    assert {path for _, path in loaded} == expected
    assert len(loaded) == len(expected)
    (nucleus, for_nuclei), (both, for_cells) = calls
    assert (nucleus.shape, both.shape) == ((90, 100), (90, 100, 2))
    assert np.array_equal(both[..., 1], nucleus)
    assert both[30, 30].tolist() == [1.0, 1.0]
    assert for_cells["normalize"] is for_nuclei["normalize"] is False
    assert for_cells["channel_axis"] == -1
    assert (for_cells["diameter"], for_nuclei["diameter"]) == (20.0, 16.0)
    channels = (for_nuclei.get("channels"), for_cells.get("channels"))
    assert channels == (([0, 0], [1, 2]) if version < "4" else (None, None))
    assert np.array_equal(labels > 0, picture()[::-1] > 0)


def test_cells_are_expanded_nuclei_without_a_wholecell_channel(package):
    calls, _, _ = package("3.1.1.2", ["nucleitorch_0"])
    backend = made(has_wholecell=False)
    assert is_paired(backend)
    cells, nuclei = segment(backend)
    assert len(calls) == 1
    assert (cells > 0).sum() > (nuclei > 0).sum()
    assert np.array_equal(cells[nuclei > 0], nuclei[nuclei > 0])


def test_wholecell_channel_without_contrast_is_left_out(package):
    calls, _, _ = package("3.1.1.2")
    image = picture()
    image[1] = 5
    backend = made()
    assert not is_paired(backend)
    cells, nuclei = segment(backend, image)
    assert [x.ndim for x, _ in calls] == [2, 2]
    assert np.array_equal(cells > 0, nuclei > 0)


@pytest.mark.parametrize(("compartment", "plane"), [("whole-cell", 0), ("nuclear", 1)])
def test_only_the_requested_compartment_is_computed(package, compartment, plane):
    calls, _, _ = package("4.0.8")
    labels = segment(made(compartment=compartment))
    assert len(calls) == 1
    assert labels[plane].any()
    assert not labels[1 - plane].any()


def test_options_are_passed_to_cellpose(package):
    calls, _, folder = package(
        "3.1.1.2", ["cyto3", "nucleitorch_0", "mine", "tissuenet_cp3"]
    )
    options = {
        "flow_threshold": 0.7,
        "cellprob_threshold": -1,
        "min_size": 4,
        "niter": None,
        "model": "tissuenet_cp3",
        "nuclei_model": str(folder / "mine"),
    }
    backend = made(options=options)
    segment(backend)
    for _, settings in calls:
        for name in ("flow_threshold", "cellprob_threshold", "min_size", "niter"):
            assert settings[name] == options[name]
        assert "batch_size" not in settings
    assert backend.about["weights"] == "tissuenet_cp3, mine"
    own = made(options={"model": "cyto3"}, model_path=folder / "mine")
    assert own.about["weights"] == "mine, nucleitorch_0"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flow_treshold": 0.4}, "no such option. .* Did you mean 'flow_threshold'?"),
        ({"flow_threshold": "high"}, "flow_threshold is 'high', expected float"),
        ({"min_size": True}, "min_size is True, expected int"),
        ({"niter": 2.5}, "niter is 2.5, expected int or null"),
    ],
)
def test_invalid_options_are_refused(package, options, words):
    package("3.1.1.2")
    with pytest.raises(ConfigError, match=words):
        made(options=options)


def test_fingerprint_changes_with_weights_and_options(package):
    _, _, folder = package("3.1.1.2")
    first = made().fingerprint()
    assert made().fingerprint() == first
    assert first.startswith("cellpose-1-3.1.1.2-")
    others = {
        made(options={"min_size": 3}).fingerprint(),
        made(watershed={"nucleus_diameter_um": 9}).fingerprint(),
        made(0.4).fingerprint(),
        made(has_wholecell=False).fingerprint(),
    }
    assert len(others | {first}) == 5
    assert made(options={"batch_size": 3}).fingerprint() == first
    (folder / "cyto3").write_bytes(b"others")
    assert made().fingerprint() != first


def test_about_lists_each_model(package):
    package("3.1.1.2")
    about = made().about
    assert about["cellpose"] == "3.1.1.2"
    assert about["weights"] == "cyto3, nucleitorch_0"
    digests = [hashlib.sha256(n.encode()).hexdigest() for n in NAMES["3.1.1.2"]]
    assert about["weights_digest"] == ", ".join(digests)
    package("4.0.8")
    assert "non-commercial" in made().about["licence"]


def test_missing_package_or_weights_are_reported(package, tmp_path):
    with pytest.raises(BackendUnavailable, match=r"pip install 'codexseg\[cellpose\]'"):
        packages.require("cellpose", "a_package_that_nobody_has")
    _, _, folder = package("3.1.1.2", [])
    with pytest.raises(BackendUnavailable, match="weights of cellpose's model") as raised:
        made()
    assert str(folder / "nucleitorch_0") in str(raised.value)
    assert "CellposeModel(model_type='nuclei')" in str(raised.value)
    package("4.0.8", [])
    with pytest.raises(BackendUnavailable, match="pretrained_model='cpsam'"):
        made()
    with pytest.raises(BackendUnavailable, match="none/cyto3 is missing"):
        made(options={"nuclei_model": str(tmp_path / "none" / "cyto3")})


@pytest.mark.parametrize("version", ["2.3.2", "3.0.9", "5.0", "unknown"])
def test_unsupported_versions_are_refused(package, version):
    package(version, [])
    with pytest.raises(BackendUnavailable, match=r"needs 3\.1 to 4"):
        made()


def test_missing_gpu_is_reported(package):
    package("3.1.1.2")
    with pytest.raises(BackendUnavailable, match="cannot use a GPU"):
        create(
            SegmentationConfig(backend="cellpose", device="cuda"), SlideContext((9, 9), 0.5)
        )


def test_weights_that_cannot_be_loaded_are_reported(package):
    package("3.1.1.2", ["broken", "nucleitorch_0"])
    backend = made(options={"model": "broken"})
    with pytest.raises(InputError, match=r"broken cannot be loaded .*\(not a model\)"):
        segment(backend)
