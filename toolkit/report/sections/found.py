"""What a run found, as the report joins it: requests, graphs, engine and measurements."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolkit.backends.layers.layer import Actual, Build
from toolkit.base.profiles import Profiles
from toolkit.contract.findings import Finding
from toolkit.report.schema.report import Accuracy, DeviceInfo, ModelInfo, RecipeInfo, SearchInfo
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
    """What was asked for.

    Attributes:
        recipe: the recipe; its ``rest`` is the type of nodes without a request.
        plan: the precision asked for, by node of the final graph.
        journal: events of all passes; what they declined goes into the report.
    """

    recipe: RecipeInfo
    plan: PrecisionPlan
    journal: Journal


@dataclass(frozen=True)
class Graphs:
    """The model before and after.

    Attributes:
        final: the final graph, every node of which gets one entry.
        source: the float model that the run began with.
        profiles: the recipe's profiles.
        facts: types and shapes of the final graph, where they are known already.
        ranges: the calibrated ranges.
        quantized: the tensors whose ranges are used; all of them where None.
    """

    final: Model
    source: ModelInfo
    profiles: Profiles = field(default_factory=Profiles)
    facts: Facts | None = None
    ranges: Ranges | None = None
    quantized: Collection[str] | None = None


@dataclass(frozen=True)
class EngineFound:
    """What the backend built.

    Attributes:
        build: what the backend made.
        actuals: what each node runs in; nodes without a record are 'unknown'.
        reason: why this backend was used.
        typing: 'strong', 'weak', or empty where nothing was built.
        engine_bytes: the engine's size where ``build`` does not hold its bytes.
        compared: engines of the unquantized model, by precision.
        turns: latencies of this engine and those, measured in turn.
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
    """What was measured.

    Attributes:
        errors: error by node name, where it was measured; NaN and infinity are allowed here and stored as null.
        accuracy: the model before and after, or None where nothing was measured.
        device: the engine's run on the GPU, or why there was none.
        search: the precision search, where there was one.
    """

    errors: Mapping[str, TensorError] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    device: DeviceInfo | None = None
    search: SearchInfo | None = None
