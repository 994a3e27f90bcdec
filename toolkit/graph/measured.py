"""What is compared of a model: its outputs, or what stands for those that onnxruntime cannot compute."""

from __future__ import annotations

from toolkit.graph.model import Model
from toolkit.graph.runnable import not_run
from toolkit.graph.sessions import session


def measured_outputs(model: Model) -> list[str]:
    """What stands for a model's outputs where it is measured; see ``toolkit.graph.sessions.Session.outputs``."""
    return list(session(model).outputs) if not_run(model) else [tensor.name for tensor in model.graph.outputs]
