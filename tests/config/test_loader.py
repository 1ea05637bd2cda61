import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from codexseg.config.coerce import as_config
from codexseg.config.loader import LoadedConfig, load_config, parse_config
from codexseg.config.schema import Config, PatchingConfig
from codexseg.errors import ConfigError

# Template of aegle with the values of a user.
AEGLE = """\
exp_id: D18_0
sample_id: D18
data:
  file_name: scans/D18_0.ome.tiff
  antibodies_file: scans/extras/antibodies.tsv
  image_mpp: 0.5
  generate_channel_stats: True
channels:
  nucleus_channel: DAPI
  wholecell_channel: [Pan-Cytokeratin, CD45]
patching:
  split_mode: full_image
  split_direction: NULL
  patch_height: -1
  patch_width: -1
  overlap: 0.1
patch_qc:
  non_zero_perc_threshold: 0.05
  mean_intensity_threshold: 1.0
  std_intensity_threshold: 1.0
segmentation:
  model_path: v7/MultiplexSegmentation
  save_segmentation_images: True
  save_segmentation_pickle: True
  segmentation_pickle_compression: zstd
  segmentation_pickle_compression_level: 5
  segmentation_pickle_compression_threads: 0
  segmentation_analysis: False
  density_analysis:
    calculate_global_density: False
    calculate_local_density: False
    channels_per_figure: 10
    parallel_processing:
      workers: 4
  repair:
    use_gpu: true
    use_bincount_overlap: true
    gpu_batch_size: null
    gpu_mismatch_batch_size: null
    overlap_num_gpus: 2
    mismatch_num_gpus: 2
    fallback_to_cpu: true
    log_gpu_performance: true
testing:
  data_disruption:
    type: NULL
    level: NULL
    save_disrupted_patches: NULL
    visualize_disrupted: NULL
evaluation:
  compute_metrics: False
profiling:
  features:
    compute_laplacian: False
    compute_cov: False
    channel_dtype: float32
    use_gpu: True
    gpu_batch_size: 0
    gpu_image_mode: auto
    cache_regionprops: False
    regionprops_cache_dir: null
visualization:
  visualize_patches: True
  cache_all_channel_patches: True
  save_all_channel_patches: False
  all_channel_compression_threads: 0
  visualize_segmentation: True
report:
  generate_report: True
  compress_images: True
  image_max_width: 1200
  image_jpeg_quality: 85
  include_pre_repair_images: True
qc_filtering:
  rules:
    nucleus_retained_fraction: {min: 0.7}
"""


def check(text: str, *, require_image: bool = False) -> LoadedConfig:
    return parse_config(text, "my.yaml", require_image=require_image)


def errors(text: str, *, require_image: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(text, require_image=require_image)
    return [line.strip() for line in str(caught.value).splitlines()]


def error(text: str) -> str:
    head, *lines = errors(text)
    assert head == "my.yaml is not a valid configuration, 1 error:"
    assert len(lines) == 1
    return lines[0]


# --- valid files --------------------------------------------------------------------


def test_file_with_one_key_has_all_defaults() -> None:
    loaded = check("data:\n  file_name: slide.tif\n", require_image=True)
    data = loaded.config.data.model_copy(update={"file_name": None})
    assert loaded.config.model_copy(update={"data": data}) == Config()
    assert loaded.notes == ()


def test_paths_are_relative_to_the_folder_of_the_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    text = "data: {file_name: ../slides/a.tif, antibodies_file: panel.tsv}\n"
    (tmp_path / "configs" / "a.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    data = load_config(Path("configs/a.yaml")).config.data
    folder = tmp_path.resolve()
    assert data.file_name == folder / "slides" / "a.tif"
    assert data.antibodies_file == folder / "configs" / "panel.tsv"


def test_absolute_paths_and_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    data = check("data: {file_name: ~/a.tif, antibodies_file: /b/c.tsv}").config.data
    assert data.file_name == Path("/home/me/a.tif")
    assert data.antibodies_file == Path("/b/c.tsv")


def test_linked_slide_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "0a1b").touch()
    (tmp_path / "slide.tif").symlink_to("0a1b")
    (tmp_path / "a.yaml").write_text("data: {file_name: slide.tif}", encoding="utf-8")
    file_name = load_config(tmp_path / "a.yaml").config.data.file_name
    assert file_name == tmp_path.resolve() / "slide.tif"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("CD45", ("CD45",)),
        ("[CD45, Pan-Cytokeratin]", ("CD45", "Pan-Cytokeratin")),
        ("[]", ()),
        ("no", ("no",)),
        ("2024-01-01", ("2024-01-01",)),
        ("['488']", ("488",)),
        ("CD3/µ", ("CD3/µ",)),
    ],
)
def test_whole_cell_channels_are_a_name_or_a_list(
    text: str, names: tuple[str, ...]
) -> None:
    config = check(f"channels:\n  wholecell_channel: {text}\n").config
    assert config.channels.wholecell_channel == names


