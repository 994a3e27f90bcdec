"""What ``qtool sensitivity`` and ``qtool bisect`` found of a run's layers, as the report holds it."""

from __future__ import annotations

from pydantic import Field

from toolkit.base.precision import Precision
from toolkit.report.schema.part import Finite, Part
from toolkit.report.schema.search import LayerHarm, WeakSpotInfo


class SensitivityInfo(Part):
    """What each layer costs at the output: with it alone quantized, and with all but it."""

    method: str = Field(description="exact or fast")
    samples: int
    inferences: float = Field(description="what it cost, in float inferences of its samples")
    reliability: Finite = Field(
        default=None, description="of a fast one, the correlation with the exact order to be expected, 0 to 1"
    )
    full_db: Finite = Field(default=None, description="SQNR of the worst output with every layer quantized")
    metric: str | None = None
    float_metric: Finite = None
    full_metric: Finite = Field(default=None, description="the metric with every layer quantized")
    layers: list[LayerHarm] = Field(description="the costliest first")
    weak_spots: list[WeakSpotInfo] = Field(default_factory=list, description="why the worst are bad")
    notes: list[str] = Field(default_factory=list)
    outdated: bool = Field(default=False, description="whether recipe, model, data or qtool have changed since")


class BisectionCheck(Part):
    """One answer of the check."""

    kept: int = Field(description="how many layers were kept in float")
    passed: bool


class BisectionInfo(Part):
    """A smallest set of layers whose staying in float makes a check pass."""

    check: str = Field(description="the limits or the command")
    on: str = Field(description="what was checked: simulation or engine")
    precision: Precision = Field(description="what the kept layers run in")
    kept: list[str]
    layers: int = Field(description="how many layers there were to choose from")
    checks: list[BisectionCheck] = Field(default_factory=list, description="all answers, in order")
    fragment: str = Field(default="", description="a piece of recipe that keeps the layers")
    notes: list[str] = Field(default_factory=list)
    outdated: bool = Field(default=False, description="whether recipe, model, data or qtool have changed since")
