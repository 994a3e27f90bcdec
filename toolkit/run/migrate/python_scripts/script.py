"""Build instructions in a Python script, read from its syntax tree; the script is not run."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.contract.findings import Finding
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.order import Order
from toolkit.run.migrate.orders.terms import Flag, Term
from toolkit.run.migrate.orders.values import amax_of, hardware_word, type_word, whole
from toolkit.run.migrate.python_scripts.bindings import bound
from toolkit.run.migrate.python_scripts.call_sites import CallSites
from toolkit.run.migrate.python_scripts.calls import ASSIGNED, BUILDER_FLAGS, CALLED
from toolkit.run.migrate.python_scripts.notebook import OUTPUT, SYSTEM
from toolkit.run.migrate.python_scripts.polygraphy_script import polygraphy_calls
from toolkit.run.migrate.python_scripts.script_position import ScriptPosition
from toolkit.run.migrate.python_scripts.selection import selection_of
from toolkit.run.migrate.python_scripts.static_values import UNKNOWN, LibraryName, StaticValues
from toolkit.run.migrate.shell_scripts.command import TOOLS, Command, orders_of_commands, tool_of
from toolkit.run.migrate.shell_scripts.shell import commands_in

_CALIBRATORS = ("IInt8EntropyCalibrator2", "IInt8EntropyCalibrator", "IInt8MinMaxCalibrator", "IInt8LegacyCalibrator")
_QUIET_CALLS = re.compile(
    r"get_.*|add_optimization_profile|build_engine|build_serialized_network|create_builder_config|create_network|"
    r"is_network_supported|mark_output"
)
_RUNS = ("os.system", "os.popen", "subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.Popen",
         "subprocess.check_output", "subprocess.getoutput", "subprocess.getstatusoutput", SYSTEM, OUTPUT)  # fmt: skip
_ANY_NUMBER = sys.maxsize
_HOLDERS = {"create_builder_config": "config", "create_network": "network", "Builder": "builder"}


def orders_of_script(text: str, where: str, arguments: Sequence[str] = (), line: int = 1) -> list[Order]:
    """The build instructions of a script's calls, by line.

    Args:
        text: the script.
        where: the script's name, for messages.
        arguments: the arguments it is run with.
        line: the line of the file on which the script begins.

    Raises:
        QtoolError: it cannot be parsed; the message names the line.
    """
    try:
        tree = ast.parse("\n" * (line - 1) + text)
    except SyntaxError as error:
        raise QtoolError(
            f"the script does not parse: {error.msg}",
            where=f"{where}:{error.lineno}",
            remedy="fix the line; a script for Python 2 has to be converted first",
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise QtoolError(
            f"the script does not parse: {type(error).__name__}", where=where, remedy="give the script as plain text"
        ) from error
    try:
        reader = _ScriptReader(StaticValues(tree, arguments), tree)
        reader.visit(tree)
    except RecursionError as error:
        raise QtoolError(
            "the script is nested too deeply to be read", where=where, remedy="give an equivalent command line"
        ) from error
    return joined_orders(reader.orders, orders_of_commands(reader.commands, where))


def joined_orders(calls: Sequence[Order], commands: Sequence[Order]) -> list[Order]:
    """The instructions of a script's calls and commands, by line; a model named in a command takes precedence."""
    named = any(order.term is Term.MODEL and order.why is None for order in commands)
    kept = [order for order in calls if not (named and order.term is Term.MODEL)]
    return sorted([*kept, *commands], key=lambda order: order.line)


