"""Write your own backend in thirty lines: python own_backend.py [FOLDER].

``segmentation.backend: "own_backend:Threshold"`` is a module and a class. The module is in
the folder of the configuration, or importable. A package can register the class in the
entry point group ``codexseg.backends`` and use the name of the entry point instead.
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
    """Nuclei by a threshold; cells are expanded nuclei."""

    name = "threshold"
    mpp = None  # made for any pixel size
    channels = ("nucleus",)
    paired = True  # label i of the cells and label i of the nuclei are one cell

    def __init__(self, config, slide):
        self.nucleus = slide.nucleus  # intensities of the whole slide
        self.growth_px = config.options["growth_um"] / slide.mpp
        # margin that a patch needs so that its cells are complete
        self.halo_px = ceil(30 / slide.mpp)

    def fingerprint(self):
        """Return a name of the version: change it when results change."""
        return "threshold 1"

    def predict(self, patches, windows):
        """Segment (n, 2, y, x) pixels: nucleus, whole cell; labels of cells, nuclei."""
        # a level of the slide, so that no cell depends on the patches
        dark, bright = self.nucleus.background, self.nucleus.p999
        level = dark + 0.2 * (bright - dark)
        labels = np.zeros(patches.shape, np.uint32)
        for (nucleus, _), (cells, nuclei) in zip(patches, labels, strict=True):
            nuclei[:] = label(gaussian(nucleus, 1, preserve_range=True) > level)
            cells[:] = expand_labels(nuclei, self.growth_px)
        return labels


def main(folder: Path) -> None:
    """Segment a slide as a whole and in patches; the results are equal."""
    sample = write_synthetic(folder, size=512)
    labels = []
    for core_px in (-1, 200):  # -1: the whole slide
        config = folder / f"threshold_{core_px}.yaml"
        config.write_text(f"""
data: {{file_name: {sample.image.name}}}
patching: {{patch_height: {core_px}, patch_width: {core_px}}}
segmentation:
  backend: "own_backend:Threshold"
  options: {{growth_um: 2.0}}  # passed to the backend
""")
        result = Pipeline.from_yaml(config).execute(until="stitch")
        labels.append(
            zarr.open_array(result.path / "segmentation.ome.zarr/labels/cell/0")[:]
        )
        print(f"cores of {core_px} px: {result.cells} cells")
    print("the same pixels:", np.array_equal(*labels))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
