"""A backend of your own in thirty lines: python own_backend.py [FOLDER].

``segmentation.backend: "own_backend:Threshold"`` names a module beside the configuration,
or one that Python can import, and the class in it. A package registers its class under
the entry point group ``codexseg.backends``; it is then used by that name, without the
colon.
"""

import sys
import tempfile
from math import ceil
from pathlib import Path

import numpy as np
import zarr
from skimage.filters import gaussian
from skimage.measure import label
from skimage.segmentation import expand_labels

from codexseg import Pipeline
from codexseg.samples.write import write_synthetic


class Threshold:
    """Nuclei are what is bright; cells are nuclei, grown."""

    name = "threshold"
    mpp = None  # made for any pixel size
    channels = ("nucleus",)
    paired = True  # label i of the cells and label i of the nuclei are one cell

    def __init__(self, config, slide):
        self.nucleus = slide.nucleus  # grey levels of the whole slide
        self.growth_px = config.options["growth_um"] / slide.mpp
        # Pixels around a patch that must be seen for its cells to be whole.
        self.halo_px = ceil(30 / slide.mpp)

    def fingerprint(self):
        """Name what the labels depend on beside the config: a new name, new results."""
        return "threshold 1"

    def predict(self, patches, windows):
        """Turn (n, 2, y, x) pixels, nucleus and whole cell, into labels: cells, nuclei."""
        # A level of the slide, not of the patch: so no cell depends on how it is cut.
        dark, bright = self.nucleus.background, self.nucleus.p999
        level = dark + 0.2 * (bright - dark)
        labels = np.zeros(patches.shape, np.uint32)
        for (nucleus, _), (cells, nuclei) in zip(patches, labels, strict=True):
            nuclei[:] = label(gaussian(nucleus, 1, preserve_range=True) > level)
            cells[:] = expand_labels(nuclei, self.growth_px)
        return labels


def main(folder: Path) -> None:
    """Run it on a slide in one piece and in patches: the patches do not show."""
    sample = write_synthetic(folder, size=512)
    found = []
    for core_px in (-1, 200):  # -1: the whole slide
        config = folder / f"threshold_{core_px}.yaml"
        config.write_text(f"""
data: {{file_name: {sample.image.name}}}
patching: {{patch_height: {core_px}, patch_width: {core_px}}}
segmentation:
  backend: "own_backend:Threshold"
  options: {{growth_um: 2.0}}  # goes to the backend as it is
""")
        result = Pipeline.from_yaml(config).execute(until="stitch")
        found.append(
            zarr.open_array(result.path / "segmentation.ome.zarr/labels/cell/0")[:]
        )
        print(f"cores of {core_px} px: {result.cells} cells")
    print("the same pixels:", np.array_equal(*found))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
