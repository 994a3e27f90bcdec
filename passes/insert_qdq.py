"""Insert Q/DQ pairs where TensorRT fuses them."""

from __future__ import annotations

import onnx_graphsurgeon as gs
from pydantic import Field

from toolkit import TARGETS, Code, Facts, Finding, Judge, Model, Placement, Quantizer, choose, place


class InsertQDQ(Quantizer):
    """Quantize Conv, ConvTranspose, Gemm and MatMul with Q/DQ pairs placed where TensorRT fuses them.

    Activations get one scale per tensor, from calibration; weights get one per channel. Residual branches, pools and
    Concats get the pairs that keep their block in the quantized type. Existing pairs keep their scales.

    With ``only_if_faster``, engines with more and with fewer pairs are built and timed, and pairs that do not pay off
    are removed: all of them if no engine with pairs is faster. It should then be the last pass, since the timings do
    not include changes made by later passes.
    """

    name = "insert_qdq"
    supports_dry_run = True
    include: list[str] = Field([], description="names or globs of nodes to quantize; empty: all candidates")
    include_ops: list[str] = Field([], description="operators to quantize; empty: Conv, ConvTranspose, Gemm, MatMul")
    include_between: list[tuple[str, str]] = Field([], description="quantize the nodes between two tensors")
    exclude: list[str] = Field([], description="names or globs of nodes to skip")
    exclude_ops: list[str] = Field([], description="operators to skip")
    exclude_between: list[tuple[str, str]] = Field([], description="skip the nodes between two tensors")
    activation_matmul: bool | None = Field(
        None,
        description="also quantize MatMuls of two activations (attention); default: in FP8, where TensorRT fuses it, "
        "and if it is faster in a search that measures engines",
    )

    def unused_settings(self) -> dict[str, str]:
        """As in Quantizer; also ``activation_matmul``, for types that quantize only weights or use block scales."""
        found = super().unused_settings()
        if self.activation_matmul and (self.precision.weights_only or self.precision.block):
            found["activation_matmul"] = f"dtype is '{self.dtype}', which quantizes only layers with constant weights"
        return found

    def place(self, model: Model, facts: Facts, judge: Judge) -> Placement:
        """Place pairs where TensorRT fuses them."""
        both = self.activation_matmul if self.activation_matmul is not None else self.precision.in_attention
        return place(model, facts, judge, both, self.precision, self.block)

    def settings_judge(self, model: Model) -> Judge:
        """A function that returns why the settings keep a node in float, or None.

        Raises:
            RecipeError: a pattern matches nothing.
        """
        chosen = choose(model, self.include, self.include_ops, self.include_between, "include")
        left = choose(model, self.exclude, self.exclude_ops, self.exclude_between, "exclude")
        limited = bool(self.include or self.include_ops or self.include_between)

        def judge(node: gs.Node) -> Finding | None:
            if node.name in left:
                return Code.EXCLUDED(pattern=left[node.name])
            if limited and node.op in TARGETS and node.name not in chosen:
                return Code.NOT_INCLUDED()
            return None

        return judge
