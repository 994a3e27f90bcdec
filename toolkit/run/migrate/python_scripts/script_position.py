"""The position of a statement in a script: its conditions and loops, and the layers that these select."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from toolkit.run.migrate.orders.values import amax_of
from toolkit.run.migrate.python_scripts.selection import Selection, selection_of
from toolkit.run.migrate.python_scripts.static_values import UNKNOWN, StaticValues

_NO_FLOATS = frozenset({"SHAPE", "CONSTANT", "TOPK", "NON_ZERO", "ITERATOR", "TRIP_LIMIT", "RECURRENCE", "CONDITION"})
"""Kinds of layers on which a float type has no effect."""


@dataclass
class ScriptPosition:
    """The current position of a reader.

    Attributes:
        static: the values of the script's names.
        tests: the enclosing conditions, each with whether it holds here.
        loops: the enclosing loops, each with the number of conditions around it.
        roles: the roles of variables (config, network, builder), by their text in the script.
    """

    static: StaticValues
    tests: list[tuple[ast.expr, bool]] = field(default_factory=list)
    loops: list[tuple[ast.For, int]] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)

    def role(self, holder: ast.expr) -> str:
        """The role of a variable: config, network or builder, also for a parameter; else empty."""
        written = ast.unparse(holder)
        plain = written.rpartition(".")[2]
        return self.roles.get(written) or (plain if plain in ("config", "network", "builder") else "")

    def selected(self, holder: ast.expr) -> Selection | None:
        """The layers or tensors that the enclosing conditions select; None if that cannot be determined."""
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
        """Whether a loop is over all layers of a network: ``range(network.num_layers)``, or the network itself."""
        over = loop.iter
        if isinstance(over, ast.Call) and ast.unparse(over.func) in ("range", "enumerate") and len(over.args) == 1:
            over = over.args[0]
        over = self.static.given(ast.unparse(over)) or over
        return ast.unparse(over).endswith("num_layers") or self.role(over) == "network"

    def _is_of(self, holder: ast.expr, loop: ast.For) -> bool:
        """Whether an expression is the current layer of a loop."""
        targets = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        made = self.static.given(ast.unparse(holder)) or holder
        if isinstance(holder, ast.Name) and holder.id in targets:
            return True
        places = made.args if isinstance(made, ast.Call) else [made.slice] if isinstance(made, ast.Subscript) else []
        return len(places) == 1 and isinstance(places[0], ast.Name) and places[0].id in targets

    @staticmethod
    def _skips(loop: ast.For) -> bool:
        """Whether a loop skips layers with float results by ``continue``, or ends by ``break``."""
        for node in ast.walk(loop):
            if isinstance(node, ast.If) and any(isinstance(one, ast.Continue) for one in node.body):
                kinds = {one.attr for one in ast.walk(node.test) if isinstance(one, ast.Attribute)}
                if not kinds - {"type", "LayerType", "dtype"} or kinds - {"type", "LayerType", *_NO_FLOATS}:
                    return True
        return any(isinstance(node, ast.Break) for node in ast.walk(loop))

    def tensor(self, tensor: ast.expr) -> str | int | None:
        """A tensor's name, or the index of the network's input; None if unknown."""
        chosen = self.selected(tensor)
        if chosen is not None and len(chosen.names) == 1 and not set(chosen.names[0]) & set("*?["):
            return chosen.names[0]
        place = self.place(tensor)
        return place[1] if place is not None and place[0] == "input" else None

    def place(self, tensor: ast.expr) -> tuple[str, int] | None:
        """The input or output of the network that a tensor is, from ``network.get_input(0)``; None if unknown."""
        tensor = self.static.given(ast.unparse(tensor)) or tensor
        if not (isinstance(tensor, ast.Call) and isinstance(tensor.func, ast.Attribute) and len(tensor.args) == 1):
            return None
        number, side = self.static.value(tensor.args[0]), tensor.func.attr.removeprefix("get_")
        of_network = self.role(tensor.func.value) == "network"
        return (side, number) if side in ("input", "output") and isinstance(number, int) and of_network else None

    def table(self, value: ast.expr) -> dict[str, float] | None:
        """Amax by tensor, from a literal table that an expression indexes with a tensor's name, or None."""
        for node in ast.walk(value):
            if isinstance(node, ast.Subscript) and ast.unparse(node.slice).endswith(".name"):
                table = self.static.value(node.value)
                ranges = {str(name): amax_of(one) for name, one in table.items()} if isinstance(table, dict) else {}
                found = {name: amax for name, amax in ranges.items() if amax is not None}
                if found and len(found) == len(ranges):
                    return found
        return None
