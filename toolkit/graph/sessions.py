"""onnxruntime sessions on the CPU: any inner tensor as an output, Q/DQ pairs computed as they are written."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from toolkit.base.errors import BackendError, DataError, ModelError, QtoolError, did_you_mean, no_value
from toolkit.base.mapped import FilePlace, place_of, release_pages
from toolkit.base.temporary import temporary_folder
from toolkit.base.types import Array
from toolkit.graph import meter
from toolkit.graph.endless import LoopLimits, limited, loop_limits
from toolkit.graph.float32_twin import store_otherwise, widen
from toolkit.graph.kernels import written_out
from toolkit.graph.light import LightModel, fits_message, place_at, send_away
from toolkit.graph.model import Model
from toolkit.graph.onnx_file import read, write
from toolkit.graph.ort_values import ORT_TYPES, as_array, to_ort
from toolkit.graph.rewrites import wrong_rewrites
from toolkit.graph.runnable import NotRun, cut, not_run_in
from toolkit.graph.stretches import Boundaries, Stretched, stretches_of
from toolkit.graph.tensors import np_dtype

# seen with onnxruntime 1.31: a Relu before a float8 QuantizeLinear is removed, as if float8's zero were its smallest
# number, and the model's outputs are garbage
_WRONG_REWRITES = ["ReluQuantRewrite", "ClipQuantRewrite"]
# a stored weight behind a DequantizeLinear or Cast would become one of four or two times the size
_COPYING_REWRITES = ["ConstantFolding"]
_SQUARE_REWRITES = {
    "CommonSubexpressionElimination": 2_000, "NchwcTransformer": 5_000, "ConstantFolding": 20_000,
    "ConstantSharing": 20_000,
}  # fmt: skip
"""Rewrites that walk the whole graph for every node that they change, and the most nodes for which they pay.

Seen with onnxruntime 1.32 on chains of convolutions: NchwcTransformer alone takes 0.1 s of 2,500 nodes, 4 s of 10,000.
CommonSubexpressionElimination alone takes 5.4 s of 20,000, and as long of 24,000 with 16,000 outputs.
"""
_KEPT_BYTES = 32 << 20
"""Of so few bytes of weights a session may stay in memory as long as its model; loading one again costs more."""
_FATAL_ONLY = 4
_FOLDER, _MAPS_FILES = "session.model_external_initializers_file_folder_path", (1, 22)
_SHOWN = 4
"""Inputs whose shapes an error names: of a decoder's dozens the first say enough."""
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ .{0,4000}? was false\. ")
"""Where in onnxruntime's source a check failed, with the C++ of it."""
_TOO_NEW = ("is under development and support for this is limited", "Unsupported model IR version")
"""What onnxruntime says of a model whose opset or IR version is newer than itself."""


