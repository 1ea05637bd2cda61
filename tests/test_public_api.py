"""Public names of the package, and the cost of importing it."""

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import codexseg
from tests.helpers.runs import ROOT

HEAVY = ("numpy", "scipy", "pandas", "zarr", "pydantic", "yaml", "numba", "skimage")

SPECIFIED = {
    "segment": {
        "run_cell_segmentation": "(codex_patches, config=None)",
        "segment": "(valid_patches, config, *, image_mpp=None, diameter=None)",
        "separate_masks": "(predictions)",
        "get_boundary": "(masks)",
    },
    "repair_masks": {
        "repair_masks_batch": "(seg_res_batch, *, matching='best', min_overlap=0.0)",
    },
    "codex_patches": {
        "CodexPatches": "(run_path)",
        "CodexPatches.patches_metadata": None,
        "CodexPatches.valid_patches": None,
        "CodexPatches.seg_res_batch": None,
        "CodexPatches.repaired_seg_res_batch": None,
        "CodexPatches.save_seg_res": "(self)",
        "CodexPatches.save_metadata": "(self)",
    },
    "codex_image": {"CodexImage": "(path, panel_file=None, mpp=None)"},
    "pipeline": {
        "Pipeline.from_yaml": "(path, out=None)",
        "Pipeline.plan": "(self)",
        "Pipeline.status": "(self)",
        "Pipeline.execute": "(self, *, workers=None, from_stage=None, until=None, "
        "force=None)",
    },
}


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def bare(signature):
    """Return a signature as text, without annotations."""
    parameters = [
        p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
    ]
    empty = inspect.Signature.empty
    return str(signature.replace(parameters=parameters, return_annotation=empty))


@pytest.mark.parametrize(
    ("module", "name"), [(m, name) for m, names in SPECIFIED.items() for name in names]
)
def test_names_of_the_specification_have_their_signatures(module, name):
    value = import_module(f"codexseg.{module}")
    for part in name.split("."):
        value = getattr(value, part)
    expected = SPECIFIED[module][name]
    if expected is None:
        assert isinstance(value, property)
    else:
        assert bare(inspect.signature(value)) == expected
    assert inspect.getdoc(value)


def test_names_in_all_can_be_imported():
    for name in codexseg.__all__:
        home = inspect.getmodule(getattr(codexseg, name))
        assert home.__name__.startswith("codexseg."), name
    assert len(set(codexseg.__all__)) == len(codexseg.__all__)
    assert set(codexseg.__all__) <= set(dir(codexseg))
    assert set(codexseg._HOMES) <= set(codexseg.__all__)


def test_all_errors_are_public():
    errors = import_module("codexseg.errors")
    named = {n for n, e in vars(errors).items() if inspect.isclass(e)}
    assert named <= set(codexseg.__all__)


def test_public_names_differ_from_module_names():
    # Importing such a module would replace the name.
    modules = {path.stem for path in (ROOT / "codexseg").glob("*")}
    assert not modules & set(codexseg.__all__)


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="'codexseg' has no attribute 'Pipelines'"):
        _ = codexseg.Pipelines


def test_type_checkers_and_python_have_the_same_names():
    source = Path(codexseg.__file__).read_text("utf-8")
    checked = source.partition("if TYPE_CHECKING:")[2].partition("__all__")[0]
    for name in codexseg.__all__:
        assert name in checked, name


def test_package_import_loads_no_heavy_module():
    code = "import sys, codexseg, codexseg.errors; print(*sys.modules)"
    assert not {name.partition(".")[0] for name in python(code).split()} & set(HEAVY)


def test_error_import_loads_no_heavy_module():
    code = "import sys; from codexseg import InputError, CodexsegError; print(*sys.modules)"
    assert not {name.partition(".")[0] for name in python(code).split()} & set(HEAVY)
