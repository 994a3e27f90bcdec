"""Values of a Python script's expressions, as far as they can be determined without running the script."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from toolkit.run.migrate.python_scripts.bindings import CALLS, SAME_PATH, Bindings
from toolkit.run.migrate.python_scripts.script_options import script_options

_MOST, _LONGEST = 1 << 64, 1 << 16
"""The largest number and the longest string that are evaluated."""
_TEXT = ("lower", "upper", "strip", "replace", "startswith", "endswith")
"""String methods that are evaluated."""
_WIDE = re.compile(r"\d{4}|\*")
"""A width or precision in a format string that produces a long string."""
_LIBRARIES = ("trt", "tensorrt")
"""Names that are assumed to be a module even if they are a function's parameter."""


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()
"""The value of an expression that is known only at run time."""


class LibraryName(str):
    """A name from a library, such as ``trt.BuilderFlag.FP16``."""

    @property
    def member(self) -> str:
        """The last part of the name."""
        return self.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """The part before the last one: ``BuilderFlag``."""
        return self.rpartition(".")[0].rpartition(".")[2]


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.BitOr: operator.or_,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in many, ast.NotIn: lambda one, many: one not in many,
}  # fmt: skip
_CONVERSIONS: dict[int, Callable[[Any], Any]] = {ord("r"): repr, ord("s"): str, ord("a"): ascii}


def _short(*parts: object) -> bool:
    return sum(len(part) for part in parts if isinstance(part, str)) <= _LONGEST >> 4