class Session:
    """A model that onnxruntime has loaded, or the part of it that runs. Make one with ``session``.

    Attributes:
        inputs: names of the inputs that the model takes.
        dtypes: their element types.
        outputs: names of what ``run`` gives by default, in order. Of a model with plugins: its outputs that need none,
            and in place of the others the float tensors that are handed to plugins (all of them, where none is float).
        left: what is not run.
    """

    def __init__(
        self,
        inner: Any,
        where: str,
        shared: Sequence[str] = (),
        weights: Mapping[str, Array] | None = None,
        limits: LoopLimits | None = None,
        left: NotRun | None = None,
        threads: int = 1,
    ) -> None:
        self._limits, self._threads = limits, threads
        self._inner = inner
        self.left = left or NotRun()
        # onnxruntime reads the weights from these arrays
        self._weights = weights
        self._where = where
        self._passed_on = tuple(shared)
        # nothing is computed where a plugin comes first
        self._types: dict[str, str] = {i.name: i.type for i in inner.get_inputs()} if inner is not None else {}
        made = [(o.name, o.type) for o in inner.get_outputs()] if inner is not None else []
        self.inputs: tuple[str, ...] = tuple(self._types)
        self.dtypes = {name: np_dtype(ORT_TYPES[kind]) for name, kind in self._types.items() if kind in ORT_TYPES}
        self.outputs: tuple[str, ...] = (*_told(made, self.left), *self._passed_on)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the model once.

        The arrays are views of memory that onnxruntime allocated for this run: nobody else writes to them.

        Args:
            inputs: an array for each of the model's inputs; other entries are left out.
            outputs: the outputs wanted; all of the session's where None.

        Raises:
            DataError: an input is missing, or the inputs are no dictionary.
            ModelError: an output does not exist, or the model cannot compute these inputs.
            BackendError: onnxruntime ran out of memory.
        """
        if not isinstance(inputs, Mapping):
            raise DataError(
                f"the inputs are a {type(inputs).__name__}",
                where=self._where,
                remedy="give a dictionary of arrays by input, and the outputs wanted behind it",
            )
        wanted, known = list(self.outputs if outputs is None else outputs), set(self.outputs)
        for name in self.inputs:
            if name not in inputs:
                what, remedy = no_value(name, self.inputs, inputs)
                raise DataError(what, where=self._where, remedy=remedy)
        for name in wanted:
            if name in self.left.tensors:
                raise _not_computed(name, self.left, self._where)
            if name not in known:
                raise ModelError(
                    f"'{name}' is no output of this session", where=self._where, remedy=did_you_mean(name, self.outputs)
                )
        computed = [name for name in wanted if name not in self._passed_on]
        values: list[Any] = []
        if computed:
            try:
                feed = {name: to_ort(inputs[name], self._types[name]) for name in self.inputs}
                values = self._computed(computed, feed)
            except QtoolError:
                raise
            except Exception as error:
                shapes = ", ".join(f"{name} {list(np.shape(inputs[name]))}" for name in self.inputs[:_SHOWN])
                more = f" and {len(self.inputs) - _SHOWN} more" if len(self.inputs) > _SHOWN else ""
                raise _explain(error, f"onnxruntime cannot run the model on {shapes}{more}", self._where) from error
        found = dict(zip(computed, (as_array(value) for value in values)))
        return {name: found[name] if name in found else np.asarray(inputs[name]) for name in wanted}

    def _computed(self, names: list[str], feed: Mapping[str, Any]) -> list[Any]:
        begin = time.thread_time()
        try:
            if self._limits is None:
                return list(self._inner.run_with_ort_values(names, feed))
            import onnxruntime as ort

            options = ort.RunOptions()
            with limited(self._limits, options, self._where):
                return list(self._inner.run_with_ort_values(names, feed, options))
        finally:
            # this thread computes like the others that the session has
            meter.count((time.thread_time() - begin) * self._threads)


def session(
    source: Model | LightModel | onnx.ModelProto | bytes | str | Path,
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    optimise: bool = True,
    spin: bool = True,
    packed: bool | None = None,
    as_written: bool = True,
    arena: bool = True,
    boundaries: Boundaries | None = None,
) -> Session:
    """Load a model into onnxruntime's CPU provider.

    Args:
        source: a Model or a message (they are not changed), a model without its large weights (its outputs are), a
            serialized message, or the path of an ONNX file.
        outputs: the tensors wanted, inner ones included; the model's own outputs where None. Graph inputs are allowed.
        threads: threads within one operator; onnxruntime's choice (one a core) where None.
        optimise: let onnxruntime fuse and fold.
        spin: let idle threads wait busily: faster alone, slower beside other work on the same cores.
        packed: let onnxruntime keep the weights as its kernels like them: a copy, up to twice as fast. Where None, it
            may unless they are too many for a copy.
        as_written: Q/DQ pairs are not fused into integer kernels, nor other pairs made of them. Where False,
            onnxruntime does what it does by default.
        arena: keep the memory of a run for the next one; with inputs of many sizes what is kept grows.
        boundaries: where sessions of one model with different ``outputs`` keep what they hand from stretch to stretch.

    What computes in bfloat16 is computed in float32, and bfloat16 inputs and outputs are taken and given as that; what
    onnxruntime has no kernel for is left out with all that reads it, see ``Session.outputs``. Where the weights are
    more than ``memory_limit`` allows, the model is run in stretches; last bits may differ where onnxruntime would have
    fused nodes across a cut.

    Raises:
        ModelError: onnxruntime refuses the model, a tensor of ``outputs`` does not exist or is not computed, or one
            node's weights are more than the limit allows.
        BackendError: onnxruntime is not installed or has not enough memory.
    """
    model = _light(source)
    widen(model)
    left = not_run_in(model.proto)
    if left:
        unknown = next((name for name in outputs or () if name in left.tensors), None)
        if unknown is not None:
            raise _not_computed(unknown, left, model.where)
        cut(model.proto, left)
    store_otherwise(model)
    model.proto = written_out(model.proto)
    shared = [] if outputs is None else _expose(model.proto, outputs, model.where)
    if left and not model.proto.graph.output:
        return Session(None, model.where, shared, left=left)
    limits = loop_limits(model.proto, model.weight_bytes)
    keeps = not model.shares if packed is None else packed

    def load(part: LightModel) -> Any:
        return _load(part, threads, optimise, spin, keeps, as_written, arena)

    stretches = stretches_of(model, keeps)
    inner = load(model) if len(stretches) == 1 else Stretched(model, stretches, load, keeps, boundaries)
    return Session(inner, model.where, shared, model.weights, limits, left, threads or os.cpu_count() or 1)


def own_session(model: Model) -> Session:
    """The session of a model's own outputs; that of a settled graph with few bytes of weights is loaded once."""

    def load() -> Session:
        return session(model, spin=False)

    return model.once("session", load) if model.weight_bytes() <= _KEPT_BYTES else load()


def _light(source: Model | LightModel | onnx.ModelProto | bytes | str | Path) -> LightModel:
    if isinstance(source, LightModel):
        return source
    if isinstance(source, Model):
        return source.to_light()
    if isinstance(source, onnx.ModelProto):
        return LightModel(source).copy().lighten()
    if isinstance(source, bytes):
        try:
            return LightModel.of(onnx.load_model_from_string(source))
        except Exception as error:
            raise ModelError("these bytes are no ONNX model", remedy="give a serialized ModelProto") from error
    return read(Path(source))


