"""The entry of each build instruction in a recipe: one method per kind, which also reports what cannot be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.base.errors import QtoolError, nearest
from toolkit.contract.findings import Finding
from toolkit.graph.model import Model
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.layers import LayerTypes
from toolkit.run.migrate.orders.order import Order, OrderOutcome
from toolkit.run.migrate.orders.terms import OUTCOMES, Term

_ENGINE: dict[Term, str] = {
    Term.TIMES: "avg_timing_iterations",
    Term.LEVEL: "optimization_level",
    Term.TIMING_CACHE: "timing_cache",
    Term.REFIT: "refit",
    Term.VERSIONS: "version_compatible",
    Term.BACKEND: "backend",
    Term.GPUS: "compute_capabilities",
}
"""Terms whose value is stored unchanged in a setting of [engine]."""
_LIBRARIES = ("cublas", "cublas_lt", "cudnn")
_SWITCHES = (Term.REFIT, Term.VERSIONS)
METHODS = {
    "IInt8EntropyCalibrator2": "entropy",
    "IInt8EntropyCalibrator": "entropy",
    "IInt8MinMaxCalibrator": "minmax",
    "IInt8LegacyCalibrator": "percentile",
}
"""The calibration method for each of TensorRT's calibrator classes."""


@dataclass
class Settled:
    """The settings for a recipe, collected from build instructions.

    Attributes:
        rest: the float type of everything without a request.
        quantize: the allowed quantized type; empty if there is none.
        strong: whether the network is strongly typed, so that the graph's own types apply.
        profiles: the shapes of the inputs by profile: min, opt and max.
        shapeless: whether no shapes are given at all, so that all dynamic dimensions are 1.
        engine: further settings of [engine].
        calibration: further settings of [calibration].
        ranges: amax by tensor, for tensors with individually set ranges.
        cache: the calibration cache; empty if none is named.
        data: calibration data; empty if none is named.
        layers: requested types of layers and operators.
        turns: the outcome of each instruction.
    """

    rest: str = "fp32"
    quantize: str = ""
    strong: bool = False
    profiles: dict[Any, dict[str, dict[str, list[int]]]] = field(default_factory=dict)
    shapeless: bool = False
    engine: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)
    cache: str = ""
    data: str = ""
    layers: LayerTypes = field(default_factory=LayerTypes)
    turns: list[OrderOutcome] = field(default_factory=list)

    def complete_engine(self, folders: Sequence[Path], capabilities: Sequence[str]) -> None:
        """Find the timing cache in the source's folders, and set the GPUs given by the user."""
        if isinstance(kept := self.engine.get("timing_cache"), str):
            places = [folder / kept for folder in folders]
            self.engine["timing_cache"] = next((path for path in places if path.is_file()), places[0])
        if capabilities:
            self.engine["compute_capabilities"] = list(capabilities)


