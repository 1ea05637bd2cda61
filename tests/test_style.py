"""Style of the code and its prose, import rules, and facts that the README repeats."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import source
from tests.helpers.runs import ROOT

BIN = Path(sys.executable).parent
CHECKED = ["codexseg", "tests", "examples"]

PACKAGE = source.modules()

MAX_RATES = {
    "docstrings": {
        "what": 10,
        "say": 3,
        "lie": 3,
        "stand": 2,
        "tell": 2,
        "of which": 8,
    },
    "messages": {"what": 10, "say": 3},
    "test names": {"what": 15, "say": 5},
}
"""Per 10,000 words."""

MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 9
MAX_FILE_LINES = 600
MAX_MODULES_PER_FOLDER = 15


@pytest.mark.slow
@pytest.mark.lint
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
def test_linter_reports_no_problem(command):
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def prose(kind):
    if kind == "test names":
        functions = (f for module in source.modules("tests") for f in module.functions)
        names = [f.name for f in functions if f.name.startswith("test_")]
        return [name.replace("_", " ") for name in names]
    return [text for module in PACKAGE for text in getattr(module, kind)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAX_RATES)
def test_prose_is_plain_english(kind):
    rates = source.rates(prose(kind))
    assert {
        habit: rates[habit]
        for habit, limit in MAX_RATES[kind].items()
        if rates[habit] > limit
    } == {}


def test_functions_are_short():
    lengths = {
        f"{module.name}:{function.name}": source.length(function)
        for module in PACKAGE
        for function in source.limited_functions(module)
    }
    assert {k: n for k, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}


def test_functions_have_few_parameters():
    counts = {
        f"{module.name}:{function.name}": source.parameters(function)
        for module in PACKAGE
        for function in source.limited_functions(module)
    }
    assert {k: n for k, n in counts.items() if n > MAX_PARAMETERS} == {}


def test_files_are_short():
    lines = {module.name: module.text.count("\n") for module in PACKAGE}
    assert {k: n for k, n in lines.items() if n > MAX_FILE_LINES} == {}


def test_folders_have_few_modules():
    folders = Counter(
        module.path.parent.relative_to(ROOT).as_posix()
        for module in PACKAGE
        if module.path.name != "__init__.py"
    )
    assert {k: n for k, n in folders.items() if n > MAX_MODULES_PER_FOLDER} == {}


def test_imports_form_no_circle():
    assert source.in_circles(source.import_graph(PACKAGE)) == set()


def test_stages_do_not_import_stages():
    def stage(name):
        match = re.match(r"codexseg\.stages\.(\w+)", name)
        return match and match[1]

    assert [
        (module, target)
        for module, targets in source.import_graph(PACKAGE).items()
        for target in sorted(targets)
        if stage(module) not in (None, "plan")
        if stage(target) not in (None, stage(module))
    ] == []


def test_rates_count_words_of_all_forms():
    text = "It says what lies there, whose name it told; it stands. " + "word " * 9989
    assert source.rates([text]) == {
        "what": 1,
        "say": 1,
        "lie": 1,
        "stand": 1,
        "tell": 1,
        "of which": 1,
    }


def test_circles_of_imports_are_detected():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}
    assert source.in_circles(graph) == {"b", "c"}
    assert source.in_circles({"a": {"b"}, "b": set()}) == set()


def test_ci_runs_the_installation_of_the_readme():
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
