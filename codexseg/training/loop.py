"""The training loop: batches made ahead in threads, checkpoints, a log, an average.

keras does the work; what it is told is here.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import keras

from codexseg.training.batches import Floats, batch
from codexseg.training.examples import Source
from codexseg.training.network import build, loss
from codexseg.training.recipe import Recipe

_THREADS = 1
_AHEAD = 6


class _Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """The batches of one epoch after another."""

    def __init__(self, sources: Sequence[Source], recipe: Recipe) -> None:
        super().__init__(workers=_THREADS, max_queue_size=_AHEAD)
        self._sources, self._recipe = sources, recipe
        self.epoch = 0

    def __len__(self) -> int:
        return self._recipe.steps_per_epoch

    def __getitem__(self, index: int) -> tuple[Floats, Floats]:
        number = self.epoch * len(self) + index
        recipe = self._recipe
        return batch(self._sources, recipe.weights, recipe.tiles, recipe.seed, number)


class _Follow(keras.callbacks.Callback):  # type: ignore[misc]
    """Tell the batches which epoch they are for."""

    def __init__(self, batches: _Batches) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        del logs
        self._batches.epoch = epoch


def train(sources: Sequence[Source], recipe: Recipe, out: Path) -> keras.Model:
    """Train a network; one that was stopped goes on from its last checkpoint.

    Parameters
    ----------
    sources : sequence of Source
        Those of the recipe, opened.
    recipe : Recipe
        How long, how fast.
    out : Path
        A folder: `log.csv`, `checkpoint/` while it trains, `network.keras` at the end.

    Returns
    -------
    keras.Model
        The trained network, with averaged weights.
    """
    keras.utils.set_random_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    network = build(recipe.channels)
    warm = min(100, max(1, recipe.steps // 10))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        recipe.steps - warm,
        alpha=0.01,
        warmup_target=recipe.learning_rate,
        warmup_steps=warm,
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=1e-4, clipnorm=1.0, use_ema=True, ema_momentum=0.998
    )
    network.compile(optimizer, loss=loss, jit_compile=False)
    batches = _Batches(sources, recipe)
    network.fit(
        batches,
        epochs=math.ceil(recipe.steps / recipe.steps_per_epoch),
        callbacks=[
            _Follow(batches),
            keras.callbacks.BackupAndRestore(out / "checkpoint"),
            keras.callbacks.CSVLogger(out / "log.csv", append=True),
        ],
        verbose=2,
    )
    network.save(out / "network.keras")
    return network