def _made(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.Call]]:
    """Variables with the calls that create their values, by assignment or ``with``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            yield from ((target, node.value) for target in node.targets)
        elif isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call):
            yield from [(node.optional_vars, node.context_expr)] if node.optional_vars is not None else []


class _ScriptReader(ast.NodeVisitor):
    """Collects build instructions, and tracks the enclosing conditions and loops."""

    def __init__(self, static: StaticValues, tree: ast.Module) -> None:
        self.static, self.orders, self.commands = static, list[Order](), list[Command]()
        self.where, self.reached = ScriptPosition(static), CallSites(tree, static)
        self.classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        self.profiles: dict[str, int] = {}
        for target, made in _made(tree):
            called = ast.unparse(made.func).rpartition(".")[2]
            if called in _HOLDERS:
                self.where.roles[ast.unparse(target)] = _HOLDERS[called]
            if called == "create_optimization_profile":
                self.profiles.setdefault(ast.unparse(target), len(self.profiles))

    # ---------------------------------------------------------------- position

    def visit_If(self, node: ast.If) -> None:
        """Visit both branches, each under its condition."""
        self.visit(node.test)
        for branch, holds in ((node.body, True), (node.orelse, False)):
            self.where.tests.append((node.test, holds))
            for one in branch:
                self.visit(one)
            self.where.tests.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Visit a function's body, under the conditions of its call."""
        outer, self.where.tests = self.where.tests, [*self.where.tests, *self.reached.conditions(node)]
        self.generic_visit(node)
        self.where.tests = outer

    def visit_For(self, node: ast.For) -> None:
        """Visit a loop, which may be over layers."""
        self.visit(node.iter)
        self.where.loops.append((node, len(self.where.tests)))
        for one in (*node.body, *node.orelse):
            self.visit(one)
        self.where.loops.pop()

    def _say(self, term: Term | None, value: Any, node: ast.AST, why: Finding | None = None) -> None:
        """Record an instruction, unless a condition is known to be false."""
        line, said = getattr(node, "lineno", 0), " ".join(ast.unparse(node).split())
        said = said if len(said) <= 100 else f"{said[:97]}..."
        for test, holds in self.where.tests:
            known = self.static.value(test)
            if known is not UNKNOWN and bool(known) is not holds:
                self.orders.append(Order(term, None, said, line, MigrateCode.NOT_TAKEN(test=ast.unparse(test))))
                return
            if known is UNKNOWN and why is None and not selection_of(test, self.static):
                text = ast.unparse(test)
                why = MigrateCode.ONLY_WHERE(line=line, test=text if holds else f"not ({text})")
        self.orders.append(Order(term, value, said, line, why))

    def _look(self, node: ast.AST) -> None:
        self._say(None, None, node, MigrateCode.LOOK_AT(line=getattr(node, "lineno", 0)))

    def _value(self, flag: Flag, node: ast.expr, statement: ast.AST, read: Callable[[Any], Any]) -> None:
        """Record the value of an expression, or its place if the value is known only at run time."""
        value = self.static.value(node)
        try:
            if value is UNKNOWN:
                raise ValueError
            self._say(flag.term, read(value), statement)
        except (ValueError, TypeError, AttributeError):
            self._look(statement)

    # ---------------------------------------------------------------- assignments

    def visit_Assign(self, node: ast.Assign) -> None:
        """Assignments such as ``config.max_workspace_size = ...`` or ``layer.precision = ...``."""
        self.visit(node.value)
        for target in node.targets:
            if isinstance(target, ast.Attribute):
                self._attribute(target, node.value, node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """``config.flags |= 1 << int(trt.BuilderFlag.FP16)``."""
        if isinstance(node.target, ast.Attribute) and node.target.attr == "flags":
            self._builder_flags(node.value, node)
        self.visit(node.value)

    def _attribute(self, target: ast.Attribute, value: ast.expr, node: ast.Assign) -> None:
        name, flag = target.attr, ASSIGNED.get(target.attr)
        if name == "flags":
            self._builder_flags(value, node)
        elif name == "int8_calibrator":
            self._calibrator(value, node)
        elif name == "precision":
            self._layer(Term.LAYERS, target.value, value, node)
        elif name == "dynamic_range":
            self._range(target.value, value, node)
        elif name == "dtype" and (place := self.where.place(target.value)) is not None:
            self._value(Flag(Term.TENSOR_IO), value, node, lambda given: [(place, type_word(given.member))])
        elif flag is not None and name in ("int8_mode", "fp16_mode", "strict_type_constraints"):
            known = self.static.value(value)
            if known is UNKNOWN:
                self._look(node)
            elif known:
                self._say(flag.term, flag.means or None, node)
        elif flag is not None and flag.term is Term.HARDWARE:
            self._value(flag, value, node, lambda given: hardware_word(given.member))
        elif flag is not None and flag.term in (Term.WORKSPACE, Term.LEVEL, Term.TIMES):
            self._value(flag, value, node, whole)
        elif flag is not None:
            self._say(flag.term, None, node)
        elif self.where.role(target.value) in ("config", "network", "builder"):
            self._look(node)

    def _builder_flags(self, value: ast.expr, node: ast.AST) -> None:
        found = [one for one in ast.walk(value) if isinstance(one, ast.Attribute)
                 and ast.unparse(one.value).endswith("BuilderFlag")]  # fmt: skip
        if not found:
            self._look(node)
        for one in found:
            self._builder_flag(one, node)

    def _builder_flag(self, member: ast.expr, node: ast.AST, cleared: bool = False) -> None:
        value = self.static.value(member)
        name = value.member if isinstance(value, LibraryName) else ""
        if cleared:
            term = Term.NO_TF32 if name == "TF32" else None
            if term is None:
                self._look(node)
            else:
                self._say(term, None, node)
            return
        if not name:
            self._look(node)
            return
        flag = BUILDER_FLAGS.get(name, Flag(Term.UNSET))
        self._say(flag.term, flag.means or None, node)

    # ---------------------------------------------------------------- calls

    def visit_Call(self, node: ast.Call) -> None:
        """Record a call of TensorRT or Polygraphy that concerns the engine."""
        for said in polygraphy_calls(node, self.static):
            self._say(said.term, said.value, node, said.why)
        name = self.static.name(node.func)
        if name in _RUNS and node.args:
            self._command(node)
        elif isinstance(node.func, ast.Attribute):
            self._method(node, node.func)
        elif name == "open" and node.args:
            self._model(node.args[0], node)
        self.generic_visit(node)

    def _method(self, node: ast.Call, func: ast.Attribute) -> None:
        name, given = func.attr, {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        parts = [*node.args, *given.values()]
        read, least, most = _METHODS.get(name, (None, 0, 0))
        if read is not None and least <= len(parts) <= most:
            read(self, node, func, parts)
        elif name == "create_network" and "STRONGLY_TYPED" in ast.unparse(node):
            self._say(Term.STRONG, None, node)
        elif name in CALLED:
            self._say(CALLED[name].term, None, node)
        elif self.where.role(func.value) in ("config", "network") and not _QUIET_CALLS.fullmatch(name):
            self._look(node)

    def _set_flag(self, node: ast.Call, func: ast.Attribute, parts: Sequence[ast.expr]) -> None:
        self._builder_flag(parts[0], node, cleared=func.attr == "clear_flag")

    def _set_memory_pool(self, node: ast.Call, func: ast.Attribute, parts: Sequence[ast.expr]) -> None:
        pool = self.static.value(parts[0])
        if isinstance(pool, LibraryName) and pool.member == "WORKSPACE":
            self._value(Flag(Term.WORKSPACE), parts[1], node, whole)
        else:
            self._say(Term.WORKSPACE, None, node)

    def _set_output_type(self, node: ast.Call, func: ast.Attribute, parts: Sequence[ast.expr]) -> None:
        self._layer(Term.TYPES, func.value, parts[1], node)

    def _set_dynamic_range(self, node: ast.Call, func: ast.Attribute, parts: Sequence[ast.expr]) -> None:
        self._range(func.value, ast.Tuple(list(parts)), node)

    def _open(self, node: ast.Call, func: ast.Attribute, parts: Sequence[ast.expr]) -> None:
        self._model(func.value, node)

    def _parse_from_file(self, node: ast.Call, func: ast.Attribute, parts: Sequence[ast.expr]) -> None:
        self._model(parts[0], node, sure=True)

    def _set_tactic_sources(self, node: ast.Call, func: ast.Attribute, parts: Sequence[ast.expr]) -> None:
        found = [one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)
                 and ast.unparse(one.value).endswith("TacticSource")]  # fmt: skip
        self._say(Term.TACTICS, [one.lower() for one in found], node)

    def _command(self, node: ast.Call) -> None:
        value = self.static.spelled(node.args[0])
        if isinstance(value, str) and any(tool in value for tool in TOOLS):
            commands = commands_in(value)
        elif isinstance(value, list) and value and tool_of(str(value[0])):
            commands = [(1, [str(one) for one in value])]
        elif isinstance(value, list):
            commands = commands_in(shlex.join(map(str, value)))
        else:
            if any(tool in ast.unparse(node) for tool in TOOLS):
                self._look(node)
            return
        for line, words in commands:
            self._say(None, None, node)
            self.commands.append(Command(node.lineno + line - 1, words, self.orders.pop().why))

    def _model(self, path: ast.expr, node: ast.AST, sure: bool = False) -> None:
        value = self.static.value(path)
        if isinstance(value, str) and value.endswith(".onnx"):
            self._say(Term.MODEL, value, node)
        elif sure:
            self._look(node)

    def _set_shape(self, node: ast.Call, func: ast.Attribute, parts: Sequence[ast.expr]) -> None:
        """``profile.set_shape("x", min, opt, max)``; the input may also be ``network.get_input(0).name``."""
        given = dict(zip(("input", "min", "opt", "max"), node.args))
        given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        tensor = given.get("input", next(iter(given.values())))
        name: Any = self.static.value(tensor)
        if not isinstance(name, str) or isinstance(name, LibraryName):
            place = (
                self.where.place(tensor.value) if isinstance(tensor, ast.Attribute) and tensor.attr == "name" else None
            )
            name = place if place is not None and place[0] == "input" else None
        sizes = [self.static.value(given.get(end)) for end in ("min", "opt", "max")]
        whole = all(
            isinstance(one, list) and one and all(isinstance(size, int) and not isinstance(size, bool) for size in one)
            for one in sizes
        )
        if name is None or not whole:
            self._look(node)
            return
        number = self.profiles.setdefault(ast.unparse(func.value), len(self.profiles))
        for term, one in zip((Term.MIN, Term.OPT, Term.MAX), sizes):
            self._say(term, (number, {name: one}), node)

    def _calibrator(self, value: ast.expr, node: ast.AST) -> None:
        """Record the calibrator's class, and the cache in its arguments or its code."""
        made = self.static.given(ast.unparse(value)) or value
        if not isinstance(made, ast.Call):
            if not (isinstance(made, ast.Constant) and made.value is None):
                self._look(node)
            return
        kind = self.static.name(made.func).rpartition(".")[2]
        own = self.classes.get(kind)
        bases = [ast.unparse(base).rpartition(".")[2] for base in own.bases] if own is not None else [kind]
        for base in bases:
            if base in _CALIBRATORS:
                self._say(Term.CALIBRATOR, base, node)
        caches = [path for path in self._caches(made, own) if isinstance(path, str)]
        for path in dict.fromkeys(caches):
            self._say(Term.CACHE, path, node)
        if not caches:
            self._look(node)

    def _caches(self, made: ast.Call, own: ast.ClassDef | None) -> Iterator[Any]:
        init = next((one for one in own.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"),
                    None) if own is not None else None  # fmt: skip
        named = bound(init, made) if init is not None else {k.arg or "": k.value for k in made.keywords}
        yield from (self.static.value(value) for name, value in named.items() if "cache" in name.lower())
        for node in ast.walk(own) if own is not None else ():
            if isinstance(node, ast.Assign) and "cache" in ast.unparse(node.targets[0]).lower():
                yield self.static.value(node.value)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "open" and node.args:
                yield self.static.value(node.args[0])

    # ---------------------------------------------------------------- layers and tensors

    def _layer(self, term: Term, layer: ast.expr, kind: ast.expr, node: ast.AST) -> None:
        value, chosen = self.static.value(kind), self.where.selected(layer)
        word = value.member if isinstance(value, LibraryName) else ""
        try:
            type_of = type_word(word)
        except ValueError:
            self._look(node)
            return
        if chosen is None:
            self._look(node)
            return
        if chosen.ops and term is Term.LAYERS:
            self._say(Term.OPS, [(op, type_of) for op in chosen.ops], node)
        names = chosen.names or (() if chosen.ops else ("*",))
        if names or term is Term.TYPES:
            self._say(term, [(name, type_of) for name in names], node)

    def _range(self, tensor: ast.expr, value: ast.expr, node: ast.AST) -> None:
        ends, place = self.static.value(value), self.where.tensor(tensor)
        if place is not None and (amax := amax_of(ends)) is not None:
            self._say(Term.RANGE, [(place, amax)], node)
        elif (table := self.where.table(value)) is not None:
            self._say(Term.RANGE, list(table.items()), node)
        else:
            self._look(node)


_Method = Callable[[_ScriptReader, ast.Call, ast.Attribute, Sequence[ast.expr]], None]
_METHODS: dict[str, tuple[_Method, int, int]] = {
    "set_flag": (_ScriptReader._set_flag, 1, _ANY_NUMBER),
    "clear_flag": (_ScriptReader._set_flag, 1, _ANY_NUMBER),
    "set_memory_pool_limit": (_ScriptReader._set_memory_pool, 2, 2),
    "set_shape": (_ScriptReader._set_shape, 4, 4),
    "set_shape_input": (_ScriptReader._set_shape, 4, 4),
    "set_output_type": (_ScriptReader._set_output_type, 2, 2),
    "set_dynamic_range": (_ScriptReader._set_dynamic_range, 2, 2),
    "open": (_ScriptReader._open, 0, _ANY_NUMBER),
    "parse_from_file": (_ScriptReader._parse_from_file, 1, _ANY_NUMBER),
    "set_tactic_sources": (_ScriptReader._set_tactic_sources, 1, _ANY_NUMBER),
}
"""The reader of each TensorRT method, with the smallest and largest number of arguments that identify it."""
