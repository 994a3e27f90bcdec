"""Request a float precision for chosen nodes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from toolkit import Code, Context, Model, Pass, Precision, Role, choose, free_neighbours, keep_float, role


class KeepPrecision(Pass):
    """Request FP16, BF16 or FP32 for matching nodes, and remove the Q/DQ pairs on their inputs.

    Neighbouring pairs that help only between quantized layers, such as those of a pool, are removed too. Nodes without
    float computation (shape arithmetic) stay as they are.
    """

    name = "keep_precision"
    role = Role.KEEP
    supports_dry_run = graph_only = True
    nodes: list[str] = Field([], description="names or globs of nodes")
    ops: list[str] = Field([], description="operators")
    between: list[tuple[str, str]] = Field([], description="all nodes on any path from one tensor to another")
    precision: Literal["fp16", "bf16", "fp32"] | None = Field(
        None,
        description="the precision to compute in; default: fp16, or fp32 if a search finds that fp16 breaks the node",
    )
    reason: str = Field("", description="the reason, shown in the report")

    @model_validator(mode="after")
    def _chooses_something(self) -> KeepPrecision:
        if not (self.nodes or self.ops or self.between):
            raise ValueError("it selects no nodes: give nodes, ops or between")
        return self

    def apply(self, model: Model, context: Context) -> None:
        """Add the requests to the plan.

        Raises:
            RecipeError: a pattern matches nothing.
        """
        precision = Precision(self.precision or Precision.FP16)
        chosen = choose(model, self.nodes, self.ops, self.between, "keep_precision")
        nodes = {node.name: node for node, _ in model.walk()}
        facts = model.facts(context.profiles)
        others = [name for name in chosen if role(nodes[name], facts) == "other" and nodes[name].op != "Constant"]
        if others:
            context.journal.noted(Code.NO_FLOATS(nodes=others))
        freed = []
        for name, pattern in chosen.items():
            if name in others or nodes[name].op in ("QuantizeLinear", "DequantizeLinear", "Constant"):
                continue
            why = self.reason or Code.CHOSEN(pattern=pattern)
            if keep_float(context, nodes[name], precision, why, wider=self.precision is None):
                freed.append(name)
        if freed:
            free_neighbours(context, freed)
        model.tidy()
