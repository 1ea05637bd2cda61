"""Runs deepcell's Mesmer for codexseg: a script for deepcell's own Python 3.10.

``PYTHON deepcell_worker.py [--model SAVEDMODEL_FOLDER]`` reads requests from stdin and
answers on stdout, one line of JSON each. Without ``--model`` deepcell takes its published
weights, which it fetches with the user's token where they are not in ``~/.deepcell``.

First line, once the network is loaded
    ``{"hello": {"python", "deepcell", "tensorflow", "numpy", "scikit-image"}, "gpus"}``
Request
    ``{"images", "labels", "mpp", "compartment", "batch_size"}``: an ``.npy`` file of
    (n, y, x, 2) pixels, nucleus and whole cell, and one of (n, y, x, 2) uint32 zeros,
    which is filled with the labels of cells and nuclei; micrometres per pixel;
    "both", "whole-cell" or "nuclear"; tiles that the network takes at once
Answer
    ``{"ok": true, "seconds"}``, or ``{"error", "traceback"}``, also in place of hello

It imports nothing of codexseg, and ends when its stdin is closed, so also when whoever
started it is killed.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TextIO

import numpy as np

CHANNELS = {"both": slice(0, 2), "whole-cell": slice(0, 1), "nuclear": slice(1, 2)}


def main() -> None:
    """Answer requests until stdin is closed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="folder of a SavedModel")
    options = parser.parse_args()
    out = _take_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then ends us
    requests: SimpleQueue[str] = SimpleQueue()
    Thread(target=_read, args=(requests,), daemon=True).start()
    try:
        app, hello = _load(options.model)
    except Exception as error:  # noqa: BLE001 - the answer says it
        _say(out, _failure(error))
        raise SystemExit(1) from None
    _say(out, hello)
    while True:
        _say(out, _answer(app, json.loads(requests.get())))


def _take_stdout() -> TextIO:
    """Keep stdout for the answers; whatever else is printed goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _read(requests: "SimpleQueue[str]") -> None:
    """Pass requests on; end at once, even in the middle of one, when nobody asks more."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _say(out: TextIO, answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()


def _load(model: str | None) -> tuple[Any, dict[str, Any]]:
    """Load deepcell and its network, or another one with Mesmer's contract."""
    # beside this script lies a deepcell.py that is not the package
    here = Path(__file__).resolve().parent
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != here]
    tensorflow = import_module("tensorflow")
    mesmer = import_module("deepcell.applications").Mesmer
    network = None
    if model is not None:
        network = tensorflow.keras.models.load_model(model, compile=False)
    app = mesmer(model=network)
    hello = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "deepcell": version("deepcell"),
        "tensorflow": tensorflow.__version__,
        "numpy": np.__version__,
        "scikit-image": version("scikit-image"),
    }
    gpus = tensorflow.config.list_physical_devices("GPU")
    return app, {"hello": hello, "gpus": len(gpus)}


def _answer(app: Any, request: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        _segment(app, request)
    except Exception as error:  # noqa: BLE001 - the answer says it
        return _failure(error)
    return {"ok": True, "seconds": round(time.perf_counter() - started, 3)}


def _segment(app: Any, request: dict[str, Any]) -> None:
    """Segment image by image, so that memory does not grow with their number."""
    images = np.load(request["images"], mmap_mode="r")
    labels = np.lib.format.open_memmap(request["labels"], mode="r+")
    channels = CHANNELS[request["compartment"]]
    for image, found in zip(images, labels, strict=True):
        found[..., channels] = app.predict(
            np.array(image)[np.newaxis],
            image_mpp=request["mpp"],
            compartment=request["compartment"],
            batch_size=request["batch_size"],
        )[0]


def _failure(error: Exception) -> dict[str, Any]:
    """Describe an error; deepcell's message about a wrong token would hold the token."""
    texts = {
        "error": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
    }
    token = os.environ.get("DEEPCELL_ACCESS_TOKEN")
    return {k: text.replace(token, "***") if token else text for k, text in texts.items()}


if __name__ == "__main__":
    main()