def test_scalars_follow_the_yaml_1_2_core_schema() -> None:
    config = check(
        "repair: {min_overlap: 1e-3}\n"
        "patching: {patch_height: 0512, patch_width: 512.0, overlap: '0.2'}\n"
        "profile: {solidity: yes}\n"
        "export: {ome_zarr_version: 0.5, csv: off}\n"
        "execution: {workers: auto}\n"
    ).config
    assert config.repair.min_overlap == 0.001
    patching = config.patching
    assert (patching.patch_height, patching.patch_width, patching.overlap) == (
        512,
        512,
        0.2,
    )
    assert config.profile.solidity
    assert config.export.ome_zarr_version == "0.5"
    assert "csv" not in config.export.formats
    assert config.execution.workers == "auto"


@pytest.mark.parametrize("text", ["[std, mean]", "std", "[std]", "[mean, std, std]"])
def test_statistics_have_canonical_order_and_include_mean(text: str) -> None:
    config = check(f"profile: {{statistics: {text}}}").config
    assert config.profile.statistics == ("mean", "std")


def test_section_with_commented_out_keys_has_defaults() -> None:
    assert check("repair:\n  # min_overlap: 0.5\nsegmentation:\n  options:\n").config == (
        Config()
    )


def test_third_party_options_are_not_changed() -> None:
    config = check("segmentation: {backend: 'a:B', options: {a: {b: [1, x]}, c: null}}")
    assert config.config.segmentation.options == {"a": {"b": [1, "x"]}, "c": None}


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("repair: {min_overlap: 0.5}\r\n", encoding="utf-8-sig")
    assert load_config(path, require_image=False).config.repair.min_overlap == 0.5


# --- errors -------------------------------------------------------------------------


