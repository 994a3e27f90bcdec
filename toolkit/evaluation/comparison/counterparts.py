"""The counterparts of the float model's outputs in another model, and running that on the float model's samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from toolkit.base.types import Array
from toolkit.evaluation.numerics.difference import is_float
from toolkit.graph.model import Model
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import Session

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Returns a model's outputs by name for inputs."""


def counterparts(reference: Model, subject: Model, outputs: Sequence[str]) -> dict[str, str]:
    """By output of ``reference`` the tensor of ``subject`` that corresponds to it.

    A tensor before a plugin has no name that must be kept: where the name is gone, it is what the same plugin
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


def run_on(loaded: Session, inputs: Mapping[str, Array], named: Mapping[str, str] | None = None) -> dict[str, Array]:
    """Run a model on samples of the float model's types: where the recipe gave an input another type, it is cast.

    ``named`` maps the names that values are wanted under to the model's tensors, see ``counterparts``.
    """
    feed = {}
    for name, value in inputs.items():
        own = loaded.dtypes.get(name, value.dtype)
        feed[name] = value if value.dtype == own or not is_float(value.dtype) else value.astype(own)
    found = loaded.run(feed, None if named is None else list(dict.fromkeys(named.values())))
    return found if named is None else {name: found[own] for name, own in named.items()}
