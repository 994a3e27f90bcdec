"""Build instructions in Polygraphy calls of a Python script, such as ``polygraphy run --gen`` writes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.order import Order
from toolkit.run.migrate.orders.terms import Flag, Term
from toolkit.run.migrate.orders.values import hardware_word, type_word, whole
from toolkit.run.migrate.python_scripts.calls import CREATE_CONFIG
from toolkit.run.migrate.python_scripts.static_values import UNKNOWN, LibraryName, StaticValues

_QUIET = frozenset({"calibrator", "profiles"})
_SWITCHES = (Term.FP16, Term.BF16, Term.INT8, Term.FP8, Term.TF32, Term.SPARSE, Term.REFIT, Term.VERSIONS, Term.DLA)


@dataclass(frozen=True)
class _PolygraphyCall:
    """A call, in the form that the reader functions need.

    Attributes:
        node: the call in the syntax tree.
        name: the function's name in lower case; for a loader class the name of its function.
        given: its keyword arguments.
        static: the known values of the script.
    """

    node: ast.Call
    name: str
    given: Mapping[str, ast.expr]
    static: StaticValues

    def first(self, keyword: str = "") -> Any:
        """The value of the first argument, which may also be given by keyword."""
        return self.static.value(self.node.args[0] if self.node.args else self.given.get(keyword))


def polygraphy_calls(node: ast.Call, static: StaticValues) -> Iterator[Order]:
    """The instructions of one Polygraphy call; none for other calls. The caller adds lines and conditions."""
    name = _snake(static.name(node.func).rpartition(".")[2])
    given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    read = _READERS.get(name)
    if read is not None:
        yield from read(_PolygraphyCall(node, name, given, static))


def _snake(name: str) -> str:
    """Convert the name of a loader class to that of its function: ``CreateConfig`` to ``create_config``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _look(node: ast.AST) -> Order:
    return Order(None, why=MigrateCode.LOOK_AT(line=getattr(node, "lineno", 0)))


def _config(call: _PolygraphyCall) -> Iterator[Order]:
    for key, value in call.given.items():
        yield from _setting(key, value, call.static, call.node)


def _network(call: _PolygraphyCall) -> Iterator[Order]:
    path = call.first("path")
    if isinstance(path, str) and path.endswith(".onnx"):
        yield Order(Term.MODEL, path)
    elif call.name == "network_from_onnx_path":
        yield _look(call.node)
    if call.static.value(call.given.get("strongly_typed")) is True:
        yield Order(Term.STRONG)


def _setting(key: str, value: ast.expr, static: StaticValues, node: ast.Call) -> Iterator[Order]:
    flag, worth = CREATE_CONFIG.get(key, Flag(Term.UNSET)), static.value(value)
    if key in _QUIET or worth is None or worth is False:
        return
    if worth is UNKNOWN and flag.term is not Term.UNSET and key != "memory_pool_limits":
        yield _look(node)
    elif flag.term in _SWITCHES or flag.means:
        yield Order(flag.term, flag.means or None)
    elif flag.term is Term.HARDWARE:
        member = worth.member if isinstance(worth, LibraryName) else str(worth)
        yield Order(flag.term, hardware_word(member))
    elif flag.term is Term.WORKSPACE:
        try:
            yield Order(flag.term, whole(_pools(value, static) if key == "memory_pool_limits" else worth))
        except (TypeError, ValueError):
            yield _look(node)
    elif flag.term is Term.TACTICS:
        members = worth if isinstance(worth, list) else []
        yield Order(flag.term, [LibraryName(one).member.lower() for one in members])
    else:
        yield Order(flag.term, worth)


def _pools(value: ast.expr, static: StaticValues) -> Any:
    if not isinstance(value, ast.Dict):
        return UNKNOWN
    for key, size in zip(value.keys, value.values):
        if key is not None and ast.unparse(key).endswith("WORKSPACE"):
            return static.value(size)
    return None


def _profile(call: _PolygraphyCall) -> Iterator[Order]:
    """``Profile().add("x", min=..., opt=..., max=...)``; a chain of these calls is one profile."""
    node, given = call.node, call.given
    if not {"min", "opt", "max"} <= given.keys():
        return
    name = call.first("name")
    sizes = {term: call.static.value(given[key]) for term, key in
             ((Term.MIN, "min"), (Term.OPT, "opt"), (Term.MAX, "max"))}  # fmt: skip
    whole = all(isinstance(one, list) and all(isinstance(size, int) for size in one) for one in sizes.values())
    if not isinstance(name, str) or not whole:
        yield _look(node)
        return
    start: ast.expr = node
    while isinstance(start, ast.Call) and isinstance(start.func, ast.Attribute) and start.func.attr == "add":
        start = start.func.value
    begin = f"{ast.unparse(start)}@{start.lineno}:{start.col_offset}" if isinstance(start, ast.Call) else ast.unparse(
        start
    )  # fmt: skip
    for term, one in sizes.items():
        yield Order(term, (begin, {name: one}))


def _calibrator(call: _PolygraphyCall) -> Iterator[Order]:
    given, static = call.given, call.static
    if "data_loader" not in given:
        return
    loader = ast.unparse(given["data_loader"])
    # Polygraphy's own data loader generates values and is not user code
    if not loader.rpartition(".")[2].startswith("DataLoader("):
        yield Order(Term.LOADER, loader)
    base = static.value(given.get("BaseClass"))
    if isinstance(base, str):
        yield Order(Term.CALIBRATOR, LibraryName(base).member)
    cache = static.value(given.get("cache"))
    if isinstance(cache, str):
        yield Order(Term.CACHE, cache)
    quantile = static.value(given.get("quantile"))
    if isinstance(quantile, float):
        yield Order(Term.QUANTILE, quantile)


def _types(call: _PolygraphyCall) -> Iterator[Order]:
    parts = [*call.node.args, *call.given.values()]
    worth = call.static.value(parts[1] if len(parts) > 1 else None)
    if not isinstance(worth, dict):
        yield _look(call.node)
        return
    try:
        found = [(str(name), type_word(LibraryName(kind).member or str(kind))) for name, kind in worth.items()]
    except ValueError:
        yield _look(call.node)
        return
    yield Order(Term.LAYERS if call.name == "set_layer_precisions" else Term.TENSOR_IO, found)


def _inputs(call: _PolygraphyCall) -> Iterator[Order]:
    paths = call.first()
    if paths is not UNKNOWN and paths:
        yield Order(Term.INPUTS, paths if isinstance(paths, list) else [paths])


def _outputs(call: _PolygraphyCall) -> Iterator[Order]:
    yield Order(Term.OUTPUTS)


def _own_code(call: _PolygraphyCall) -> Iterator[Order]:
    yield _look(call.node)


def _plugins(call: _PolygraphyCall) -> Iterator[Order]:
    yield Order(Term.PLUGINS)


_READERS: dict[str, Callable[[_PolygraphyCall], Iterator[Order]]] = {
    "create_config": _config,
    "network_from_onnx_path": _network,
    "onnx_from_path": _network,
    "bytes_from_path": _network,
    "add": _profile,
    "calibrator": _calibrator,
    "set_layer_precisions": _types,
    "set_tensor_datatypes": _types,
    "modify_network_outputs": _outputs,
    "mark_debug": _outputs,
    "streaming_data_loader": _inputs,
    "load_json": _inputs,
    "postprocess_network": _own_code,
    "load_plugins": _plugins,
}
