"""Results of ``qtool sensitivity`` and ``qtool bisect`` in the report."""

from __future__ import annotations

from pydantic import Field

from toolkit.base.precision import Precision
from toolkit.report.schema.part import Finite, Part
from toolkit.report.schema.search import LayerHarm, WeakSpotInfo


class SensitivityInfo(Part):
    """Each layer's cost at the output: with only this layer quantized, and with all but this layer quantized."""

    method: str = Field(description="exact or fast")
    samples: int
    inferences: float = Field(description="cost of the measurement, in float inferences of its samples")
    reliability: Finite = Field(
        default=None, description="for the fast method, the expected correlation with the exact order, 0 to 1"
    )
    full_db: Finite = Field(default=None, description="SQNR of the worst output with every layer quantized")
    metric: str | None = None
    float_metric: Finite = None
    full_metric: Finite = Field(default=None, description="the metric with every layer quantized")
    layers: list[LayerHarm] = Field(description="the costliest first")
    weak_spots: list[WeakSpotInfo] = Field(default_factory=list, description="the worst layers with causes")
    notes: list[str] = Field(default_factory=list)
    outdated: bool = Field(default=False, description="whether recipe, model, data or qtool have changed since")


class BisectionCheck(Part):
    """One check of a bisection and its outcome."""

    kept: int = Field(description="number of layers kept in float")
    passed: bool


class BisectionInfo(Part):
    """A minimal set of layers to keep in float for a check to pass."""

    check: str = Field(description="the limits or the command")
    on: str = Field(description="where it was checked: simulation or engine")
    precision: Precision = Field(description="the precision of the kept layers")
    kept: list[str]
    layers: int = Field(description="number of layers to choose from")
    checks: list[BisectionCheck] = Field(default_factory=list, description="all checks, in order")
    fragment: str = Field(default="", description="recipe fragment that keeps the layers in float")
    notes: list[str] = Field(default_factory=list)
    outdated: bool = Field(default=False, description="whether recipe, model, data or qtool have changed since")
