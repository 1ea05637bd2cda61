"""The deepcell side of a comparison; runs in the environment of deepcell.

``python deepcell_side.py FOLDER SAVEDMODEL``. The arrays in the folder select the job:

- image.npy (y, x, 2) and mpp.npy: preprocessing, maps and labels of `Mesmer.predict`
- maps.npy (4, y, x): `deep_watershed` of both compartments, with its CPU seconds
"""

import sys
import time
from pathlib import Path

import numpy as np


def predict(folder, app):
    image = np.load(folder / "image.npy")[None]
    preprocessed = app.preprocessing_fn(image)
    tiles, info = app._tile_input(preprocessed)
    outputs = app._untile_output(app._batch_predict(tiles, batch_size=4), info)
    maps = [outputs[i][0, ..., 1 if i % 2 else 0] for i in range(4)]
    np.save(folder / "out_preprocessed.npy", preprocessed[0])
    np.save(folder / "out_maps.npy", np.stack(maps))
    for mpp in np.load(folder / "mpp.npy"):
        labels = app.predict(image, image_mpp=float(mpp), compartment="both")
        np.save(folder / f"out_labels_{mpp}.npy", labels[0])


def postprocess(folder, app):
    maps = np.load(folder / "maps.npy")
    form = app.postprocessing_fn
    outputs = {
        "whole-cell": [maps[0][None, ..., None], maps[1][None, ..., None]],
        "nuclear": [maps[2][None, ..., None], maps[3][None, ..., None]],
    }
    settings = {
        "maxima_smooth": 0,
        "interior_threshold": 0.2,
        "interior_smooth": 2,
        "small_objects_threshold": 15,
        "fill_holes_threshold": 15,
        "radius": 2,
    }
    started = time.process_time()
    labels = form(
        outputs,
        whole_cell_kwargs={"maxima_threshold": 0.075, **settings},
        nuclear_kwargs={"maxima_threshold": 0.1, **settings},
        compartment="both",
    )
    seconds = time.process_time() - started
    np.save(folder / "out_labels.npy", labels[0])
    np.save(folder / "out_cpu_s.npy", np.array(seconds))


def main():
    import tensorflow as tf
    from deepcell.applications import Mesmer

    folder, model = Path(sys.argv[1]), sys.argv[2]
    app = Mesmer(model=tf.keras.models.load_model(model, compile=False))
    if (folder / "image.npy").exists():
        predict(folder, app)
    if (folder / "maps.npy").exists():
        postprocess(folder, app)


if __name__ == "__main__":
    main()
