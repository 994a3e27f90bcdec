"""A model whose weights are more than may be in memory: run partition by partition, a few of them loaded at a time.

So is a model of very many nodes, whose partitions all stay loaded: onnxruntime needs 0.09 ms a node for a session of
20,000 nodes, 0.29 ms a node where there are 225,000 (seen with 1.32).

The graph is cut before nodes with weights, where few tensors are alive and onnxruntime fuses nothing, so that
every partition computes what the whole model would, bit by bit. Of a float16 model what is handed on is in float32 and
not rounded, as it is between two nodes that onnxruntime computes in float32. Where there is no such place, among
convolutions that hand on their results in blocked layout, the last bits may differ.
"""

from __future__ import annotations

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
from toolkit.graph.large_models.memory import loaded, weights_limit
from toolkit.graph.large_models.ort_values import ORT_TYPES, as_array, to_ort
from toolkit.graph.large_models.partition_types import HALF, narrowed, rounded, widen_between_partitions, widened
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.on_disk import spilled
from toolkit.graph.surgery.tensors import arrays_digest

if TYPE_CHECKING:
    from toolkit.graph.model import Model

_PACKED = 2
"""What a partition takes, in multiples of its weights, where onnxruntime keeps them as its kernels like them."""


def by_partition(model: Model, names: Iterable[str]) -> list[list[str]]:
    """Tensors, or inputs, grouped by the partition of a model that makes them; one group where it is run whole."""
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
    """Whether the weights are too many for copies of them, anyway or under the limit; see ``LightModel.shares``."""
    return model.shares or len(partitions_of(model, packed=True)) > 1


def resident_bytes(model: LightModel, packed: bool) -> int:
    """Bytes of weights that a session of the model holds by itself: none where it is run in partitions."""
    if len(partitions_of(model, packed)) > 1:
        return 0
    return sum(map(widened_bytes, model.weights.values()))