def test_all_errors_are_reported_with_their_lines() -> None:
    text = """\
data:
  file_nam: a.tif
patching:
  split_mode: thirds
  patch_height: 12
  overlap: 10
  overlap: 0.2
segmentation:
  device: gpu

channels:
  wholecell_channel:
    - CD45
    - 488
execution: {workers: 0}
overlap: 0.3
"""
    head, *lines = errors(text, require_image=True)
    assert head == "my.yaml is not a valid configuration, 10 errors:"
    assert [line.split(":")[0] for line in lines] == [
        f"line {n}" for n in (1, 2, 4, 5, 6, 7, 9, 14, 15, 16)
    ]
    assert [line.split(": ")[1] for line in lines] == [
        "data.file_name",
        "data.file_nam",
        "patching.split_mode",
        "patching.patch_height",
        "patching.overlap",
        "patching.overlap",
        "segmentation.device",
        "channels.wholecell_channel[1]",
        "execution.workers",
        "overlap",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("patching: {overlap: 10}", "got 10, expected less than 1 (overlap of"),
        ("patching: {overlap: -0.1}", "got -0.1, expected greater than or equal to 0"),
        ("patching: {overlap: true}", "got true, expected a number"),
        ("patching: {overlap: .nan}", "got nan, expected less than 1"),
        ("data: {image_mpp: .inf}", "got inf, expected a finite number"),
        ("patching: {overlap: some}", "got 'some', expected a number"),
        ("patching: {overlap: }", "got nothing (null), expected a number"),
        ("patching: {overlap: }", "remove the line for the default, 0.1"),
        ("patching: {patch_width: 63}", "got 63, expected at least 64, or -1 for the"),
        ("patching: {patch_width: 0}", "got 0, expected at least 64, or -1 for the"),
        ("patching: {patch_width: 99.5}", "got 99.5, expected a whole number"),
        ("patching: {split_mode: half}", "'full_image', 'halves', 'quarters' or 'patches'"),
        ("patching: 5", "patching: got 5, expected a section"),
        ("patching: [5]", "patching: got [5], expected a section"),
        ("data: {image_mpp: 0}", "got 0, expected greater than 0 (micrometres per pixel"),
        ("data: {file_name: 17}", "got 17, expected a path, as text; put it in quotes"),
        ("data: {file_name: [a, b]}", "got ['a', 'b'], expected a path, as text"),
        ("data: {generate_channel_stats: maybe}", "got 'maybe', expected true or false"),
        ("channels: {nuclear_channel: 1.50}", "put it in quotes, '1.50'"),
        ("channels: {nuclear_channel: true}", "put it in quotes, 'true'"),
        ("channels: {nuclear_channel: ''}", "got '', expected a name, as text"),
        ("channels: {wholecell_channel: [CD3, 1]}", "got 1, expected a name, as text; put"),
        ("channels: {wholecell_channel: {a: b}}", "a list of names, like [CD3, CD8]"),
        ("channels: {wholecell_channel: 488}", "like [CD3, CD8]"),
        ("profile: {statistics: [std, mode]}", "profile.statistics[1]: got 'mode'"),
        ("profile: {channels: []}", "got [], expected at least one name"),
        ("segmentation: {batch_memory_gb: 0}", "got 0, expected greater than 0"),
        ("segmentation: {options: [a]}", "got ['a'], expected a section"),
        ("segmentation: {diameter: 0}", "got 0, expected 1 to 200 um, 'auto' or null (dia"),
        ("segmentation: {diameter: wide}", "got 'wide', expected 1 to 200 um, 'auto' or"),
        (
            "segmentation: {diameter: true}",
            "got true, expected 1 to 200 um, 'auto' or null",
        ),
        ("segmentation: {percentiles: 99}", "got 99, expected two numbers from 0 to 100"),
        ("segmentation: {percentiles: [99, 1]}", "got [99, 1], expected two numbers from"),
        ("segmentation: {percentiles: [1, 101]}", "the lower one first, like [1, 99] (per"),
        ("channels: {mode: rgb}", "expected 'names', 'auto', 'L' or 'RGB'"),
        ("channels: {nucleus: DAPI}", "expected 'red', 'green', 'blue' or 'grey' (colour"),
        ("stitch: {min_remaining: 0}", "got 0, expected greater than 0"),
        ("execution: {workers: 1.5}", "got 1.5, expected a whole number of at least 1"),
        ("execution: {workers: true}", "got true, expected a whole number of at least 1"),
        (
            "segmentation: {watershed: {min_signal: 1}}",
            "segmentation.watershed.min_signal: got 1, expected less than 1 (minimum",
        ),
        ("report: {overlays: -1}", "got -1, expected greater than or equal to 0"),
        ("repair: !!set {a}", "tag:yaml.org,2002:set is not allowed"),
        ("repair: {min_overlap: !!int x}", "repair.min_overlap: cannot read 'x'"),
        ("repair: {[a, b]: 1}", "repair: a key must be plain text"),
        ("data: {image_mpp: 1}\ndata: {image_mpp: 2}", "already set in line 1; remove one"),
    ],
)
def test_error_contains_value_expectation_and_remedy(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "patching: {overlp: 1}",
            "patching.overlp: unknown key; did you mean patching.over",
        ),
        ("overlap: 1", "overlap: unknown key; did you mean patching.overlap?"),
        ("segmentation: {overlap: 1}", "did you mean patching.overlap?"),
        ("segmentation: {nuclear_chanel: a}", "did you mean channels.nuclear_channel?"),
        ("segmentation: {watershed: {diameter_um: 1}}", "watershed.nucleus_diameter_um?"),
        ("segmentation: {expansion_um: 1}", "mean segmentation.watershed.expansion_um?"),
        ("data: {filename: a}", "did you mean data.file_name?"),
        ("patchng: {overlap: 1}", "patchng: unknown key; did you mean patching?"),
        ("execution: {worker: 1}", "did you mean execution.workers?"),
        ("segmentation: {diamter: auto}", "did you mean segmentation.diameter?"),
        ("repair: {zzz: 1}", "unknown key; keys of repair: matching, min_overlap"),
        ("zzz: 1", "unknown key; sections: data, channels, patching"),
        ("1: 1", "1: unknown key; sections:"),
    ],
)
def test_unknown_key_error_suggests_similar_key(text: str, words: str) -> None:
    assert words in error(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "contains no keys. Run `codexseg config init"),
        ("# only comments\n", "contains no keys"),
        ("- a\n- b\n", "line 1: expected sections, like 'data:', got ['a', 'b']"),
        ("\nslide.tif\n", "line 2: expected sections, like 'data:', got 'slide.tif'"),
        ("data:\n\tfile_name: a\n", "line 2, column 1: not YAML: while scanning"),
        ("data:\n\tfile_name: a\n", "indent with spaces, not with tabs"),
        ("data:\n  a: b: c\n", "line 2, column 7: not YAML: mapping values are not"),
        ("data:\n   a: b\n  c: d\n", "line 3, column 3: not YAML"),
        ("data: {file_name: a\n", "line 2, column 1: not YAML"),
        ('data: {file_name: "C:\\Users"}\n', "write paths with backslashes in single"),
        ("data: {}\n---\ndata: {}\n", "line 2, column 1: not YAML"),
        ("data: {}\na: *x\n", "line 2: an anchor or alias, expected plain sections"),
        ("a: &x {}\n", "line 1: an anchor or alias"),
        ("a: " + "[" * 5000, "more than 20 levels"),
        ("a: b\nc: \x07\n", "line 2: character U+0007 is not allowed in YAML"),
        ("a: !!python/name:os.system x\n", "tag:yaml.org,2002:python/name:os.system"),
    ],
)
def test_invalid_documents_are_errors_with_a_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(text)
    assert words in str(caught.value)
    assert "my.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"data: {}\na: \xb5m\n", "line 2: byte 0xb5 is not UTF-8 text. Save the file"),
        ("data: {}\n".encode("utf-16"), "line 1: byte 0xff is not UTF-8 text"),
    ],
)
def test_file_with_another_encoding_is_an_error(
    tmp_path: Path, raw: bytes, words: str
) -> None:
    (tmp_path / "a.yaml").write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "a.yaml")
    assert words in str(caught.value)


