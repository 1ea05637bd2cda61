"""From a trained network to the ONNX file that the backend `panoptic` runs."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras

from codexseg.backends.networks.contract import TILE_PX
from codexseg.backends.panoptic.parameters import CONSTANTS, PostprocessingParams, to_json
from codexseg.run.files import replacing
from codexseg.training.networks.panoptic import OUTPUTS, with_heads
from codexseg.training.networks.test_time import AS_IT_IS, VIEWS, Views

_OPSET = 17
"""Of onnxruntime 1.18 and later."""


def export_onnx(
    network: keras.Model,
    path: Path,
    constants: tuple[PostprocessingParams, PostprocessingParams],
    metadata: dict[str, str],
    views: Views = AS_IT_IS,
) -> None:
    """Write a network with Mesmer's contract, and what belongs to its weights.

    Parameters
    ----------
    network : keras.Model
        As :func:`codexseg.training.loop.train` returns it.
    path : Path
        The ONNX file to write or to replace.
    constants : (PostprocessingParams, PostprocessingParams)
        Of the flood that makes cells, and nuclei, of its maps.
    metadata : dict of str
        More of what the file says of itself.
    views : Views
        How the file's network looks at a tile.
    """
    import onnx

    with TemporaryDirectory() as folder:
        exported = Path(folder) / "network.onnx"
        tiles = keras.InputSpec(
            shape=(None, TILE_PX, TILE_PX, 2), dtype="float32", name="input_0"
        )
        with_heads(network, views).export(
            exported,
            format="onnx",
            verbose=False,
            input_signature=[tiles],
            opset_version=_OPSET,
        )
        model = onnx.load(exported)
    _name_outputs(model.graph)
    said = {**metadata, CONSTANTS: to_json(*constants), VIEWS: views.to_json()}
    onnx.helper.set_model_props(model, said)
    onnx.checker.check_model(model)
    with replacing(path) as part:
        onnx.save(model, part)


def _name_outputs(graph: Any) -> None:
    """Give the heads their names back, which the conversion numbers."""
    for output, name in zip(graph.output, OUTPUTS, strict=True):
        for node in graph.node:
            node.output[:] = [name if n == output.name else n for n in node.output]
            node.input[:] = [name if n == output.name else n for n in node.input]
        output.name = name
