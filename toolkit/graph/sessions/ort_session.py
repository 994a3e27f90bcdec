"""Creation of an onnxruntime session with weights mapped from their files, and explanation of its errors."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from toolkit.base.errors import BackendError, ModelError, QtoolError
from toolkit.base.mapped import FilePlace, place_of, release_pages
from toolkit.base.temporary import temporary_folder
from toolkit.base.text import on_one_line
from toolkit.graph.files.onnx_file import write
from toolkit.graph.large_models.cutting import MOST_BLOCKED
from toolkit.graph.large_models.ort_values import to_ort
from toolkit.graph.large_models.run_memory import run_pool
from toolkit.graph.ort_forms.rewrites import copying_rewrites, idle_rewrites, wrong_rewrites
from toolkit.graph.proto.light import PROTOBUF_LIMIT, LightModel, detach_values, place_at

Optimise = bool | Literal["constants"]
"""How far onnxruntime rewrites a model: fully, not at all, or only by computing constant nodes."""
Arena = Literal["own", "shared", "none"]
"""The allocator for a session's runs: its own arena, one shared by all such sessions, or the system for each run."""

# observed with onnxruntime 1.31: a Relu before a float8 QuantizeLinear is removed, as if float8's zero were its
# smallest value, and the model's outputs are garbage
_WRONG_REWRITES = ["ReluQuantRewrite", "ClipQuantRewrite"]
BLOCKED_LAYOUT = "NchwcTransformer"
"""The rewrite that lets convolutions pass on results in blocked layout."""
SQUARE_REWRITES = {"CommonSubexpressionElimination": 2_000, BLOCKED_LAYOUT: MOST_BLOCKED}
"""Rewrites of quadratic cost, which traverse the graph for every change, with the most nodes for which they pay off.

Measured with onnxruntime 1.32 on chains of convolutions: NchwcTransformer alone takes 0.1 s for 2,500 nodes, 4 s for
10,000. CommonSubexpressionElimination alone takes 5.4 s for 20,000 nodes, and as long for 24,000 nodes with 16,000
outputs.
"""
_OF_CONSTANTS = {"ConstantFolding": 20_000, "ConstantSharing": 20_000}
"""The same for rewrites that compute part of the graph; for a partition its own nodes count. A dequantized weight takes
6 kB
less than the node that would dequantize it in every run."""
_OF_BASIC = [
    "Level1_RuleBasedTransformer",
    "MatMulAddFusion",
    "ReshapeFusion",
    "GeluFusionL1",
    "LayerNormFusionL1",
    "SimplifiedLayerNormFusion",
    "RMSNormFusion",
    "TransposeOptimizer",
    "GatherSliceToSplitFusion",
    "GatherToSliceFusion",
    "DoubleQDQPairsRemover",
    "QDQPropagationTransformer",
    "WeightBiasQuantization",
    "WhereDummyDq",
]
"""The rewrites of onnxruntime's basic level other than constant folding and elimination of common subexpressions
(onnxruntime/core/optimizer/graph_transformer_utils.cc)."""
_FATAL_ONLY = 4
_WRITTEN = {
    "session.optimized_model_external_initializers_file_name": "weights.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
"""Settings that write weights to a separate file, from which they are mapped."""
_FOLDER, _MAPS_FILES = "session.model_external_initializers_file_folder_path", (1, 22)
_BUSY_US, _WAITS_BRIEFLY = "10", (1, 27)
"""Microseconds that a thread spins while waiting for work, and the first version with this setting. Waking a thread
takes about as long, and most operators start the next within this time."""
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ .{0,4000}? was false\. ")
"""The place of a failed check in onnxruntime's source code, with its C++ expression."""
_NO_KERNEL = ("NOT_IMPLEMENTED", "data type is not supported")
"""Messages of onnxruntime for a type without a kernel, or one that a kernel refuses when it runs."""
_TOO_NEW = ("is under development and support for this is limited", "Unsupported model IR version")
"""Messages of onnxruntime for a model with a newer opset or IR version than it supports."""


def unwanted_rewrites(
    proto: onnx.ModelProto, operators: Collection[tuple[str, str]], packed: bool, as_written: bool
) -> list[str]:
    """The rewrites that onnxruntime must skip for a model with these operators, and for all of its partitions.

    ``load_session`` also skips rewrites for which a partition has too many nodes.
    """
    count = len(proto.graph.node)
    return [
        *(_WRONG_REWRITES if as_written else ()),
        *(() if packed else copying_rewrites(proto)),
        *(wrong_rewrites(proto) if any(op in ("Transpose", "ReduceMean") for _, op in operators) else ()),
        *idle_rewrites(operators),
        *(rewrite for rewrite, most in SQUARE_REWRITES.items() if count > most),
    ]


def load_session(
    model: LightModel,
    threads: int,
    optimise: Optimise,
    packed: bool,
    as_written: bool,
    arena: Arena,
    unwanted: Sequence[str],
    rewritten: Path | None = None,
) -> Any:
    """Create onnxruntime's session of a model; see ``toolkit.graph.sessions.session.session`` for the settings.

    If a path is given, onnxruntime writes its rewritten model there, for ``load_rewritten``.

    Raises:
        ModelError: onnxruntime refuses the model.
        BackendError: onnxruntime is not installed, or there is not enough memory.
    """
    options = _options(threads, as_written, arena)
    if rewritten is not None:
        options.optimized_model_filepath = str(rewritten)
        for key, entry in _WRITTEN.items():
            options.add_session_config_entry(key, entry)
    fits = model.holds_at_most(PROTOBUF_LIMIT)
    places = _places(model) if fits else {}
    if places:
        options.add_session_config_entry(_FOLDER, os.sep)
        release_pages()
    inside = {name: np.ascontiguousarray(value) for name, value in model.weights.items() if name not in places}
    values = {name: to_ort(value) for name, value in inside.items()}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    if not packed or rewritten is not None:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not packed:
        # both settings are needed: with either alone onnxruntime 1.32 keeps a copy, packed or not
        for name, value in values.items():
            options.add_initializer(name, value)
    if not optimise:
        _load_as_it_is(options)
    elif optimise == "constants":
        unwanted = [*unwanted, *_constants_alone(options)]
    count = len(model.proto.graph.node)
    unwanted = [*unwanted, *(rewrite for rewrite, most in _OF_CONSTANTS.items() if count > most)]
    return _loaded(_content(model, places, fits), options, unwanted, model.where)


def load_rewritten(path: Path, threads: int, as_written: bool, arena: Arena, where: str) -> Any:
    """Create a session of a model that ``load_session`` has written.

    Raises:
        ModelError: onnxruntime refuses the model.
        BackendError: there is not enough memory.
    """
    options = _options(threads, as_written, arena)
    _load_as_it_is(options)
    return _loaded(nullcontext(str(path)), options, [], where)


def _loaded(content: AbstractContextManager[str | bytes], options: Any, unwanted: Sequence[str], where: str) -> Any:
    import onnxruntime as ort

    try:
        with content as given:
            return ort.InferenceSession(
                given, options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted
            )
    except QtoolError:
        raise
    except Exception as error:
        raise explained(error, "onnxruntime refuses the model", where) from error


def _load_as_it_is(options: Any) -> None:
    import onnxruntime as ort

    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def _constants_alone(options: Any) -> list[str]:
    """The rewrites to disable so that only nodes depending on constants are computed in advance."""
    import onnxruntime as ort

    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return _OF_BASIC


def _options(threads: int, as_written: bool, arena: Arena) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError("onnxruntime is not installed", remedy="run pip install onnxruntime") from error
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = threads
    # idle threads that spin take cores from other sessions, numpy, and the user's code
    if _version() >= _WAITS_BRIEFLY:
        options.add_session_config_entry("session.intra_op.spin_duration_us", _BUSY_US)
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # memory plans are kept for every input shape: with varying shapes memory would grow without limit
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = arena == "own"
    if arena == "shared":
        run_pool.use(options)
    return options


def _places(model: LightModel) -> dict[str, FilePlace]:
    """The weights that onnxruntime can map from their files itself; it copies weights that are given in memory."""
    if os.name != "posix" or _version() < _MAPS_FILES:
        return {}
    found = {name: place_of(value) for name, value in model.weights.items()}
    return {name: place for name, place in found.items() if place is not None}


def _version() -> tuple[int, ...]:
    import onnxruntime as ort

    return tuple(int(part) for part in ort.__version__.split(".")[:2] if part.isdigit())


@contextmanager
def _content(model: LightModel, places: Mapping[str, FilePlace], fits: bool) -> Iterator[str | bytes]:
    """The content for onnxruntime to load: the message, or the path of a file if it exceeds a message."""
    if fits:
        away = [tensor for tensor in model.proto.graph.initializer if tensor.name in places]
        for tensor in away:
            place = places[tensor.name]
            place_at(tensor, str(place.path.relative_to(os.sep)), place.offset, model.weights[tensor.name].nbytes)
        content = model.proto.SerializeToString()
        for tensor in away:
            detach_values(tensor)
        yield content
        return
    with temporary_folder("session") as folder:
        yield str(write(LightModel(model.proto).copy(), folder / "model.onnx"))


def cause_of(error: QtoolError) -> str:
    """Why onnxruntime refused or failed and at which node, without the words that it did; at most 200 characters."""
    what, _, why = error.what.partition(": ")
    if not why or not what.startswith("onnxruntime "):
        return on_one_line(error.what, 200)
    at = what.partition(" for node ")[2]
    return on_one_line(f"node {at}: {why}" if at else why, 200)


def explained(error: Exception, what: str, where: str) -> QtoolError:
    """The meaning of an onnxruntime error: out of memory, a missing kernel, or an unsupported version."""
    text = " ".join(str(error).split())
    text = _SOURCE.sub("", text.split("Exception during initialization: ")[-1])
    if "bad_alloc" in text or "Failed to allocate memory" in text or isinstance(error, MemoryError):
        return BackendError(
            f"{what}: out of memory", where=where, remedy="use a smaller batch, or fewer tensors at a time"
        )
    if any(sign in text for sign in _TOO_NEW):
        import onnxruntime

        return ModelError(
            f"{what}: {on_one_line(text)}",
            where=where,
            remedy=f"version {onnxruntime.__version__} of onnxruntime is too old: pip install -U onnxruntime, "
            "or export the model at an older opset",
        )
    remedy = "check that the model runs in onnxruntime on its own"
    if any(sign in text for sign in _NO_KERNEL):
        remedy = (
            "onnxruntime has no kernel for this operator in its type: export the model in float32; "
            "qtool export --to onnxruntime does it for the model of a run"
        )
    return ModelError(f"{what}: {on_one_line(text)}", where=where, remedy=remedy)