def test_missing_file_or_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Configuration .* not found.*config init"):
        load_config(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="Cannot read"):
        load_config(tmp_path)


def test_run_requires_an_image() -> None:
    for text in (
        "repair: {}",
        "data:\n",
        "data: {file_name: null}",
        "data: {file_name: ''}",
    ):
        assert check(text).config.data.file_name is None
        _, line = errors(text, require_image=True)
        assert line.startswith("line 1: data.file_name: missing; expected the path of")


# --- configs of aegle ---------------------------------------------------------------


def test_aegle_configuration_loads() -> None:
    config = check(AEGLE, require_image=True).config
    assert config.dump() == (
        Config()
        .model_validate(
            {
                "data": {
                    "file_name": Path("scans/D18_0.ome.tiff").absolute(),
                    "antibodies_file": Path("scans/extras/antibodies.tsv").absolute(),
                    "image_mpp": 0.5,
                },
                "channels": {"wholecell_channel": ["Pan-Cytokeratin", "CD45"]},
                "patching": {
                    "split_mode": "full_image",
                    "patch_height": -1,
                    "patch_width": -1,
                },
                "patch_qc": {
                    "non_zero_perc_threshold": 0.05,
                    "mean_intensity_threshold": 1.0,
                    "std_intensity_threshold": 1.0,
                },
                "segmentation": {"model_path": Path("v7/MultiplexSegmentation").absolute()},
            }
        )
        .dump()
    )


def test_notes_on_aegle_keys_name_their_replacements() -> None:
    moved, ignored, relative, pickle = check(AEGLE).notes
    assert moved == "line 9: channels.nucleus_channel is read as channels.nuclear_channel."
    assert "line 1: exp_id: use --out, the folder of a run names it" in ignored
    assert (
        "line 23: segmentation.save_segmentation_images: ome_tiff in export.formats"
        in ignored
    )
    assert "visualization: report.html contains the pictures" in ignored
    assert "data_disruption" not in ignored
    numbers = [int(line.split()[1][:-1]) for line in ignored.splitlines()[1:]]
    assert numbers == sorted(numbers)
    assert "relative to the folder of the YAML" in relative
    assert pickle == (
        "line 24: segmentation.save_segmentation_pickle is deprecated. Add pickle to "
        "export.formats instead."
    )


def test_moved_aegle_keys_keep_their_lines() -> None:
    assert check("patching: {patch_overlap: 0.3}").config.patching.overlap == 0.3
    line = error("patching:\n\n  patch_overlap: 3\n")
    assert line.startswith("line 3: patching.patch_overlap (now patching.overlap): got 3, ")
    same = "channels: {nucleus_channel: D, nuclear_channel: D}"
    assert check(same).config.channels.nuclear_channel == "D"
    line = error("channels:\n  nucleus_channel: D\n  nuclear_channel: E\n")
    assert "got 'D', but channels.nuclear_channel (line 3) is 'E'; remove one" in line


