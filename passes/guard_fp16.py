"""Keep nodes whose values float16 cannot represent in FP32 or BF16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from toolkit import Code, Context, Model, Pass, Precision, Role


class GuardFP16(Pass):
    """Request FP32 for nodes whose observed values or weights overflow or underflow float16.

    FP32 is also requested for sines and cosines of arguments for which float16 is too coarse, and for the nodes that
    compute those arguments. Any other node is included only if its own inputs, outputs or accumulated sums require it.
    Put this pass after insert_qdq or search_precision: a node that is kept in float before them is not quantized.
    """

    name = "guard_fp16"
    role = Role.GUARD
    supports_dry_run = True
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="precision of these nodes; always fp32 where float16 is too coarse"
    )
    margin: float = Field(2.0, ge=1, description="safety factor on the observed values")

    def reads_evaluation(self) -> bool:
        """Uses only values observed in calibration."""
        return False

    def measures_engines(self) -> bool:
        """Builds no engines."""
        return False

    def ranges_wanted(self, model: Model, context: Context) -> Sequence[str] | None:
        """The values of every tensor."""
        known = context.known_ranges
        return None if known is not None and known.observed else []

    def apply(self, model: Model, context: Context) -> None:
        """Add the requests to the plan, each with the value and the margin.

        Raises:
            RangesError: there is no calibration data.
        """
        from toolkit import facts_at_opt, precision_risks

        known = context.known_ranges
        ranges = known if known is not None and known.observed else context.ranges(model)
        if context.dry_run:
            context.journal.noted(Code.DRY_RUN(step="values") if context.can_calibrate else Code.VALUES_NOT_OBSERVED())
            return
        observed = {**{n: r.observed for n, r in ranges.tensors.items() if r.observed}, **ranges.observed}
        if not context.can_calibrate and not ranges.observed:
            context.journal.noted(Code.VALUES_NOT_OBSERVED())
            for name, one in ranges.tensors.items():
                observed.setdefault(name, (-one.amax, one.amax))
        found = precision_risks(model, facts_at_opt(model, context.profiles), observed, Precision.FP16, self.margin)
        for risk in found:
            ask = context.plan.get(risk.node)
            if ask is not None and ask.precision is Precision.FP32:
                continue
            if ask is not None and ask.precision.quantized:
                why = risk.why.code(**risk.why.values, by=ask.by, requested=ask.precision)
                context.journal.declined(risk.node, why)
                continue
            wanted = Precision.FP32 if risk.fine else Precision(self.precision)
            context.plan.ask(risk.node, wanted, risk.why)
            context.journal.changed(risk.node, Code.REQUESTED(precision=wanted, unquantized=()), risk.why)
        context.journal.noted(Code.GUARDED(nodes=len(found)))
