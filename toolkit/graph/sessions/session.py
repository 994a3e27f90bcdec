"""onnxruntime sessions on the CPU: any inner tensor as an output, Q/DQ pairs computed as written."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from toolkit.base.cpu import session_threads
from toolkit.base.errors import DataError, ModelError, QtoolError, did_you_mean, no_value
from toolkit.base.types import Array
from toolkit.graph.large_models.cutting import Operators, by_nodes, by_widened
from toolkit.graph.large_models.ort_values import ORT_TYPES, as_array, to_ort
from toolkit.graph.large_models.partitions import Boundaries, PartitionedSession, partitions_of
from toolkit.graph.model import Model
from toolkit.graph.ort_forms.pairs_after_concats import move_pairs_after_concats
from toolkit.graph.ort_forms.quantized_once import quantize_weights
from toolkit.graph.ort_forms.rewrites import wrong_turns
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions import meter
from toolkit.graph.sessions.endless_loops import LoopLimits, limited, loop_limits
from toolkit.graph.sessions.ort_session import (
    BLOCKED_LAYOUT,
    Arena,
    Optimise,
    explained,
    load_rewritten,
    load_session,
    unwanted_rewrites,
)
from toolkit.graph.sessions.refused_node import with_node
from toolkit.graph.sessions.runnable import NotRun
from toolkit.graph.sessions.session_source import expose, light_source, make_runnable, not_computed
from toolkit.graph.sessions.unordered_outputs import without_reordering
from toolkit.graph.surgery.tensors import np_dtype

_AT_ONCE = 16
"""How many samples pass through the partitions of a model together; their tensors are kept in between."""
MOST_NODES = 20_000
"""Largest number of nodes of a session; larger models are run in partitions, cut where onnxruntime fuses nothing."""
_PARTITION_NODES = 2_500
"""Nodes per partition: with 5,000 loading takes a fifth longer per node, with 20,000 half; none runs faster."""
_WIDENED_BYTES = 256 << 20
"""Float32 bytes of the narrower weights in a partition of a model that is not packed."""
_KEPT_BYTES = 32 << 20
"""Largest weights in bytes for which a session is kept as long as its model; creating it again costs more."""
_OWN = "session"
_NODE = re.compile(r"Name:'([^']*)'")
"""The node in onnxruntime's error of a run."""
_SHOWN = 4
"""How many inputs' shapes an error lists: the first of a decoder's dozens are enough."""


