"""Selection of nodes by exact name, glob, operator, or the paths between two tensors.

Nodes in the bodies of If, Loop and Scan are never quantized and keep their types: choosing only such nodes is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from toolkit.base.errors import RecipeError, did_you_mean, did_you_mean_pattern
from toolkit.base.text import matching
from toolkit.graph.layers.forms import Forms
from toolkit.graph.model import Model


def by_name(model: Model, patterns: Iterable[str], setting: str) -> dict[str, str]:
    """Nodes whose name equals or matches one of the glob patterns: ``{node name: pattern}``.

    A pattern that equals a node's name matches only that node, even if it contains brackets.

    Raises:
        RecipeError: a pattern matches nothing, or only nodes in bodies; the message suggests similar names.
    """
    names = dict.fromkeys(model.node_names())
    main = _main(model)
    found: dict[str, str] = {}
    for pattern in patterns:
        hits = matching(pattern, names)
        if not hits:
            raise RecipeError(
                f"{setting} '{pattern}' matches no node of the model",
                remedy=did_you_mean_pattern(pattern, names),
                value=pattern,
            )
        _require_main(f"{setting} '{pattern}'", pattern, hits, main)
        for name in hits:
            found.setdefault(name, pattern)
    return found


def by_op(model: Model, ops: Iterable[str], setting: str) -> dict[str, str]:
    """Nodes of the given operators, including those that are part of a decomposed operator: ``{node name: operator}``.

    Raises:
        RecipeError: the model has no such operator, or only in bodies of If, Loop and Scan.
    """
    main = _main(model)
    present: dict[str, list[str]] = {}
    forms = Forms(model)
    for node, _ in model.walk():
        for op in {node.op, forms.op(node)}:
            present.setdefault(op, []).append(node.name)
    found: dict[str, str] = {}
    for op in ops:
        if op not in present:
            raise RecipeError(
                f"{setting} '{op}': the model has no such operator", remedy=did_you_mean(op, present), value=op
            )
        _require_main(f"{setting} '{op}'", op, present[op], main)
        found.update(dict.fromkeys(present[op], op))
    return found


def by_path(model: Model, paths: Iterable[Sequence[str]], setting: str) -> dict[str, str]:
    """Nodes on any path from one tensor to another: ``{node name: "from .. to"}``.

    Raises:
        RecipeError: a tensor does not exist, or there is no path from the first to the second.
    """
    tensors, inner = model.graph.tensors(), model.tensor_names()
    found: dict[str, str] = {}
    for ends in paths:
        if len(ends) != 2:
            raise RecipeError(f"{setting} {list(ends)!r} does not name two tensors", remedy="write [from, to]")
        for name in ends:
            if name not in tensors and name in inner:
                raise _in_body(f"{setting}: the tensor '{name}' is", name)
            if name not in tensors:
                raise RecipeError(
                    f"{setting}: no tensor is named '{name}'", remedy=did_you_mean(name, tensors), value=name
                )
        start, end = ends
        after = _reach(tensors[start], forward=True)
        before = _reach(tensors[end], forward=False)
        both = after & before
        if not both:
            raise RecipeError(
                f"{setting}: no path leads from '{start}' to '{end}'",
                remedy="check the order of the two tensors",
                value=start,
            )
        found.update(dict.fromkeys(both, f"{start} .. {end}"))
    return found


def _main(model: Model) -> set[str]:
    """The names of the nodes of the main graph."""
    return {node.name for node in model.nodes}


def _require_main(chosen: str, value: str, nodes: Sequence[str], main: set[str]) -> None:
    if not main.intersection(nodes):
        others = f" and {len(nodes) - 1} more are" if len(nodes) > 1 else " is"
        which = f"'{nodes[0]}'{others}" if value != nodes[0] else "it is"
        raise _in_body(f"{chosen} has no effect: {which}", value)


def _in_body(what: str, value: str) -> RecipeError:
    return RecipeError(
        f"{what} inside the body of an If, Loop or Scan, where layers are never quantized and keep their types",
        remedy="leave it out, or name nodes outside",
        value=value,
    )


def _reach(tensor: object, forward: bool) -> set[str]:
    pending = list(tensor.outputs if forward else tensor.inputs)  # type: ignore[attr-defined]
    seen: set[str] = set()
    while pending:
        node = pending.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        for further in node.outputs if forward else node.inputs:
            pending.extend(further.outputs if forward else further.inputs)
    return seen


def choose(
    model: Model,
    names: Iterable[str] = (),
    ops: Iterable[str] = (),
    between: Iterable[Sequence[str]] = (),
    setting: str = "nodes",
) -> dict[str, str]:
    """Nodes that any of the three criteria select: ``{node name: criterion}``.

    Args:
        names: names of nodes or globs over them; see ``by_name``.
        ops: operators; see ``by_op``.
        between: pairs of tensors; the nodes on any path from the first to the second are chosen.
        setting: the name of the setting, for errors.

    Raises:
        RecipeError: one of them matches nothing, or only nodes in the bodies of If, Loop and Scan.
    """
    found: dict[str, str] = {}
    # each walks the whole graph first
    for way, given, word in (
        (by_path, between, f"{setting} between"), (by_op, ops, f"{setting} op"), (by_name, names, setting),
    ):  # fmt: skip
        wanted: list[Any] = list(given)
        found.update(way(model, wanted, word) if wanted else {})
    return found
