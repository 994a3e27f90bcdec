"""Where in a script a statement is: under which conditions, in which loops, and which layers these choose."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from toolkit.run.migrate.orders.values import amax_of
from toolkit.run.migrate.python_scripts.selection import Selection, selection_of
from toolkit.run.migrate.python_scripts.static_values import UNKNOWN, StaticValues

_NO_FLOATS = frozenset({"SHAPE", "CONSTANT", "TOPK", "NON_ZERO", "ITERATOR", "TRIP_LIMIT", "RECURRENCE", "CONDITION"})
"""Kinds of layers for which a float type asks for nothing."""


@dataclass
class ScriptPosition:
    """The place that a reader is at.

    Attributes:
        static: the values of the script's names.
        tests: the conditions around the place, each with whether it holds there.
        loops: the loops around it, each with how many conditions are around the loop.
        roles: what variables hold, by how they are written.
    """

    static: StaticValues
    tests: list[tuple[ast.expr, bool]] = field(default_factory=list)
    loops: list[tuple[ast.For, int]] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)

    def role(self, holder: ast.expr) -> str:
        """What a variable holds: config, network or builder, also where it is a parameter; else empty."""
        written = ast.unparse(holder)
        plain = written.rpartition(".")[2]
        return self.roles.get(written) or (plain if plain in ("config", "network", "builder") else "")

    def selected(self, holder: ast.expr) -> Selection | None:
        """Which layers or tensors the conditions around a place choose; None where that cannot be told."""
        loop = next((one for one in reversed(self.loops) if self._over_layers(one[0])), None)
        chosen, all_layers = Selection(), loop is not None and self._is_of(holder, loop[0])
        for number, (test, holds) in enumerate(self.tests):
            found = selection_of(test, self.static)
            if found:
                if not holds or found.unclear:
                    return None
                chosen = chosen.also(found)
            elif loop is not None and number >= loop[1] and self.static.value(test) is UNKNOWN:
                return None
        if chosen.unclear or (loop is not None and not chosen and self._skips(loop[0])):
            return None
        return chosen if chosen or all_layers else None

    def _over_layers(self, loop: ast.For) -> bool:
        """Whether a loop goes over all layers of a network: ``range(network.num_layers)``, or the network itself."""
        over = loop.iter
        if isinstance(over, ast.Call) and ast.unparse(over.func) in ("range", "enumerate") and len(over.args) == 1:
            over = over.args[0]
        over = self.static.given(ast.unparse(over)) or over
        return ast.unparse(over).endswith("num_layers") or self.role(over) == "network"

    def _is_of(self, holder: ast.expr, loop: ast.For) -> bool:
        """Whether it is the layer that a loop is at."""
        targets = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        made = self.static.given(ast.unparse(holder)) or holder
        if isinstance(holder, ast.Name) and holder.id in targets:
            return True
        places = made.args if isinstance(made, ast.Call) else [made.slice] if isinstance(made, ast.Subscript) else []
        return len(places) == 1 and isinstance(places[0], ast.Name) and places[0].id in targets

    @staticmethod
    def _skips(loop: ast.For) -> bool:
        """Whether a loop leaves out layers by ``continue`` that compute floats."""
        for node in ast.walk(loop):
            if isinstance(node, ast.If) and any(isinstance(one, ast.Continue) for one in node.body):
                kinds = {one.attr for one in ast.walk(node.test) if isinstance(one, ast.Attribute)}
                if not kinds - {"type", "LayerType", "dtype"} or kinds - {"type", "LayerType", *_NO_FLOATS}:
                    return True
        return any(isinstance(node, ast.Break) for node in ast.walk(loop))

    def tensor(self, tensor: ast.expr) -> str | int | None:
        """A tensor's name, or the number of the network's input."""
        chosen = self.selected(tensor)
        if chosen is not None and len(chosen.names) == 1 and not set(chosen.names[0]) & set("*?["):
            return chosen.names[0]
        place = self.place(tensor)
        return place[1] if place is not None and place[0] == "input" else None

    def place(self, tensor: ast.expr) -> tuple[str, int] | None:
        """Which input or output of the network a tensor is: ``network.get_input(0)``."""
        tensor = self.static.given(ast.unparse(tensor)) or tensor
        if not (isinstance(tensor, ast.Call) and isinstance(tensor.func, ast.Attribute) and len(tensor.args) == 1):
            return None
        number, side = self.static.value(tensor.args[0]), tensor.func.attr.removeprefix("get_")
        of_network = self.role(tensor.func.value) == "network"
        return (side, number) if side in ("input", "output") and isinstance(number, int) and of_network else None

    def table(self, value: ast.expr) -> dict[str, float] | None:
        """The largest magnitude by tensor, from the literal table that an expression indexes by a tensor's name."""
        for node in ast.walk(value):
            if isinstance(node, ast.Subscript) and ast.unparse(node.slice).endswith(".name"):
                table = self.static.value(node.value)
                ranges = {str(name): amax_of(one) for name, one in table.items()} if isinstance(table, dict) else {}
                found = {name: amax for name, amax in ranges.items() if amax is not None}
                if found and len(found) == len(ranges):
                    return found
        return None
