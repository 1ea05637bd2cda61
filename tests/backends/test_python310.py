import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codexseg.backends.deepcell import environment as python310
from codexseg.backends.deepcell.environment import (
    find_deepcell,
    find_python310,
    has_deepcell,
    install_deepcell,
)
from codexseg.errors import BackendUnavailable

FAKE = """#!{python}
# A fake Python {version} that logs its commands
import os, shutil, sys
from pathlib import Path
me, words = Path(sys.argv[0]), [w for w in sys.argv[1:] if w != "-E"]
with open("{log}", "a") as log:
    log.write(f"{{me}} {{' '.join(words)[:60]}}\\n")
installed = me.parent.parent / "installed"
if words[0] == "-m" and words[1] == "venv":
    target = Path(words[2]) / "bin" / "python"
    target.parent.mkdir(parents=True)
    shutil.copy(me, target)
elif words[0] == "-m":
    print("Collecting deepcell")
    if os.environ.get("FAKE_PIP") == "fails":
        sys.exit("no matching distribution")
    installed.write_text(os.environ.get("FAKE_PIP", "0.12.10"))
elif "version_info" in words[1]:
    print("{version}")
elif "metadata" in words[1] and not installed.exists():
    sys.exit("PackageNotFoundError: deepcell")
elif "metadata" in words[1]:
    print(installed.read_text())
elif os.environ.get("FAKE_PIP_IMPORTS") == "fail":
    sys.exit("cannot import name 'x' from google.protobuf")
"""


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """A machine without Python 3.10, and an empty cache."""
    monkeypatch.delenv("CODEXSEG_PYTHON310", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_python(path, version="3.10", deepcell=None):
    log = path.parents[1] / "log.txt"
    executable(path, FAKE.format(python=sys.executable, version=version, log=log))
    if deepcell:
        (path.parents[1] / "installed").write_text(deepcell)
    return path


def commands(tmp_path):
    lines = (tmp_path / "base" / "log.txt").read_text().splitlines()
    return [line.split()[2] for line in lines if " -m " in line]


def test_no_python_is_found():
    assert find_python310() is None


def test_shim_that_does_not_run_is_skipped(tmp_path):
    executable(
        tmp_path / "bin/python3.10", "#!/bin/sh\necho 'pyenv: not found' >&2\nexit 127"
    )
    assert find_python310() is None
    python = fake_python(tmp_path / "pyenv/versions/3.10.13/bin/python")
    assert find_python310() == python


def test_python_after_a_shim_on_the_path_is_found(tmp_path, monkeypatch):
    executable(tmp_path / "bin/python3.10", "#!/bin/sh\nexit 127")
    python = fake_python(tmp_path / "usr/bin/python3.10")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{python.parent}")
    assert find_python310() == python


def test_newest_version_of_pyenv_is_used(tmp_path):
    for version in ("3.10.9", "3.10.13", "3.11.7"):
        fake_python(tmp_path / f"pyenv/versions/{version}/bin/python", version[:4])
    assert find_python310().parts[-3] == "3.10.13"


def test_uv_is_searched_last(tmp_path):
    python = fake_python(tmp_path / "uv/bin/python")
    executable(tmp_path / "bin/uv", f"#!/bin/sh\n[ $2 = find ] && echo {python}")
    assert find_python310() == python
    executable(tmp_path / "bin/uv", "#!/bin/sh\necho 'error: no interpreter' >&2\nexit 2")
    assert find_python310() is None


def test_environment_variable_is_used_first(tmp_path, monkeypatch):
    fake_python(tmp_path / "bin/python3.10")
    python = fake_python(tmp_path / "mine/bin/python")
    monkeypatch.setenv("CODEXSEG_PYTHON310", str(python))
    assert find_python310() == python


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be run"),
        ("#!/bin/sh\necho broken >&2\nexit 3", "broken"),
        ("#!/bin/sh\necho 3.11", "is Python 3.11"),
    ],
)
def test_invalid_environment_variable_is_refused(tmp_path, monkeypatch, text, message):
    fake_python(tmp_path / "bin/python3.10")  # would be taken without the variable
    python = tmp_path / "mine/python"
    if text:
        executable(python, text)
    monkeypatch.setenv("CODEXSEG_PYTHON310", str(python))
    for find in (find_python310, find_deepcell):
        with pytest.raises(BackendUnavailable, match=f"CODEXSEG_PYTHON310.*{message}"):
            find()


def test_only_the_expected_version_of_deepcell_counts(tmp_path):
    assert has_deepcell(fake_python(tmp_path / "a/bin/python", deepcell="0.12.10"))
    assert not has_deepcell(fake_python(tmp_path / "b/bin/python", deepcell="0.12.9"))
    assert not has_deepcell(fake_python(tmp_path / "c/bin/python"))
    assert not has_deepcell(tmp_path / "nothing")


