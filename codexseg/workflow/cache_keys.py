"""The part of the configuration that a stage's result depends on."""

from codexseg.backends.registry import spec_of
from codexseg.config.schema import Config
from codexseg.run.records import Record

NOT_IN_KEYS = {
    "data": {"file_name", "antibodies_file", "image_mpp", "sample"},  # see SlideRecord
    "segmentation": {"batch_memory_gb", "device", "python", "runtime"},
}
"""Configuration keys that do not affect the result of the stages that read them."""

ADDED_LATER: dict[str, Record] = {
    "channels": {"mode": "names", "cell": None, "nucleus": None},
    "segmentation": {"diameter": None, "percentiles": None},
}
"""Configuration keys that version 0.1.0 lacks, with the values of its behaviour.

A key with this value does not enter stage keys, so results of version 0.1.0 stay valid.
"""


def section_in_key(config: Config, name: str) -> Record:
    """Return the part of a section that enters the keys of the stages that read it."""
    left_out = NOT_IN_KEYS.get(name, set())
    if name == "segmentation":
        left_out = left_out | spec_of(config.segmentation.backend).in_fingerprint
    values = config.section(name).dump()
    added = ADDED_LATER.get(name, {})
    if name == "channels" and values["mode"] == added["mode"]:
        left_out = left_out | set(added)
    left_out = left_out | {key for key, value in added.items() if values[key] == value}
    return {key: value for key, value in values.items() if key not in left_out}
