"""The training loop: batches made ahead, checkpoints, a log, pictures, an early end.

keras does the work; what it is told is here, the same for all presets.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from codexseg.errors import InputError, RunStateError
from codexseg.run.files import replacing
from codexseg.training.history import HELD, History
from codexseg.training.plots import draw_curves

log = logging.getLogger(__name__)

LOG, CURVES, TRAINED = "log.csv", "curves.png", "network.keras"
_CHECKPOINT, _BEST = "checkpoint.weights.h5", "best.npz"
_CURVES_EVERY_S = 30


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """The batches of one epoch after another.

    Parameters
    ----------
    count : int
        Batches in an epoch.
    make : callable
        From the number of a batch, counted from the first epoch on, to (input, target).
    """

    def __init__(self, count: int, make: Callable[[int], tuple[Any, Any]]) -> None:
        super().__init__()
        self._count, self._make = count, make
        self.epoch = 0
        self.error: Exception | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        try:
            return self._make(self.epoch * len(self) + index)
        except Exception as error:  # TensorFlow would tell of it in its own words
            self.error = error
            raise


class _Follow(keras.callbacks.Callback):  # type: ignore[misc]
    """Tell the batches which epoch they are for."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        del logs
        self._batches.epoch = epoch


class _Judge(keras.callbacks.Callback):  # type: ignore[misc]
    """Judge on held-back images, log, keep the best weights, end early."""

    def __init__(
        self, history: History, held: Batches | None, patience: int | None, out: Path
    ) -> None:
        super().__init__()
        self._history, self._held = history, held
        self._patience, self._out = patience, out
        self._drawn = 0.0

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        figures = {k: v for k, v in logs.items() if not k.startswith(HELD)}
        if not math.isfinite(figures["loss"]):
            raise InputError(
                f"the loss became {figures['loss']} in epoch {epoch + 1}, expected a "
                f"number: the training has diverged; lower learning_rate, and look at "
                f"the images."
            )
        with _averaged(self.model):
            if self._held is not None:
                found = self.model.evaluate(self._held, verbose=0, return_dict=True)
                figures |= {f"{HELD}{name}": value for name, value in found.items()}
            self._history.add(epoch, figures)
            best = self._history.best()
            if self._patience and best is not None and best["epoch"] == epoch:
                with replacing(self._out / _BEST) as part, part.open("wb") as file:
                    np.savez(file, *self.model.get_weights())
        words = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("epoch %d: %s", epoch + 1, words)
        if self._history.is_over(self._patience):
            log.info("the loss has not fallen for %s epochs: done", self._patience)
            self.model.stop_training = True
        if time.monotonic() - self._drawn > _CURVES_EVERY_S:
            draw_curves(self._history.rows, self._out / CURVES)
            self._drawn = time.monotonic()


class _Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Keep weights and optimizer; what is there is whole, whenever the process dies."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._path = out / _CHECKPOINT

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        del epoch, logs
        part = self._path.with_name(f"part.{self._path.name}")  # keras wants the suffix
        self.model.save_weights(part, overwrite=True)
        part.replace(self._path)


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Show on a terminal what is done, how fast, and how long it takes."""

    def __init__(self, done: int, epochs: int, steps: int) -> None:
        super().__init__()
        from tqdm import tqdm

        self._epochs = epochs
        self._bar = tqdm(
            total=epochs * steps,
            initial=done * steps,
            unit="batch",
            disable=None,  # where there is no terminal
            dynamic_ncols=True,
        )

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        del logs
        self._bar.set_description(f"training, epoch {epoch + 1} of {self._epochs}")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        del batch
        self._bar.update()
        if logs and not self._bar.disable:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)

    def on_train_end(self, logs: object = None) -> None:
        del logs
        self._bar.close()


def fit(
    network: keras.Model,
    batches: Batches,
    held: Batches | None,
    out: Path,
    *,
    epochs: int,
    patience: int | None,
) -> None:
    """Train a network; one that was stopped goes on from its last checkpoint.

    Parameters
    ----------
    network : keras.Model
        Compiled; it has the trained weights afterwards: averaged ones where the optimizer
        averages, the best ones with `patience`.
    batches, held : Batches
        What is learnt from; what is judged by after every epoch.
    out : Path
        A folder, takes `log.csv`, `curves.png` and a checkpoint.
    epochs : int
        At most so many in all, those before a stop included.
    patience : int, optional
        End where the loss of `held` has not fallen for so many epochs.

    Raises
    ------
    InputError
        If the training diverges.
    RunStateError
        If the checkpoint is of another network.
    Exception
        What `batches` raise.
    """
    done = _restore(network, out / _CHECKPOINT, len(batches))
    history = History(out / LOG, done)
    if not history.is_over(patience):
        try:
            network.fit(
                batches,
                epochs=epochs,
                initial_epoch=done,
                callbacks=[
                    _Follow(batches),
                    _Progress(done, epochs, len(batches)),
                    _Judge(history, held, patience, out),
                    _Checkpoint(out),
                ],
                shuffle=False,  # in another order after a stop
                verbose=0,
            )
        except Exception:
            if batches.error is not None:
                raise batches.error from None
            raise
    if patience and held is not None:
        if (out / _BEST).exists():
            with np.load(out / _BEST) as file:
                network.set_weights([file[name] for name in file.files])
        else:
            log.warning("the loss of held-back images was never a number: last weights")
    draw_curves(history.rows, out / CURVES)


def has_begun(out: Path) -> bool:
    """Whether a training in a folder has a checkpoint to go on from."""
    return (out / _CHECKPOINT).exists()


def finish(network: keras.Model, out: Path) -> None:
    """Keep the trained network, and drop what was there to go on."""
    part = out / f"part.{TRAINED}"
    network.save(part)
    part.replace(out / TRAINED)
    for name in (_CHECKPOINT, _BEST):
        (out / name).unlink(missing_ok=True)


def _restore(network: keras.Model, path: Path, steps: int) -> int:
    """Load a checkpoint where there is one; return how many epochs are done."""
    if not path.exists():
        return 0
    network.optimizer.build(network.trainable_variables)
    try:
        network.load_weights(path)
    except ValueError as error:  # a recipe may leave to `start` what the network is like
        raise RunStateError(
            f"{path} is of another network, expected one like that of start: was start "
            f"replaced, or codexseg, while the training was stopped? Go on with what it "
            f"began with, or begin again in another folder with --out."
        ) from error
    return int(network.optimizer.iterations.numpy()) // steps


@contextmanager
def _averaged(network: keras.Model) -> Iterator[None]:
    """Give the network its averaged weights for a while, where the optimizer averages."""
    optimizer = network.optimizer
    if not optimizer.use_ema:
        yield
        return
    variables = network.trainable_variables
    raw = [variable.numpy() for variable in variables]
    optimizer.finalize_variable_values(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, raw, strict=True):
            variable.assign(value)