def partitions_of(model: LightModel, packed: bool) -> list[Partition]:
    """The partitions that a model is run in under the limit; one where its weights fit, or without a limit.

    Args:
        model: the model.
        packed: whether onnxruntime keeps the weights as its kernels like them.

    Raises:
        ModelError: the weights of one node alone do not fit; the message names the node with most.
    """
    room = weights_limit()
    sizes = {name: widened_bytes(values) * (_PACKED if packed else 1) for name, values in model.weights.items()}
    if room is None or sum(sizes.values()) <= room // SHARE:
        return [Partition.whole(model)]
    return Cut(model, room // SHARE, sizes).partitions()


class Value(NamedTuple):
    """What a session says of an input or output: onnxruntime's own would keep the session and its weights."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @classmethod
    def of(cls, value: Any) -> Value:
        """A copy of onnxruntime's value."""
        return cls(value.name, value.type, tuple(value.shape))


@dataclass
class _PassingSample:
    """A sample on its way through the partitions.

    Attributes:
        feed: the model's inputs.
        alive: by name the tensors that a later partition reads or that are returned, inputs too.
        key: what its tensors are kept under for other sessions; empty where they are not kept.
        start: the first partition that has to be run.
    """

    feed: Mapping[str, Any]
    alive: dict[str, Any]
    key: str = ""
    start: int = 0

    def computed(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of the tensors that partitions have computed."""
        return {name: self.alive[name] for name in names if name in self.alive and name not in self.feed}


class PartitionedSession:
    """The partitions of a model, to be run as one session of onnxruntime is.

    Args:
        model: the whole.
        partitions: where it is cut.
        load: makes a session of a model.
        packed: see ``partitions_of``.
        boundaries: where what is handed from partition to partition is kept; None for nowhere.
        all_fit: whether all partitions stay loaded; the model then gives up its message, which takes as much memory
            as the sessions of it.
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
        # copies: a part of a message holds all of it
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
            # the message lay between what the sessions keep
            return_free_blocks()

    def get_inputs(self) -> list[Value]:
        """What the model takes."""
        return list(self._takes.values())

    def get_outputs(self) -> list[Value]:
        """The model's outputs, with the types that onnxruntime finds."""
        found = {value.name: value for value in self._given}
        return [found[name] for name in self._outputs]

    def run_with_ort_values(self, names: Sequence[str], feed: Mapping[str, Any], options: Any = None) -> list[Any]:
        """The outputs that are asked for; what no later partition reads is freed at once."""
        return self.run_each(names, [feed], options)[0]

    def run_each(
        self, names: Sequence[str], feeds: Sequence[Mapping[str, Any]], options: Any = None
    ) -> list[list[Any]]:
        """``run_with_ort_values`` for several samples, which go through a partition together: it is loaded once."""
        wanted = set(names)
        having = [number for number, one in enumerate(self._partitions) if wanted & set(one.gives)]
        samples = [self._begun(feed, having[0]) for feed in feeds]
        # what is kept for other sessions may be read by partitions beyond the last that is run here
        end = len(self._partitions) if self._boundaries is not None else having[-1] + 1
        for number, one in enumerate(self._partitions[: having[-1] + 1]):
            later = {name for other in self._partitions[number + 1 : end] for name in other.reads}
            gives = [name for name in one.gives if name in wanted or name in later]
            for sample in samples:
                if number < sample.start:
                    continue
                if gives:
                    made = self._run_partition(number, gives, sample.alive, options)
                    # what waits for the other samples is spilled where it is much
                    sample.alive.update(zip(gives, made if len(feeds) == 1 else [_waiting(value) for value in made]))
                # what is alive has a reader that comes, or is wanted: looking through all of it would be square
                for name in {*one.reads, *gives} - later - wanted:
                    sample.alive.pop(name, None)
                if self._boundaries is not None:
                    self._boundaries.keep(sample.key, number + 1, sample.computed(later))
        return [[self._given_out(name, sample.alive[name]) for name in names] for sample in samples]

    def _begun(self, feed: Mapping[str, Any], first: int) -> _PassingSample:
        """A sample before the first partition that it has to be run in; ``first`` is the first that gives an output."""
        if self._boundaries is None:
            return _PassingSample(feed, dict(feed))
        key = arrays_digest({name: as_array(value) for name, value in feed.items()})
        start, values = self._boundaries.last(key, first)
        return _PassingSample(feed, {**feed, **values}, key, start)

    def _run_partition(self, number: int, gives: list[str], state: Mapping[str, Any], options: Any) -> list[Any]:
        """The tensors that a partition gives; of its session nothing stays here, since the next may need its room."""
        with self._opened(number) as inner:
            inputs = [value.name for value in inner.get_inputs()]
            taken = {name: _ort(state[self._narrow.get(name, name)]) for name in inputs}
            return list(inner.run_with_ort_values(self._called(gives), taken, options))

    def _called(self, names: Iterable[str]) -> list[str]:
        """The names of the tensors that partitions hand to each other; see ``widen_between_partitions``."""
        return [self._wide.get(name, name) for name in names]

    def _given_out(self, name: str, value: Any) -> Any:
        """A tensor as it is returned: in its own type where partitions hand it on in a wider one."""
        return _ort(rounded(as_array(value)) if name in self._wide else value)

    def _inputs(self) -> Iterator[Value]:
        """Load every partition once, in order: the types of its outputs are those of the next partitions' inputs.

        Those whose types another session of the model has found are not loaded.
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
                # of a large graph with all tensors as outputs few are read by a partition
                if value.name not in read:
                    continue
                for name in self._called([value.name]):
                    kind, shape = ORT_TYPES[found[name].type], list(value.shape) or None
                    self._known[name] = helper.make_tensor_value_info(name, kind, shape)
            yield from (found[name] for name in one.reads if name in own)

    def _require_last(self, number: int, value: Value) -> None:
        """Refuse what is no tensor where a later partition reads it; other outputs are reported when it runs."""
        if any(value.name in one.reads for one in self._partitions[number + 1 :]):
            raise ModelError(
                f"'{value.name}', which is not a tensor but {value.type}, is read beyond a point at which the model "
                "is cut to fit the memory allowed",
                where=self._model.where,
                remedy="raise [run] memory",
            )

    def _opened(self, number: int) -> AbstractContextManager[Any]:
        """The session of a partition, loaded where it is not; the block keeps it."""
        one = self._partitions[number]
        if self._kept is not None:
            if number not in self._kept:
                self._kept[number] = self._load(self._piece(one, self._pieces.pop(number, None)))
                if self._uncut:
                    # not before: what onnxruntime refuses, it mostly refuses in the first partition
                    self._cut_out_others(number)
            return nullcontext(self._kept[number])
        size = sum(widened_bytes(self._model.weights[name]) for name in one.weights)
        kept = size * (_PACKED if self._packed else 1)
        return loaded.use(self._owner, number, lambda: (kept, lambda: self._load(self._piece(one))))

    def _cut_out_others(self, number: int) -> None:
        """Cut out all partitions but this, so that the whole message can go before they are loaded."""
        others = ((n, one) for n, one in enumerate(self._partitions) if n != number)
        self._pieces = {n: self._cut_out(one).SerializeToString() for n, one in others}
        self._stored.clear()
        self._declared.clear()
        self._typed.clear()
        self._model.proto = onnx.ModelProto()
        self._uncut = False

    def _piece(self, one: Partition, content: bytes | None = None) -> LightModel:
        """The model of a partition; ``content`` is what was cut out for it."""
        proto = self._cut_out(one) if content is None else onnx.ModelProto.FromString(content)
        proto.graph.input.extend(self._known[name] for name in self._called(one.reads))
        return LightModel(proto, {name: self._model.weights[name] for name in one.weights}, self._model.where)

    def _cut_out(self, one: Partition) -> onnx.ModelProto:
        """A partition by itself, without its inputs, whose types are found one partition after the other."""
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
    """A value of onnxruntime as an array that may be spilled; what is no tensor is returned as it is."""
    return spilled(as_array(value)) if value.is_tensor() else value


def _ort(value: Any) -> Any:
    return to_ort(value) if isinstance(value, np.ndarray) else value


class Boundaries:
    """What sessions of one model hand from partition to partition, by the model's inputs; spilled where it is much.

    Sessions that are run one after the other, each on all samples and for the tensors of one partition, begin where the
    one before ended: every partition is loaded once for all samples.

    Attributes:
        types: of the tensors that are handed on, as far as a session has found them.
    """

    def __init__(self) -> None:
        self.types: dict[str, Value] = {}
        self._known: dict[str, dict[int, dict[str, Array]]] = {}

    def last(self, key: str, most: int) -> tuple[int, dict[str, Array]]:
        """The last partition up to number ``most`` that can be started from, and what it needs besides the inputs."""
        known = self._known.get(key, {})
        number = max((one for one in known if one <= most), default=0)
        return number, known.get(number, {})

    def keep(self, key: str, number: int, values: Mapping[str, Any]) -> None:
        """Keep what partition ``number`` begins with; what was kept for partitions before the last is forgotten."""
        known = self._known.setdefault(key, {})
        known[number] = {
            name: spilled(value if isinstance(value, np.ndarray) else as_array(value)) for name, value in values.items()
        }
        for old in [one for one in known if one < number - 1]:
            del known[old]
