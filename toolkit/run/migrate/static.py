"""What the expressions of a Python script are worth, as far as it can be told without running anything."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from toolkit.base.errors import QtoolError

Function = ast.FunctionDef | ast.AsyncFunctionDef
_MOST, _LONGEST = 1 << 64, 1 << 16
"""The largest number and the longest text that are worked out."""
_TEXT = ("lower", "upper", "strip", "replace", "startswith", "endswith")
_SAME_PATH = ("resolve", "absolute", "expanduser", "as_posix")
"""Methods of texts and of paths, which are texts here, that give no other kind of value."""
_WIDE = re.compile(r"\d{4}|\*")
"""A width or precision in a format that makes a long text."""
_LIBRARIES = ("trt", "tensorrt")
"""Names that are a module's even where a function gets it as an argument."""


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()
"""The worth of what only a run would tell."""


class Dotted(str):
    """A name of a library's, such as ``trt.BuilderFlag.FP16``."""

    @property
    def member(self) -> str:
        """Its last part."""
        return self.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """The part before the last: ``BuilderFlag``."""
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
_PATHS = ("realpath", "abspath", "expanduser", "expandvars", "normpath")
"""Functions of ``os.path`` that name the same file."""
_CALLS: dict[str, Callable[..., Any]] = {
    "int": int, "float": float, "str": str, "tuple": tuple, "list": list, "Path": str, "pathlib.Path": str,
    **{f"os.path.{name}": str for name in _PATHS},
    "os.path.join": lambda *parts: "/".join(part.rstrip("/") for part in parts),
}  # fmt: skip


def _short(*parts: object) -> bool:
    return sum(len(part) for part in parts if isinstance(part, str)) <= _LONGEST >> 4


