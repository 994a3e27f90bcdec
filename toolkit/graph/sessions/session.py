"""onnxruntime sessions on the CPU: any inner tensor as an output, Q/DQ pairs computed as they are written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from toolkit.graph.ort_forms.rewrites import output_rounding_rewrites
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
"""Inputs that go through the partitions of a model together: what they hand on is kept meanwhile."""
MOST_NODES = 20_000
"""Nodes of a session; a model of more is run in partitions, cut where onnxruntime fuses nothing."""
_PARTITION_NODES = 2_500
"""Nodes of these partitions: one of 5,000 takes a fifth longer a node to load, one of 20,000 half; none runs faster."""
_WIDENED_BYTES = 256 << 20
"""What the weights of a partition of a model that is not packed may take in float32, where they are stored in less."""
_KEPT_BYTES = 32 << 20
"""Of so few bytes of weights a session may stay in memory as long as its model; loading one again costs more."""
_OWN = "session"
_SHOWN = 4
"""Inputs whose shapes an error names: of a decoder's dozens the first say enough."""


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
        self._dims = {i.name: getattr(i, "shape", ()) for i in inner.get_inputs()} if inner is not None else {}
        made = [(o.name, o.type) for o in inner.get_outputs()] if inner is not None else []
        self.inputs: tuple[str, ...] = tuple(self._types)
        self.dtypes = {name: np_dtype(ORT_TYPES[kind]) for name, kind in self._types.items() if kind in ORT_TYPES}
        self.outputs: tuple[str, ...] = (*_told(made, self.left), *self._passed_on)

    @property
    def is_partitioned(self) -> bool:
        """Whether parts of the model are loaded one after the other in every run."""
        return isinstance(self._inner, PartitionedSession)

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
        return next(self._run([inputs], outputs))

    def run_each(
        self, samples: Iterable[Mapping[str, Array]], outputs: Sequence[str] | None = None
    ) -> Iterator[dict[str, Array]]:
        """Run the model on several inputs, one after the other, see ``run``.

        Of a partitioned model, 16 inputs go through a partition together, which is loaded once for them; each by itself
        where a loop may not end, whose limits are those of one run.
        """
        if not self.is_partitioned or self._limits is not None:
            yield from (self.run(inputs, outputs) for inputs in samples)
            return
        given = iter(samples)
        while some := list(islice(given, _AT_ONCE)):
            yield from self._run(some, outputs)

    def _run(self, samples: Sequence[Mapping[str, Array]], outputs: Sequence[str] | None) -> Iterator[dict[str, Array]]:
        """The outputs for several samples, in order, as far as they can be computed."""
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
                # each by itself: those before the one that fails have outputs
                for inputs in samples:
                    yield from self._run([inputs], outputs)
                return
            self._refuse_other_sizes(samples[0])
            shapes = ", ".join(f"{name} {list(np.shape(samples[0][name]))}" for name in self.inputs[:_SHOWN])
            more = f" and {len(self.inputs) - _SHOWN} more" if len(self.inputs) > _SHOWN else ""
            raise explained(error, f"onnxruntime cannot run the model on {shapes}{more}", self._where) from error
        for inputs, made in zip(samples, values):
            found = dict(zip(computed, map(as_array, made)))
            yield {name: found[name] if name in found else np.asarray(inputs[name]) for name in wanted}

    def _check(self, inputs: Mapping[str, Array], wanted: Sequence[str]) -> None:
        """Refuse inputs that are missing and outputs that do not exist."""
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

    def _refuse_other_sizes(self, inputs: Mapping[str, Array]) -> None:
        """Refuse inputs that have another size where the model has a fixed one, as where a pass fixed its batch."""
        for name in self.inputs:
            shape = np.shape(inputs[name])
            for axis, (size, fixed) in enumerate(zip(shape, self._dims.get(name) or ())):
                if isinstance(fixed, int) and size != fixed:
                    raise ModelError(
                        f"input '{name}' is {list(shape)}, and the model takes only {fixed} in dimension {axis}",
                        where=self._where,
                        remedy="give inputs of that size; where a pass fixed it, keep it dynamic there: an engine of "
                        "one size alone comes from a [[profile]] with that size as min, opt and max",
                    )

    def _computed(self, names: list[str], feeds: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """The outputs of onnxruntime, with the time that it took counted and loops limited."""
        begin = time.thread_time()
        try:
            if self._limits is None:
                return self._each(names, feeds, None)
            import onnxruntime as ort

            options = ort.RunOptions()
            with limited(self._limits, options, self._where):
                return self._each(names, feeds, options)
        finally:
            # this thread computes like the others that the session has
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

    What computes in bfloat16 is computed in float32; inputs and outputs keep their types. Nodes for which onnxruntime
    has no kernel are left out, with all that read them: see ``Session.outputs``. A model runs in partitions where its
    weights exceed ``memory_limit``, or where they are not packed, are stored in fewer bits and take more than 256 MB in
    float32. The last bits may then differ where onnxruntime would have fused nodes across a cut.

    Args:
        source: a Model or a message, which is not changed; a model without its large weights, which is; a serialized
            message; or the path of an ONNX file.
        outputs: the tensors to return, which may be inner tensors and graph inputs; None for the model's own outputs.
        threads: threads within one operator; None for one per core, see ``session_threads``.
        optimise: let onnxruntime fuse and fold. With "constants" it computes only what depends on constants alone,
            once, and runs the other nodes one by one.
        packed: let onnxruntime keep weights in the layout of its kernels: a copy, with which a run is up to twice as
            fast. None allows it unless the weights are too many for a copy.
        as_written: compute Q/DQ pairs as they are written, not fused into integer kernels or merged into other pairs.
            False leaves onnxruntime its defaults, except for operators whose pairs a cut between partitions separates.
        arena: where the memory of a run comes from. A session's own arena grows with inputs of many sizes.
        boundaries: where sessions of one model with different ``outputs`` keep what they pass between partitions.
        any_order: let the values of an output come in another order than its shape says; see
            ``toolkit.graph.sessions.unordered_outputs``.
        often: it is run on so many samples that it may take twice as long to load where each run is faster then.
        steady: draw the same random numbers in every run and for every sample; see
            ``toolkit.graph.ort_forms.random_seeds``.

    Raises:
        ModelError: onnxruntime refuses the model, a tensor of ``outputs`` does not exist or is not computed, or the
            weights of one node exceed the limit.
        BackendError: onnxruntime is not installed or has not enough memory.
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
    # a partition is rewritten as the whole would be, and that by the nodes of the model as it is written
    unwanted = unwanted_rewrites(model.proto, survey.operators, packed, as_written)
    loading = _Loading(threads, optimise, packed, as_written, arena, any_order, often, unwanted, survey.operators)
    return Session(_loaded(model, loading, boundaries), model.where, shared, model.weights, limits, left, threads)


@dataclass(frozen=True)
class _Loading:
    """How parts of a model are loaded; see ``session`` for the settings.

    Attributes:
        unwanted: rewrites to switch off.
        operators: what was in the model before nodes that nobody reads were dropped.
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
        """Onnxruntime's session of a model that is run whole."""
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
        # what a run takes would stay with a partition: weights that it dequantizes among it
        return self._load(model, "shared" if stays else "none")

    def _load(self, model: LightModel, arena: Arena, rewritten: Path | None = None) -> Any:
        unwanted = list(self.unwanted)
        if self.as_written and {"Transpose", "QuantizeLinear"} <= {op for _, op in self.operators}:
            # what a partition hands on is an output of it alone
            unwanted += output_rounding_rewrites(model.proto)
        settings = (self.threads, self.optimise, self.packed, self.as_written, arena, unwanted)
        return load_session(model, *settings) if rewritten is None else load_session(model, *settings, rewritten)


def _loaded(model: LightModel, loading: _Loading, boundaries: Boundaries | None) -> Any:
    """A runnable model in onnxruntime, whole or in partitions.

    Raises:
        ModelError: onnxruntime refuses it; the message names the node where one can be found.
    """
    partitions = partitions_of(model, loading.packed)
    fits = len(partitions) == 1
    # what sessions hand on to each other is of one graph, and which pairs are moved hangs on the outputs
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
            # no error is its own cause: it would hold itself, and with it all that was loaded
            raise
        raise ModelError(what, where=error.where, remedy=error.remedy) from error


def own_session(model: Model) -> Session:
    """The session of a model's own outputs; that of a settled graph with few bytes of weights is loaded once."""

    def load() -> Session:
        return session(model)

    return model.once(_OWN, load) if model.weight_bytes() <= _KEPT_BYTES else load()


def drop_large_session(model: Model) -> None:
    """Give back the session that ``own_session`` keeps of a model of very many nodes: it takes 8 kB a node."""
    if len(model.graph.nodes) > MOST_NODES:
        model.drop(_OWN)


def _told(made: Sequence[tuple[str, str]], left: NotRun) -> list[str]:
    """The outputs that a session gives by default, of all that it can; see ``Session.outputs``."""
    tensors = [(name, kind) for name, kind in made if name not in left.feeds or kind.startswith("tensor(")]
    own = [name for name, kind in tensors if name not in left.feeds or "float" in kind or "double" in kind]
    return own or [name for name, _ in tensors]
