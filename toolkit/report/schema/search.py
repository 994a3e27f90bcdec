"""The precision search in the report: its plans, the cost of each layer at the output, and explained weak spots."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolkit.base.precision import Precision
from toolkit.report.schema.accuracy import Finite, Part, SquashedBy


class PlanPoint(Part):
    """One plan that the search evaluated. ``noise`` is 0 for outputs identical to float, null for NaN or infinity."""

    predicted_ms: float
    noise: Finite = Field(default=None, description="noise power over signal power of the worst output")
    sqnr_db: Finite = None
    metric: Finite = None
    agreement: Finite = Field(default=None, description="top-1 agreement with the float model")
    quantized_share: float = Field(description="share of the work, 0 to 1; ``share_of`` says what is counted")
    kept: int = Field(description="number of quantizable layers that stay in float")
    names: list[str] = Field(default_factory=list, description="these layers; only for the chosen plan and the front")
    meets: bool = Field(description="whether it meets the budget")
    lacks: dict[str, Finite] = Field(
        default_factory=dict, description="how far it misses each limit, including the margin and expected changes"
    )
    unchanged: Finite = Field(default=None, description="share of unchanged answers, 0 to 1; null without a task")
    expected: Finite = Field(
        default=None, description="expected share of changed answers on other samples, including near ties"
    )
    samples: int = Field(default=0, description="number of samples it was run on")
    front: bool = Field(default=False, description="whether no other plan is as exact and as fast")
    chosen: bool = False


class LayerHarm(Part):
    """The loss at the model's output from quantizing one layer, as the search measured it."""

    node: str
    op: str
    alone_db: Finite = Field(default=None, description="SQNR of the output with only this layer quantized")
    without_db: Finite = Field(default=None, description="SQNR of the output with all but this layer quantized")
    full_db: Finite = Field(default=None, description="SQNR of the output with every layer quantized")
    output: str = Field(default="", description="that output: the one on which the layer causes most noise")
    share: float = Field(description="share of the loss of all layers, 0 to 1")
    kept: bool = Field(description="whether the chosen plan keeps it in float")
    measured: bool = Field(default=True, description="whether its loss was measured; if not, ``share`` is 0")


class SearchInfo(Part):
    """The search for the cheapest plan within the budget; times are predicted, except ``measured_share`` of them."""

    precision: Precision
    rest: Precision
    gpu: str = Field(description="the GPU that times are predicted for; empty if times only order plans")
    prefer: str = ""
    budget: dict[str, float] = Field(default_factory=dict)
    met: bool = Field(description="whether the chosen plan meets the budget, also in its actual types")
    unsure: str = Field(
        default="", description="the note that samples lose more than the budget allows, but too few to exclude chance"
    )
    lacks: dict[str, Finite] = Field(default_factory=dict, description="how far the chosen plan misses each limit")
    in_types: bool = Field(
        default=False, description="whether it misses them only in its actual types, not as simulated in float32"
    )
    rest_lacks: dict[str, Finite] = Field(
        default_factory=dict, description="how far the unquantized model misses each limit with its layers in ``rest``"
    )
    allowed: Finite = Field(
        default=None, description="largest expected share of changed answers allowed, including the budget's margin"
    )
    types_db: Finite = Field(default=None, description="SQNR of the chosen plan in its actual types")
    types_expected: Finite = Field(default=None, description="``expected`` of the chosen plan in its actual types")
    full_db: Finite = Field(default=None, description="SQNR with all layers quantized, for comparison with ``layers``")
    evaluations: int
    inferences: float = Field(default=0.0, description="cost of the search, in float inferences of its samples")
    samples: int = 0
    output: str = Field(default="", description="the chosen plan's worst output, which its SQNR refers to")
    squashed_by: SquashedBy = ""
    metric: str | None = None
    unlabelled: str | None = Field(
        default=None, description="the recipe's metric, if the search's samples have no labels for it"
    )
    float_metric: Finite = None
    higher_is_better: bool = Field(default=True, description="whether a higher metric is better")
    float_ms: float = Field(description="predicted time of the float model")
    measured_share: float = Field(default=0.0, description="share of the chosen plan's time that was measured, 0 to 1")
    share_of: Literal["macs", "nodes"] = Field(
        default="macs", description="whether shares are of multiply-accumulates, or of computing nodes"
    )
    plans: list[PlanPoint]
    layers: list[LayerHarm] = Field(default_factory=list, description="the costliest first, if measured")
    warnings: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @property
    def chosen(self) -> PlanPoint:
        """The chosen plan."""
        return next(plan for plan in self.plans if plan.chosen)

    @property
    def everything(self) -> PlanPoint | None:
        """The first plan that quantizes every layer, with the calibrated ranges; None if there is none."""
        return next((plan for plan in self.plans if plan.kept == 0), None)


class CauseInfo(Part):
    """One cause of a layer's loss, with the figure that shows it and what would help."""

    kind: str
    tensor: str = ""
    value: Finite = None
    text: str
    remedy: str


class WeakSpotInfo(Part):
    """One of the worst layers, with causes.

    ``source`` is ``search`` if it was found by its cost at the output; ``ranges`` for a layer where the error arises,
    explained from calibration and weights.
    """

    node: str
    op: str = ""
    share: float | None = Field(default=None, description="share of the loss of all layers, if a search measured it")
    kept: bool = Field(default=False, description="whether it stays in float")
    source: Literal["search", "ranges"]
    causes: list[CauseInfo]
