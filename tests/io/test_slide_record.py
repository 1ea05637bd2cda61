"""Description of a slide."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from codexseg.core.grid import Window
from codexseg.errors import InputError
from codexseg.io.slides.record import SlideRecord, record_slide
from tests.helpers.tissue import NAMES, tissue, write_slide


@pytest.fixture
def slide(tmp_path):
    return write_slide(tmp_path)


def test_record_describes_a_file(slide):
    record = record_slide(slide, 0.5)
    assert record.files == (str(slide),)
    assert record.shape == (3, 420, 460)
    assert record.channel_names == NAMES
    assert record.fingerprint.bytes == slide.stat().st_size
    assert record.fingerprint.modified_ns == slide.stat().st_mtime_ns
    assert pickle.loads(pickle.dumps(record)) == record


def test_record_of_a_window_opens_that_window(slide):
    record = record_slide(slide, 0.5, window=(30, 40, 100, 120))
    assert record.shape == (3, 100, 120)
    assert record.offset_px == (30.0, 40.0)
    pixels = record.open().read(0, Window(0, 0, 100, 120))
    np.testing.assert_array_equal(pixels, tissue()[0, 30:130, 40:160])
    assert record.fingerprint.digest != record_slide(slide, 0.5).fingerprint.digest


def test_record_survives_json(slide):
    for window in (None, (0, 0, 64, 64)):
        record = record_slide(slide, 0.5, window=window)
        content = json.loads(json.dumps([record.describe(), record.locate()]))
        assert SlideRecord.restore(*content) == record


def test_changed_pixels_are_not_current(slide, tmp_path):
    record = record_slide(slide, 0.5)
    assert record.is_current()
    write_slide(tmp_path, tissue(seed=1))
    assert not record.is_current()


def test_copy_has_the_same_digest(slide, tmp_path):
    copy = tmp_path / "copy.ome.tif"
    copy.write_bytes(slide.read_bytes())
    digests = {record_slide(path, 0.5).fingerprint.digest for path in (slide, copy)}
    assert len(digests) == 1


def test_sets_of_files_and_later_images_are_refused(slide):
    record = record_slide(slide, 0.5)
    for other in (replace(record, files=(str(slide), "b.tif")), replace(record, image=1)):
        with pytest.raises(InputError, match=r"cannot be read\. Export one image"):
            other.open()