def test_aegle_keys_that_change_results_are_errors() -> None:
    line = error("testing: {data_disruption: {type: gaussian, level: 1}}")
    assert "testing.data_disruption.type: got 'gaussian'; codexseg does not" in line
    line = error("data: {file_name: a}\ntissue_extraction: {n_tissue: 4}\n")
    assert line.startswith("line 2: tissue_extraction: got {'n_tissue': 4}; codexseg does")


def test_unknown_keys_beside_aegle_keys_are_errors() -> None:
    line = error(AEGLE.replace("  generate_report:", "  generate_reports:"))
    assert "report.generate_reports: unknown key" in line


# --- names of samples and formats of exports ----------------------------------------


def test_sample_name_is_the_stem_of_the_image_by_default() -> None:
    assert check("data: {file_name: a/b.ome.tiff}").config.sample_name == "b"
    config = check("data: {file_name: b.tif, sample: Tonsil 3-4}").config
    assert config.sample_name == "Tonsil 3-4"
    with pytest.raises(ConfigError, match=r"sample has no name. Set data\.sample or"):
        _ = Config().sample_name


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", "a\tb", "a\x00b", "a\x85b", "..", ".", "x" * 121, "", "  "]
)
def test_sample_names_unfit_for_file_names_are_errors(name: str) -> None:
    line = error(json.dumps({"data": {"sample": name}}))
    assert line.startswith("line 1: data.sample: got ")
    assert ("expected a name, as text" if not name.strip() else "1 to 120 char") in line


def test_longest_sample_name_is_accepted() -> None:
    assert check(f"data: {{sample: {'x' * 120}}}").config.sample_name == "x" * 120


def test_sample_name_as_a_number_needs_quotes() -> None:
    assert error("data: {sample: 7}").endswith("as text; put it in quotes, '7'")


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("", ("csv", "h5ad", "ome_tiff", "pickle")),
        ("formats: [pickle, csv]", ("csv", "pickle")),
        ("formats: h5ad", ("h5ad",)),
        ("formats: []", ()),
        ("csv: false", ("h5ad", "ome_tiff", "pickle")),
        ("csv: 'no', h5ad: 0, ome_tiff: off", ("pickle",)),
        ("formats: [h5ad], csv: true", ("csv", "h5ad")),
        ("formats: csv, csv: false", ()),
        ("formats: [csv], csv: true", ("csv",)),
    ],
)
def test_export_formats_and_deprecated_switches(
    text: str, formats: tuple[str, ...]
) -> None:
    loaded = check(f"export: {{{text}}}\nreport:\n")
    assert loaded.config.export.formats == formats
    assert len(loaded.notes) == sum(f"{key}:" in text for key in ("csv", "h5ad", "tiff"))


def test_pickle_switch_of_the_segmentation_section_changes_export_formats() -> None:
    loaded = check("segmentation:\n  save_segmentation_pickle: false\nexport:\n")
    assert loaded.config.export.formats == ("csv", "h5ad", "ome_tiff")
    assert loaded.notes == (
        "line 2: segmentation.save_segmentation_pickle is deprecated. Remove pickle from "
        "export.formats instead.",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("formats: [csv, csv]", "got ['csv', 'csv'], expected each format once (list of"),
        ("formats: [xlsx]", "export.formats[0]: got 'xlsx', expected 'csv', 'h5ad', 'ome_"),
        ("formats: null", "got nothing (null), expected a name or a list of names"),
        ("formats: [[csv]], csv: no", "export.formats[0]: got ['csv'], expected 'csv', '"),
        ("csv: maybe", "export.csv: got 'maybe', expected true or false"),
        ("csv: null", "export.csv: got nothing (null), expected true or false"),
    ],
)
def test_wrong_export_formats_are_errors(text: str, words: str) -> None:
    assert words in error(f"export: {{{text}}}")


def test_dumps_contain_only_the_list_of_formats() -> None:
    dump = check("export: {csv: false}").config.dump()
    assert dump["export"] == {
        "formats": ["h5ad", "ome_tiff", "pickle"],
        "ome_zarr_version": "0.4",
    }
    assert "save_segmentation_pickle" not in dump["segmentation"]


def test_manifests_with_format_switches_validate() -> None:
    manifest = Config().dump()
    del manifest["export"]["formats"]
    manifest["export"] |= {"csv": True, "h5ad": False, "ome_tiff": False}
    manifest["segmentation"]["save_segmentation_pickle"] = True
    before = json.dumps(manifest)
    config = Config.model_validate(manifest)
    assert config.export.formats == ("csv", "pickle")
    assert json.dumps(manifest) == before
    manifest["export"]["csv"] = "maybe"
    with pytest.raises(ValidationError, match=r"export\.csv is 'maybe', expected true"):
        Config.model_validate(manifest)


