"""A model whose weights are more than may be in memory: run stretch by stretch, a few of them loaded at a time.

The graph is cut in front of nodes with weights, where few tensors are alive and onnxruntime fuses nothing, so that
every stretch computes what the whole model would, bit by bit. Where there is no such place, among convolutions that
hand on their results in blocked layout and between nodes in float16, which onnxruntime computes without rounding in
between, the last bits may differ.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from toolkit.base.errors import ModelError
from toolkit.base.mapped import release_pages, return_freed_memory
from toolkit.base.types import Array
from toolkit.graph.cutting import SHARE, Cut, Stretch
from toolkit.graph.light import LightModel, bytes_of
from toolkit.graph.nodes import reads_of
from toolkit.graph.on_disk import spilled
from toolkit.graph.ort_values import ORT_TYPES, as_array, to_ort

if TYPE_CHECKING:
    from toolkit.graph.model import Model

_PACKED = 2
"""What a stretch takes in sizes of its weights, where onnxruntime keeps them as its kernels like them."""


def by_stretch(model: Model, names: Iterable[str]) -> list[list[str]]:
    """Tensors, or inputs, grouped by the stretch of a model that makes them; all in one group where it is run whole."""
    light = model.to_light()
    found = stretches_of(light, packed=not light.shares)
    nodes = light.proto.graph.node
    place = {name: number for number, one in enumerate(found) for index in one.nodes for name in nodes[index].output}
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(place.get(name, 0), []).append(name)
    return [groups[number] for number in sorted(groups)]


@contextmanager
def memory_limit(size: int | None) -> Iterator[None]:
    """While this is open, sessions of models with more weights run in stretches, which take ``size`` bytes together."""
    before = _loaded.limit
    limit_memory(size)
    try:
        yield
    finally:
        _loaded.limit = before
        _loaded.clear()


def limit_memory(size: int | None) -> None:
    """The limit from here on, for a process that works for another."""
    _loaded.limit = size
    if size is not None:
        return_freed_memory()


def memory_limited() -> int | None:
    """The limit in bytes; None where there is none."""
    return _loaded.limit


def shared_weights(model: LightModel) -> bool:
    """Whether the weights are too many for copies of them, anyway or under the limit; see ``LightModel.shares``."""
    return model.shares or len(stretches_of(model, packed=True)) > 1


def stretches_of(model: LightModel, packed: bool) -> list[Stretch]:
    """The stretches that a model is run in under the limit; one where its weights fit, or without a limit.

    Args:
        model: the model.
        packed: whether onnxruntime keeps the weights as its kernels like them.

    Raises:
        ModelError: the weights of one node alone do not fit; it is the one with most.
    """
    limit = _loaded.limit
    sizes = {name: _computed_bytes(values) * (_PACKED if packed else 1) for name, values in model.weights.items()}
    if limit is None or sum(sizes.values()) <= limit // SHARE:
        return [Stretch(range(len(model.proto.graph.node)), list(sizes), [], [])]
    return Cut(model, sizes, limit // SHARE).stretches()


class Value(NamedTuple):
    """What a session says of an input or output: onnxruntime's own would keep the session and its weights."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @classmethod
    def of(cls, value: Any) -> Value:
        """That of onnxruntime, copied."""
        return cls(value.name, value.type, tuple(value.shape))


