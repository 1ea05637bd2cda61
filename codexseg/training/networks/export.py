"""Export of trained networks to ONNX."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras

from codexseg.backends.panoptic.parameters import CONSTANTS, PostprocessingParams, to_json
from codexseg.run.files import replacing
from codexseg.training.networks.panoptic import OUTPUTS, with_heads
from codexseg.training.networks.test_time import SINGLE_PASS, TEST_TIME, TestTime

_OPSET = 17
"""Supported by onnxruntime 1.18 and later."""


def export_onnx(
    network: keras.Model,
    path: Path,
    constants: tuple[PostprocessingParams, PostprocessingParams],
    metadata: dict[str, str],
    test_time: TestTime = SINGLE_PASS,
) -> None:
    """Write a network with Mesmer's contract and its post-processing parameters.

    Parameters
    ----------
    network : keras.Model
        As :func:`codexseg.training.train_panoptic.fit_panoptic` returns it.
    path : Path
        ONNX file to write or to replace.
    constants : (PostprocessingParams, PostprocessingParams)
        Post-processing parameters of cells and nuclei.
    metadata : dict of str
        Further entries of the file's metadata.
    test_time : TestTime
        Test-time augmentation that becomes part of the file's network.
    """
    parameters = {CONSTANTS: to_json(*constants), TEST_TIME: test_time.to_json()}
    write_onnx(with_heads(network, test_time), path, metadata | parameters, OUTPUTS)


def write_onnx(
    network: keras.Model,
    path: Path,
    metadata: dict[str, str],
    outputs: Sequence[str] = (),
) -> None:
    """Write a network as an ONNX file.

    Parameters
    ----------
    network : keras.Model
        Network with one input of fixed height and width, which keeps its name.
    path : Path
        File to write or to replace.
    metadata : dict of str
        The file's metadata_props.
    outputs : sequence of str
        Names of the outputs; as keras names them by default.
    """
    import onnx

    tiles = network.input
    signature = keras.InputSpec(shape=tiles.shape, dtype="float32", name=tiles.name)
    with TemporaryDirectory() as folder:
        exported = Path(folder) / "network.onnx"
        network.export(
            exported,
            format="onnx",
            verbose=False,
            input_signature=[signature],
            opset_version=_OPSET,
        )
        model = onnx.load(exported)
    if outputs:
        _name_outputs(model.graph, outputs)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    with replacing(path) as part:
        onnx.save(model, part)


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Restore the names of the outputs, which the conversion replaces by numbers."""
    for output, name in zip(graph.output, names, strict=True):
        for node in graph.node:
            node.output[:] = [name if n == output.name else n for n in node.output]
            node.input[:] = [name if n == output.name else n for n in node.input]
        output.name = name
