"""Finds the counterparts of the float model's outputs in another model, and runs it on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from toolkit.base.types import Array
from toolkit.evaluation.numerics.difference import is_float
from toolkit.graph.model import Model
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import Session

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""A function that returns a model's outputs by name for its inputs."""


def counterparts(reference: Model, subject: Model, outputs: Sequence[str]) -> dict[str, str]:
    """By output of ``reference``, the corresponding tensor of ``subject``.

    A tensor that a plugin reads may have been renamed: its counterpart is then the same input of the same plugin.
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
    """Run a model on the float model's samples; inputs are cast if the recipe gives them another float type.

    ``named`` maps the names for the result to the model's tensors, see ``counterparts``.
    """
    feed = {}
    for name, value in inputs.items():
        own = loaded.dtypes.get(name, value.dtype)
        feed[name] = value if value.dtype == own or not is_float(value.dtype) else value.astype(own)
    found = loaded.run(feed, None if named is None else list(dict.fromkeys(named.values())))
    return found if named is None else {name: found[own] for name, own in named.items()}
