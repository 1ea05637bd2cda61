"""How a network's file looks at a tile."""

import pytest

from codexseg.training.networks.test_time import VIEWS, Views


@pytest.mark.parametrize(
    ("metadata", "views"),
    [
        ({}, Views()),
        ({"codexseg_turned": "false"}, Views()),
        ({"codexseg_turned": "true"}, Views(turned=True)),
        (
            {VIEWS: '{"turned": true, "enlarged": 1.125}'},
            Views(turned=True, enlarged=1.125),
        ),
    ],
)
def test_files_of_any_age_say_how_they_look_at_a_tile(metadata, views):
    assert Views.of(metadata) == views
    assert Views.of({VIEWS: views.to_json()}) == views


@pytest.mark.parametrize(
    ("enlarged", "levels", "fits"),
    [(1, 8, True), (1.125, 4, True), (1.125, 5, True), (1.125, 6, False), (1.1, 4, False)],
)
def test_what_is_enlarged_must_be_halved_by_every_level(enlarged, levels, fits):
    assert Views(enlarged=enlarged).fits(levels) == fits


@pytest.mark.parametrize(
    "said",
    ["{", "3", '{"turns": 1}', '{"turned": 9}', '{"enlarged": 50}', '{"enlarged": "1"}'],
)
def test_what_no_export_says_is_refused(said):
    with pytest.raises((ValueError, TypeError)):
        Views.of({VIEWS: said})
