"""Worker script that runs deepcell's Mesmer in the Python 3.10 of deepcell.

``PYTHON worker.py [--model SAVEDMODEL_FOLDER]`` reads requests from stdin and answers on
stdout, one line of JSON each. Without ``--model`` deepcell uses its published weights, and
fetches them with the user's token if they are not in ``~/.deepcell``.

First line, after the network is loaded
    ``{"hello": {"python", "deepcell", "tensorflow", "numpy", "scikit-image"}, "gpus"}``
Request
    ``{"images", "labels", "mpp", "compartment", "batch_size"}``: an ``.npy`` file with
    (n, y, x, 2) pixels, nucleus and whole cell; one with (n, y, x, 2) uint32 zeros, which
    is filled with the labels of cells and nuclei; micrometres per pixel; "both",
    "whole-cell" or "nuclear"; tiles per batch of the network
Answer
    ``{"ok": true, "seconds"}``, or ``{"error", "traceback"}``, also in place of hello

It does not import codexseg, and ends when its stdin is closed, also if the parent process
is killed.
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


def serve() -> None:
    """Answer requests until stdin is closed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="folder of a SavedModel")
    options = parser.parse_args()
    out = _take_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    requests: SimpleQueue[str] = SimpleQueue()
    Thread(target=_read, args=(requests,), daemon=True).start()
    try:
        app, hello = _load(options.model)
    except Exception as error:  # noqa: BLE001 - part of the answer
        _send(out, _failure(error))
        raise SystemExit(1) from None
    _send(out, hello)
    while True:
        _send(out, _answer(app, json.loads(requests.get())))


def _take_stdout() -> TextIO:
    """Reserve stdout for answers; redirect other output to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _read(requests: "SimpleQueue[str]") -> None:
    """Queue requests; exit at once when stdin is closed, even during a request."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _send(out: TextIO, answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()


def _load(model: str | None) -> tuple[Any, dict[str, Any]]:
    """Load deepcell and its network, or another one with Mesmer's contract."""
    # the folder of this script contains modules of codexseg, not of deepcell
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
    except Exception as error:  # noqa: BLE001 - part of the answer
        return _failure(error)
    return {"ok": True, "seconds": round(time.perf_counter() - started, 3)}


def _segment(app: Any, request: dict[str, Any]) -> None:
    """Segment image by image, so that memory does not grow with their number."""
    images = np.load(request["images"], mmap_mode="r")
    labels = np.lib.format.open_memmap(request["labels"], mode="r+")
    channels = CHANNELS[request["compartment"]]
    for image, planes in zip(images, labels, strict=True):
        planes[..., channels] = app.predict(
            np.array(image)[np.newaxis],
            image_mpp=request["mpp"],
            compartment=request["compartment"],
            batch_size=request["batch_size"],
        )[0]


def _failure(error: Exception) -> dict[str, Any]:
    """Describe an error, without the token that deepcell's message may contain."""
    texts = {
        "error": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
    }
    token = os.environ.get("DEEPCELL_ACCESS_TOKEN")
    return {k: text.replace(token, "***") if token else text for k, text in texts.items()}


if __name__ == "__main__":
    serve()