class StaticValues:
    """The names of a script and their values; a name with several values counts as unknown.

    Args:
        arguments: the arguments that the script is run with; argparse's defaults apply to missing ones.
    """

    def __init__(self, tree: ast.Module, arguments: Sequence[str] = ()) -> None:
        self.names = Bindings(tree)
        self.options: dict[str, Any] = {}
        self._arguments = list(arguments)
        self._busy: set[str] = set()
        self._known: dict[str, Any] = {}
        self.options.update(script_options(tree, self._arguments, self.value, UNKNOWN))
        # values that were computed before all options were known
        self._known.clear()

    def value(self, node: ast.expr | None) -> Any:
        """The value of an expression, or ``UNKNOWN``."""
        try:
            return self._value(node)
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError):
            return UNKNOWN

    def spelled(self, node: ast.expr) -> Any:
        """The value of a string or list, in which unknown parts appear as source text in braces."""
        value = self.value(node)
        if value is not UNKNOWN:
            return value
        if isinstance(node, ast.Name) and (made := self.given(node.id)) is not None and node.id not in self._busy:
            self._busy.add(node.id)
            try:
                return self.spelled(made)
            finally:
                self._busy.discard(node.id)
        if isinstance(node, ast.JoinedStr):
            return "".join(str(self._part(one)) for one in node.values)
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._part(one) for one in node.elts]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._part(node.left), self._part(node.right)
            return left + right if type(left) is type(right) and isinstance(left, (str, list)) else UNKNOWN
        return UNKNOWN

    def _part(self, node: ast.expr) -> Any:
        value = self.spelled(node)
        filled = node.value if isinstance(node, ast.FormattedValue) else node
        return f"{{{ast.unparse(filled)}}}" if value is UNKNOWN else value

    def given(self, name: str) -> ast.expr | None:
        """The expression that a name or attribute is bound to, if there is exactly one; else None."""
        values = self.names.given.get(name, [])
        return values[0] if len(values) == 1 else None

    def name(self, node: ast.expr) -> str:
        """The name of an expression without import aliases: ``CreateConfig``, ``trt.Builder``."""
        written = ast.unparse(node)
        first, dot, rest = written.partition(".")
        return f"{self.names.imported.get(first, first)}{dot}{rest}"

    # ---------------------------------------------------------------- expressions

    def _value(self, node: ast.expr | None) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Tuple() | ast.List() | ast.Set():
                return self._all([*node.elts])
            case ast.Dict():
                keys, values = self._all(node.keys), [self._value(one) for one in node.values]
                return UNKNOWN if keys is UNKNOWN else dict(zip(keys, values))
            case ast.Name():
                return self._of_name(node.id)
            case ast.Attribute():
                return self._of_attribute(node)
            case ast.UnaryOp():
                return self._unary(node)
            case ast.BinOp():
                return self._binary(node)
            case ast.BoolOp():
                return self._both(node)
            case ast.Compare(ops=[test], comparators=[other]):
                return self._compared(node.left, test, other)
            case ast.IfExp():
                test = self._value(node.test)
                return UNKNOWN if test is UNKNOWN else self._value(node.body if test else node.orelse)
            case ast.JoinedStr():
                return self._joined(node)
            case ast.FormattedValue():
                return self._formatted(node)
            case ast.Subscript():
                return self._item(node)
            case ast.Call(keywords=[]):
                return self._called(node)
        return UNKNOWN

    def _all(self, nodes: Sequence[ast.expr | None]) -> Any:
        """The values as a list; ``UNKNOWN`` if one of them is unknown."""
        values = [self._value(one) for one in nodes]
        return UNKNOWN if any(value is UNKNOWN for value in values) else values

    def _item(self, node: ast.Subscript) -> Any:
        holder, key = self._value(node.value), self._value(node.slice)
        if isinstance(holder, LibraryName):
            number = key if holder == "sys.argv" and isinstance(key, int) else 0
            return self._arguments[number - 1] if 0 < number <= len(self._arguments) else UNKNOWN
        return UNKNOWN if UNKNOWN in (holder, key) else holder[key]

    def _joined(self, node: ast.JoinedStr) -> Any:
        parts = self._all(node.values)
        text = "" if parts is UNKNOWN else "".join(parts)
        return UNKNOWN if parts is UNKNOWN or len(text) > _LONGEST else text

    def _called(self, node: ast.Call) -> Any:
        parts = [self._value(one) for one in node.args]
        called = CALLS.get(self.name(node.func))
        if called is None and isinstance(node.func, ast.Attribute):
            text = self._value(node.func.value)
            if not isinstance(text, str) or isinstance(text, LibraryName):
                return UNKNOWN
            if node.func.attr in SAME_PATH:
                return text
            called = getattr(text, node.func.attr) if node.func.attr in _TEXT and _short(text, *parts) else None
        return UNKNOWN if called is None or UNKNOWN in parts else called(*parts)

    def _formatted(self, node: ast.FormattedValue) -> Any:
        """The string that a value is formatted to in an f-string."""
        value = self._value(node.value)
        form = self._value(node.format_spec) if node.format_spec is not None else ""
        if UNKNOWN in (value, form) or isinstance(value, LibraryName) or _WIDE.search(form):
            return UNKNOWN
        return format(_CONVERSIONS.get(node.conversion, lambda one: one)(value), form)

    def _of_name(self, name: str) -> Any:
        if name == "__name__":
            return "__main__"
        values = self.names.given.get(name, [])
        if name in self._known:
            return self._known[name]
        if name in self._busy or len({ast.dump(value) for value in values}) != 1:
            return LibraryName(name) if name in self.names.imported else UNKNOWN
        self._busy.add(name)
        try:
            self._known[name] = self.value(values[0])
        finally:
            self._busy.discard(name)
        return self._known[name]

    def _of_attribute(self, node: ast.Attribute) -> Any:
        written = ast.unparse(node)
        if node.attr in self.options and isinstance(node.value, ast.Name) and node.value.id not in self.names.imported:
            return self.options[node.attr]
        if written in self.names.given:
            return self._of_name(written)
        if node.attr in ("platform_has_fast_fp16", "platform_has_fast_int8"):
            return True
        first = written.split(".")[0]
        made = self.given(first)
        late = isinstance(made, ast.Call) and ast.unparse(made.func).endswith("lazy_import")
        return LibraryName(written) if first in self.names.imported or late or first in _LIBRARIES else UNKNOWN

    def _unary(self, node: ast.UnaryOp) -> Any:
        value = self._value(node.operand)
        if value is UNKNOWN:
            return UNKNOWN
        if isinstance(node.op, ast.Not):
            return not value
        return -value if isinstance(node.op, ast.USub) else UNKNOWN

    def _binary(self, node: ast.BinOp) -> Any:
        left, right = self._value(node.left), self._value(node.right)
        if left is UNKNOWN or right is UNKNOWN:
            return UNKNOWN
        if isinstance(node.op, (ast.LShift, ast.Pow)):
            numbers = isinstance(left, int) and isinstance(right, int) and abs(left) <= 1 << 20 and 0 <= right <= 64
            return UNKNOWN if not numbers else left << right if isinstance(node.op, ast.LShift) else left**right
        if isinstance(node.op, ast.Mult) and not all(isinstance(one, (int, float)) for one in (left, right)):
            return UNKNOWN
        if isinstance(node.op, ast.Mod) and isinstance(left, str) and _WIDE.search(left):
            return UNKNOWN
        made = _BINARY[type(node.op)](left, right)
        large = abs(made) > _MOST if isinstance(made, int) else isinstance(made, str) and len(made) > _LONGEST
        return UNKNOWN if large else made

    def _both(self, node: ast.BoolOp) -> Any:
        values, wanted = [self._value(one) for one in node.values], isinstance(node.op, ast.Or)
        decided = [value for value in values if value is not UNKNOWN and bool(value) is wanted]
        if decided:
            return decided[0]
        return UNKNOWN if UNKNOWN in values else values[-1]

    def _compared(self, first: ast.expr, test: ast.cmpop, second: ast.expr) -> Any:
        left, right = self._value(first), self._value(second)
        return UNKNOWN if UNKNOWN in (left, right) else _COMPARE[type(test)](left, right)
