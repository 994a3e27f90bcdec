"""The predicted time of a run's engine on another GPU, with the bounds of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from toolkit.base.precision import Precision
from toolkit.graph.layers.work import CONVERSIONS
from toolkit.report.schema.part import Part
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.cost.prediction import Bound, predict

if TYPE_CHECKING:
    from toolkit.graph.model import Model
    from toolkit.graph.shape_inference.facts import Facts


class LayerPrediction(Part):
    """The predicted minimum time of one kernel, in milliseconds."""

    node: str
    fused: list[str] = Field(default_factory=list, description="nodes assumed to run in its kernel")
    precision: Precision
    arithmetic_ms: float
    memory_ms: float
    launch_ms: float
    ms: float = Field(description="the longer of arithmetic and memory, plus the launches")
    bound: Bound


class PredictionInfo(Part):
    """Predicted, not measured: from the peak rates in the GPU's datasheet, at the first profile's opt shapes.

    If a node's work cannot be counted, nothing is predicted, and ``uncounted`` names it.
    """

    gpu: str
    profile: str = ""
    ms: float | None = None
    float_ms: float | None = Field(default=None, description="time without the pairs, in the recipe's ``rest`` type")
    pair_kernels: int = Field(default=0, description="number of kernels that only quantize, dequantize or cast")
    pair_ms: float = Field(default=0.0, description="time of these kernels")
    layers: list[LayerPrediction] = Field(default_factory=list, description="the longest first")
    uncounted: list[str] = Field(default_factory=list)

    def bounded(self, bound: Bound) -> float:
        """Milliseconds in layers that are limited by ``bound``."""
        return sum(layer.ms for layer in self.layers if layer.bound == bound)


def predicted_time(
    gpu: str, model: Model, facts: Facts, computes: Mapping[str, Precision], rest: Precision, profile: str
) -> PredictionInfo:
    """Predict the engine's time for a final graph.

    Args:
        gpu: the GPU's name.
        model: the final graph.
        facts: its types and shapes at the profile's opt shapes.
        computes: the precision that its nodes run in, or that was requested.
        rest: the type of all nodes without a request.
        profile: the profile's name.

    Raises:
        RecipeError: no datasheet figures are known for the GPU.
    """
    spec = gpu_spec(gpu)
    found, plain = (predict(model, facts, spec, computes, rest, pairs=pairs) for pairs in (True, False))
    if found.uncounted:
        return PredictionInfo(gpu=spec.name, profile=profile, uncounted=found.uncounted)
    made = [
        LayerPrediction(
            node=one.node, fused=one.fused, precision=one.precision, arithmetic_ms=one.arithmetic * 1e3,
            memory_ms=one.memory * 1e3, launch_ms=one.launch * 1e3, ms=one.seconds * 1e3, bound=one.bound,
        )
        for one in sorted(found.kernels, key=lambda one: -one.seconds)
    ]  # fmt: skip
    ops = {node.name: node.op for node, _ in model.walk()}
    converting = [one.ms for one in made if ops.get(one.node) in CONVERSIONS]
    has_pairs = any(op in CONVERSIONS and not op.startswith("Cast") for op in ops.values())
    float_ms = plain.seconds * 1e3 if plain.kernels and has_pairs else None
    return PredictionInfo(
        gpu=spec.name, profile=profile, ms=found.seconds * 1e3, float_ms=float_ms, layers=made,
        pair_kernels=len(converting), pair_ms=sum(converting),
    )  # fmt: skip
