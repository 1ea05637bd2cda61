"""IoU and Dice of the foreground during training, pooled over an epoch."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Foregrounds = Callable[[Any, Any], tuple[Any, Any, Any]]


class Overlap(keras.metrics.Metric):  # type: ignore[misc]
    """Overlap of true and predicted foreground, pooled over all pixels.

    Parameters
    ----------
    name : "iou" or "dice"
        tp / (tp + fp + fn), or 2 tp / (2 tp + fp + fn).
    foregrounds : callable
        From targets and maps to three arrays of one shape: true foreground, predicted
        foreground and weight, each 0 or 1.
    """

    def __init__(self, name: str, foregrounds: Foregrounds) -> None:
        super().__init__(name=name)
        self._foregrounds = foregrounds
        self._counts = [
            self.add_weight(name=count, initializer="zeros")
            for count in ("overlap", "true", "predicted")
        ]

    def update_state(self, truth: Any, maps: Any, sample_weight: Any = None) -> None:
        """Count the pixels of a batch."""
        del sample_weight
        true, predicted, weight = (
            ops.cast(plane, "float32") for plane in self._foregrounds(truth, maps)
        )
        true, predicted = true * weight, predicted * weight
        planes = true * predicted, true, predicted
        for count, plane in zip(self._counts, planes, strict=True):
            count.assign_add(ops.sum(plane))

    def result(self) -> Any:
        """Return the quotient; 0 without any foreground."""
        overlap, true, predicted = self._counts
        if self.name == "dice":
            return ops.divide_no_nan(2 * overlap, true + predicted)
        union = true + predicted - overlap
        return ops.divide_no_nan(ops.convert_to_tensor(overlap), union)