def test_format_switches_in_a_dict_change_the_formats_of_the_base(
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = Config.model_validate({"export": {"formats": ["h5ad", "pickle"]}})
    changes = {
        "export": {"csv": True, "h5ad": False},
        "segmentation": {"save_segmentation_pickle": True},
    }
    assert as_config(changes, base).export.formats == ("csv", "pickle")
    assert [record.getMessage() for record in caplog.records] == [
        "export.csv is deprecated. Add csv to export.formats instead.",
        "export.h5ad is deprecated. Remove h5ad from export.formats instead.",
        "segmentation.save_segmentation_pickle is deprecated. Add pickle to "
        "export.formats instead.",
    ]
    assert changes["export"] == {"csv": True, "h5ad": False}
    assert as_config(base.dump() | changes).export.formats == ("csv", "ome_tiff", "pickle")


def test_as_config_reports_all_errors_of_a_dict_as_the_loader_does() -> None:
    with pytest.raises(ConfigError) as caught:
        as_config({"repair": {"min_overlap": 2}, "export": {"csv": 2, "cvs": True}})
    assert str(caught.value).splitlines() == [
        "The mapping is not a valid configuration, 3 errors:",
        "  export.csv: got 2, expected true or false",
        "  repair.min_overlap: got 2, expected less than or equal to 1 (minimum fraction "
        "of a nucleus inside its cell)",
        "  export.cvs: unknown key; keys of export: formats, ome_zarr_version",
    ]


def test_as_config_translates_aegle_keys_of_a_dict(
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes = {"channels": {"nucleus_channel": "DNA1"}, "exp_id": "D18"}
    assert as_config(changes).channels.nuclear_channel == "DNA1"
    moved, ignored = (record.getMessage() for record in caplog.records)
    assert moved == "channels.nucleus_channel is read as channels.nuclear_channel."
    assert ignored.endswith("\n  exp_id: use --out, the folder of a run names it")
    assert changes == {"channels": {"nucleus_channel": "DNA1"}, "exp_id": "D18"}


# --- the models ---------------------------------------------------------------------


def test_config_is_frozen_and_forbids_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().repair.min_overlap = 0.5
    with pytest.raises(ValidationError, match="extra_forbidden"):
        PatchingConfig.model_validate({"size": 1})


def test_section_returns_section_by_name() -> None:
    assert Config().section("patching") == PatchingConfig()
    with pytest.raises(KeyError, match="no section 'tile', expected one of data, channels"):
        Config().section("tile")


names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1)
values = {
    "patching": st.fixed_dictionaries(
        {},
        optional={
            "overlap": st.floats(0, 0.99),
            "patch_height": st.sampled_from([-1, 64, 4096]),
        },
    ),
    "channels": st.fixed_dictionaries({"wholecell_channel": st.lists(names)}),
    "data": st.fixed_dictionaries({"file_name": st.sampled_from([None, "/a/b.tif"])}),
    "profile": st.fixed_dictionaries(
        {"statistics": st.lists(st.sampled_from(["mean", "std", "total"]))}
    ),
    "execution": st.fixed_dictionaries({"workers": st.sampled_from([1, 8, "auto"])}),
}


@given(st.fixed_dictionaries({}, optional=values))
def test_dump_is_json_and_round_trips(data: dict[str, Any]) -> None:
    config = Config.model_validate(data)
    dump = config.dump()
    assert Config.model_validate(json.loads(json.dumps(dump))) == config
    # JSON is YAML: the configuration of a manifest can be used as a file
    assert check(json.dumps(dump, ensure_ascii=False)).config == config


pieces = ["data", "repair", "overlap", ": ", "- ", "\n", "  ", "{", "}", "[", "]", ", "]
pieces += [
    "!!int ",
    "!!map ",
    "!!seq ",
    "!!null ",
    "? ",
    "'",
    '"',
    "| ",
    "~",
    "1",
    "1e400",
    "\t",
]


@given(st.lists(st.sampled_from(pieces)).map("".join) | st.text())
def test_any_text_is_valid_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        check(text)


def test_config_imports_no_heavy_package() -> None:
    code = (
        "import sys, codexseg.config.loader\n"
        "heavy = {'numpy', 'pandas', 'zarr', 'numba', 'scipy', 'skimage'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
