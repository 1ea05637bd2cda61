"""Training loop: batches, checkpoints, log, figures and early stopping.

keras runs the epochs; the callbacks here are common to all presets.
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
from codexseg.training.history import VALIDATION, History
from codexseg.training.plots import draw_curves

log = logging.getLogger(__name__)

LOG, CURVES, TRAINED = "log.csv", "curves.png", "network.keras"
_CHECKPOINT, _BEST = "checkpoint.weights.h5", "best.npz"
_CURVES_EVERY_S = 30


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of consecutive epochs.

    Parameters
    ----------
    count : int
        Batches in an epoch.
    make : callable
        Returns (input, target) of a batch by its number, counted from the first epoch on.
    """

    def __init__(self, count: int, make: Callable[[int], tuple[Any, Any]]) -> None:
        super().__init__()
        self._count, self._make, self._epoch = count, make, 0
        self.error: Exception | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        try:
            return self._make(self._epoch * len(self) + index)
        except Exception as error:  # TensorFlow replaces it by an error of its own
            self.error = error
            raise

    def start_epoch(self, epoch: int, logs: object = None) -> None:
        """Continue with the batches of an epoch; the signature is that of a callback."""
        del logs
        self._epoch = epoch


class _Validate(keras.callbacks.Callback):  # type: ignore[misc]
    """Evaluate validation images, log, keep the best weights, stop early."""

    def __init__(
        self, history: History, validation: Batches | None, patience: int | None, out: Path
    ) -> None:
        super().__init__()
        self._history, self._validation = history, validation
        self._patience, self._out = patience, out
        self._drawn = 0.0

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        metrics = {k: v for k, v in logs.items() if not k.startswith(VALIDATION)}
        if not math.isfinite(metrics["loss"]):
            raise InputError(
                f"The training diverged: the loss is {metrics['loss']} in epoch "
                f"{epoch + 1}, expected a finite number. Lower learning_rate, and check "
                f"the images."
            )
        with _averaged(self.model):
            if self._validation is not None:
                evaluated = self.model.evaluate(
                    self._validation, verbose=0, return_dict=True
                )
                metrics |= {f"{VALIDATION}{name}": v for name, v in evaluated.items()}
            self._history.add(epoch, metrics)
            best = self._history.best()
            if self._patience and best is not None and best["epoch"] == epoch:
                with replacing(self._out / _BEST) as part, part.open("wb") as file:
                    np.savez(file, *self.model.get_weights())
        joined = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info("epoch %d: %s", epoch + 1, joined)
        if self._history.is_over(self._patience):
            log.info("Stopped: no lower validation loss for %s epochs", self._patience)
            self.model.stop_training = True
        if time.monotonic() - self._drawn > _CURVES_EVERY_S:
            draw_curves(self._history.rows, self._out / CURVES)
            self._drawn = time.monotonic()


class _Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Save weights and optimizer; the file is complete whenever the process is killed."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._path = out / _CHECKPOINT

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        del epoch, logs
        part = self._path.with_name(f"part.{self._path.name}")  # keras needs the suffix
        self.model.save_weights(part, overwrite=True)
        part.replace(self._path)


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Show a progress bar with speed and remaining time on a terminal."""

    def __init__(self, done: int, epochs: int, steps: int) -> None:
        super().__init__()
        from tqdm import tqdm

        self._epochs = epochs
        self._bar = tqdm(
            total=epochs * steps,
            initial=done * steps,
            unit="batch",
            disable=None,  # hidden without a terminal
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
    validation: Batches | None,
    out: Path,
    *,
    epochs: int,
    patience: int | None,
) -> None:
    """Train a network, from the last checkpoint if there is one.

    Parameters
    ----------
    network : keras.Model
        Compiled. Afterwards it has the trained weights: averaged ones where the optimizer
        averages, the best ones with `patience`.
    batches, validation : Batches
        Training batches, and those evaluated after every epoch.
    out : Path
        Folder of `log.csv`, `curves.png` and the checkpoint.
    epochs : int
        Maximum number of epochs, including those before an interruption.
    patience : int, optional
        Stop when the validation loss has not decreased for so many epochs.

    Raises
    ------
    InputError
        If the training diverges.
    RunStateError
        If the checkpoint belongs to another network.
    Exception
        Any error of `batches`.
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
                    keras.callbacks.LambdaCallback(on_epoch_begin=batches.start_epoch),
                    _Progress(done, epochs, len(batches)),
                    _Validate(history, validation, patience, out),
                    _Checkpoint(out),
                ],
                shuffle=False,  # the order would differ after an interruption
                verbose=0,
            )
        except Exception:
            if batches.error is not None:
                raise batches.error from None
            raise
    if patience and validation is not None:
        if (out / _BEST).exists():
            with np.load(out / _BEST) as file:
                network.set_weights([file[name] for name in file.files])
        else:
            log.warning("The validation loss was never finite. The last weights are used.")
    draw_curves(history.rows, out / CURVES)


def has_checkpoint(out: Path) -> bool:
    """Whether a folder contains a checkpoint of an interrupted training."""
    return (out / _CHECKPOINT).exists()


def save_trained(network: keras.Model, out: Path) -> None:
    """Save the trained network, and delete its checkpoints."""
    part = out / f"part.{TRAINED}"
    network.save(part)
    part.replace(out / TRAINED)
    for name in (_CHECKPOINT, _BEST):
        (out / name).unlink(missing_ok=True)


def _restore(network: keras.Model, path: Path, steps: int) -> int:
    """Load a checkpoint if there is one; return the number of completed epochs."""
    if not path.exists():
        return 0
    network.optimizer.build(network.trainable_variables)
    try:
        network.load_weights(path)
    except ValueError as error:  # the file under `start` may determine the architecture
        raise RunStateError(
            f"{path} belongs to another network: the file under start, or codexseg, has "
            f"changed since the training was interrupted. Restore it, or train in another "
            f"folder with --out."
        ) from error
    return int(network.optimizer.iterations.numpy()) // steps


@contextmanager
def _averaged(network: keras.Model) -> Iterator[None]:
    """Use averaged weights inside the context, if the optimizer averages them."""
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
