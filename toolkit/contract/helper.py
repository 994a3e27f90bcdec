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
    """Why a helper leaves a layer as it is, regardless of the layer's values."""

    READS_TRANSPOSED = "reads-transposed"


class Helper(Pass):
    """A pass that changes a model so that it loses less when quantized.

    Its changes are kept only if they raise the SQNR that the journal shows: with all layers quantized, or with the
    model's own pairs if it has some. This holds for every pass of role ``HELP`` or with ``mends`` set; this class adds
    settings that override it.

    A search calls its helpers again once it has a plan, with float types requested for the layers that stay in float.
    Helpers should not change what serves only those; see ``kept_float``.
    """

    role: ClassVar[Role | None] = Role.HELP
    only_if_better: bool = Field(
        True, description="keep the changes only if they raise the measured SQNR; false: keep them in any case"
    )
    measure: bool = Field(True, description="measure the effect on SQNR; false: keep the changes unmeasured")

    def unused_settings(self) -> dict[str, str]:
        """``only_if_better`` has no effect without ``measure``."""
        alone = self.only_if_better and not self.measure
        return {"only_if_better": "measure = false keeps the pass in any case"} if alone else {}

    @staticmethod
    def kept_float(context: Context, layers: Iterable[str]) -> dict[str, Finding] | None:
        """Why the plan so far keeps these layers in float, by name; None if any of them will be quantized."""
        found = {}
        for name in layers:
            ask = context.plan.get(name)
            if ask is None or ask.precision not in FLOATS:
                return None
            found[name] = Code.KEPT(by=ask.by, precision=ask.precision, why=ask.reason)
        return found

    def decline_float(self, context: Context, layers: Iterable[str]) -> bool:
        """Whether the plan so far keeps all of these layers in float; if so, they are declined with ``kept_float``."""
        kept = self.kept_float(context, layers)
        for name, why in (kept or {}).items():
            context.journal.declined(name, why)
        return kept is not None

    @staticmethod
    def decline_transposed(model: Model, context: Context) -> None:
        """Decline Gemms with a constant weight that transpose their activation (transA).

        The axis of their input channels is the activation's axis of samples.
        """
        for node in model.nodes:
            reads = node.op == "Gemm" and node.attrs.get("transA", 0) and model.constant(node.inputs[0]) is None
            if reads and model.constant(node.inputs[1]) is not None:
                context.journal.declined(node.name, HelperCode.READS_TRANSPOSED())