class Stretched:
    """The stretches of a model, to be run as one session of onnxruntime is.

    Args:
        model: the whole.
        stretches: where it is cut.
        load: makes a session of a model.
        packed: see ``stretches_of``.
        boundaries: where what is handed from stretch to stretch is kept; None for nowhere.
    """

    def __init__(
        self,
        model: LightModel,
        stretches: Sequence[Stretch],
        load: Callable[[LightModel], Any],
        packed: bool,
        boundaries: Boundaries | None = None,
    ) -> None:
        self._model, self._stretches, self._load, self._packed = model, stretches, load, packed
        self._boundaries = boundaries
        self._known = {value.name: value for value in model.proto.graph.input}
        self._given: list[Value] = []
        self._takes = {value.name: value for value in self._inputs()}

    def get_inputs(self) -> list[Value]:
        """What the model takes."""
        return list(self._takes.values())

    def get_outputs(self) -> list[Value]:
        """What the model gives, with the types that onnxruntime finds."""
        found = {value.name: value for value in self._given}
        return [found[value.name] for value in self._model.proto.graph.output]

    def run_with_ort_values(self, names: Sequence[str], feed: Mapping[str, Any], options: Any = None) -> list[Any]:
        """The outputs that are asked for; what no later stretch reads is given back at once."""
        held, wanted = dict(feed), set(names)
        having = [number for number, one in enumerate(self._stretches) if wanted & set(one.gives)]
        kept = self._boundaries
        key = _digest(feed) if kept is not None else ""
        start, known = kept.last(key, having[0]) if kept is not None else (0, {})
        held.update((name, to_ort(value)) for name, value in known.items())
        end = len(self._stretches) if kept is not None else having[-1] + 1
        for number, one in enumerate(self._stretches[start : having[-1] + 1], start):
            later = {name for other in self._stretches[number + 1 : end] for name in other.reads}
            gives = [name for name in one.gives if name in wanted or name in later]
            if gives:
                inner = self._opened(number)
                taken = {value.name: held[value.name] for value in inner.get_inputs()}
                held.update(zip(gives, inner.run_with_ort_values(gives, taken, options)))
            held = {name: value for name, value in held.items() if name in wanted or name in later}
            if kept is not None:
                kept.keep(key, number + 1, {name: held[name] for name in later if name in held and name not in feed})
        return [held[name] for name in names]

    def _inputs(self) -> Iterator[Value]:
        """Load every stretch once, in order: the types of what it gives are those of what the next ones take."""
        own = {value.name for value in self._model.proto.graph.input}
        for number in range(len(self._stretches)):
            inner = self._opened(number)
            for value in map(Value.of, inner.get_outputs()):
                self._given.append(value)
                if value.type not in ORT_TYPES:
                    self._require_last(number, value)
                    continue
                shape = list(value.shape) or None
                self._known[value.name] = helper.make_tensor_value_info(value.name, ORT_TYPES[value.type], shape)
            yield from (Value.of(value) for value in inner.get_inputs() if value.name in own)

    def _require_last(self, number: int, value: Value) -> None:
        """Refuse what is no tensor where a later stretch reads it; whoever runs the model is told of other outputs."""
        if any(value.name in one.reads for one in self._stretches[number + 1 :]):
            raise ModelError(
                f"'{value.name}', which is no tensor but {value.type}, is read far behind where it is made, and the "
                "model is cut in between for the memory allowed",
                where=self._model.where,
                remedy="give [run] memory more",
            )

    def _opened(self, number: int) -> Any:
        one = self._stretches[number]
        size = sum(_computed_bytes(self._model.weights[name]) for name in one.weights)
        kept = size * (_PACKED if self._packed else 1)
        return _loaded.open((id(self), number), kept, lambda: self._load(self._piece(one)))

    def _piece(self, one: Stretch) -> LightModel:
        whole = self._model.proto
        nodes = [whole.graph.node[index] for index in one.nodes]
        read = {name for node in nodes for name in reads_of(node)}
        declared = {value.name: value for value in whole.graph.output}
        proto = onnx.ModelProto()
        proto.ir_version = whole.ir_version
        proto.opset_import.extend(whole.opset_import)
        proto.functions.extend(whole.functions)
        graph = proto.graph
        graph.name = whole.graph.name
        graph.node.extend(nodes)
        graph.initializer.extend(t for t in whole.graph.initializer if t.name in read)
        graph.input.extend(self._known[name] for name in one.reads)
        graph.output.extend(declared.get(name) or onnx.ValueInfoProto(name=name) for name in one.gives)
        made = {name for node in nodes for name in node.output}
        graph.value_info.extend(value for value in whole.graph.value_info if value.name in made - set(one.gives))
        return LightModel(proto, {name: self._model.weights[name] for name in one.weights}, self._model.where)

    def __del__(self) -> None:
        for number in range(len(self._stretches)):
            _loaded.drop((id(self), number))


def _computed_bytes(values: Array) -> int:
    """What a weight takes in a run: what is stored as integers or float16 is computed with in float32."""
    return values.size * max(values.itemsize, np.dtype(np.float32).itemsize)


class Boundaries:
    """What sessions of one model hand from stretch to stretch, by the model's inputs; spilled where it is much.

    Sessions that are run one after the other, each on all samples and for the tensors of one stretch, begin where the
    one before ended: every stretch is loaded once for all samples.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[int, dict[str, Array]]] = {}

    def last(self, key: str, most: int) -> tuple[int, dict[str, Array]]:
        """The last stretch up to number ``most`` that can be begun with, and what it needs besides the inputs."""
        known = self._known.get(key, {})
        number = max((one for one in known if one <= most), default=0)
        return number, known.get(number, {})

    def keep(self, key: str, number: int, values: Mapping[str, Any]) -> None:
        """Keep what stretch ``number`` begins with; what those before the last one did is forgotten."""
        known = self._known.setdefault(key, {})
        known[number] = {name: spilled(as_array(value)) for name, value in values.items()}
        for old in [one for one in known if one < number - 1]:
            del known[old]


def _digest(feed: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(feed.items()):
        array = as_array(value)
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes() if array.dtype.hasobject else bytes_of(array))
    return digest.hexdigest()


class _Loaded:
    """The stretches of all sessions that are loaded, the last used last."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self._known: OrderedDict[tuple[int, int], tuple[Any, int]] = OrderedDict()
        self._lock = threading.RLock()

    def open(self, key: tuple[int, int], size: int, load: Callable[[], Any]) -> Any:
        """A stretch's session; the longest unused ones go where the limit asks for it."""
        with self._lock:
            if key not in self._known:
                while self._known and sum(held for _, held in self._known.values()) + size > (self.limit or 0):
                    self._known.popitem(last=False)
                    release_pages()
                self._known[key] = load(), size
            self._known.move_to_end(key)
            return self._known[key][0]

    def drop(self, key: tuple[int, int]) -> None:
        """Give a stretch's memory back."""
        with self._lock:
            self._known.pop(key, None)

    def clear(self) -> None:
        """Give back the memory of all stretches."""
        with self._lock:
            self._known.clear()


_loaded = _Loaded()
