"""Measurements of the source code of the package: language, sizes, imports."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.helpers.runs import ROOT

HABITS = {
    "what": r"\bwhat\b",
    "say": r"\b(says?|said)\b",
    "lie": r"\b(lies?|lay)\b",
    "stand": r"\bstands?\b",
    "tell": r"\b(tells?|told)\b",
    "of which": r"\b(of which|in which|whose)\b",
}
"""Patterns of words that plain English prose rarely uses."""

LONG_BY_NATURE = ("kernel", "njit", "command", "overload")
"""Words in decorators of functions without a limit of length or parameters."""

MESSAGE_CALLS = {"warning", "info", "error", "echo", "warn"}
"""Names of functions whose strings users read."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A parsed source file.

    Attributes
    ----------
    path : Path
    name : str
        Dotted name; that of the package for ``__init__.py``.
    """

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        """Source code."""
        return self.path.read_text("utf-8")

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the syntax tree."""
        return list(ast.walk(ast.parse(self.text)))

    @property
    def functions(self) -> Iterator[Function]:
        """Functions and methods."""
        return (n for n in self.nodes if isinstance(n, Function))

    @property
    def docstrings(self) -> Iterator[str]:
        """Docstrings of the module, its classes and its functions."""
        for node in self.nodes:
            if isinstance(node, ast.Module | ast.ClassDef | Function):
                yield ast.get_docstring(node) or ""

    @property
    def messages(self) -> Iterator[str]:
        """Strings in raised errors, warnings, log lines, printed lines and help texts."""
        for node in self.nodes:
            if isinstance(node, ast.Raise) and node.exc is not None:
                yield from _strings(node.exc)
            elif isinstance(node, ast.Call):
                if ast.unparse(node.func).rpartition(".")[2] in MESSAGE_CALLS:
                    yield from _strings(node)
                for keyword in node.keywords:
                    if keyword.arg == "help":
                        yield from _strings(keyword.value)

    @property
    def imports(self) -> Iterator[str]:
        """Names that are imported, as "module" or "module.name"."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(folder: str = "codexseg") -> list[Module]:
    """Parse all Python files below a folder of the repository."""
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found.append(Module(path, name))
    return found


def rates(texts: Iterable[str]) -> dict[str, float]:
    """Count each habit per 10,000 words."""
    text = " ".join(texts).lower()
    words = max(1, len(re.findall(r"[a-z']+", text)))
    return {
        name: round(10_000 * len(re.findall(pattern, text)) / words, 1)
        for name, pattern in HABITS.items()
    }


def limited_functions(module: Module) -> Iterator[Function]:
    """Yield the functions of a module that have limits of length and parameters."""
    for function in module.functions:
        decorators = " ".join(ast.unparse(node) for node in function.decorator_list)
        if not any(word in decorators for word in LONG_BY_NATURE):
            yield function


def length(function: Function) -> int:
    """Count the lines of a function; a docstring counts as one line."""
    docstring = ast.get_docstring(function, clean=False) or ""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - docstring.count("\n")


def parameters(function: Function) -> int:
    """Count the named parameters of a function."""
    arguments = function.args
    return sum(
        len(listed)
        for listed in (arguments.posonlyargs, arguments.args, arguments.kwonlyargs)
    )


def import_graph(package: list[Module]) -> dict[str, set[str]]:
    """Return the modules of a package that each of its modules imports."""
    names = {module.name for module in package}
    graph: dict[str, set[str]] = {}
    for module in package:
        imported = set()
        for name in module.imports:
            home = name if name in names else name.rpartition(".")[0]
            imported |= {home} & names
        graph[module.name] = imported - {module.name}
    return graph


def in_circles(graph: dict[str, set[str]]) -> set[str]:
    """Return the nodes in circles, and those on a path between two circles."""
    graph = {node: set(targets) for node, targets in graph.items()}
    while True:  # nodes without imports, or that no node imports, are in no circle
        imported = set().union(*graph.values())
        outside = {node for node in graph if not graph[node] or node not in imported}
        if not outside:
            return set(graph)
        graph = {node: graph[node] - outside for node in graph.keys() - outside}


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
