"""The results of a run that are joined into its report: requests, graphs, engine and measurements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolkit.backends.layers.layer import Actual, Build
from toolkit.base.profiles import Profiles
from toolkit.contract.findings import Finding
from toolkit.report.schema.report import Accuracy, DeviceInfo, ModelInfo, RecipeInfo, SearchInfo
from toolkit.report.schema.search import WeakSpotInfo
from toolkit.report.sections.payoff import Timed, Turns

if TYPE_CHECKING:
    from toolkit.contract.journal import Journal
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.contract.ranges import Ranges
    from toolkit.evaluation.numerics.difference import TensorError
    from toolkit.graph.model import Model
    from toolkit.graph.shape_inference.facts import Facts


@dataclass(frozen=True)
class Requests:
    """The recipe with the precisions that it requests.

    Attributes:
        recipe: the recipe; its ``rest`` is the type of nodes without a request.
        plan: the requested precision by node of the final graph.
        journal: events of all passes; declined nodes are listed in the report.
    """

    recipe: RecipeInfo
    plan: PrecisionPlan
    journal: Journal


@dataclass(frozen=True)
class Graphs:
    """The model before and after the passes.

    Attributes:
        final: the final graph; each of its nodes has one entry in the report.
        source: the float model before any pass.
        profiles: the recipe's profiles.
        facts: types and shapes of the final graph; None to infer them.
        ranges: the calibrated ranges.
        quantized: the tensors whose ranges are used; None means all.
    """

    final: Model
    source: ModelInfo
    profiles: Profiles = field(default_factory=Profiles)
    facts: Facts | None = None
    ranges: Ranges | None = None
    quantized: Collection[str] | None = None


@dataclass(frozen=True)
class EngineFound:
    """The engine that the backend built, with everything known about it.

    Attributes:
        build: the backend's result: engine, layers, latencies.
        actuals: actual precision by node name; nodes without an entry are 'unknown'.
        reason: why this backend was used.
        typing: 'strong', 'weak', or empty if nothing was built.
        engine_bytes: the engine's size if ``build`` does not hold its bytes.
        compared: engines of the unquantized model, by precision.
        turns: latencies in milliseconds of this engine and the compared ones, measured in turn.
    """

    build: Build
    actuals: Mapping[str, Actual] = field(default_factory=dict)
    reason: Finding | None = None
    typing: str = ""
    engine_bytes: int | None = None
    compared: Mapping[str, Timed] = field(default_factory=dict)
    turns: Turns = field(default_factory=dict)


@dataclass(frozen=True)
class Measurements:
    """The measurements of a run.

    Attributes:
        errors: measured errors by node name; NaN and infinity are allowed here and stored as null.
        accuracy: the quantized model compared with the float model; None if not measured.
        device: the engine's run on the GPU, or why there was none.
        search: the precision search; None if there was none.
        spots: the layers that cost most by the search, with the causes.
    """

    errors: Mapping[str, TensorError] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    device: DeviceInfo | None = None
    search: SearchInfo | None = None
    spots: Sequence[WeakSpotInfo] = ()
