"""Batches of tiles and targets."""

import numpy as np
import pytest

from codexseg.training.augmentation.presets import AUGMENTATIONS
from codexseg.training.data import batches
from codexseg.training.data.batches import make_batch
from codexseg.training.data.examples import Nuclei, Synthetic, draw_example
from codexseg.training.data.targets import BACKGROUND


@pytest.fixture
def nuclei(tmp_path):
    """Images of square nuclei."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.permutation(64).reshape(8, 8), np.ones((32, 32), int))
    labels[::32] = labels[:, ::32] = 0
    images = (labels > 0) * 100 + rng.integers(0, 9, labels.shape)
    path = tmp_path / "nuclei.npz"
    arrays = np.stack([images] * 5).astype(np.uint8), np.stack([labels] * 5)
    np.savez(path, images=arrays[0], labels=arrays[1].astype(np.uint16))
    return Nuclei(path, 0.8)


def test_batch_depends_on_seed_and_number_alone(nuclei):
    sources, weights = [Synthetic(), nuclei], [1.0, 1.0]
    tiles, targets = make_batch(sources, weights, 4, 3, 7)
    assert tiles.shape == (4, 256, 256, 2)
    assert targets.shape == (4, 256, 256, 6)
    same = make_batch(sources, weights, 4, 3, 7)
    np.testing.assert_array_equal(tiles, same[0])
    np.testing.assert_array_equal(targets, same[1])
    for changed in ((4, 7), (3, 8)):
        assert not np.array_equal(tiles, make_batch(sources, weights, 4, *changed)[0])


def test_one_of_several_presets_is_drawn_for_each_image(nuclei, monkeypatch):
    chosen = []
    original = batches.augment

    def record(example, rng, min_px, preset):
        chosen.append(preset)
        return original(example, rng, min_px, preset)

    monkeypatch.setattr(batches, "augment", record)
    mild, wide = AUGMENTATIONS["mild"], AUGMENTATIONS["wide"]
    make_batch([nuclei], [1.0], 40, 0, 0, [mild, wide])
    assert len(chosen) > 20  # some images give two tiles
    assert 0.25 < chosen.count(wide) / len(chosen) < 0.75
    assert chosen.count(mild) == len(chosen) - chosen.count(wide)


def test_missing_cell_labels_have_weight_0(nuclei):
    tiles, targets = make_batch([nuclei], [1.0], 3, 0, 0)
    assert (targets[..., 4] == 0).all()
    assert (targets[..., 3] != BACKGROUND).any()
    assert (tiles[..., 1] == 0).all()


def test_source_of_weight_0_is_not_drawn(nuclei):
    rng = np.random.default_rng(0)
    drawn = [draw_example([nuclei, Synthetic()], [0.0, 1.0], rng).cells for _ in range(3)]
    assert all(cells is not None for cells in drawn)
