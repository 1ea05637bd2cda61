"""How the file of a network looks at a tile: once or twice, and how large."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from codexseg.backends.networks.contract import TILE_PX

VIEWS = "codexseg_views"
"""Name in the metadata_props of an ONNX file."""
MOST_ENLARGED = 2
_TURNED = "codexseg_turned"
"""What stood there before: whether a tile is seen upside down, too."""


@dataclass(frozen=True)
class Views:
    """How a network is shown a tile. The maps are brought back, and their mean is taken.

    Attributes
    ----------
    turned : bool
        The tile is shown a second time, upside down.
    enlarged : float
        How much larger than it is the tile is shown, each time.
    """

    turned: bool = False
    enlarged: float = 1.0

    @property
    def side_px(self) -> int:
        """The side of what the network sees."""
        return round(TILE_PX * self.enlarged)

    def fits(self, levels: int) -> bool:
        """Say whether a network can halve what it sees so often."""
        return TILE_PX * self.enlarged % (1 << levels) == 0

    def to_json(self) -> str:
        """Write them for the metadata of a file."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Views":
        """Read them from the metadata of a file.

        Raises
        ------
        ValueError, TypeError
            If it says what no network that was exported says.
        """
        if said := metadata.get(VIEWS):
            views = cls(**json.loads(said))
            is_sane = views.turned in (False, True) and 1 <= views.enlarged <= MOST_ENLARGED
            if not is_sane:
                raise ValueError(f"out of range: {views}")
            return views
        return cls(turned=metadata.get(_TURNED) == "true")


AS_IT_IS = Views()
"""Once, at its size."""
