"""What the findings of slide_passes depend on."""

import pytest

from codexseg.config.schema import Config
from codexseg.run.directory import Run
from codexseg.stages import surveys
from codexseg.stages.base import Job


@pytest.fixture
def key(tmp_path, monkeypatch):
    class Named:
        def fingerprint(self):
            return "named 1"

    monkeypatch.setattr(surveys, "backend_of", lambda _: Named())

    def key(backend, **settings):
        config = Config.model_validate({"segmentation": {"backend": backend, **settings}})
        keys = {"load": "slide", "patch": str(settings), "segment": str(settings)}
        job = Job(Run(tmp_path), config, None, "segment", keys)
        return surveys._slide_pass_job(job).key

    return key


@pytest.mark.parametrize("backend", ["panoptic", "their:Backend"])
def test_where_it_computes_changes_no_finding(key, backend):
    assert key(backend) == key(backend, device="cpu", batch_memory_gb=2.0)
    assert key(backend) != key(backend, compartment="nuclear")


def test_options_change_what_the_backend_of_a_third_party_finds(key):
    assert key("their:Backend") != key("their:Backend", options={"sigma": 2})
    assert key("panoptic") == key("panoptic", options={"sigma": 2}, model_path="moved.onnx")