class Static:
    """The names of a script and their worth; a name with several values has none that is known.

    Args:
        tree: the script.
        arguments: what the script is run with; of arguments that are not given, argparse's default counts.
    """

    def __init__(self, tree: ast.Module, arguments: Sequence[str] = ()) -> None:
        self._given: dict[str, list[ast.expr]] = {}
        self._functions: dict[str, Function] = {}
        self._busy: set[str] = set()
        self._worth: dict[str, Any] = {}
        self.imported: dict[str, str] = {}
        self.options: dict[str, Any] = {}
        self._arguments = list(arguments)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._assigned(target, node.value)
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                self._assigned(node.target, node.value)
            elif isinstance(node, ast.AugAssign):
                self._given.setdefault(ast.unparse(node.target), []).extend([node.value, node.value])
            elif isinstance(node, (ast.For, ast.comprehension)):
                self._loops(node.target)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = alias.name
        self._parameters(tree)
        self._read_options(tree, list(arguments))
        # what was asked before all options were known
        self._worth.clear()

    def value(self, node: ast.expr | None) -> Any:
        """The worth of an expression, or ``UNKNOWN``."""
        try:
            return self._value(node)
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError):
            return UNKNOWN

    def spelled(self, node: ast.expr) -> Any:
        """The worth of a text or a list; parts of it that are not known stand there as they are written, in braces."""
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
        """The expression that a name or attribute is given, where it is given one alone."""
        values = self._given.get(name, [])
        return values[0] if len(values) == 1 else None

    def name(self, node: ast.expr) -> str:
        """The name of what is called or read, import aliases undone: ``CreateConfig``, ``trt.Builder``."""
        written = ast.unparse(node)
        first, dot, rest = written.partition(".")
        return f"{self.imported.get(first, first)}{dot}{rest}"

    # ---------------------------------------------------------------- expressions

    def _value(self, node: ast.expr | None) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return self._known([self._value(one) for one in node.elts])
        if isinstance(node, ast.Dict):
            keys, values = [self._value(key) for key in node.keys], [self._value(one) for one in node.values]
            return UNKNOWN if UNKNOWN in keys else dict(zip(keys, values))
        if isinstance(node, ast.Name):
            return self._of_name(node.id)
        if isinstance(node, ast.Attribute):
            return self._of_attribute(node)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.BinOp):
            return self._binary(node)
        if isinstance(node, ast.BoolOp):
            return self._both(node)
        if isinstance(node, ast.Compare):
            return self._compared(node)
        if isinstance(node, ast.IfExp):
            test = self._value(node.test)
            return UNKNOWN if test is UNKNOWN else self._value(node.body if test else node.orelse)
        if isinstance(node, ast.JoinedStr):
            parts = [self._value(one) for one in node.values]
            text = "" if UNKNOWN in parts else "".join(parts)
            return UNKNOWN if UNKNOWN in parts or len(text) > _LONGEST else text
        if isinstance(node, ast.FormattedValue):
            return self._formatted(node)
        if isinstance(node, ast.Subscript):
            holder, key = self._value(node.value), self._value(node.slice)
            if isinstance(holder, Dotted):
                number = key if holder == "sys.argv" and isinstance(key, int) else 0
                return self._arguments[number - 1] if 0 < number <= len(self._arguments) else UNKNOWN
            return UNKNOWN if UNKNOWN in (holder, key) else holder[key]
        if isinstance(node, ast.Call) and not node.keywords:
            return self._called(node)
        return UNKNOWN

    def _called(self, node: ast.Call) -> Any:
        parts = [self._value(one) for one in node.args]
        called = _CALLS.get(self.name(node.func))
        if called is None and isinstance(node.func, ast.Attribute):
            text = self._value(node.func.value)
            if not isinstance(text, str) or isinstance(text, Dotted):
                return UNKNOWN
            if node.func.attr in _SAME_PATH:
                return text
            called = getattr(text, node.func.attr) if node.func.attr in _TEXT and _short(text, *parts) else None
        return UNKNOWN if called is None or UNKNOWN in parts else called(*parts)

    def _formatted(self, node: ast.FormattedValue) -> Any:
        """The text that a value becomes in an f-string."""
        value = self._value(node.value)
        form = self._value(node.format_spec) if node.format_spec is not None else ""
        if UNKNOWN in (value, form) or isinstance(value, Dotted) or _WIDE.search(form):
            return UNKNOWN
        return format(_CONVERSIONS.get(node.conversion, lambda one: one)(value), form)

    @staticmethod
    def _known(values: list[Any]) -> Any:
        return UNKNOWN if any(value is UNKNOWN for value in values) else values

    def _of_name(self, name: str) -> Any:
        if name == "__name__":
            return "__main__"
        values = self._given.get(name, [])
        if name in self._worth:
            return self._worth[name]
        if name in self._busy or len({ast.dump(value) for value in values}) != 1:
            return Dotted(name) if name in self.imported else UNKNOWN
        self._busy.add(name)
        try:
            self._worth[name] = self.value(values[0])
        finally:
            self._busy.discard(name)
        return self._worth[name]

    def _of_attribute(self, node: ast.Attribute) -> Any:
        written = ast.unparse(node)
        if node.attr in self.options and isinstance(node.value, ast.Name) and node.value.id not in self.imported:
            return self.options[node.attr]
        if written in self._given:
            return self._of_name(written)
        if node.attr in ("platform_has_fast_fp16", "platform_has_fast_int8"):
            return True
        first = written.split(".")[0]
        made = self.given(first)
        late = isinstance(made, ast.Call) and ast.unparse(made.func).endswith("lazy_import")
        return Dotted(written) if first in self.imported or late or first in _LIBRARIES else UNKNOWN

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

    def _compared(self, node: ast.Compare) -> Any:
        if len(node.ops) != 1:
            return UNKNOWN
        left, right = self._value(node.left), self._value(node.comparators[0])
        return UNKNOWN if UNKNOWN in (left, right) else _COMPARE[type(node.ops[0])](left, right)

    # ---------------------------------------------------------------- names

    def _assigned(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, (ast.Name, ast.Attribute)):
            if self._is_same(ast.unparse(target), value):
                return
            self._given.setdefault(ast.unparse(target), []).append(value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            several = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
            for index, one in enumerate(target.elts):
                if several:
                    assert isinstance(value, (ast.Tuple, ast.List))
                    self._assigned(one, value.elts[index])
                else:
                    self._loops(one)

    @staticmethod
    def _is_same(name: str, value: ast.expr) -> bool:
        """Whether a value is the name's own, as another kind or by another path: ``p = os.path.abspath(p)``."""
        if not isinstance(value, ast.Call) or value.keywords:
            return False
        if len(value.args) == 1:
            return ast.unparse(value.func) in _CALLS and ast.unparse(value.args[0]) == name
        made = isinstance(value.func, ast.Attribute) and value.func.attr in _SAME_PATH and not value.args
        return made and ast.unparse(value.func).rpartition(".")[0] == name

    def _loops(self, target: ast.expr) -> None:
        """Names that have many values."""
        nothing = ast.Constant(None)
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                self._given.setdefault(node.id, []).extend([nothing, ast.Constant(0)])

    def _parameters(self, tree: ast.Module) -> None:
        """A parameter is worth what the script's own calls give it, and its default where they give it nothing."""
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._functions.setdefault(node.name, node)
            elif isinstance(node, ast.ClassDef):
                for one in node.body:
                    if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                        self._functions[node.name] = one
        for call in ast.walk(tree):
            called = self.called(call) if isinstance(call, ast.Call) else None
            if called is not None:
                assert isinstance(call, ast.Call)
                for name, value in self.bound(called, call).items():
                    if not (isinstance(value, ast.Name) and value.id == name):
                        self._given.setdefault(name, []).append(value)

    def called(self, call: ast.Call) -> Function | None:
        """The function of the script's own that a call is of; None where it gives other arguments than it takes.

        TensorRT's methods may have the names of a script's.
        """
        function = self._functions.get(ast.unparse(call.func).rpartition(".")[2])
        if function is None:
            return None
        spread = any(isinstance(one, ast.Starred) for one in call.args) or any(not one.arg for one in call.keywords)
        open_ended = function.args.vararg is not None or function.args.kwarg is not None
        wanted = {one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}
        fits = spread or open_ended or wanted - {"self", "cls"} == set(self.bound(function, call))
        return function if fits else None

    @staticmethod
    def bound(function: Function, call: ast.Call) -> dict[str, ast.expr]:
        """By parameter what a call gives it, or its default."""
        plain = [*function.args.posonlyargs, *function.args.args]
        found = {one.arg: value for one, value in zip(plain[len(plain) - len(function.args.defaults) :],
                                                      function.args.defaults)}  # fmt: skip
        for one, default in zip(function.args.kwonlyargs, function.args.kw_defaults):
            if default is not None:
                found[one.arg] = default
        names = [one.arg for one in plain if one.arg not in ("self", "cls")]
        found.update(zip(names, call.args))
        found.update({keyword.arg: keyword.value for keyword in call.keywords if keyword.arg})
        return found

    def _read_options(self, tree: ast.Module, arguments: list[str]) -> None:
        """The attributes of argparse's result, by what the script is run with."""
        for node in ast.walk(tree):
            is_option = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if not is_option or node.func.attr != "add_argument":  # type: ignore[attr-defined]
                continue
            assert isinstance(node, ast.Call)
            names = [name for one in node.args if isinstance(name := self.value(one), str)]
            if not names:
                continue
            more = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            long = next((name for name in names if name.startswith("--")), names[0])
            dest = self.value(more["dest"]) if "dest" in more else long.lstrip("-").replace("-", "_")
            self.options[str(dest)] = self._option(names, more, arguments)

    def _option(self, names: list[str], more: Mapping[str, ast.expr], arguments: list[str]) -> Any:
        action, default = self.value(more.get("action")), self.value(more["default"]) if "default" in more else None
        if action in ("store_true", "store_false"):
            said = any(name in arguments for name in names)
            return said is (action == "store_true")
        for name in names:
            if name in arguments[:-1]:
                value: Any = arguments[arguments.index(name) + 1]
            else:
                value = next((one.partition("=")[2] for one in arguments if one.startswith(f"{name}=")), None)
            if value is not None:
                kind = _CALLS.get(ast.unparse(more["type"])) if "type" in more else None
                try:
                    return kind(value) if kind is not None else value
                except ValueError as error:
                    raise QtoolError(
                        f"the script's argument {name} is '{value}', which is no {ast.unparse(more['type'])}",
                        remedy="give the arguments that the script is run with",
                    ) from error
        return UNKNOWN if default is None and not names[0].startswith("-") else default