def _told(made: Sequence[tuple[str, str]], left: NotRun) -> list[str]:
    """The outputs that a session gives by default, of all that it can; see ``Session.outputs``."""
    tensors = [(name, kind) for name, kind in made if name not in left.feeds or kind.startswith("tensor(")]
    own = [name for name, kind in tensors if name not in left.feeds or "float" in kind or "double" in kind]
    return own or [name for name, _ in tensors]


def _not_computed(name: str, left: NotRun, where: str) -> ModelError:
    plugin = left.tensors[name]
    return ModelError(
        f"tensor '{name}' comes from node '{plugin}' ({left.plugins[plugin]}), for which onnxruntime has no kernel",
        where=where,
        remedy="ask for tensors in front of it",
    )


def _expose(proto: onnx.ModelProto, outputs: Sequence[str], where: str) -> list[str]:
    """Make ``outputs`` the graph's outputs; onnxruntime finds their types itself.

    Returns:
        Those of them that are graph inputs, which an ONNX graph cannot hand on.
    """
    graph = proto.graph
    initializers = {t.name for t in graph.initializer}
    inputs = {value.name for value in graph.input} - initializers
    made = {name for node in graph.node for name in node.output if name}
    declared = {value.name: value for value in graph.output}
    new = []
    for name in dict.fromkeys(outputs):
        if name in inputs:
            continue
        if name not in made and name not in declared:
            raise ModelError(
                f"no tensor of the main graph is named '{name}'", where=where, remedy=did_you_mean(name, made | inputs)
            )
        value = onnx.ValueInfoProto(name=name)
        if name in declared:
            value.CopyFrom(declared[name])
        new.append(value)
    # a graph needs an output: where only inputs are wanted, its own stay
    if new:
        del graph.output[:]
        graph.output.extend(new)
    return [name for name in dict.fromkeys(outputs) if name in inputs]


def _load(
    model: LightModel, threads: int | None, optimise: bool, spin: bool, packed: bool, as_written: bool, arena: bool
) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError("onnxruntime is not installed", remedy="pip install onnxruntime") from error
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads:
        options.intra_op_num_threads = threads
    # planned memory is kept for every input shape ever seen: with mixed shapes it would grow without end
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = arena
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    fits = fits_message(model.message_bytes)
    places = _places(model) if fits else {}
    if places:
        options.add_session_config_entry(_FOLDER, os.sep)
        release_pages()
    inside = {name: np.ascontiguousarray(value) for name, value in model.weights.items() if name not in places}
    values = {name: to_ort(value) for name, value in inside.items()}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
        # it takes both: with either alone onnxruntime 1.32 keeps a copy, packed or not
        for name, value in values.items():
            options.add_initializer(name, value)
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        with _content(model, places, fits) as content:
            count = len(model.proto.graph.node)
            unwanted = [
                *(_WRONG_REWRITES if as_written else ()),
                *(() if packed else _COPYING_REWRITES),
                *wrong_rewrites(model.proto),
                *(rewrite for rewrite, most in _SQUARE_REWRITES.items() if count > most),
            ]
            return ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted
            )
    except QtoolError:
        raise
    except Exception as error:
        raise _explain(error, "onnxruntime refuses the model", model.where) from error


def _places(model: LightModel) -> dict[str, FilePlace]:
    """The weights that onnxruntime maps from their files itself: of what it is given in memory it makes a copy."""
    import onnxruntime as ort

    version = tuple(int(part) for part in ort.__version__.split(".")[:2] if part.isdigit())
    if os.name != "posix" or version < _MAPS_FILES:
        return {}
    found = {name: place_of(value) for name, value in model.weights.items()}
    return {name: place for name, place in found.items() if place is not None}


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
            send_away(tensor)
        yield content
        return
    with temporary_folder("session") as folder:
        yield str(write(LightModel(model.proto).copy(), folder / "model.onnx"))


def _explain(error: Exception, what: str, where: str) -> QtoolError:
    text = " ".join(str(error).split())
    text = _SOURCE.sub("", text.split("Exception during initialization: ")[-1])
    if "bad_alloc" in text or "Failed to allocate memory" in text or isinstance(error, MemoryError):
        return BackendError(
            f"{what}: out of memory", where=where, remedy="use a smaller batch, or fewer tensors at a time"
        )
    if any(sign in text for sign in _TOO_NEW):
        import onnxruntime

        return ModelError(
            f"{what}: {text[:400]}",
            where=where,
            remedy=f"onnxruntime {onnxruntime.__version__} is too old: pip install -U onnxruntime, "
            "or export the model at an older opset",
        )
    remedy = "check that the model runs in onnxruntime by itself"
    if "NOT_IMPLEMENTED" in text:
        remedy = "onnxruntime has no kernel for this operator in its type: export the model in float32"
    return ModelError(f"{what}: {text[:400]}", where=where, remedy=remedy)
