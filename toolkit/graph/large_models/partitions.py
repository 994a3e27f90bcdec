"""Sessions of models whose weights exceed the memory limit: run partition by partition, with a few loaded at a time.

Models with very many nodes are partitioned too, with all partitions loaded: onnxruntime needs 0.09 ms per node to
create a session of 20,000 nodes, but 0.29 ms per node for 225,000 nodes (measured with 1.32).

The graph is cut before nodes with weights, where few tensors are alive and onnxruntime fuses nothing, so that all
partitions together compute bit for bit the same as the whole model. Tensors of a float16 model are passed between
partitions in float32 without rounding, as between two nodes that onnxruntime computes in float32. If there is no such
place, among convolutions that pass on results in blocked layout, the last bits may differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from toolkit.base.collection import return_free_blocks
from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.graph.large_models.cutting import SHARE, Cut, Partition, widened_bytes
from toolkit.graph.large_models.memory import least_limit, loaded, weights_limit
from toolkit.graph.large_models.ort_values import ORT_TYPES, as_array, to_ort
from toolkit.graph.large_models.partition_types import HALF, narrowed, rounded, widen_between_partitions, widened
from toolkit.graph.proto.light import LightModel, fits_message
from toolkit.graph.proto.on_disk import spilled
from toolkit.graph.surgery.tensors import arrays_digest

if TYPE_CHECKING:
    from toolkit.graph.model import Model

_PACKED = 2
"""Memory of a partition in multiples of its weights, if onnxruntime also keeps them packed for its kernels."""
_BOUND = 1.2
"""The memory limit of models above protobuf's limit as a multiple of their weights.

Files that are mapped while they are read come on top: with 1.3 a search peaked at 1.37.
"""


def by_partition(model: Model, names: Iterable[str]) -> list[list[str]]:
    """Group tensors or inputs by the partition that produces them; one group if the model is run as a whole."""
    light = model.to_light()
    found = partitions_of(light, packed=not light.shares)
    if len(found) == 1:
        return [every] if (every := list(names)) else []
    nodes = light.proto.graph.node
    place = {name: number for number, one in enumerate(found) for index in one.nodes for name in nodes[index].output}
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(place.get(name, 0), []).append(name)
    return [groups[number] for number in sorted(groups)]


def shared_weights(model: LightModel) -> bool:
    """Whether the weights are too large for copies, in general or under the limit; see ``LightModel.shares``."""
    return model.shares or len(partitions_of(model, packed=True)) > 1


def resident_bytes(model: LightModel, packed: bool) -> int:
    """Bytes of weights that a session of the model holds; 0 if it is run in partitions."""
    if len(partitions_of(model, packed)) > 1:
        return 0
    return sum(map(widened_bytes, model.weights.values()))


def partitions_of(model: LightModel, packed: bool) -> list[Partition]:
    """The partitions in which a model is run under the limit; a single one if its weights fit or there is no limit.

    Args:
        packed: whether onnxruntime keeps the weights packed for its kernels.

    Raises:
        ModelError: the weights of a single node do not fit; the message names the node with the largest weights.
    """
    room, sizes = weights_limit(), _session_bytes(model, packed)
    if room is None or sum(sizes.values()) <= room // SHARE:
        return [Partition.whole(model)]
    return Cut(model, room // SHARE, sizes).partitions()


def bounding_limit(model: LightModel) -> int | None:
    """A memory limit of 1.2 times the weights of a model that is too large for one message; None if it is smaller.

    Without a limit a search maps the weights of the float and of the quantized model, twice the size of the model. The
    limit is higher if one node holds so much of the weights that it would not fit.
    """
    if fits_message(model.weight_bytes):
        return None
    weights = sum(map(widened_bytes, model.weights.values()))
    return max(math.ceil(_BOUND * weights), least_limit(SHARE * Cut(model, 0, _session_bytes(model, True)).largest))


def _session_bytes(model: LightModel, packed: bool) -> dict[str, int]:
    """Bytes that a session needs for each large weight."""
    return {name: widened_bytes(values) * (_PACKED if packed else 1) for name, values in model.weights.items()}


class Value(NamedTuple):
    """The description of a session's input or output; onnxruntime's own object would keep the session alive."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @classmethod
    def of(cls, value: Any) -> Value:
        """Copy the description from onnxruntime's object."""
        return cls(value.name, value.type, tuple(value.shape))


