"""Test-time augmentation: how the exported network evaluates a tile."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from codexseg.backends.networks.contract import TILE_PX

TEST_TIME = "codexseg_views"
"""Name in the metadata_props of an ONNX file; JSON with the keys turned and enlarged."""
MAX_UPSAMPLE = 2
_FLIP = "codexseg_turned"
"""Name in the files of earlier versions, for `flip` alone."""


@dataclass(frozen=True)
class TestTime:
    """Test-time augmentation; the maps of all passes are averaged.

    Attributes
    ----------
    flip : bool
        Evaluate each tile a second time, rotated by 180 degrees.
    upsample : float
        Magnification of the tile before it is evaluated.
    """

    flip: bool = False
    upsample: float = 1.0

    @property
    def side_px(self) -> int:
        """Side of the network's input."""
        return round(TILE_PX * self.upsample)

    def fits(self, levels: int) -> bool:
        """Whether a network of so many levels can halve its input on each level."""
        return TILE_PX * self.upsample % (1 << levels) == 0

    def to_json(self) -> str:
        """Return the text for the metadata of a file."""
        return json.dumps({"turned": self.flip, "enlarged": self.upsample})

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "TestTime":
        """Parse the metadata of a file.

        Raises
        ------
        ValueError, TypeError
            If the text is invalid.
        """
        if text := metadata.get(TEST_TIME):
            values = {"turned": False, "enlarged": 1.0} | json.loads(text)
            if len(values) > 2:
                raise ValueError(f"got {', '.join(values)}, expected turned, enlarged")
            test_time = cls(values["turned"], values["enlarged"])
            is_bool = test_time.flip in (False, True)
            if not (is_bool and 1 <= test_time.upsample <= MAX_UPSAMPLE):
                raise ValueError(f"out of range: {values}")
            return test_time
        return cls(flip=metadata.get(_FLIP) == "true")


SINGLE_PASS = TestTime()
"""No test-time augmentation."""
