"""The lines of a new recipe that keep operators float for which the backend here has no INT8 kernel."""

from __future__ import annotations

from toolkit.backends.choose import NEVER_INT8, choose
from toolkit.base.text import toml_string
from toolkit.contract.registry import playing
from toolkit.contract.roles import Role
from toolkit.graph.model import Model
from toolkit.placement.ops import TARGETS


def without_kernel_lines(model: Model, role: Role) -> list[str]:
    """The setting of the pass that quantizes which leaves such operators alone; empty where the model has none.

    Their pairs would cost accuracy and time, and a report would advise to exclude them.

    Args:
        model: the model.
        role: the part that the pass plays.
    """
    present = {node.op for node, _ in model.walk() if node.op in TARGETS}
    settable = any("exclude_ops" in kind.model_fields for _, kind in playing(role)[:1])
    if not settable or not present & frozenset().union(*NEVER_INT8.values()):
        return []
    chosen, _ = choose()
    left = sorted(present & NEVER_INT8.get(chosen.name, frozenset()))
    if not left:
        return []
    return [
        f"# {chosen.name}, the backend here, has no INT8 kernel for {' and '.join(left)}.",
        f"exclude_ops = [{', '.join(map(toml_string, left))}]",
    ]
