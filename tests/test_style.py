"""Linting, formatting, types and the direction of imports are part of the tests."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CHECKED = ["codexseg", "tests", "examples"]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", *CHECKED],
        ["ruff", "format", "--check", *CHECKED],
        ["mypy"],
        ["lint-imports", "--no-cache"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_tool_is_content(command):
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_the_command_of_the_readme():
    commands = re.findall(
        r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert len(commands) == 2
    assert "codexseg demo" in commands[0]
    assert "pytest" in commands[1]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_readme_names_only_commands_and_files_that_exist():
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    help_text = subprocess.run(
        [sys.executable, "-m", "codexseg", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    for name in re.findall(r"^codexseg (\w+)", blocks, re.MULTILINE):
        assert f"  {name} " in help_text, name
    for name in re.findall(
        r"`(\w+)`", text.split("tests.benchmarks.NAME")[1].split(".\n")[0]
    ):
        assert (ROOT / "tests" / "benchmarks" / f"{name}.py").exists(), name
