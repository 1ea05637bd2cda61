"""Single steps on numpy arrays, without a run: python arrays.py [FOLDER]."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from codexseg import CodexImage, get_boundary, repair_masks_batch, separate_masks
from codexseg.samples.write import write_synthetic
from codexseg.segment import segment


def main(folder: Path) -> None:
    """Read windows of a slide, segment them, repair masks of any program."""
    sample = write_synthetic(folder, size=512)

    # A slide is opened, not loaded: only the tiles under a window are read.
    image = CodexImage(sample.image)
    print(f"{image.shape} {image.dtype}, {image.mpp} um/px: {image.channel_names}")
    windows = [(0, 0, 256, 256), (128, 256, 384, 512)]  # y0, x0, y1, x1
    patches = [image.read(["DAPI", "PANCK"], window) for window in windows]

    # (n, y, x, 2): channel 0 nucleus, channel 1 whole cell.
    patches = np.moveaxis(np.stack(patches), 1, -1)
    config = {"segmentation": {"backend": "watershed"}}  # sections, as in the YAML
    segmented = segment(patches, config, image_mpp=image.mpp)
    for masks in segmented:
        print(f"segmented: {masks['cell'].max()} cells, {masks['nucleus'].max()} nuclei")

    # Masks of another program, here the truth, in the order that Mesmer returns them.
    # Some cells have no nucleus, some have two.
    predictions = np.stack(
        [tifffile.imread(sample.cells), tifffile.imread(sample.nuclei)], -1
    )
    cells, nuclei = separate_masks(predictions[None])
    batch = [{"cell": c, "nucleus": n} for c, n in zip(cells, nuclei, strict=True)]
    repaired = repair_masks_batch(batch)[0]
    print(f"repaired: {len(repaired['pairs'])} cells with a nucleus of their own,")
    print(f"{len(repaired['unmatched_cells'])} cells without, ", end="")
    print(f"{len(repaired['unmatched_nuclei'])} nuclei to spare")

    outlines = get_boundary(cells)[0]  # the label on the rim of its cell, 0 elsewhere
    print(f"{np.count_nonzero(outlines)} px are the rim of a cell")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