@dataclass
class _PassingSample:
    """A sample while it passes through the partitions.

    Attributes:
        feed: the model's inputs.
        alive: tensors by name that a later partition reads or that are returned, including inputs.
        key: key under which its tensors are kept for other sessions; empty if they are not kept.
        start: index of the first partition to run.
    """

    feed: Mapping[str, Any]
    alive: dict[str, Any]
    key: str = ""
    start: int = 0

    def computed(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of the tensors that were computed by partitions."""
        return {name: self.alive[name] for name in names if name in self.alive and name not in self.feed}


class PartitionedSession:
    """A model in partitions, with the interface of an onnxruntime session.

    Args:
        model: the whole model.
        load: creates the session of a model.
        packed: see ``partitions_of``.
        boundaries: keeps the tensors between partitions for other sessions; None if there are none.
        all_fit: whether all partitions stay loaded; the model's message is then released, which needs as much memory as
            the sessions.
    """

    def __init__(
        self,
        model: LightModel,
        partitions: Sequence[Partition],
        load: Callable[[LightModel], Any],
        packed: bool,
        boundaries: Boundaries | None = None,
        all_fit: bool = False,
    ) -> None:
        self._model, self._partitions, self._load, self._packed = model, partitions, load, packed
        self._boundaries = boundaries
        self._outputs = [value.name for value in model.proto.graph.output]
        self._kept: dict[int, Any] | None = {} if all_fit else None
        self._owner = loaded.join(self)
        # copies, because a part of a message keeps the whole message alive
        self._known = {value.name: _copy(value) for value in model.proto.graph.input}
        self._stored = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self._declared = {value.name: value for value in model.proto.graph.output}
        self._typed = {value.name: place for place, value in enumerate(model.proto.graph.value_info)}
        self._pieces: dict[int, bytes] = {}
        self._uncut = all_fit
        self._wide = widen_between_partitions(model, partitions)
        self._narrow = {wide: name for name, wide in self._wide.items()}
        self._given: list[Value] = []
        self._takes = {value.name: value for value in self._inputs()}
        if all_fit:
            self._model = LightModel(onnx.ModelProto(), {}, model.where)
            self._known.clear()
            # the message was allocated between memory that the sessions keep
            return_free_blocks()

    def get_inputs(self) -> list[Value]:
        """The model's inputs."""
        return list(self._takes.values())

    def get_outputs(self) -> list[Value]:
        """The model's outputs, with the types that onnxruntime inferred."""
        found = {value.name: value for value in self._given}
        return [found[name] for name in self._outputs]

    def run_with_ort_values(self, names: Sequence[str], feed: Mapping[str, Any], options: Any = None) -> list[Any]:
        """The requested outputs; tensors that no later partition reads are freed at once."""
        return self.run_each(names, [feed], options)[0]

    def run_each(
        self, names: Sequence[str], feeds: Sequence[Mapping[str, Any]], options: Any = None
    ) -> list[list[Any]]:
        """``run_with_ort_values`` for several samples, which pass through each partition together."""
        wanted = set(names)
        having = [number for number, one in enumerate(self._partitions) if wanted & set(one.gives)]
        samples = [self._begun(feed, having[0]) for feed in feeds]
        # tensors kept for other sessions may be needed by partitions after the last one that is run here
        end = len(self._partitions) if self._boundaries is not None else having[-1] + 1
        for number, one in enumerate(self._partitions[: having[-1] + 1]):
            later = {name for other in self._partitions[number + 1 : end] for name in other.reads}
            gives = [name for name in one.gives if name in wanted or name in later]
            for sample in samples:
                if number < sample.start:
                    continue
                if gives:
                    made = self._run_partition(number, gives, sample.alive, options)
                    # tensors waiting for the other samples are spilled if they are large
                    sample.alive.update(zip(gives, made if len(feeds) == 1 else [_waiting(value) for value in made]))
                # only these can have had their last reader: checking all live tensors would take quadratic time
                for name in {*one.reads, *gives} - later - wanted:
                    sample.alive.pop(name, None)
                if self._boundaries is not None:
                    self._boundaries.keep(sample.key, number + 1, sample.computed(later))
        return [[self._given_out(name, sample.alive[name]) for name in names] for sample in samples]

    def _begun(self, feed: Mapping[str, Any], first: int) -> _PassingSample:
        """A sample before its first partition; ``first`` is the first partition with a requested output."""
        if self._boundaries is None:
            return _PassingSample(feed, dict(feed))
        key = arrays_digest({name: as_array(value) for name, value in feed.items()})
        start, values = self._boundaries.last(key, first)
        return _PassingSample(feed, {**feed, **values}, key, start)

    def _run_partition(self, number: int, gives: list[str], state: Mapping[str, Any], options: Any) -> list[Any]:
        """Run a partition; its session is not kept here, since the next one may need its memory."""
        with self._opened(number) as inner:
            inputs = [value.name for value in inner.get_inputs()]
            taken = {name: _ort(state[self._narrow.get(name, name)]) for name in inputs}
            return list(inner.run_with_ort_values(self._called(gives), taken, options))

    def _called(self, names: Iterable[str]) -> list[str]:
        """The names of tensors between partitions; see ``widen_between_partitions``."""
        return [self._wide.get(name, name) for name in names]

    def _given_out(self, name: str, value: Any) -> Any:
        """A tensor as it is returned, in its own type if it is passed between partitions in a wider one."""
        return _ort(rounded(as_array(value)) if name in self._wide else value)

    def _inputs(self) -> Iterator[Value]:
        """Load every partition once, in order, since the output types of each are the input types of later ones.

        Partitions whose types are known from another session of the model are not loaded.
        """
        own = set(self._known)
        read = {name for one in self._partitions for name in one.reads}
        found = self._boundaries.types if self._boundaries is not None else {}
        for number, one in enumerate(self._partitions):
            if not found.keys() >= {*self._called(one.gives), *own.intersection(one.reads)}:
                with self._opened(number) as inner:
                    found.update((value.name, Value.of(value)) for value in (*inner.get_outputs(), *inner.get_inputs()))
                del inner
            for name in sorted(self._wide.keys() & set(one.gives)):
                found[name] = Value(name, HALF, found[self._wide[name]].shape)
            for value in (found[name] for name in one.gives):
                self._given.append(value)
                if value.type not in ORT_TYPES:
                    self._require_last(number, value)
                    continue
                # if all tensors of a large graph are outputs, partitions read few of them
                if value.name not in read:
                    continue
                for name in self._called([value.name]):
                    kind, shape = ORT_TYPES[found[name].type], list(value.shape) or None
                    self._known[name] = helper.make_tensor_value_info(name, kind, shape)
            yield from (found[name] for name in one.reads if name in own)

    def _require_last(self, number: int, value: Value) -> None:
        """Refuse a non-tensor that a later partition reads; other outputs are reported when the model runs."""
        if any(value.name in one.reads for one in self._partitions[number + 1 :]):
            raise ModelError(
                f"'{value.name}', which is not a tensor but {value.type}, is read beyond a point at which the model "
                "is cut to fit the memory allowed",
                where=self._model.where,
                remedy="raise [run] memory",
            )

    def _opened(self, number: int) -> AbstractContextManager[Any]:
        """The session of a partition, loaded if necessary and kept for the block."""
        one = self._partitions[number]
        if self._kept is not None:
            if number not in self._kept:
                self._kept[number] = self._load(self._piece(one, self._pieces.pop(number, None)))
                if self._uncut:
                    # only after the first partition has loaded, since that is where onnxruntime usually refuses a model
                    self._cut_out_others(number)
            return nullcontext(self._kept[number])
        size = sum(widened_bytes(self._model.weights[name]) for name in one.weights)
        kept = size * (_PACKED if self._packed else 1)
        return loaded.use(self._owner, number, lambda: (kept, lambda: self._load(self._piece(one))))

    def _cut_out_others(self, number: int) -> None:
        """Extract all other partitions, so that the whole message can be freed before they are loaded."""
        others = ((n, one) for n, one in enumerate(self._partitions) if n != number)
        self._pieces = {n: self._cut_out(one).SerializeToString() for n, one in others}
        self._stored.clear()
        self._declared.clear()
        self._typed.clear()
        self._model.proto = onnx.ModelProto()
        self._uncut = False

    def _piece(self, one: Partition, content: bytes | None = None) -> LightModel:
        """The model of a partition; ``content`` is its extracted message, if there is one."""
        proto = self._cut_out(one) if content is None else onnx.ModelProto.FromString(content)
        proto.graph.input.extend(self._known[name] for name in self._called(one.reads))
        return LightModel(proto, {name: self._model.weights[name] for name in one.weights}, self._model.where)

    def _cut_out(self, one: Partition) -> onnx.ModelProto:
        """Extract a partition without its inputs, whose types are inferred one partition after the other."""
        whole = self._model.proto
        nodes = [whole.graph.node[index] for index in one.nodes]
        proto = onnx.ModelProto()
        proto.ir_version = whole.ir_version
        proto.opset_import.extend(whole.opset_import)
        proto.functions.extend(whole.functions)
        graph = proto.graph
        graph.name = whole.graph.name
        for name in sorted(self._wide.keys() & set(one.reads)):
            graph.node.extend(narrowed(self._wide[name], name))
        graph.node.extend(nodes)
        for name in sorted(self._wide.keys() & set(one.gives)):
            graph.node.extend(widened(name, self._wide[name]))
        graph.initializer.extend(self._stored[name] for name in one.constants)
        graph.output.extend(
            self._declared.get(name) or onnx.ValueInfoProto(name=name) for name in self._called(one.gives)
        )
        if self._typed:
            made = {name for node in nodes for name in node.output} - set(one.gives)
            places = sorted(self._typed[name] for name in made if name in self._typed)
            graph.value_info.extend(whole.graph.value_info[place] for place in places)
        return proto


def _copy(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto.FromString(value.SerializeToString())


def _waiting(value: Any) -> Any:
    """An onnxruntime value as an array that may be spilled; other values than tensors are returned unchanged."""
    return spilled(as_array(value)) if value.is_tensor() else value


def _ort(value: Any) -> Any:
    return to_ort(value) if isinstance(value, np.ndarray) else value


class Boundaries:
    """Tensors between partitions that sessions of a model share, keyed by the model's inputs; spilled if large.

    Sessions that run one after the other, each on all samples for the tensors of one partition, continue where the
    previous one ended, so every partition is loaded once for all samples.

    Attributes:
        types: types of the tensors between partitions, as far as known.
    """

    def __init__(self) -> None:
        self.types: dict[str, Value] = {}
        self._known: dict[str, dict[int, dict[str, Array]]] = {}

    def last(self, key: str, most: int) -> tuple[int, dict[str, Array]]:
        """The last partition to start from, up to number ``most``, and the tensors it needs besides the inputs."""
        known = self._known.get(key, {})
        number = max((one for one in known if one <= most), default=0)
        return number, known.get(number, {})

    def keep(self, key: str, number: int, values: Mapping[str, Any]) -> None:
        """Keep the tensors that partition ``number`` starts with; those of partitions before the last are dropped."""
        known = self._known.setdefault(key, {})
        known[number] = {
            name: spilled(value if isinstance(value, np.ndarray) else as_array(value)) for name, value in values.items()
        }
        for old in [one for one in known if one < number - 1]:
            del known[old]
