"""The house: no import circles, one meaning a name, short files, no privileged passes, private names stay private."""

from __future__ import annotations

import ast
import gc
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
MOST_LINES = 400

CIRCLES: list[set[str]] = []
"""Circles that still exist; a circle among some of these modules passes. Nothing is added here."""

LONG: set[str] = set()
"""Files that are still too long. Nothing is added here."""


@dataclass
class Module:
    """What is asked of a file.

    Attributes:
        path: of the file.
        imports: module and name of every import, wherever it stands: under TYPE_CHECKING and in functions too.
        types: the classes, and what is assigned to a name that is written like a class.
        strings: line and text of every string that is no docstring.
        attributes: name and attribute wherever an attribute of a plain name is used.
    """

    path: Path
    imports: list[tuple[str, str]] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    strings: list[tuple[int, str]] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        tree, docstrings = ast.parse(self.path.read_text(encoding="utf-8")), set()
        # owners come before what they own
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module is not None, "imports are absolute"
                self.imports += [(node.module, alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                self.imports += [(alias.name, "") for alias in node.names]
            elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                if ast.get_docstring(node, clean=False) is not None:
                    docstrings.add(id(node.body[0].value))  # type: ignore[attr-defined]
                if isinstance(node, ast.ClassDef):
                    self.types.append(node.name)
            elif isinstance(node, ast.Constant):
                if isinstance(node.value, str) and id(node) not in docstrings:
                    self.strings.append((node.lineno, node.value))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                self.attributes.append((node.value.id, node.attr))
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        # aliases of types are written like classes, constants in capitals
        self.types += [t.id for t in targets if isinstance(t, ast.Name) and t.id[:1].isupper() and not t.id.isupper()]


def modules(*tops: str) -> dict[str, Module]:
    """Every module of these folders, toolkit and passes where none is given."""
    return {name: module for top in tops or ("toolkit", "passes") for name, module in parsed(top).items()}


@lru_cache
def parsed(top: str) -> dict[str, Module]:
    # syntax trees are large and have no circles: looking for some costs more than parsing
    gc.disable()
    try:
        return {
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): Module(path)
            for path in sorted((ROOT / top).rglob("*.py"))
        }
    finally:
        gc.enable()


def package(module: str) -> str:
    """The package a module belongs to or tests: ``toolkit.graph``, or ``passes``."""
    module = module.removeprefix("tests.")
    return ".".join(module.split(".")[:2]) if module.startswith("toolkit.") else module.split(".")[0]


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module (Tarjan, 1972)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for other in edges[module]:
            if other not in index:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], index[other])
        if lowest[module] == index[module]:
            place = stack.index(module)
            component = set(stack[place:])
            del stack[place:]
            if len(component) > 1:
                found.append(component)

    for module in edges:
        if module not in index:
            visit(module)
    return found


def test_circles_are_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert sorted(map(sorted, circles(edges))) == [["a", "b", "c"], ["d", "e"]]


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    edges: dict[str, set[str]] = {}
    for name, one in known.items():
        targets = {f"{module}.{item}" if f"{module}.{item}" in known else module for module, item in one.imports}
        edges[name] = (targets & set(known)) - {name}
    told = [
        ", ".join(f"{one} imports {other}" for one in sorted(circle) for other in sorted(edges[one] & circle))
        for circle in circles(edges)
        if not any(circle <= allowed for allowed in CIRCLES)
    ]
    assert not told, "move what both need into a module of its own:\n" + "\n".join(told)


def test_no_name_of_a_type_has_two_meanings():
    places = defaultdict(list)
    for name, module in modules().items():
        for one in module.types:
            places[one.lstrip("_")].append(name)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice, f"give each meaning a name of its own, or define it once: {twice}"


def test_no_file_is_too_long():
    endings = {".py", ".jinja", ".js", ".css", ".md"}
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for top in ("toolkit", "passes")
        for path in (ROOT / top).rglob("*")
        if path.suffix in endings
    }
    long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES}
    assert not long, f"past {MOST_LINES} lines there is a second subject: {long}"


def test_the_toolkit_names_no_built_in_pass():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    passes = list(points["qtool.passes"])
    # one-word names such as "smooth" are words too: they count where a string is nothing else
    named = re.compile(rf"^({'|'.join(passes)})$|\b({'|'.join(name for name in passes if '_' in name)})\b")
    found = []
    for name, one in modules().items():
        place = one.path.relative_to(ROOT).as_posix()
        if package(name) == "passes":
            continue
        found += [f"{place} imports {module}" for module, _ in one.imports if module.split(".")[0] == "passes"]
        found += [
            f"{place}:{line} names {match.group(0)}" for line, text in one.strings if (match := named.search(text))
        ]
    assert not found, "let the pass's class say what is needed of it:\n" + "\n".join(found)


def test_private_names_stay_in_their_package():
    known, found = modules("toolkit", "passes", "tests"), []
    for name, one in known.items():
        aliases = {}
        for module, item in one.imports:
            if module.split(".")[0] not in ("toolkit", "passes") or package(module) == package(name):
                continue
            if item.startswith("_") and not item.startswith("__"):
                found.append(f"{name} imports {module}.{item}")
            if f"{module}.{item}" in known:
                aliases[item] = f"{module}.{item}"
        found += [
            f"{name} uses {aliases[owner]}.{attribute}"
            for owner, attribute in one.attributes
            if owner in aliases and attribute.startswith("_") and not attribute.startswith("__")
        ]
    assert not found, "make it public in its own package, or do without it:\n" + "\n".join(found)


def test_no_remedy_begins_with_a_command():
    """An error begins its remedy with a capital: "Pip install -U onnx" is no command."""
    command = re.compile(r"remedy=\s*f?[\"'](pip|git|python|apply|onnxruntime|onnx|nvidia-smi)\b")
    found = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for folder in ("toolkit", "passes")
        for path in (ROOT / folder).rglob("*.py")
        for match in command.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found, "begin with a verb, such as 'run pip install ...':\n" + "\n".join(found)
