"""The manifest of a run: ``manifest.json``, in two parts.

`result` depends on the input, the configuration and the software only: two runs of one
slide and configuration have the same bytes there. `execution` contains host, times, cores
and paths, and is not compared.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from codexseg.io.slides.record import SlideRecord
from codexseg.run.directory import Run
from codexseg.run.files import write_atomic
from codexseg.run.records import Record, read_json

SCHEMA_VERSION = 2

EXECUTION_KEYS = {
    "data": ("file_name", "antibodies_file"),
    "segmentation": ("batch_memory_gb", "device", "python", "runtime", "model_path"),
    "execution": ("workers",),
}
"""Configuration keys of the execution part: they name places and resources."""


@dataclass(frozen=True)
class RunManifest:
    """The manifest of a run.

    Attributes
    ----------
    result : dict
        sample, slide, config, backend; after an execution also cells, scale,
        failed_patches, warnings, stages (key of each) and files (size and sha256).
    execution : dict
        Times, host, cores, versions, paths, and the configuration keys that name them.
    """

    result: Record = field(default_factory=dict)
    execution: Record = field(default_factory=dict)

    @property
    def config(self) -> Record:
        """The complete configuration."""
        return join_config(self.result["config"], self.execution["config"])

    @property
    def slide(self) -> SlideRecord:
        """The slide."""
        return SlideRecord.restore(self.result["slide"], self.execution["slide"])

    def with_config(self, config: Mapping[str, Any]) -> "RunManifest":
        """Return the manifest with another configuration."""
        result, execution = split_config(config)
        return RunManifest(
            self.result | {"config": result}, self.execution | {"config": execution}
        )

    def write(self, run: Run) -> None:
        """Write the manifest into a run directory."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "result": self.result,
            "execution": self.execution,
        }
        text = json.dumps(content, indent=2, sort_keys=True, default=str)
        write_atomic(run.manifest_path, text)


def read_manifest(run: Run) -> RunManifest:
    """Read the manifest of a run; it is empty if there is no run.

    Raises
    ------
    RunStateError
        If the file is damaged.
    """
    content = read_json(run.manifest_path)
    if content is None:
        return RunManifest()
    if content.get("schema_version") == 1:
        return _from_version_1(content)
    return RunManifest(content.get("result", {}), content.get("execution", {}))


def split_config(config: Mapping[str, Any]) -> tuple[Record, Record]:
    """Divide a configuration into the keys of `result` and of `execution`."""
    result = {section: dict(values) for section, values in config.items()}
    execution: Record = {}
    for section, keys in EXECUTION_KEYS.items():
        for key in keys:
            if key in result.get(section, {}):
                execution.setdefault(section, {})[key] = result[section].pop(key)
    return result, execution


def join_config(result: Mapping[str, Any], execution: Mapping[str, Any]) -> Record:
    """Invert :func:`split_config`."""
    joined = {section: dict(values) for section, values in result.items()}
    for section, values in execution.items():
        joined.setdefault(section, {}).update(values)
    return joined


def _from_version_1(content: Record) -> RunManifest:
    """Convert the manifest of version 0.1.0."""
    slide, config = dict(content["slide"]), content["config"]
    path, panel = slide.pop("path"), config["data"].get("antibodies_file")
    result_config, execution_config = split_config(config)
    result: Record = {"slide": slide, "config": result_config}
    for key in ("backend", "cells", "scale", "failed_patches"):
        if key in content:
            result[key] = content[key]
    execution: Record = {
        "slide": {"files": [path], "panel": panel},
        "config": execution_config,
    }
    for key in ("config_path", "versions", "python", "created", "last_started"):
        execution[key] = content.get(key)
    return RunManifest(result, execution)
