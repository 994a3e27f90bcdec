"""Polygraphy's calls in a Python script, such as ``polygraphy run --gen`` writes, read into orders."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.calls import CREATE_CONFIG
from toolkit.run.migrate.order import Order
from toolkit.run.migrate.static import UNKNOWN, Dotted, Static
from toolkit.run.migrate.terms import Flag, Term
from toolkit.run.migrate.values import hardware_word, type_word, whole

_QUIET = frozenset({"calibrator", "profiles"})
_SWITCHES = (Term.FP16, Term.BF16, Term.INT8, Term.FP8, Term.TF32, Term.SPARSE, Term.REFIT, Term.VERSIONS, Term.DLA)


def polygraphy_calls(node: ast.Call, static: Static) -> Iterator[Order]:
    """The orders of one call of Polygraphy's; none for other calls. Lines and conditions are the caller's."""
    name = _snake(static.name(node.func).rpartition(".")[2])
    given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    first = node.args[0] if node.args else None
    if name == "create_config":
        for key, value in given.items():
            yield from _setting(key, value, static, node)
    elif name in ("network_from_onnx_path", "onnx_from_path", "bytes_from_path"):
        path = static.value(first or given.get("path"))
        if isinstance(path, str) and path.endswith(".onnx"):
            yield Order(Term.MODEL, path)
        elif name == "network_from_onnx_path":
            yield _look(node)
        if static.value(given.get("strongly_typed")) is True:
            yield Order(Term.STRONG)
    elif name == "add" and {"min", "opt", "max"} <= given.keys():
        yield from _profile(node, given, static)
    elif name == "calibrator" and "data_loader" in given:
        yield from _calibrator(given, static)
    elif name in ("set_layer_precisions", "set_tensor_datatypes"):
        parts = [*node.args, *given.values()]
        yield _types(parts[1] if len(parts) > 1 else None, static, node, layers=name == "set_layer_precisions")
    elif name in ("modify_network_outputs", "mark_debug"):
        yield Order(Term.OUTPUTS)
    elif name in ("streaming_data_loader", "load_json"):
        paths = static.value(first)
        if paths is not UNKNOWN and paths:
            yield Order(Term.INPUTS, paths if isinstance(paths, list) else [paths])
    elif name == "postprocess_network":
        yield _look(node)
    elif name == "load_plugins":
        yield Order(Term.PLUGINS)


def _snake(name: str) -> str:
    """Loaders are classes, and functions of the same name in lower case: ``CreateConfig`` and ``create_config``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _look(node: ast.AST) -> Order:
    return Order(None, why=MigrateCode.LOOK_AT(line=getattr(node, "lineno", 0)))


def _setting(key: str, value: ast.expr, static: Static, node: ast.Call) -> Iterator[Order]:
    flag, worth = CREATE_CONFIG.get(key, Flag(Term.UNSET)), static.value(value)
    if key in _QUIET or worth is None or worth is False:
        return
    if worth is UNKNOWN and flag.term is not Term.UNSET and key != "memory_pool_limits":
        yield _look(node)
    elif flag.term in _SWITCHES or flag.means:
        yield Order(flag.term, flag.means or None)
    elif flag.term is Term.HARDWARE:
        member = worth.member if isinstance(worth, Dotted) else str(worth)
        yield Order(flag.term, hardware_word(member))
    elif flag.term is Term.WORKSPACE:
        try:
            yield Order(flag.term, whole(_pools(value, static) if key == "memory_pool_limits" else worth))
        except (TypeError, ValueError):
            yield _look(node)
    elif flag.term is Term.TACTICS:
        members = worth if isinstance(worth, list) else []
        yield Order(flag.term, [Dotted(one).member.lower() for one in members])
    else:
        yield Order(flag.term, worth)


def _pools(value: ast.expr, static: Static) -> Any:
    if not isinstance(value, ast.Dict):
        return UNKNOWN
    for key, size in zip(value.keys, value.values):
        if key is not None and ast.unparse(key).endswith("WORKSPACE"):
            return static.value(size)
    return None


def _profile(node: ast.Call, given: Mapping[str, ast.expr], static: Static) -> Iterator[Order]:
    """``Profile().add("x", min=..., opt=..., max=...)``; a chain of such calls is one profile, known by its start."""
    name = static.value(node.args[0]) if node.args else static.value(given.get("name"))
    sizes = {term: static.value(given[key]) for term, key in
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


def _calibrator(given: Mapping[str, ast.expr], static: Static) -> Iterator[Order]:
    base = static.value(given.get("BaseClass"))
    if isinstance(base, str):
        yield Order(Term.CALIBRATOR, Dotted(base).member)
    cache = static.value(given.get("cache"))
    if isinstance(cache, str):
        yield Order(Term.CACHE, cache)
    quantile = static.value(given.get("quantile"))
    if isinstance(quantile, float):
        yield Order(Term.QUANTILE, quantile)


def _types(table: ast.expr | None, static: Static, node: ast.AST, layers: bool) -> Order:
    worth = static.value(table)
    if not isinstance(worth, dict):
        return _look(node)
    try:
        found = [(str(name), type_word(Dotted(kind).member or str(kind))) for name, kind in worth.items()]
    except ValueError:
        return _look(node)
    return Order(Term.LAYERS if layers else Term.TENSOR_IO, found)
