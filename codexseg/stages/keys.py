"""Which keys of the configuration a result depends on."""

from codexseg.backends.registry import spec_of
from codexseg.config.schema import Config
from codexseg.run.directory import Row

NOT_IN_KEYS = {
    "data": {
        "file_name",
        "antibodies_file",
        "image_mpp",
        "sample",
    },  # the slide says what it is
    "segmentation": {
        "batch_memory_gb",
        "device",
        "python",
        "runtime",
    },
}
"""Keys of the config that change no result of the stage that reads their section."""

YOUNGER: dict[str, Row] = {
    "channels": {"mode": "names", "cell": None, "nucleus": None},
    "segmentation": {"diameter": None, "percentiles": None},
}
"""Keys of the config that earlier versions did not have, and what stands for their way.

Where one of them is so (cell and nucleus: where the first, mode, is), it is not in the key:
what an earlier version has done stays done.
"""


def section_in_key(config: Config, name: str) -> Row:
    """Return what a section of the configuration contributes to a stage's key."""
    left_out = NOT_IN_KEYS.get(name, set())
    if name == "segmentation":
        left_out = left_out | spec_of(config.segmentation.backend).in_fingerprint
    values = config.section(name).dump()
    younger = YOUNGER.get(name, {})
    if name == "channels" and values["mode"] == younger["mode"]:
        left_out = left_out | set(younger)
    left_out = left_out | {key for key, was in younger.items() if values[key] == was}
    return {key: value for key, value in values.items() if key not in left_out}
