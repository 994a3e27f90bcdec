"""Orders settled for a model: what a recipe has to say, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.base.errors import QtoolError, nearest
from toolkit.base.precision import Precision
from toolkit.contract.findings import BaseCode, Finding
from toolkit.graph.model import Model
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.gpu_types import types_of_pairs
from toolkit.run.migrate.layers import LayerTypes
from toolkit.run.migrate.order import Fate, Order, Outturn
from toolkit.run.migrate.terms import OUTCOMES, Term

_ENGINE: dict[Term, str] = {
    Term.TIMES: "avg_timing_iterations",
    Term.LEVEL: "optimization_level",
    Term.TIMING_CACHE: "timing_cache",
    Term.REFIT: "refit",
    Term.VERSIONS: "version_compatible",
    Term.BACKEND: "backend",
    Term.GPUS: "compute_capabilities",
}
"""Terms whose value is a setting of [engine] as it stands."""
_LIBRARIES = ("cublas", "cublas_lt", "cudnn")
_FATES: Mapping[BaseCode, Fate] = {
    MigrateCode.LOOK_AT: "look",
    MigrateCode.OTHER_COMMAND: "look",
    MigrateCode.NOT_TAKEN: "overruled",
}
"""What becomes of an order by what keeps it from being taken; of others nothing does."""
_SWITCHES = (Term.REFIT, Term.VERSIONS)
_METHODS = {
    "IInt8EntropyCalibrator2": "entropy",
    "IInt8EntropyCalibrator": "entropy",
    "IInt8MinMaxCalibrator": "minmax",
    "IInt8LegacyCalibrator": "percentile",
}
_PRECISIONS = (Term.FP16, Term.BF16, Term.INT8, Term.FP8, Term.BEST, Term.LAYERS, Term.OPS, Term.TYPES, Term.OBEY)


@dataclass
class Settled:
    """What a recipe has to say.

    Attributes:
        rest: the float type of all that nobody asks about.
        quantize: the quantized type that is allowed; empty where none is.
        strong: whether the graph's own types count.
        profiles: by number the shapes of the inputs: min, opt and max.
        engine: further settings of [engine].
        calibration: further settings of [calibration].
        ranges: amax by tensor, set one by one.
        cache: the calibration cache; empty where none is named.
        data: calibration data; empty where none are named.
        layers: types asked for layers and operators.
        turns: what became of each order.
    """

    rest: str = "fp32"
    quantize: str = ""
    strong: bool = False
    profiles: dict[Any, dict[str, dict[str, list[int]]]] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)
    cache: str = ""
    data: str = ""
    layers: LayerTypes = field(default_factory=LayerTypes)
    turns: list[Outturn] = field(default_factory=list)


def value_named(orders: Sequence[Order], term: Term) -> str:
    """The file that the orders name last for a term; empty where none does."""
    named = [order.value for order in orders if order.term is term and isinstance(order.value, str)]
    return named[-1] if named else ""


def settle(orders: Sequence[Order], model: Model, paired: bool) -> Settled:
    """What the orders mean for a model.

    Args:
        orders: what a command line or a script says.
        model: the ONNX model.
        paired: whether it has Q/DQ pairs that stay.

    Raises:
        QtoolError: the shapes of a profile are no profile: min above max.
    """
    return _Settler(orders, model, paired).settle()


class _Settler:
    def __init__(self, orders: Sequence[Order], model: Model, paired: bool) -> None:
        self.orders, self.model, self.paired = orders, model, paired
        self.found = Settled()
        self.own = types_of_pairs(model)
        self.terms = {order.term for order in orders if order.term is not None and not _lost(order)}
        self.shapes = {name: list(dims) for name, dims in model.input_shapes().items()}

    def settle(self) -> Settled:
        found = self.found
        found.strong = Term.STRONG in self.terms
        if not found.strong:
            found.rest = self._rest()
            found.quantize = self._quantized()
        for order in self.orders:
            found.turns.append(self._turn(order))
        found.layers.settle(self.model)
        self._profiles()
        return found

    def _rest(self) -> str:
        if {Term.FP16, Term.BEST} & self.terms:
            return "fp16"
        return "bf16" if Term.BF16 in self.terms else "fp32"

    def _quantized(self) -> str:
        if {Term.INT8, Term.BEST} & self.terms:
            return "int8"
        return "fp8" if Term.FP8 in self.terms else ""

    # ---------------------------------------------------------------- one order

    def _turn(self, order: Order) -> Outturn:
        """What becomes of an order, which is written down where it has a place."""
        if order.why is not None and _lost(order):
            code = order.why.code
            return Outturn(order, _FATES.get(code, "lost"), why=order.why)
        assert order.term is not None
        outcome = OUTCOMES[order.term]
        if order.term is Term.INT4 and self.own & {Precision.INT4, Precision.NVFP4}:
            return Outturn(order, "implied", why=MigrateCode.INT4_IN_GRAPH())
        if outcome.why is not None:
            unrelated = (Term.MEASURING, Term.PRINTING, Term.OTHER_FRAMEWORK)
            fate = "lost" if outcome.lost else "unrelated" if order.term in unrelated else "implied"
            return Outturn(order, fate, why=outcome.why())  # type: ignore[arg-type]
        overruled = self._overruled(order)
        if overruled is not None:
            return Outturn(order, "overruled", why=overruled)
        became, why = self._written(order)
        if order.term is Term.OPS and not became:
            # a script that serves many models asks for layers that some of them have
            return Outturn(order, "implied", why=why)
        return Outturn(order, "written" if became else "lost", became, why or order.why)

    def _overruled(self, order: Order) -> Finding | None:
        """What decides in an order's place."""
        if self.found.strong and order.term in _PRECISIONS:
            return MigrateCode.CONTRADICTS(by=self._said(Term.STRONG))
        later = self.orders[[id(one) for one in self.orders].index(id(order)) + 1 :]
        single = (Term.MODEL, Term.CACHE, Term.OBEY, Term.WORKSPACE, Term.TIMES, Term.LEVEL, Term.INPUT_IO,
                  Term.OUTPUT_IO, Term.SPARSE, Term.HARDWARE)  # fmt: skip
        again = next((one for one in reversed(later) if one.term is order.term and not _lost(one)), None)
        if order.term in single and again is not None:
            return MigrateCode.SAID_AGAIN(by=again.said, same=again.value == order.value)
        if order.term in (Term.LAYERS, Term.TYPES):
            names = {name for name, _ in order.value}
            by = next(
                (one for one in later if one.term is order.term and names <= {name for name, _ in one.value or ()}),
                None,
            )
            if by is not None:
                return MigrateCode.SAID_AGAIN(by=by.said, same=set(order.value) <= set(by.value))
        if self.paired and order.term in (Term.INT8, Term.FP8) and not self.own & {Precision(str(order.term.value))}:
            return MigrateCode.PAIRS_OVERRULE()
        if order.term is Term.BF16 and self.found.rest == "fp16":
            return MigrateCode.CONTRADICTS(by=self._said(Term.FP16, Term.BEST))
        if order.term is Term.FP8 and self.found.quantize == "int8" and not self.paired:
            return MigrateCode.CONTRADICTS(by=self._said(Term.INT8, Term.BEST))
        if order.term in (Term.CACHE, Term.CALIBRATOR, Term.QUANTILE, Term.RANGE, Term.INPUTS, Term.LOADER):
            if self.paired:
                return MigrateCode.PAIRS_OVERRULE()
            if not self.found.quantize and order.term is not Term.INPUTS and order.term is not Term.LOADER:
                return MigrateCode.NO_EFFECT(without="INT8")
        if order.term in (Term.INPUTS, Term.LOADER, Term.CALIBRATOR, Term.QUANTILE) and Term.CACHE in self.terms:
            return MigrateCode.CACHE_DECIDES()
        if order.term is Term.QUANTILE and self._method() != "percentile":
            return MigrateCode.NO_EFFECT(without="IInt8LegacyCalibrator")
        if order.term is Term.CACHE and self.found.quantize == "fp8":
            return MigrateCode.CACHE_OF_INT8()
        if order.term is Term.SHAPES and {Term.MIN, Term.OPT, Term.MAX} & self.terms:
            return MigrateCode.CONTRADICTS(by=self._said(Term.MIN, Term.OPT, Term.MAX))
        return None

    def _method(self) -> str:
        """The calibration method of the calibrator that is named; empty where none is."""
        named = [str(order.value) for order in self.orders if order.term is Term.CALIBRATOR and not _lost(order)]
        return _METHODS.get(named[-1], "") if named else ""

    def _said(self, *terms: Term) -> str:
        return next((order.said for order in self.orders if order.term in terms), "")

    def _written(self, order: Order) -> tuple[str, Finding | None]:
        """Where an order stands in the recipe, and what else there is to say of it; it is written down."""
        term, value, found = order.term, order.value, self.found
        assert term is not None
        if term is Term.TACTICS:
            return self._tactics(value)
        if term in _ENGINE:
            found.engine[_ENGINE[term]] = True if term in _SWITCHES else value
            if term is Term.GPUS:
                found.engine["backend"] = "tensorrt_rtx"
            return f"[engine] {_ENGINE[term]}", None
        if term in (Term.LAYERS, Term.TYPES, Term.OPS):
            return self._layers(term, value)
        if term in (Term.MIN, Term.OPT, Term.MAX):
            return self._shape(term, *value)
        if term is Term.SHAPES:
            parts = [self._shape(one, 0, value) for one in (Term.MIN, Term.OPT, Term.MAX)]
            return OUTCOMES[term].words if parts[0][0] else "", parts[0][1]
        if term in (Term.INPUT_IO, Term.OUTPUT_IO, Term.TENSOR_IO):
            return self._io(term, value)
        if term is Term.WORKSPACE:
            if value is None:
                return "", MigrateCode.POOL_LOST()
            found.engine["workspace_mb"] = max(1, value >> 20)
        elif term is Term.SPARSE:
            if value == "disable":
                return "[engine]", None
            found.engine["sparse_weights"] = True
            if value == "force":
                return OUTCOMES[term].words, MigrateCode.SPARSITY_FORCED()
        elif term is Term.HARDWARE:
            if value not in ("ampere+", "none"):
                return "", MigrateCode.VALUE_UNREADABLE(said=order.said)
            found.engine["hardware_compatible"] = value == "ampere+"
        elif term is Term.OBEY:
            if value != "none" and (found.quantize or self.paired):
                return OUTCOMES[Term.LAYERS].words, MigrateCode.CONSTRAINTS_BY_TYPES()
            if value != "none":
                found.engine["constraints"] = value
            elif {Term.LAYERS, Term.TYPES} & self.terms:
                return OUTCOMES[Term.LAYERS].words, MigrateCode.NO_EFFECT(without="constraints")
        elif term is Term.CACHE:
            found.cache = value
        elif term is Term.CALIBRATOR:
            if value not in _METHODS:
                return "", MigrateCode.VALUE_UNREADABLE(said=order.said)
            found.calibration["method"] = _METHODS[value]
        elif term is Term.QUANTILE:
            if not 0.5 < value <= 1:
                return "", MigrateCode.VALUE_UNREADABLE(said=order.said)
            found.calibration["percentile"] = 100 * value
        elif term is Term.INPUTS:
            found.data = value[0]
        elif term is Term.LOADER:
            return "", MigrateCode.CODE_TO_ALLOW(said=order.said)
        elif term is Term.RANGE:
            return self._range(value)
        return OUTCOMES[term].words, None

    def _tactics(self, value: Sequence[str]) -> tuple[str, Finding | None]:
        """Sources that are TensorRT's own; libraries' make a recipe that newer TensorRTs refuse."""
        own = [one for one in value if one not in _LIBRARIES]
        left = [one for one in value if one in _LIBRARIES]
        if own:
            self.found.engine["tactic_sources"] = own
        return OUTCOMES[Term.TACTICS].words if own else "", MigrateCode.LIBRARY_TACTICS(sources=left) if left else None

    def _layers(self, term: Term, value: Sequence[tuple[str, str]]) -> tuple[str, Finding | None]:
        constrained = Term.OBEY in self.terms
        why = self.found.layers.ask(self.model, term, value, self.found.rest)
        if why is None and not constrained and term is not Term.OPS:
            why = MigrateCode.NO_EFFECT(without="constraints")
        lost = why is not None and why.code in (MigrateCode.NO_SUCH_LAYER, MigrateCode.OUTPUT_TYPE_LOST)
        return ("" if lost and len(value) == len(why.values.get("layers", ())) else  # type: ignore[union-attr, arg-type]
                OUTCOMES[term].words), why  # fmt: skip

    def _range(self, value: Sequence[tuple[str | int, float]]) -> tuple[str, Finding | None]:
        inputs, strange = list(self.shapes), []
        for place, amax in value:
            name = inputs[place] if isinstance(place, int) and place < len(inputs) else str(place)
            if name not in self.model.graph.tensors():
                strange.append(name)
            self.found.ranges[name] = amax
        if strange:
            return OUTCOMES[Term.RANGE].words, MigrateCode.TENSOR_STRANGE(tensors=strange)
        return OUTCOMES[Term.RANGE].words, None

    def _io(self, term: Term, value: Sequence[tuple[str, str]]) -> tuple[str, Finding | None]:
        """Types of inputs and outputs; their memory layouts have no place."""
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
        """A tensor's name, which a script may also say by its side and number."""
        if isinstance(place, str):
            return place
        side, number = place
        return str(sides[side][number].name) if number < len(sides[side]) else f"{side} {number}"

    # ---------------------------------------------------------------- profiles

    def _shape(self, term: Term, number: Any, shapes: Mapping[Any, list[int]]) -> tuple[str, Finding | None]:
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

    def _profiles(self) -> None:
        """Fill up what was left out, as trtexec does: opt from max or min, min and max from opt, 1 for all else."""
        dynamic = {name: dims for name, dims in self.shapes.items() if any(not isinstance(d, int) for d in dims)}
        if not dynamic:
            self.found.profiles.clear()
            return
        for shapes in self.found.profiles.values():
            for name in [name for name in shapes if name not in dynamic]:
                del shapes[name]
        profiles = self.found.profiles or {0: {}}
        ones = sorted(name for shapes in profiles.values() for name in dynamic if name not in shapes)
        if ones:
            # they are only named where another shape was said, or trtexec would have made up all of them
            order = Order(None, said="shapes")
            self.found.turns.append(Outturn(order, "implied", why=MigrateCode.SHAPES_OF_ONES(inputs=sorted(set(ones)))))
        for number, shapes in profiles.items():
            for name, dims in dynamic.items():
                given = shapes.setdefault(name, {})
                opt = given.get("opt") or given.get("max") or given.get("min")
                opt = opt or [dim if isinstance(dim, int) else 1 for dim in dims]
                least, most = given.get("min", opt), given.get("max", opt)
                shapes[name] = {"min": least, "opt": opt, "max": most}
                fits = len({len(least), len(opt), len(most), len(dims)}) == 1
                if not fits or any(not low <= mid <= high for low, mid, high in zip(least, opt, most)):
                    raise QtoolError(
                        f"input '{name}' has the shapes min {least}, opt {opt} and max {most}, and {list(dims)} in "
                        "the model",
                        where=f"profile {number}",
                        remedy="give as many sizes as the model has, min at most opt and opt at most max",
                    )
        self.found.profiles = profiles


def _lost(order: Order) -> bool:
    """Whether an order was not understood; a condition that is not known leaves it as it is."""
    return order.term is None or (order.why is not None and order.why.code is not MigrateCode.ONLY_WHERE)


def said_lost(turns: Sequence[Outturn]) -> Iterator[Outturn]:
    """What has no place in the recipe although the engine is another one without it."""
    yield from (turn for turn in turns if turn.fate in ("lost", "look"))
