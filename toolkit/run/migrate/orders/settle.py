"""Resolution of build instructions for a model: the settings of the recipe, and the outcome of each instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit.base.precision import Precision
from toolkit.contract.findings import BaseCode, Finding
from toolkit.graph.model import Model
from toolkit.placement.quantized import pair_count
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.checks.gpu_types import types_of_pairs
from toolkit.run.migrate.orders.entries import METHODS, Entries, Settled
from toolkit.run.migrate.orders.order import Fate, Order, OrderOutcome
from toolkit.run.migrate.orders.terms import OUTCOMES, Term

_FATES: Mapping[BaseCode, Fate] = {
    MigrateCode.LOOK_AT: "look",
    MigrateCode.OTHER_COMMAND: "look",
    MigrateCode.NOT_TAKEN: "overruled",
}
"""The kind of outcome for reasons that prevent migration; other reasons mean "lost"."""
_PRECISIONS = (Term.FP16, Term.BF16, Term.INT8, Term.FP8, Term.BEST, Term.LAYERS, Term.OPS, Term.TYPES, Term.OBEY)
_SINGLE = (Term.MODEL, Term.CACHE, Term.OBEY, Term.WORKSPACE, Term.TIMES, Term.LEVEL, Term.INPUT_IO, Term.OUTPUT_IO,
           Term.SPARSE, Term.HARDWARE)  # fmt: skip
"""Terms for which only the last instruction applies."""
_OF_RANGES = (Term.CACHE, Term.CALIBRATOR, Term.QUANTILE, Term.RANGE, Term.INPUTS, Term.LOADER)


def value_named(orders: Sequence[Order], term: Term) -> str:
    """The file in the last instruction with this term; empty if there is none."""
    named = [order.value for order in orders if order.term is term and isinstance(order.value, str)]
    return named[-1] if named else ""


def settle(orders: Sequence[Order], model: Model, paired: bool) -> Settled:
    """Resolve build instructions for a model.

    Args:
        orders: the instructions of a command line or script.
        paired: whether the model has Q/DQ pairs that stay.

    Raises:
        QtoolError: the shapes of a profile are invalid, for instance min above max.
    """
    return _Settler(orders, model, paired).settle()


class _Settler:
    def __init__(self, orders: Sequence[Order], model: Model, paired: bool) -> None:
        self.orders, self.model, self.paired = orders, model, paired
        self.own = types_of_pairs(model)
        self.terms = {order.term for order in orders if order.term is not None and not _lost(order)}
        self.entries = Entries(model, self.terms, paired)
        self.found = self.entries.found

    def settle(self) -> Settled:
        found = self.found
        found.strong = Term.STRONG in self.terms
        if not found.strong:
            found.rest = self._rest()
            found.quantize = self._quantized()
        for order in self.orders:
            found.turns.append(self._turn(order))
        found.layers.settle(self.model)
        self.entries.fill_profiles()
        return found

    def _rest(self) -> str:
        if {Term.FP16, Term.BEST} & self.terms:
            return "fp16"
        return "bf16" if Term.BF16 in self.terms else "fp32"

    def _quantized(self) -> str:
        if {Term.INT8, Term.BEST} & self.terms:
            return "int8"
        return "fp8" if Term.FP8 in self.terms else ""

    # ---------------------------------------------------------------- one instruction

    def _turn(self, order: Order) -> OrderOutcome:
        """The outcome of an instruction, which is added to the recipe if it has an equivalent."""
        if order.why is not None and _lost(order):
            code = order.why.code
            return OrderOutcome(order, _FATES.get(code, "lost"), why=order.why)
        assert order.term is not None
        outcome = OUTCOMES[order.term]
        if order.term is Term.INT4 and self.own & {Precision.INT4, Precision.NVFP4}:
            return OrderOutcome(order, "implied", why=MigrateCode.INT4_IN_GRAPH())
        if outcome.why is not None:
            unrelated = (Term.MEASURING, Term.PRINTING, Term.OTHER_FRAMEWORK)
            fate = "lost" if outcome.lost else "unrelated" if order.term in unrelated else "implied"
            return OrderOutcome(order, fate, why=outcome.why())  # type: ignore[arg-type]
        overruled = self._overruled(order)
        if overruled is not None:
            return OrderOutcome(order, "overruled", why=overruled)
        became, why = self.entries.write(order)
        if order.term is Term.OPS and not became:
            # a script for many models may request types for operators that this one does not have
            return OrderOutcome(order, "implied", why=why)
        return OrderOutcome(order, "written" if became else "lost", became, why or order.why)

    def _overruled(self, order: Order) -> Finding | None:
        """The finding that another instruction or setting overrules this one; None otherwise."""
        if self.found.strong and order.term in _PRECISIONS:
            return MigrateCode.CONTRADICTS(by=self._said(Term.STRONG))
        if order.term is Term.SHAPES and {Term.MIN, Term.OPT, Term.MAX} & self.terms:
            return MigrateCode.CONTRADICTS(by=self._said(Term.MIN, Term.OPT, Term.MAX))
        return self._said_again(order) or self._other_type(order) or self._other_ranges(order)

    def _said_again(self, order: Order) -> Finding | None:
        """A later instruction of the same kind, if only the last one applies."""
        later = self.orders[[id(one) for one in self.orders].index(id(order)) + 1 :]
        if order.term in _SINGLE:
            again = next((one for one in reversed(later) if one.term is order.term and not _lost(one)), None)
            return None if again is None else MigrateCode.SAID_AGAIN(by=again.said, same=again.value == order.value)
        if order.term in (Term.LAYERS, Term.TYPES):
            names = {name for name, _ in order.value}
            for one in later:
                if one.term is order.term and names <= {name for name, _ in one.value or ()}:
                    return MigrateCode.SAID_AGAIN(by=one.said, same=set(order.value) <= set(one.value))
        return None

    def _other_type(self, order: Order) -> Finding | None:
        """The model's own Q/DQ pairs, or another requested type, that overrule a requested type."""
        if self.paired and order.term in (Term.INT8, Term.FP8) and not self.own & {Precision(str(order.term.value))}:
            return MigrateCode.PAIRS_OVERRULE()
        if order.term is Term.BF16 and self.found.rest == "fp16":
            return MigrateCode.CONTRADICTS(by=self._said(Term.FP16, Term.BEST))
        if order.term is Term.FP8 and self.found.quantize == "int8" and not self.paired:
            return MigrateCode.CONTRADICTS(by=self._said(Term.INT8, Term.BEST))
        return None

    def _other_ranges(self, order: Order) -> Finding | None:
        """The source of ranges, or the absence of a need for them, that overrules calibration data, method or file."""
        if order.term not in _OF_RANGES:
            return None
        # pairs that do not stay are made anew by their own ranges
        if self.paired or (order.term in (Term.CACHE, Term.RANGE) and pair_count(self.model)):
            return MigrateCode.PAIRS_OVERRULE()
        samples = order.term in (Term.INPUTS, Term.LOADER)
        if not self.found.quantize and not samples:
            return MigrateCode.NO_EFFECT(without="INT8")
        if order.term not in (Term.CACHE, Term.RANGE) and self._cache_decides():
            return MigrateCode.CACHE_DECIDES()
        if order.term is Term.QUANTILE and self._method() != "percentile":
            return MigrateCode.NO_EFFECT(without="IInt8LegacyCalibrator")
        if order.term is Term.CACHE and self.found.quantize == "fp8":
            return MigrateCode.CACHE_OF_INT8()
        return None

    def _cache_decides(self) -> bool:
        """Whether there is a calibration cache that nothing else overrules."""
        return Term.CACHE in self.terms and self.found.quantize == "int8" and not pair_count(self.model)

    def _method(self) -> str:
        """The calibration method of the named calibrator; empty if none is named."""
        named = [str(order.value) for order in self.orders if order.term is Term.CALIBRATOR and not _lost(order)]
        return METHODS.get(named[-1], "") if named else ""

    def _said(self, *terms: Term) -> str:
        return next((order.said for order in self.orders if order.term in terms), "")


def _lost(order: Order) -> bool:
    """Whether an instruction was not understood; one under an unknown condition is kept."""
    return order.term is None or (order.why is not None and order.why.code is not MigrateCode.ONLY_WHERE)
