"""Querying the engine inspector for every profile, inside the child process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.backends.processes.channel import Channel
from toolkit.base.errors import BackendError, QtoolError

_NOT_SHOWN = "N/A due to dynamic shapes"
Warm = Callable[[Any, Mapping[str, tuple[int, ...]]], None]
"""Runs an engine once in a context at these input shapes."""


def inspect_engine(
    trt: Any,
    engine: Any,
    profiles: Sequence[Mapping[str, Any]],
    folder: Path,
    talk: Channel,
    warm: Warm | None = None,
) -> list[str]:
    """Write the inspector's output for each profile, at its opt shapes, unmodified.

    TensorRT 8.6 shows formats only after a context has resolved its shapes, for which setting them is not always
    enough: then shapes are inferred, and if necessary the engine is run once. If the inspector's output for the whole
    engine is not JSON (in 8.6 it can be empty), each layer is inspected separately.

    Args:
        trt: the TensorRT module.
        engine: the deserialized engine.
        profiles: the profiles it was built with.
        folder: where the files are written.
        talk: receives warnings.
        warm: runs the engine once; None if it cannot be run.

    Returns:
        File names in ``folder``, one per profile.
    """
    files = []
    for index in range(max(engine.num_optimization_profiles, 1)):
        said = _shown(trt, engine, index, shapes_at(profiles, index, "opt"), talk, warm)
        if _NOT_SHOWN in said:
            talk.log(f"WARNING: the inspector does not show the formats of profile {index}: kernel names tell types")
        files.append(f"inspector{index}.json")
        (folder / files[-1]).write_text(said, encoding="utf-8", errors="replace")
    return files


def _shown(
    trt: Any, engine: Any, index: int, shapes: Mapping[str, tuple[int, ...]], talk: Channel, warm: Warm | None
) -> str:
    """The inspector's output for one profile, after as few steps in a context as needed to show the formats.

    The context exists only during this call: 8.6 allows a profile in only one context at a time.
    """
    context = context_at(engine, index, shapes)
    said = _said(trt, engine, context, index, talk)
    steps: list[Callable[[], object]] = [context.infer_shapes] if hasattr(context, "infer_shapes") else []
    if warm is not None:
        steps.append(partial(warm, context, shapes))
    for step in steps:
        if _NOT_SHOWN not in said:
            break
        try:
            step()
        except QtoolError as error:
            talk.log(f"WARNING: profile {index} could not be run for its inspection: {error}")
        said = _said(trt, engine, context, index, talk)
    return said


def _said(trt: Any, engine: Any, context: Any, index: int, talk: Channel) -> str:
    """The inspector's output for the engine in this context, as JSON."""
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    said = str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    if not _is_json(said):
        talk.log(f"WARNING: the inspector returns no JSON for profile {index} ({said[:60]!r}): single layers are read")
        said = _layer_by_layer(trt, engine, inspector, talk)
    inspector.execution_context = None
    return said


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except ValueError:
        return False
    return True


def _layer_by_layer(trt: Any, engine: Any, inspector: Any, talk: Channel) -> str:
    """A replacement for the output of ``_said``, assembled from the inspector's output for single layers."""
    found, lost = [], 0
    for index in range(engine.num_layers):
        said = inspector.get_layer_information(index, trt.LayerInformationFormat.JSON)
        if _is_json(said):
            found.append(said.strip())
        else:
            lost += 1
    if lost:
        talk.log(f"WARNING: the inspector says nothing about {lost} of {engine.num_layers} layers")
    return '{"Layers": [' + ",\n".join(found) + "]}"


def shapes_at(profiles: Sequence[Mapping[str, Any]], index: int, which: str) -> dict[str, tuple[int, ...]]:
    """The input shapes of profile ``index`` at ``which``: min, opt or max."""
    if index >= len(profiles):
        return {}
    return {name: tuple(extent[which]) for name, extent in profiles[index]["shapes"].items()}


def context_at(engine: Any, index: int, shapes: Mapping[str, tuple[int, ...]], stream: int = 0) -> Any:
    """An execution context with profile ``index`` and the input shapes set.

    Raises:
        BackendError: there is not enough memory, or the engine rejects the profile or a shape.
    """
    context = engine.create_execution_context()
    if context is None:
        raise BackendError(
            "TensorRT could not make an execution context",
            where=f"profile {index}",
            remedy="the GPU is short of memory: close other programs or use smaller profile maxima",
        )
    if index and not context.set_optimization_profile_async(index, stream):
        raise BackendError(
            "TensorRT did not accept the profile", where=f"profile {index}", remedy="see TensorRT's messages"
        )
    set_shapes(context, shapes)
    return context


def set_shapes(context: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Set the input shapes of a context.

    Raises:
        BackendError: the engine rejects a shape.
    """
    for name, shape in shapes.items():
        if not context.set_input_shape(name, shape):
            raise BackendError(
                f"TensorRT refused shape {list(shape)} for input '{name}'", remedy="correct the profile's shapes"
            )
