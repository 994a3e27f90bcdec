"""Lowering a model for a backend: the same steps for a run's engine and for trial engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.backends.backend import Backend, EngineSettings
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal

if TYPE_CHECKING:
    from toolkit.backends.lowering.lowered import Lowered
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.graph.model import Model


def lower_for(
    backend: Backend,
    settings: EngineSettings,
    model: Model,
    plan: PrecisionPlan,
    *,
    rest: Precision,
    observed: Mapping[str, tuple[float, float]] | None = None,
    io: Mapping[str, Precision] | None = None,
    journal: Journal,
    own: bool = False,
) -> Lowered:
    """The graph for the backend, and its plan; neither argument is modified, except a model that is ``own``.

    Args:
        backend: the backend that builds; its typing determines the kind of lowering.
        model: the graph with its Q/DQ pairs.
        rest: the float type of nodes without a request.
        observed: smallest and largest observed value of float tensors (strong typing).
        io: types of inputs and outputs that differ from the model's (strong typing).
        journal: receives an entry for everything that was not done as requested.
        own: ``model`` is not needed otherwise: it is lowered in place instead of a copy.

    Raises:
        QtoolError: the model cannot be lowered for this typing; see ``lower`` and ``lower_weak``.
    """
    if backend.typing_for(settings) == "weak":
        from toolkit.backends.lowering.weak import lower_weak

        if io:
            journal.noted(Code.IO_NOT_USED(tensors=list(io)))
        made = lower_weak(model, plan, settings, backend, journal, own, rest)
    else:
        from toolkit.backends.lowering.strong import lower

        made = lower(
            model, plan, rest=rest, observed=observed, io=io, journal=journal, newest=backend.max_opset(),
            unbuilt=backend.unbuilt(), own=own,
        )  # fmt: skip
    made.model.source = None
    return made


def admit_for(
    backend: Backend,
    settings: EngineSettings,
    model: Model,
    plan: PrecisionPlan,
    *,
    rest: Precision,
    io: Mapping[str, Precision],
) -> None:
    """Refuse what ``lower_for`` refuses, without lowering; the model is modified.

    Raises:
        QtoolError: the model cannot be lowered for this typing.
    """
    from toolkit.backends.lowering.strong import admit
    from toolkit.backends.lowering.weak import admit_weak

    if backend.typing_for(settings) == "weak":
        admit_weak(model, backend)
    else:
        # the quantizing pass may have left out pairs that nothing reads
        paired = any(ask.precision.quantized for _, ask in plan.items())
        admit(model, plan, rest=rest, io=io, journal=Journal(), newest=backend.max_opset(), paired=paired)


def save_for(backend: Backend, settings: EngineSettings, model: Model, path: Path) -> Path:
    """Save a lowered model in the ONNX IR version that the backend's parser supports."""
    return model.save(path, ir_version=8 if backend.typing_for(settings) == "weak" else 10)