def test_folder_named_like_the_package_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "deepcell-0.12.10.dist-info").mkdir()
    (tmp_path / "deepcell-0.12.10.dist-info/METADATA").write_text(
        "Name: deepcell\nVersion: 0.12.10\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert not has_deepcell(Path(sys.executable))


def test_configured_python_is_used(tmp_path, monkeypatch):
    python = fake_python(tmp_path / "mine/bin/python", deepcell="0.12.10")
    assert find_deepcell(python) == python
    monkeypatch.setenv("CODEXSEG_PYTHON310", str(python))
    assert find_deepcell() == python
    other = fake_python(tmp_path / "other/bin/python", deepcell="0.12.9")
    with pytest.raises(
        BackendUnavailable, match=r"segmentation\.python.*0\.12\.9, expected"
    ):
        find_deepcell(other)
    with pytest.raises(BackendUnavailable, match=r"segmentation\.python.*cannot be run"):
        find_deepcell(tmp_path / "nothing")


def test_missing_deepcell_is_reported_with_the_command():
    with pytest.raises(BackendUnavailable, match="codexseg models setup-deepcell"):
        find_deepcell()
    with pytest.raises(
        BackendUnavailable, match=r"No Python 3\.10 found.*uv python install"
    ):
        install_deepcell()


def test_setup_installs_once(tmp_path, monkeypatch, capfd):
    base = fake_python(tmp_path / "base/bin/python")
    monkeypatch.setenv("CODEXSEG_PYTHON310", str(base))
    python = install_deepcell()
    assert python == tmp_path / "cache/deepcell/bin/python"
    assert find_deepcell() == python
    out, err = capfd.readouterr()
    assert (out, err) == ("", "Collecting deepcell\n")
    assert commands(tmp_path) == ["venv", "pip"]
    assert install_deepcell() == python
    assert commands(tmp_path) == ["venv", "pip"]


def test_setup_uses_the_given_python(tmp_path):
    base = fake_python(tmp_path / "base/bin/python")
    assert has_deepcell(install_deepcell(str(base)))
    (tmp_path / "cache/deepcell/codexseg-complete.txt").unlink()
    newer = fake_python(tmp_path / "new/bin/python", "3.12")
    with pytest.raises(BackendUnavailable, match=r"is Python 3\.12"):
        install_deepcell(str(newer))


def test_incomplete_environment_is_replaced(tmp_path):
    base = str(fake_python(tmp_path / "base/bin/python"))
    folder = tmp_path / "cache/deepcell"
    fake_python(folder / "bin/python", deepcell="0.12.10")  # killed before the marker
    (folder / "rubbish").touch()
    with pytest.raises(BackendUnavailable, match="there is none"):
        find_deepcell()
    install_deepcell(base)
    assert not (folder / "rubbish").exists()
    (folder / "codexseg-complete.txt").write_text("deepcell==0.12.9")  # other pins
    install_deepcell(base)
    (folder / "bin/python").unlink()  # its base was removed
    install_deepcell(base)
    assert commands(tmp_path) == ["venv", "pip"] * 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FAKE_PIP", "fails", "cannot be installed.*exit code 1"),
        ("FAKE_PIP", "0.12.9", r"deepcell 0\.12\.9, expected"),
        ("FAKE_PIP_IMPORTS", "fail", "cannot be imported"),
    ],
)
def test_failed_setup_leaves_no_files(tmp_path, monkeypatch, name, value, message):
    base = str(fake_python(tmp_path / "base/bin/python"))
    monkeypatch.setenv(name, value)
    with pytest.raises(BackendUnavailable, match=message):
        install_deepcell(base)
    assert not (tmp_path / "cache/deepcell").exists()
    monkeypatch.delenv(name)
    assert install_deepcell(base) == find_deepcell()


def test_read_only_cache_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackendUnavailable, match="CODEXSEG_CACHE"):
        install_deepcell(str(fake_python(tmp_path / "base/bin/python")))


def test_concurrent_setups_install_once(tmp_path):
    base = fake_python(tmp_path / "base/bin/python")
    code = "import sys; from codexseg.backends.deepcell import environment as e; "
    code += "s = e.install_deepcell; "
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code + "print(s(sys.argv[1]))", base],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = {process.communicate(timeout=60)[0] for process in both}
    assert outputs == {f"{tmp_path / 'cache/deepcell/bin/python'}\n"}
    assert commands(tmp_path) == ["venv", "pip"]


def test_pins_are_part_of_the_package():
    assert python310._pins().splitlines() == [
        "deepcell==0.12.10",
        "tensorflow==2.8.4",
        "protobuf<3.20",
    ]


def test_setup_announces_an_installation_only(tmp_path):
    base, messages = str(fake_python(tmp_path / "base/bin/python")), []

    def announce(text):
        assert commands(tmp_path) == []
        messages.append(text)

    (tmp_path / "base/log.txt").touch()
    made = install_deepcell(base, announce)
    assert len(messages) == 1
    assert re.search(r"deepcell 0\.12\.10.*2 GB, some minutes", messages[0])
    assert install_deepcell(base, pytest.fail) == made


def test_setup_installs_nothing_if_the_variable_has_deepcell(tmp_path, monkeypatch):
    python = fake_python(tmp_path / "mine/bin/python", deepcell="0.12.10")
    monkeypatch.setenv("CODEXSEG_PYTHON310", str(python))
    assert install_deepcell(announce=pytest.fail) == python
    assert not (tmp_path / "cache/deepcell").exists()


def test_configuration_precedes_variable_precedes_environment(tmp_path, monkeypatch):
    made = install_deepcell(str(fake_python(tmp_path / "base/bin/python")))
    mine = fake_python(tmp_path / "mine/bin/python", deepcell="0.12.10")
    key = fake_python(tmp_path / "key/bin/python", deepcell="0.12.10")
    assert find_deepcell() == made
    monkeypatch.setenv("CODEXSEG_PYTHON310", str(mine))
    assert find_deepcell() == mine
    assert find_deepcell(key) == key