class Entries:
    """Collects the content of a recipe, instruction by instruction.

    Args:
        paired: whether the model has Q/DQ pairs that stay.
    """

    def __init__(self, model: Model, terms: Set[Term], paired: bool) -> None:
        self.model, self.terms, self.paired = model, terms, paired
        self.found = Settled()
        self.shapes = {name: list(dims) for name, dims in model.input_shapes().items()}

    def write(self, order: Order) -> tuple[str, Finding | None]:
        """Add an instruction; returns its place in the recipe, and a finding if it cannot be kept completely."""
        assert order.term is not None
        if order.term in _ENGINE:
            return self._engine(order.term, order.value)
        writer = {
            Term.TACTICS: self._tactics,
            Term.LAYERS: self._layers,
            Term.TYPES: self._layers,
            Term.OPS: self._layers,
            Term.MIN: self._shape,
            Term.OPT: self._shape,
            Term.MAX: self._shape,
            Term.SHAPES: self._shapes,
            Term.INPUT_IO: self._io,
            Term.OUTPUT_IO: self._io,
            Term.TENSOR_IO: self._io,
            Term.WORKSPACE: self._workspace,
            Term.SPARSE: self._sparse,
            Term.HARDWARE: self._hardware,
            Term.OBEY: self._constraints,
            Term.CACHE: self._cache,
            Term.CALIBRATOR: self._calibrator,
            Term.QUANTILE: self._quantile,
            Term.INPUTS: self._inputs,
            Term.LOADER: self._loader,
            Term.RANGE: self._range,
        }.get(order.term)
        return writer(order) if writer is not None else (OUTCOMES[order.term].words, None)

    def _engine(self, term: Term, value: Any) -> tuple[str, Finding | None]:
        self.found.engine[_ENGINE[term]] = True if term in _SWITCHES else value
        if term is Term.GPUS:
            self.found.engine["backend"] = "tensorrt_rtx"
        return f"[engine] {_ENGINE[term]}", None

    def _workspace(self, order: Order) -> tuple[str, Finding | None]:
        if order.value is None:
            return "", MigrateCode.POOL_LOST()
        self.found.engine["workspace_mb"] = max(1, order.value >> 20)
        return OUTCOMES[Term.WORKSPACE].words, None

    def _sparse(self, order: Order) -> tuple[str, Finding | None]:
        if order.value == "disable":
            return "[engine]", None
        self.found.engine["sparse_weights"] = True
        return OUTCOMES[Term.SPARSE].words, MigrateCode.SPARSITY_FORCED() if order.value == "force" else None

    def _hardware(self, order: Order) -> tuple[str, Finding | None]:
        if order.value not in ("ampere+", "none"):
            return "", MigrateCode.VALUE_UNREADABLE(said=order.said)
        self.found.engine["hardware_compatible"] = order.value == "ampere+"
        return OUTCOMES[Term.HARDWARE].words, None

    def _constraints(self, order: Order) -> tuple[str, Finding | None]:
        if order.value != "none" and (self.found.quantize or self.paired):
            return OUTCOMES[Term.LAYERS].words, MigrateCode.CONSTRAINTS_BY_TYPES()
        if order.value != "none":
            self.found.engine["constraints"] = order.value
        elif {Term.LAYERS, Term.TYPES} & self.terms:
            return OUTCOMES[Term.LAYERS].words, MigrateCode.NO_EFFECT(without="constraints")
        return OUTCOMES[Term.OBEY].words, None

    def _cache(self, order: Order) -> tuple[str, Finding | None]:
        self.found.cache = order.value
        return OUTCOMES[Term.CACHE].words, None

    def _calibrator(self, order: Order) -> tuple[str, Finding | None]:
        if order.value not in METHODS:
            return "", MigrateCode.VALUE_UNREADABLE(said=order.said)
        self.found.calibration["method"] = METHODS[order.value]
        return OUTCOMES[Term.CALIBRATOR].words, None

    def _quantile(self, order: Order) -> tuple[str, Finding | None]:
        if not 0.5 < order.value <= 1:
            return "", MigrateCode.VALUE_UNREADABLE(said=order.said)
        self.found.calibration["percentile"] = 100 * order.value
        return OUTCOMES[Term.QUANTILE].words, None

    def _inputs(self, order: Order) -> tuple[str, Finding | None]:
        self.found.data = order.value[0]
        return OUTCOMES[Term.INPUTS].words, None

    @staticmethod
    def _loader(order: Order) -> tuple[str, Finding | None]:
        return "", MigrateCode.CODE_TO_ALLOW(said=order.said)

    def _tactics(self, order: Order) -> tuple[str, Finding | None]:
        """TensorRT's own tactic sources; those of libraries are dropped, since newer TensorRT versions refuse them."""
        own = [one for one in order.value if one not in _LIBRARIES]
        left = [one for one in order.value if one in _LIBRARIES]
        if own:
            self.found.engine["tactic_sources"] = own
        return OUTCOMES[Term.TACTICS].words if own else "", MigrateCode.LIBRARY_TACTICS(sources=left) if left else None

    def _layers(self, order: Order) -> tuple[str, Finding | None]:
        term, value = order.term, order.value
        assert term is not None
        constrained = Term.OBEY in self.terms
        layers = self.found.layers
        why = layers.ask_of_operators(self.model, value) if term is Term.OPS else layers.ask(self.model, term, value)
        if why is None and not constrained and term is not Term.OPS:
            why = MigrateCode.NO_EFFECT(without="constraints")
        lost = why is not None and why.code in (MigrateCode.NO_SUCH_LAYER, MigrateCode.OUTPUT_TYPE_LOST)
        return ("" if lost and len(value) == len(why.values.get("layers", ())) else  # type: ignore[union-attr, arg-type]
                OUTCOMES[term].words), why  # fmt: skip

    def _range(self, order: Order) -> tuple[str, Finding | None]:
        inputs, strange = list(self.shapes), []
        for place, amax in order.value:
            name = inputs[place] if isinstance(place, int) and place < len(inputs) else str(place)
            if name not in self.model.graph.tensors():
                strange.append(name)
            self.found.ranges[name] = amax
        if strange:
            return OUTCOMES[Term.RANGE].words, MigrateCode.TENSOR_STRANGE(tensors=strange)
        return OUTCOMES[Term.RANGE].words, None

    def _io(self, order: Order) -> tuple[str, Finding | None]:
        """Types of inputs and outputs; memory layouts have no equivalent."""
        term, value = order.term, order.value
        types = self.model.facts().types
        tensors = [t.name for t in (self.model.graph.inputs if term is Term.INPUT_IO else self.model.graph.outputs)]
        if term is Term.TENSOR_IO:
            sides = {"input": self.model.graph.inputs, "output": self.model.graph.outputs}
            asked = [(self._named(place, sides), kind, "chw") for place, kind in value]
        else:
            spread = list(value) * len(tensors) if len(value) == 1 else list(value)
            asked = [(name, *one) for name, one in zip(tensors, spread)]
        lost = [] if term is Term.TENSOR_IO else [f"{kind}:{layout}" for kind, layout in value[max(1, len(tensors)) :]]
        taken = 0
        for name, kind, layout in asked:
            if layout not in ("chw", "linear") or kind not in ("", "fp32", "fp16", "bf16", "int32", "int64"):
                lost.append(f"{name}:{kind}:{layout}" if kind else f"{name}:{layout}")
            if kind in ("fp32", "fp16", "bf16") and types.get(name) in (1, 10, 16):
                self.found.engine.setdefault("io", {})[name] = kind
                taken += 1
        why = MigrateCode.FORMAT_LOST(tensors=lost) if lost else None
        return ("[engine] io" if taken or not lost else ""), why

    @staticmethod
    def _named(place: Any, sides: Mapping[str, Sequence[Any]]) -> str:
        """A tensor's name, which a script may also specify by side and index."""
        if isinstance(place, str):
            return place
        side, number = place
        return str(sides[side][number].name) if number < len(sides[side]) else f"{side} {number}"

    # ---------------------------------------------------------------- profiles

    def _shapes(self, order: Order) -> tuple[str, Finding | None]:
        """The shapes of the first profile, with the same size for min, opt and max."""
        for one in (Term.MIN, Term.OPT):
            self._sized(one, 0, order.value)
        where, why = self._sized(Term.MAX, 0, order.value)
        return OUTCOMES[Term.SHAPES].words if where else "", why

    def _shape(self, order: Order) -> tuple[str, Finding | None]:
        number, shapes = order.value
        assert order.term is not None
        return self._sized(order.term, number, shapes)

    def _sized(self, term: Term, number: Any, shapes: Mapping[Any, list[int]]) -> tuple[str, Finding | None]:
        sides = {"input": self.model.graph.inputs}
        shapes = {self._named(place, sides): sizes for place, sizes in shapes.items()}
        strange = [name for name in shapes if name not in self.shapes]
        for name, sizes in shapes.items():
            if name in self.shapes:
                self.found.profiles.setdefault(number, {}).setdefault(name, {})[str(term.value)] = sizes
        if strange:
            near = [close for name in strange for close in nearest(name, self.shapes, 1)]
            where = "" if len(strange) == len(shapes) else OUTCOMES[term].words
            return where, MigrateCode.NO_SUCH_INPUT(inputs=strange, near=near)
        return OUTCOMES[term].words, None

    def fill_profiles(self) -> None:
        """Fill in missing shapes like trtexec: opt from max or min, min and max from opt, 1 for all others."""
        dynamic = {name: dims for name, dims in self.shapes.items() if any(not isinstance(d, int) for d in dims)}
        if not dynamic:
            self.found.profiles.clear()
            return
        for shapes in self.found.profiles.values():
            for name in [name for name in shapes if name not in dynamic]:
                del shapes[name]
        self.found.shapeless = not any(self.found.profiles.values())
        profiles = self.found.profiles or {0: {}}
        ones = sorted(name for shapes in profiles.values() for name in dynamic if name not in shapes)
        if ones:
            # reported because some shapes were given: without any, trtexec would have chosen all of them
            order = Order(None, said="shapes")
            why = MigrateCode.SHAPES_OF_ONES(inputs=sorted(set(ones)))
            self.found.turns.append(OrderOutcome(order, "implied", why=why))
        for number, shapes in profiles.items():
            for name, dims in dynamic.items():
                shapes[name] = _whole(shapes.get(name, {}), dims)
                _refuse_unfit(shapes[name], name, dims, number)
        self.found.profiles = profiles


def _whole(given: Mapping[str, list[int]], dims: Sequence[int | str | None]) -> dict[str, list[int]]:
    """The min, opt and max shapes of an input for which some of them are given."""
    opt = given.get("opt") or given.get("max") or given.get("min")
    opt = opt or [dim if isinstance(dim, int) else 1 for dim in dims]
    return {"min": given.get("min", opt), "opt": opt, "max": given.get("max", opt)}


def _refuse_unfit(shapes: Mapping[str, list[int]], name: str, dims: Sequence[int | str | None], number: Any) -> None:
    least, opt, most = shapes["min"], shapes["opt"], shapes["max"]
    fits = len({len(least), len(opt), len(most), len(dims)}) == 1
    if not fits or any(not low <= mid <= high for low, mid, high in zip(least, opt, most)):
        raise QtoolError(
            f"input '{name}' has the shapes min {least}, opt {opt} and max {most}, and {list(dims)} in the model",
            where=f"profile {number}",
            remedy="give as many sizes as the model has, min at most opt and opt at most max",
        )
