"""Array types used across the package."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint32]
"""Label image: 0 is background."""
Mask = NDArray[np.bool_]
"""True where a condition holds."""
Pixels = NDArray[Any]
"""Intensities: uint8, uint16 or float32."""
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]
Columns = Mapping[str, NDArray[Any]]
"""Columns of a table: arrays with equal length on their first axis."""