class Session:
    """A model loaded in onnxruntime, or the part of it that can be run. Create one with ``session``.

    Attributes:
        inputs: names of the model's inputs.
        dtypes: their element types.
        outputs: names of the default outputs of ``run``, in order. For a model with plugins: the outputs that do not
            depend on plugins and, in place of the others, the float tensors that plugins read (or all such tensors if
            none is float).
        left: the nodes that are not run.
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
        unfused: Callable[[Exception, Mapping[str, Array]], Exception] | None = None,
    ) -> None:
        self._unfused = unfused
        self._limits, self._threads = limits, threads
        self._inner = inner
        self.left = left or NotRun()
        # keep the arrays alive, since onnxruntime reads the weights from them
        self._weights = weights
        self._where = where
        self._passed_on = tuple(shared)
        # nothing is computed if the first nodes are plugins
        self._types: dict[str, str] = {i.name: i.type for i in inner.get_inputs()} if inner is not None else {}
        self._dims = {i.name: getattr(i, "shape", ()) for i in inner.get_inputs()} if inner is not None else {}
        made = [(o.name, o.type) for o in inner.get_outputs()] if inner is not None else []
        self.inputs: tuple[str, ...] = tuple(self._types)
        self.dtypes = {name: np_dtype(ORT_TYPES[kind]) for name, kind in self._types.items() if kind in ORT_TYPES}
        self.outputs: tuple[str, ...] = (*_told(made, self.left), *self._passed_on)

    @property
    def is_partitioned(self) -> bool:
        """Whether the model is run in partitions."""
        return isinstance(self._inner, PartitionedSession)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the model once.

        The arrays are views of memory that onnxruntime allocated for this run; nothing else writes to it.

        Args:
            inputs: an array for each of the model's inputs; other entries are ignored.
            outputs: names of the wanted outputs; None for the session's default outputs.

        Raises:
            DataError: an input is missing, or the inputs are not a dictionary.
            ModelError: an output does not exist, or the model cannot compute these inputs.
            BackendError: onnxruntime ran out of memory.
        """
        return next(self._run([inputs], outputs))

    def run_each(
        self, samples: Iterable[Mapping[str, Array]], outputs: Sequence[str] | None = None
    ) -> Iterator[dict[str, Array]]:
        """Run the model on several inputs; like ``run`` for each of them.

        In a partitioned model 16 inputs pass through each partition together, which is loaded once for them; or one by
        one if a Loop may not end, since its limits are for one run.
        """
        if not self.is_partitioned or self._limits is not None:
            yield from (self.run(inputs, outputs) for inputs in samples)
            return
        given = iter(samples)
        while some := list(islice(given, _AT_ONCE)):
            yield from self._run(some, outputs)

    def _run(self, samples: Sequence[Mapping[str, Array]], outputs: Sequence[str] | None) -> Iterator[dict[str, Array]]:
        """The outputs for several samples, in order, until one fails."""
        wanted = list(self.outputs if outputs is None else outputs)
        for inputs in samples:
            self._check(inputs, wanted)
        computed = [name for name in wanted if name not in self._passed_on]
        try:
            feeds = [{n: to_ort(inputs[n], self._types[n]) for n in self.inputs} for inputs in samples]
            values = self._computed(computed, feeds) if computed else [[] for _ in feeds]
        except QtoolError:
            raise
        except Exception as error:
            if len(samples) > 1:
                # one by one, so that samples before the one that fails get their outputs
                for inputs in samples:
                    yield from self._run([inputs], outputs)
                return
            self._refuse_unfit(samples[0])
            shapes = ", ".join(f"{name} {list(np.shape(samples[0][name]))}" for name in self.inputs[:_SHOWN])
            more = f" and {len(self.inputs) - _SHOWN} more" if len(self.inputs) > _SHOWN else ""
            shown = error if self._unfused is None or self.is_partitioned else self._unfused(error, samples[0])
            raise explained(shown, f"onnxruntime cannot run the model on {shapes}{more}", self._where) from error
        for inputs, made in zip(samples, values):
            found = dict(zip(computed, map(as_array, made)))
            yield {name: found[name] if name in found else np.asarray(inputs[name]) for name in wanted}

    def _check(self, inputs: Mapping[str, Array], wanted: Sequence[str]) -> None:
        """Check that inputs are complete and that the wanted outputs exist."""
        if not isinstance(inputs, Mapping):
            raise DataError(
                f"the inputs are of type {type(inputs).__name__}",
                where=self._where,
                remedy="give a dictionary of arrays by input, followed by the outputs wanted",
            )
        known = set(self.outputs)
        for name in self.inputs:
            if name not in inputs:
                what, remedy = no_value(name, self.inputs, inputs)
                raise DataError(what, where=self._where, remedy=remedy)
        for name in wanted:
            if name in self.left.tensors:
                raise not_computed(name, self.left, self._where)
            if name not in known:
                raise ModelError(
                    f"'{name}' is not an output of this session",
                    where=self._where,
                    remedy=did_you_mean(name, self.outputs),
                )

    def _refuse_unfit(self, inputs: Mapping[str, Array]) -> None:
        """Refuse inputs of another type, or of another size than a fixed dimension, which a pass may have fixed."""
        for name in self.inputs:
            shape, given = np.shape(inputs[name]), np.asarray(inputs[name]).dtype
            if given.kind in "biuf" and given != (taken := self.dtypes.get(name, given)):
                what = f"input '{name}' is {given}, and the model takes {taken}"
                raise DataError(what, where=self._where, remedy=f"convert it with astype('{taken}')")
            for axis, (size, fixed) in enumerate(zip(shape, self._dims.get(name) or ())):
                if isinstance(fixed, int) and size != fixed:
                    raise ModelError(
                        f"input '{name}' is {list(shape)}, and the model takes only {fixed} in dimension {axis}",
                        where=self._where,
                        remedy="give inputs of that size; if a pass fixed it, keep it dynamic there: an engine of "
                        "one size alone comes from a [[profile]] with that size as min, opt and max",
                    )

    def _computed(self, names: list[str], feeds: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """The outputs from onnxruntime, with its processor time counted and loops limited."""
        begin = time.thread_time()
        try:
            if self._limits is None:
                return self._each(names, feeds, None)
            import onnxruntime as ort

            options = ort.RunOptions()
            with limited(self._limits, options, self._where):
                return self._each(names, feeds, options)
        finally:
            # estimate: every thread of the session computes as long as this one
            meter.count((time.thread_time() - begin) * self._threads)

    def _each(self, names: list[str], feeds: Sequence[Mapping[str, Any]], options: Any) -> list[list[Any]]:
        if isinstance(self._inner, PartitionedSession):
            return self._inner.run_each(names, feeds, options)
        return [list(self._inner.run_with_ort_values(names, feed, options)) for feed in feeds]


def session(
    source: Model | LightModel | onnx.ModelProto | bytes | str | Path,
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    optimise: Optimise = True,
    packed: bool | None = None,
    as_written: bool = True,
    arena: Arena = "own",
    boundaries: Boundaries | None = None,
    any_order: bool = False,
    often: bool = False,
    steady: bool = True,
) -> Session:
    """Load a model into onnxruntime's CPU provider.

    bfloat16 is computed in float32; inputs and outputs keep their types. Nodes without a kernel in onnxruntime are left
    out together with all nodes downstream: see ``Session.outputs``. A model is run in partitions if its weights exceed
    ``memory_limit``, or if they are not packed, stored in fewer bits and larger than 256 MB in float32. The last bits
    may then differ, if onnxruntime would have fused nodes across a cut.

    Args:
        source: a Model or a message, which is not changed; a ``LightModel``, which is changed; a serialized message; or
            the path of an ONNX file.
        outputs: the tensors to return, including inner tensors and graph inputs; None for the model's own outputs.
        threads: threads within one operator; None for one per core, see ``session_threads``.
        optimise: whether onnxruntime fuses and folds nodes. With "constants" it only computes nodes that depend on
            constants, once, and runs the other nodes unfused.
        packed: whether onnxruntime keeps weights in the layout of its kernels: a copy, with which a run is up to twice
            as fast. None allows it unless the weights are too large for a copy.
        as_written: whether Q/DQ pairs are computed as written, not fused into integer kernels or merged with other
            pairs. False gives onnxruntime's defaults, except for operators that a cut between partitions separates from
            their pairs.
        arena: the allocator for a run's memory. A session's own arena grows with inputs of many sizes.
        boundaries: keeps tensors between partitions for sessions of the same model with different ``outputs``.
        any_order: whether the values of an output may be in another order than its shape implies; see
            ``toolkit.graph.sessions.unordered_outputs``.
        often: whether the session is run on so many samples that loading may take twice as long to make each run
            faster.
        steady: whether random numbers are the same in every run and for every sample; see
            ``toolkit.graph.ort_forms.random_seeds``.

    Raises:
        ModelError: onnxruntime refuses the model, a tensor of ``outputs`` does not exist or cannot be computed, or the
            weights of one node exceed the limit.
        BackendError: onnxruntime is not installed, or there is not enough memory.
    """
    threads = threads or session_threads()
    model = light_source(source)
    survey, left = make_runnable(model, outputs, steady)
    shared = [] if outputs is None else expose(model.proto, outputs, model.where)
    if left and not model.proto.graph.output:
        return Session(None, model.where, shared, left=left)
    model.drop_unread()
    limits = loop_limits(model.proto, survey.operators, model.weight_bytes)
    packed = not model.shares if packed is None else packed
    if not packed:
        quantize_weights(model)
    # rewrites are chosen for the whole model as written, so that partitions are rewritten as the whole would be
    unwanted = unwanted_rewrites(model.proto, survey.operators, packed, as_written)
    loading = _Loading(threads, optimise, packed, as_written, arena, any_order, often, unwanted, survey.operators)
    unfused = partial(_unfused, weakref.ref(source)) if isinstance(source, Model) and optimise is True else None
    inner = _loaded(model, loading, boundaries)
    return Session(inner, model.where, shared, model.weights, limits, left, threads, unfused)


def _unfused(source: weakref.ref[Model], error: Exception, inputs: Mapping[str, Array]) -> Exception:
    """The error of a run without onnxruntime's rewrites, if ``error`` names a node that a rewrite made."""
    model, named = source(), _NODE.search(str(error))
    if model is None or named is None or named[1] in model.node_names():
        return error
    try:
        session(model, optimise=False).run(inputs)
    except QtoolError as plain:
        return plain.__cause__ if isinstance(plain.__cause__, Exception) else error
    return error


@dataclass(frozen=True)
class _Loading:
    """Settings for loading parts of a model; see ``session``.

    Attributes:
        unwanted: rewrites to disable.
        operators: the model's operators, before unused nodes were dropped.
    """

    threads: int
    optimise: Optimise
    packed: bool
    as_written: bool
    arena: Arena
    any_order: bool
    often: bool
    unwanted: Sequence[str]
    operators: Operators

    def whole(self, model: LightModel) -> Any:
        """Onnxruntime's session of a model that is run as a whole."""
        rewrites = (self.any_order or self.often) and self.packed and self.optimise is True
        if rewrites and BLOCKED_LAYOUT not in self.unwanted:
            found = without_reordering(
                model,
                lambda path: self._load(model, self.arena, rewritten=path),
                lambda path: load_rewritten(path, self.threads, self.as_written, self.arena, model.where),
                self.any_order,
            )
            if found is not None:
                return found
        return self._load(model, self.arena)

    def part(self, model: LightModel, stays: bool) -> Any:
        """Onnxruntime's session of one partition of a model, which stays loaded with the others or not."""
        # with its own arena, memory of a run (such as dequantized weights) would be kept for every partition
        return self._load(model, "shared" if stays else "none")

    def _load(self, model: LightModel, arena: Arena, rewritten: Path | None = None) -> Any:
        unwanted = list(self.unwanted)
        if self.as_written and {"Transpose", "QuantizeLinear"} <= {op for _, op in self.operators}:
            # what a partition hands on is an output of it alone
            unwanted += wrong_turns(model.proto)
        settings = (self.threads, self.optimise, self.packed, self.as_written, arena, unwanted)
        return load_session(model, *settings) if rewritten is None else load_session(model, *settings, rewritten)


def _loaded(model: LightModel, loading: _Loading, boundaries: Boundaries | None) -> Any:
    """Load a runnable model into onnxruntime, whole or in partitions.

    Raises:
        ModelError: onnxruntime refuses the model; the message names the node if it can be found.
    """
    partitions = partitions_of(model, loading.packed)
    fits = len(partitions) == 1
    # sessions that share tensors between partitions need the same graph, but which pairs move depends on the outputs
    if loading.as_written and (fits or boundaries is None) and move_pairs_after_concats(model.proto):
        partitions = partitions_of(model, loading.packed)
    if fits and len(model.proto.graph.node) > MOST_NODES:
        partitions, boundaries = by_nodes(model, _PARTITION_NODES, loading.operators), None
    elif fits and not loading.packed:
        partitions, boundaries = by_widened(model, _WIDENED_BYTES), None
    load = loading.whole if len(partitions) == 1 else partial(loading.part, stays=fits)
    try:
        if len(partitions) == 1:
            return load(model)
        return PartitionedSession(model, partitions, load, loading.packed, boundaries, fits)
    except ModelError as error:
        what = with_node(error, model, load)
        if what == error.what:
            # an error must not be its own cause: the reference cycle would keep everything loaded
            raise
        raise ModelError(what, where=error.where, remedy=error.remedy) from error


def own_session(model: Model) -> Session:
    """The session of a model's own outputs; cached for a settled graph with small weights."""

    def load() -> Session:
        return session(model)

    return model.once(_OWN, load) if model.weight_bytes() <= _KEPT_BYTES else load()


def drop_large_session(model: Model) -> None:
    """Drop the session that ``own_session`` caches of a model with very many nodes: it takes 8 kB per node."""
    if len(model.graph.nodes) > MOST_NODES:
        model.drop(_OWN)


def _told(made: Sequence[tuple[str, str]], left: NotRun) -> list[str]:
    """The default outputs of a session, chosen from all available ones; see ``Session.outputs``."""
    tensors = [(name, kind) for name, kind in made if name not in left.feeds or kind.startswith("tensor(")]
    own = [name for name, kind in tensors if name not in left.feeds or "float" in kind or "double" in kind]
    return own or [name for name, _ in tensors]
