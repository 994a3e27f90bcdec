"""The note about a model with operators that onnxruntime cannot run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.contract.findings import Code, Finding
from toolkit.run.recipe.new_profile import wrapped

if TYPE_CHECKING:
    from toolkit.graph.model import Model


def plugin_note(model: Model) -> Finding | None:
    """A note on operators that onnxruntime cannot run, and what is therefore not measured; None if all can be run."""
    from toolkit.graph.sessions.runnable import not_run

    left = not_run(model)
    if not left:
        return None
    outputs = [tensor.name for tensor in model.graph.outputs if tensor.name in left.tensors]
    ops = sorted(set(left.plugins.values()))
    return Code.NOT_RUN(
        plugins=list(left.plugins), ops=ops, behind=len(left.downstream), feeds=left.feeds, outputs=outputs
    )


def plugin_comment(model: Model) -> list[str]:
    """``plugin_note`` as comment lines of a recipe; empty if all operators can be run."""
    from toolkit.report.findings import sentence

    found = plugin_note(model)
    return wrapped(sentence(found)) if found is not None else []
