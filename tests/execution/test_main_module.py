"""Workers do not import the main module of the program."""

import os
import subprocess
import sys

import pytest

from tests.helpers.runs import ROOT
from tests.helpers.tissue import write_config, write_slide

POOL = """
from codexseg.execution.processes import executor

print("started")
with executor(2) as pool:
    print(sorted(pool.map(abs, range(4))))
"""

WITHOUT_FILE = """
import sys
from types import ModuleType
sys.modules["__main__"] = ModuleType("__main__")  # as in a notebook
"""

FUNCTION_OF_MAIN = """
from codexseg.execution.processes import executor

def double(job):
    return 2 * job

with executor(2) as pool:
    list(pool.map(double, range(4)))
"""


def run_python(words, text, folder):
    return subprocess.run(
        [sys.executable, *words],
        input=text,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["script", "module", "command", "stdin", "notebook"])
def test_workers_do_not_import_the_main_module(how, tmp_path):
    (tmp_path / "program.py").write_text(POOL)
    words, text = {
        "script": (["program.py"], ""),
        "module": (["-m", "program"], ""),
        "command": (["-c", POOL], ""),
        "stdin": (["-"], POOL),
        "notebook": (["-c", WITHOUT_FILE + POOL], ""),
    }[how]
    done = run_python(words, text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "started\n[0, 1, 2, 3]\n"
    assert done.stderr == ""


def test_function_of_the_main_module_gives_one_error(tmp_path):
    (tmp_path / "program.py").write_text(FUNCTION_OF_MAIN)
    done = run_python(["program.py"], "", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("'double' is defined in the main module.") == 2  # and cause
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("TypeError: Cannot send <function double at ")
    assert last.endswith("can be imported from a module file, or one worker.")


BACKEND = """
import numpy as np
from scipy import ndimage

class Threshold:
    name, mpp, halo_px, context_px, channels = "threshold", None, 24, 3, ("nucleus",)

    def __init__(self, config, slide):
        pass

    def fingerprint(self):
        return "threshold 1"

    def predict(self, patches, windows):
        nuclei = [ndimage.label(patch[0] > 1000)[0] for patch in patches]
        return np.stack([nuclei, nuclei], axis=1).astype(np.uint32)
"""

PIPELINE = """
from codexseg import Pipeline

result = Pipeline.from_yaml("{folder}/my.yaml", "run").execute(workers=2)
print(result.cells, result.failed_patches)
"""


@pytest.mark.slow
def test_script_without_guard_runs_the_pipeline_with_a_backend_of_its_own(tmp_path):
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    write_slide(folder)
    config = write_config(folder)
    text = config.read_text().replace("tests.helpers.tissue:Local", "own_backend:Threshold")
    config.write_text(text)
    (folder / "own_backend.py").write_text(BACKEND)
    (elsewhere / "program.py").write_text(PIPELINE.format(folder=folder))
    done = run_python(["program.py"], "", elsewhere)
    assert done.returncode == 0, done.stderr
    cells, failed = done.stdout.split(maxsplit=1)
    assert int(cells) > 20
    assert failed in ("[]\n", "()\n")
