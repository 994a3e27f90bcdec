"""The settings of helper passes: whether their effect is measured, and kept only if it helps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from toolkit.base.precision import FLOATS
from toolkit.contract.context import Context
from toolkit.contract.findings import BaseCode, Code, Finding
from toolkit.contract.passes import Pass
from toolkit.contract.roles import Role
from toolkit.graph.model import Model


class HelperCode(BaseCode):
    """Why a helper leaves a layer as it is, whatever the layer's values."""

    READS_TRANSPOSED = "reads-transposed"


class Helper(Pass):
    """A pass that changes a model so that it loses less when quantized.

    It is kept only where it raises the SQNR that the journal shows: with all layers quantized, or of the model with its
    pairs where it has some. This holds for every pass of role ``HELP``, or that states what it ``mends``; this class
    adds the settings that override it.

    A search calls its helpers again once it has a plan, with a float type requested for the layers that stay in float:
    what only serves these should be left as it is, see ``kept_float``.
    """

    role: ClassVar[Role | None] = Role.HELP
    only_if_better: bool = Field(
        True, description="keep it only where it raises the measured SQNR; false: keep it in any case"
    )
    measure: bool = Field(True, description="measure what it does to the SQNR; false: keep it, unmeasured")

    def unused_settings(self) -> dict[str, str]:
        """Nothing is kept for what it does where that is not measured."""
        alone = self.only_if_better and not self.measure
        return {"only_if_better": "measure = false keeps the pass in any case"} if alone else {}

    @staticmethod
    def kept_float(context: Context, layers: Iterable[str]) -> dict[str, Finding] | None:
        """Why the plan so far keeps these layers in float, by name; None if one of them is to be quantized."""
        found = {}
        for name in layers:
            ask = context.plan.get(name)
            if ask is None or ask.precision not in FLOATS:
                return None
            found[name] = Code.KEPT(by=ask.by, precision=ask.precision, why=ask.reason)
        return found

    def decline_float(self, context: Context, layers: Iterable[str]) -> bool:
        """Whether the plan so far keeps all of these layers in float; they are declined then, with ``kept_float``."""
        kept = self.kept_float(context, layers)
        for name, why in (kept or {}).items():
            context.journal.declined(name, why)
        return kept is not None

    @staticmethod
    def decline_transposed(model: Model, context: Context) -> None:
        """Decline the Gemms with a constant weight that read an activation transposed (transA).

        What such a layer takes for channels lies along the axis of samples.
        """
        for node in model.nodes:
            reads = node.op == "Gemm" and node.attrs.get("transA", 0) and model.constant(node.inputs[0]) is None
            if reads and model.constant(node.inputs[1]) is not None:
                context.journal.declined(node.name, HelperCode.READS_TRANSPOSED())
