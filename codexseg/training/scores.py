"""IoU and Dice of the foreground while a network trains, pooled over an epoch."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Foregrounds = Callable[[Any, Any], tuple[Any, Any, Any]]


class Overlap(keras.metrics.Metric):  # type: ignore[misc]
    """Overlap of true and found foreground: counts of all pixels, then a quotient.

    Parameters
    ----------
    name : "iou" or "dice"
        tp / (tp + fp + fn), or 2 tp / (2 tp + fp + fn).
    foregrounds : callable
        From targets and maps to three arrays of one shape: foreground of the truth, found
        foreground, and weight, each 0 or 1.
    """

    def __init__(self, name: str, foregrounds: Foregrounds) -> None:
        super().__init__(name=name)
        self._foregrounds = foregrounds
        self._counts = [
            self.add_weight(name=word, initializer="zeros")
            for word in ("both", "truth", "found")
        ]

    def update_state(self, truth: Any, maps: Any, sample_weight: Any = None) -> None:
        """Count the pixels of a batch."""
        del sample_weight
        true, found, weight = (
            ops.cast(part, "float32") for part in self._foregrounds(truth, maps)
        )
        true, found = true * weight, found * weight
        for count, part in zip(self._counts, (true * found, true, found), strict=True):
            count.assign_add(ops.sum(part))

    def result(self) -> Any:
        """Return the quotient; 0 where there is no foreground at all."""
        both, true, found = self._counts
        if self.name == "dice":
            return ops.divide_no_nan(2 * both, true + found)
        return ops.divide_no_nan(ops.convert_to_tensor(both), true + found - both)
