"""The precision search in the report: its plans, the cost of each layer at the output, and explained weak spots."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolkit.base.precision import Precision
from toolkit.report.schema.accuracy import Finite, Part, SquashedBy


class PlanPoint(Part):
    """One plan that the search evaluated. ``noise`` 0 means outputs identical to float, null NaN or infinity."""

    predicted_ms: float
    noise: Finite = Field(default=None, description="noise power over signal power of the worst output")
    sqnr_db: Finite = None
    metric: Finite = None
    agreement: Finite = Field(default=None, description="top-1 agreement with the float model")
    quantized_share: float = Field(description="of the model's arithmetic, 0 to 1; ``share_of`` says what is counted")
    kept: int = Field(description="how many quantizable layers stay in float")
    names: list[str] = Field(default_factory=list, description="those, of the chosen plan and of the front's")
    meets: bool = Field(description="whether it meets the budget")
    lacks: dict[str, Finite] = Field(
        default_factory=dict, description="how far it misses each limit, margin and expected changes counted"
    )
    unchanged: Finite = Field(default=None, description="share of answers that stay, 0 to 1; null without a task")
    expected: Finite = Field(
        default=None, description="share of answers to be expected to change on other samples, near ties counted"
    )
    samples: int = Field(default=0, description="on how many samples it was run")
    front: bool = Field(default=False, description="whether no other plan is as exact and as fast")
    chosen: bool = False


class LayerHarm(Part):
    """The loss at the model's output from quantizing one layer, as the search measured it."""

    node: str
    op: str
    alone_db: Finite = Field(default=None, description="SQNR of the output with this layer alone quantized")
    without_db: Finite = Field(default=None, description="SQNR of the output with all but this layer quantized")
    full_db: Finite = Field(default=None, description="SQNR of the output with every layer quantized")
    output: str = Field(
        default="", description="that output: of those that the layer feeds the one where it makes most noise"
    )
    share: float = Field(description="of the loss of all layers, 0 to 1")
    kept: bool = Field(description="whether the chosen plan keeps it in float")


class SearchInfo(Part):
    """The search for the cheapest plan within the budget; times are predicted, except ``measured_share`` of them."""

    precision: Precision
    rest: Precision
    gpu: str = Field(description="the GPU that times are predicted for; empty where they only order plans")
    prefer: str = ""
    budget: dict[str, float] = Field(default_factory=dict)
    met: bool = Field(description="whether the chosen plan meets the budget, in the types that it runs in too")
    unsure: str = Field(
        default="", description="that samples lose more than the budget allows, and are so few that it may be chance"
    )
    lacks: dict[str, Finite] = Field(default_factory=dict, description="how far the chosen plan misses each limit")
    in_types: bool = Field(
        default=False, description="whether it does so in the types that it runs in alone, not as simulated in float32"
    )
    rest_lacks: dict[str, Finite] = Field(
        default_factory=dict, description="how far the unquantized model misses each with its layers in ``rest``"
    )
    allowed: Finite = Field(
        default=None, description="share of answers that may be expected to change, the budget's margin counted"
    )
    types_db: Finite = Field(default=None, description="SQNR of the chosen plan in the types that it runs in")
    types_expected: Finite = Field(default=None, description="as ``expected`` of a plan, of the chosen one in these")
    full_db: Finite = Field(default=None, description="SQNR with all layers quantized, as ``layers`` were measured")
    evaluations: int
    inferences: float = Field(default=0.0, description="what it cost, in float inferences of its samples")
    samples: int = 0
    output: str = Field(default="", description="the output that the chosen plan's SQNR is of: its worst")
    squashed_by: SquashedBy = ""
    metric: str | None = None
    unlabelled: str | None = Field(
        default=None, description="the recipe's metric, where the search's samples have no labels for it"
    )
    float_metric: Finite = None
    higher_is_better: bool = Field(default=True, description="of the metric")
    float_ms: float = Field(description="predicted time of the float model")
    measured_share: float = Field(default=0.0, description="share of the chosen plan's time that was measured, 0 to 1")
    share_of: Literal["macs", "nodes"] = Field(
        default="macs", description="whether shares are of multiply-accumulates, or of computing nodes"
    )
    plans: list[PlanPoint]
    layers: list[LayerHarm] = Field(default_factory=list, description="the costliest first, where measured")
    warnings: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @property
    def chosen(self) -> PlanPoint:
        """The chosen plan."""
        return next(plan for plan in self.plans if plan.chosen)

    @property
    def everything(self) -> PlanPoint | None:
        """The plan that quantizes every layer, with the ranges of the calibration."""
        return next((plan for plan in self.plans if plan.kept == 0), None)


class CauseInfo(Part):
    """One cause of a layer's loss, with the figure that shows it and what would help."""

    kind: str
    tensor: str = ""
    value: Finite = None
    text: str
    remedy: str


class WeakSpotInfo(Part):
    """One of the worst layers, explained.

    ``source`` says how it was found: ``search``, by what it costs at the output; ``ranges``, by calibration and
    weights, for the layers where the error arises.
    """

    node: str
    op: str = ""
    share: float | None = Field(default=None, description="of the loss of all layers, where a search measured it")
    kept: bool = Field(default=False, description="whether it stays in float")
    source: Literal["search", "ranges"]
    causes: list[CauseInfo]
