"""Segmentation in the steps of the specification: python spec_workflow.py [FOLDER].

The patches, a look at them, run_cell_segmentation, both pickles. `Pipeline.execute()`
does all of this and the rest; step by step one can look in between.
"""

import pickle
import sys
import tempfile
from pathlib import Path

from codexseg import CodexPatches, Pipeline, run_cell_segmentation
from codexseg.samples.write import write_synthetic

CONFIG = """
data:
  file_name: {image}
channels:
  nuclear_channel: DAPI
  wholecell_channel: [PANCK, CD45]  # their maximum
patching:
  split_mode: quarters
"""


def main(folder: Path) -> None:
    """Cut, look, segment, and read the results."""
    sample = write_synthetic(folder, size=512)
    config = folder / "quarters.yaml"
    config.write_text(CONFIG.format(image=sample.image.name))

    # Which patches hold something? No pixel is segmented yet.
    pipeline = Pipeline.from_yaml(config)
    pipeline.execute(until="flag")
    codex_patches = CodexPatches(pipeline.out)
    columns = ["patch_id", "height", "width", "nucleus_mean", "is_informative"]
    print(codex_patches.patches_metadata[columns])

    # Pixels and masks stay on disk: an index reads one patch.
    print(f"the first of the valid patches: {codex_patches.valid_patches[0].shape}")

    run_cell_segmentation(codex_patches)
    for masks in codex_patches.repaired_seg_res_batch:
        print(
            f"matched: {masks['matched_fraction']:.3f}, {masks['cell_matched_mask'].shape}"
        )

    # What it wrote is read without codexseg.
    for name in ("original_seg_res_batch.pickle", "matched_seg_res_batch.pickle"):
        with (pipeline.out / name).open("rb") as file:
            batch = pickle.load(file)
        print(f"{name}: {len(batch)} patches of {', '.join(batch[0])}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
