"""Test-time augmentation in the metadata of exported networks."""

import pytest

from codexseg.training.networks import test_time

TEST_TIME = test_time.TEST_TIME


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, test_time.TestTime()),
        ({"codexseg_turned": "false"}, test_time.TestTime()),
        ({"codexseg_turned": "true"}, test_time.TestTime(flip=True)),
        (
            {TEST_TIME: '{"turned": true, "enlarged": 1.125}'},
            test_time.TestTime(flip=True, upsample=1.125),
        ),
    ],
)
def test_metadata_of_all_versions_are_read(metadata, expected):
    assert test_time.TestTime.of(metadata) == expected
    assert test_time.TestTime.of({TEST_TIME: expected.to_json()}) == expected


@pytest.mark.parametrize(
    ("upsample", "levels", "fits"),
    [(1, 8, True), (1.125, 4, True), (1.125, 5, True), (1.125, 6, False), (1.1, 4, False)],
)
def test_upsampled_tile_must_be_divisible_on_every_level(upsample, levels, fits):
    assert test_time.TestTime(upsample=upsample).fits(levels) == fits


@pytest.mark.parametrize(
    "text",
    ["{", "3", '{"turns": 1}', '{"turned": 9}', '{"enlarged": 50}', '{"enlarged": "1"}'],
)
def test_invalid_metadata_are_refused(text):
    with pytest.raises((ValueError, TypeError)):
        test_time.TestTime.of({TEST_TIME: text})
