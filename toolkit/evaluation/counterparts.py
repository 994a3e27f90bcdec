"""Which tensor of a model is what another gives, where a plugin has its inputs compared in place of its outputs."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.graph.model import Model
from toolkit.graph.runnable import not_run


def counterparts(reference: Model, subject: Model, outputs: Sequence[str]) -> dict[str, str]:
    """By output of ``reference`` the tensor of ``subject`` that is it.

    A tensor in front of a plugin has no name that must be kept: where the name is gone, it is what the same plugin
    reads at the same place.
    """
    made = {t.name for n in subject.nodes for t in n.outputs} | {t.name for t in subject.graph.inputs}
    found = {name: name for name in outputs}
    if all(name in made for name in outputs):
        return found
    readers = {node.name: node for node in subject.nodes}
    for plugin in not_run(reference).plugins:
        mine, theirs = reference.node(plugin), readers.get(plugin)
        for before, after in zip(mine.inputs, theirs.inputs if theirs is not None else ()):
            if before.name in found and before.name not in made:
                found[before.name] = after.name
    return found
