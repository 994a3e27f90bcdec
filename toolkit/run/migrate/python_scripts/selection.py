"""The layers that a condition in a script selects, by name or kind."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from toolkit.base.text import literal_glob
from toolkit.run.migrate.python_scripts.static_values import UNKNOWN, LibraryName, StaticValues

_OPS = {
    "CONVOLUTION": ("Conv",), "DECONVOLUTION": ("ConvTranspose",), "MATRIX_MULTIPLY": ("MatMul", "Gemm"),
    "FULLY_CONNECTED": ("Gemm",), "SOFTMAX": ("Softmax",), "POOLING": ("MaxPool", "AveragePool", "GlobalAveragePool"),
    "NORMALIZATION": ("LayerNormalization", "InstanceNormalization", "GroupNormalization"),
    "RESIZE": ("Resize",), "CONCATENATION": ("Concat",), "SCALE": ("BatchNormalization",), "LRN": ("LRN",),
    "REDUCE": ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "GlobalAveragePool"),
}  # fmt: skip
"""The operators for each kind of layer that TensorRT's parser creates only from these operators."""


@dataclass(frozen=True)
class Selection:
    """Layers selected by glob patterns or operators; ``unclear`` if the condition also depends on anything else."""

    names: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    unclear: bool = False

    def __bool__(self) -> bool:
        return bool(self.names or self.ops or self.unclear)

    def also(self, other: Selection) -> Selection:
        """``other`` if this selection is empty; otherwise unclear, since intersections are not determined."""
        if not self:
            return other
        return Selection(unclear=True)


def selection_of(test: ast.expr, static: StaticValues) -> Selection:
    """The layers or tensors that a condition selects by ``name`` or ``type``; empty if it tests neither."""
    return _of(_spelled(test, static), static)


def _of(test: ast.expr, static: StaticValues) -> Selection:
    about = [node for node in ast.walk(test) if isinstance(node, ast.Attribute) and node.attr in ("name", "type")]
    if not about:
        return Selection()
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        parts = [_of(one, static) for one in test.values]
        if all(part and not part.unclear for part in parts):
            return Selection(tuple(n for p in parts for n in p.names), tuple(o for p in parts for o in p.ops))
        return Selection(unclear=True)
    return _compared(test, static) or _called(test, static) or Selection(unclear=True)


def _texts(value: object) -> list[str]:
    many = value if isinstance(value, list) else [value]
    return [str(one) for one in many] if many and all(isinstance(one, str) for one in many) else []


def _compared(test: ast.expr, static: StaticValues) -> Selection | None:
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    left, right, op = test.left, test.comparators[0], test.ops[0]
    if isinstance(op, ast.Eq) and static.value(left) is not UNKNOWN:
        left, right = right, left
    wanted = _texts(static.value(right))
    if _attribute(left, "type") and isinstance(op, (ast.Eq, ast.In)) and wanted:
        kinds = [_OPS.get(LibraryName(one).member) for one in wanted]
        ops = tuple(op for kind in kinds if kind is not None for op in kind)
        return Selection(ops=ops) if all(kinds) else None
    if _attribute(left, "name") and isinstance(op, (ast.Eq, ast.In)) and wanted:
        # ``name in "text"`` is a substring test instead of a list of names
        return Selection(names=tuple(wanted)) if isinstance(op, ast.Eq) or static.value(right) != wanted[0] else None
    part = _texts(static.value(left))
    if isinstance(op, ast.In) and _attribute(right, "name") and len(part) == 1:
        return Selection(names=(f"*{_part(part[0], right)}*",))
    return None


def _called(test: ast.expr, static: StaticValues) -> Selection | None:
    """``layer.name.startswith("head")`` and ``any(part in layer.name for part in PARTS)``."""
    if not isinstance(test, ast.Call) or len(test.args) != 1:
        return None
    if isinstance(test.func, ast.Attribute) and _attribute(test.func.value, "name"):
        parts = _texts(static.value(test.args[0]))
        forms = {"startswith": "{}*", "endswith": "*{}"}
        if test.func.attr in forms and parts:
            return Selection(names=tuple(forms[test.func.attr].format(_part(part, test.func.value)) for part in parts))
    inner = test.args[0]
    if ast.unparse(test.func) != "any" or not isinstance(inner, (ast.GeneratorExp, ast.ListComp)):
        return None
    loop, asked = inner.generators[0], inner.elt
    parts = _texts(static.value(loop.iter))
    if isinstance(asked, ast.Compare) and isinstance(asked.ops[0], ast.In) and parts and not loop.ifs:
        holds = ast.unparse(asked.left) == ast.unparse(loop.target) and _attribute(asked.comparators[0], "name")
        return Selection(names=tuple(f"*{_part(part, asked.comparators[0])}*" for part in parts)) if holds else None
    return None


def _attribute(node: ast.expr, name: str) -> bool:
    """Whether an expression is ``something.name``, also lower-cased."""
    if _lowered(node):
        return _attribute(node.func.value, name)  # type: ignore[attr-defined]
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        # the form: layer.name or ""
        return _attribute(node.values[0], name)
    return isinstance(node, ast.Attribute) and node.attr == name


def _lowered(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "lower"


def _part(text: str, holder: ast.expr) -> str:
    """A glob for a part of a name, which matches both cases if the name is lower-cased in the comparison."""
    if not _lowered(holder):
        return literal_glob(text)
    return "".join(f"[{one}{one.upper()}]" if one.isalpha() else literal_glob(one) for one in text)


def _spelled(test: ast.expr, static: StaticValues) -> ast.expr:
    """A condition in which variables with a layer's name or type are replaced by their expressions."""

    class Spell(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            given = static.given(node.id)
            holds = given is not None and any(
                isinstance(one, ast.Attribute) and one.attr in ("name", "type") for one in ast.walk(given)
            )
            return given if given is not None and holds else node

    return Spell().visit(ast.parse(ast.unparse(test), mode="eval").body)
