"""Keys of the results of slide passes."""

import pytest

from codexseg.config.schema import Config
from codexseg.io.slides.record import Fingerprint, SlideRecord
from codexseg.run.directory import Run
from codexseg.stages.segment.passes import slide_pass_inputs
from codexseg.workflow.stage import BackendRecord, StageInputs

SLIDE = SlideRecord(("a.tif",), (1, 9, 9), ("DAPI",), 0.5, "uint8", Fingerprint(1, 1, "a"))


@pytest.fixture
def key(tmp_path):
    def key(backend, **settings):
        config = Config.model_validate({"segmentation": {"backend": backend, **settings}})
        keys = {"load": "slide", "patch": str(settings), "segment": str(settings)}
        record = BackendRecord("named 1", 8, paired=False)
        inputs = StageInputs(Run(tmp_path), config, SLIDE, record, "segment", keys)
        return slide_pass_inputs(inputs, "named 1").key

    return key


@pytest.mark.parametrize("backend", ["panoptic", "their:Backend"])
def test_device_and_memory_leave_the_key_of_slide_passes_unchanged(key, backend):
    assert key(backend) == key(backend, device="cpu", batch_memory_gb=2.0)
    assert key(backend) != key(backend, compartment="nuclear")


def test_options_of_third_party_backends_change_the_key_of_slide_passes(key):
    assert key("their:Backend") != key("their:Backend", options={"sigma": 2})
    assert key("panoptic") == key("panoptic", options={"sigma": 2}, model_path="moved.onnx")
