"""Making a session of onnxruntime of a model, whose weights are mapped from their files, and what its errors mean."""

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
"""Whether onnxruntime rewrites a model: all that it knows, nothing, or only what is computed of constants alone."""
Arena = Literal["own", "shared", "none"]
"""Where a session takes memory for its runs: from what it keeps of earlier ones, from what all such sessions keep
together, or from the system each time."""

# seen with onnxruntime 1.31: a Relu before a float8 QuantizeLinear is removed, as if float8's zero were its smallest
# number, and the model's outputs are garbage
_WRONG_REWRITES = ["ReluQuantRewrite", "ClipQuantRewrite"]
BLOCKED_LAYOUT = "NchwcTransformer"
"""What lets convolutions hand on their results in blocked layout."""
SQUARE_REWRITES = {"CommonSubexpressionElimination": 2_000, BLOCKED_LAYOUT: MOST_BLOCKED}
"""Rewrites that walk the whole graph for every node that they change, and the most nodes for which they pay.

Seen with onnxruntime 1.32 on chains of convolutions: NchwcTransformer alone takes 0.1 s of 2,500 nodes, 4 s of 10,000.
CommonSubexpressionElimination alone takes 5.4 s of 20,000, and as long of 24,000 with 16,000 outputs.
"""
_OF_CONSTANTS = {"ConstantFolding": 20_000, "ConstantSharing": 20_000}
"""The same for rewrites that compute part of the graph: for a partition its own nodes count. A weight
that is dequantized takes 6 kB less than the node that would do it in every run."""
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
"""What onnxruntime's basic level rewrites besides constants and nodes that compute the same twice
(onnxruntime/core/optimizer/graph_transformer_utils.cc)."""
_FATAL_ONLY = 4
_WRITTEN = {
    "session.optimized_model_external_initializers_file_name": "weights.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
"""Weights are written beside the message, from where they are mapped."""
_FOLDER, _MAPS_FILES = "session.model_external_initializers_file_folder_path", (1, 22)
_BUSY_US, _WAITS_BRIEFLY = "10", (1, 27)
"""Microseconds that a thread waits busily for more work, and the first version with the setting: about what waking it
takes, in which most operators hand on to the next."""
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ .{0,4000}? was false\. ")
"""Where in onnxruntime's source a check failed, with the C++ of it."""
_TOO_NEW = ("is under development and support for this is limited", "Unsupported model IR version")
"""What onnxruntime says of a model whose opset or IR version is newer than itself."""


def unwanted_rewrites(
    proto: onnx.ModelProto, operators: Collection[tuple[str, str]], packed: bool, as_written: bool
) -> list[str]:
    """The rewrites that onnxruntime is to skip for a model of these operators and all of its parts.

    ``load_session`` also skips those for which a part has too many nodes.
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
    """Onnxruntime's own session of a model; see ``toolkit.graph.sessions.session.session`` for the settings.

    Where a path is given, onnxruntime writes its rewritten model there, for ``load_rewritten``.

    Raises:
        ModelError: onnxruntime refuses the model.
        BackendError: it is not installed, or has not enough memory.
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
        # it takes both: with either alone onnxruntime 1.32 keeps a copy, packed or not
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
    """A session of what ``load_session`` has had written.

    Raises:
        ModelError: onnxruntime refuses it.
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
    """The rewrites to leave out where only what depends on constants alone is computed once."""
    import onnxruntime as ort

    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return _OF_BASIC


def _options(threads: int, as_written: bool, arena: Arena) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError("onnxruntime is not installed", remedy="pip install onnxruntime") from error
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = threads
    # idle threads that wait busily take the cores from what runs in between: other sessions, numpy, the user's code
    if _version() >= _WAITS_BRIEFLY:
        options.add_session_config_entry("session.intra_op.spin_duration_us", _BUSY_US)
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # planned memory is kept for every input shape ever seen: with mixed shapes it would grow without end
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = arena == "own"
    if arena == "shared":
        run_pool.use(options)
    return options


def _places(model: LightModel) -> dict[str, FilePlace]:
    """The weights that onnxruntime maps from their files itself: it copies what it is given in memory."""
    if os.name != "posix" or _version() < _MAPS_FILES:
        return {}
    found = {name: place_of(value) for name, value in model.weights.items()}
    return {name: place for name, place in found.items() if place is not None}


def _version() -> tuple[int, ...]:
    import onnxruntime as ort

    return tuple(int(part) for part in ort.__version__.split(".")[:2] if part.isdigit())


@contextmanager
def _content(model: LightModel, places: Mapping[str, FilePlace], fits: bool) -> Iterator[str | bytes]:
    """What onnxruntime loads: the message, or the path of a file where it does not fit into one."""
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


def explained(error: Exception, what: str, where: str) -> QtoolError:
    """What onnxruntime's error means: out of memory, a kernel that it lacks, a version that it does not know."""
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
            remedy=f"onnxruntime {onnxruntime.__version__} is too old: pip install -U onnxruntime, "
            "or export the model at an older opset",
        )
    remedy = "check that the model runs in onnxruntime on its own"
    if "NOT_IMPLEMENTED" in text:
        remedy = "onnxruntime has no kernel for this operator in its type: export the model in float32"
    return ModelError(f"{what}: {on_one_line(text)}", where=where, remedy=remedy)
