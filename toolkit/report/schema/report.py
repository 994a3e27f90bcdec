"""The schema of report.json, validated whenever a report is made or read. Numbers are strict JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from toolkit.base.collection import collector_paused
from toolkit.base.errors import QtoolError, shortened
from toolkit.base.files import write_json
from toolkit.base.precision import Precision
from toolkit.base.reading import FileKind, read_json, reading
from toolkit.base.schema import wanted_words
from toolkit.contract.roles import Role
from toolkit.graph.layers.work import NodeRole
from toolkit.report.schema.accuracy import Accuracy as Accuracy
from toolkit.report.schema.accuracy import Finite as Finite
from toolkit.report.schema.accuracy import Measured as Measured
from toolkit.report.schema.accuracy import OutputError as OutputError
from toolkit.report.schema.accuracy import Part as Part
from toolkit.report.schema.analysis import BisectionInfo as BisectionInfo
from toolkit.report.schema.analysis import SensitivityInfo as SensitivityInfo
from toolkit.report.schema.engine import DeviceInfo as DeviceInfo
from toolkit.report.schema.engine import PayoffInfo as PayoffInfo
from toolkit.report.schema.model import ModelInfo as ModelInfo
from toolkit.report.schema.model import ProfileInfo as ProfileInfo
from toolkit.report.schema.model import ShapeRange as ShapeRange
from toolkit.report.schema.model import TensorInfo as TensorInfo
from toolkit.report.schema.part import streamed
from toolkit.report.schema.prediction import PredictionInfo as PredictionInfo
from toolkit.report.schema.search import LayerHarm as LayerHarm
from toolkit.report.schema.search import SearchInfo as SearchInfo
from toolkit.report.schema.search import WeakSpotInfo as WeakSpotInfo

SCHEMA = "qtool-report-1"
NONE = "none"
_PRECISION_WORDS: dict[Precision | None, str] = {None: NONE, **{one: str(one) for one in Precision}}
_KIND = FileKind("it cannot be read as a report", QtoolError, "run the recipe again")

Verdict = Literal["usable", "doubtful", "missed", "broken", "unmeasured", "outdated"]
Status = Literal["honoured", "fused", "removed", "overridden", "opaque", "unknown"]
ActualSource = Literal["inspector", "tactic", "weights", "network", "none"]


class Tool(Part):
    """The tool that wrote the report."""

    name: str = "qtool"
    version: str = ""


class PassInfo(Part):
    """One pass of the recipe with its settings.

    Excluded fields are known only while the report is made: advice uses them to find passes by role.
    """

    use: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    title: str = Field(default="", exclude=True, description="its name in the journal")
    role: Role | None = Field(default=None, exclude=True, description="the part it plays")
    options: frozenset[str] = Field(default=frozenset(), exclude=True, description="names of all its settings")


class RecipeInfo(Part):
    """The recipe that ran."""

    name: str
    path: str = ""
    passes: list[PassInfo] = Field(default_factory=list)
    rest: Precision = Field(default=Precision.FP16, description="precision of nodes without a request")
    given: dict[str, JsonValue] = Field(
        default_factory=dict, description="settings by --set, which override the file's"
    )
    calibration: dict[str, JsonValue] = Field(default_factory=dict)
    evaluation: dict[str, JsonValue] = Field(default_factory=dict)


class BackendInfo(Part):
    """The backend that built the engine, and why it was used."""

    name: str
    version: str = ""
    reason: str = ""
    typing: str = Field(default="", description="strong, weak, or empty if nothing was built")
    engine_bytes: int | None = None
    build_seconds: float | None = None
    log: list[str] = Field(default_factory=list)


class Suggestion(Part):
    """What to try next, with a piece of recipe to paste if there is one."""

    text: str
    fragment: str = ""


class Summary(Part):
    """The counts and the verdict.

    ``nodes`` counts the nodes of the final graph, ``computing`` those that compute with floats or quantized values (no
    Q/DQ, no Cast, no shape arithmetic). Shares are of multiply-accumulates, or of computing nodes if some node's
    multiply-accumulates are not known; ``share_of`` says which. ``quantized_share`` counts what runs quantized if the
    engine's precisions are known, else what was requested; ``share_by`` says which. ``asked_share`` always counts
    requests, and ``hidden_share`` counts layers whose precision the engine does not show.
    """

    headline: str
    verdict: Verdict
    nodes: int
    computing: int
    by_asked: dict[str, int]
    by_actual: dict[str, int]
    by_status: dict[str, int]
    quantized_share: float | None = None
    asked_share: float | None = None
    hidden_share: float | None = None
    share_of: Literal["macs", "nodes"] = "nodes"
    share_by: Literal["actual", "asked"] = "actual"
    warnings: list[str] = Field(default_factory=list)
    helpers: list[str] = Field(
        default_factory=list, description="helper passes that changed the model, with their effect"
    )
    bound: list[str] = Field(
        default_factory=list,
        description="why less than 85 % of the work is quantized, if a search's budget is the reason",
    )
    floats: list[str] = Field(default_factory=list, description="layers in another float type than the rest, and why")
    next: list[Suggestion] = Field(default_factory=list)


class Asked(Part):
    """The requested precision; null if the node computes no floats."""

    precision: Precision | None
    reason: str = ""
    by: str = ""


class OpenedValues(Part):
    """Whether the values of a marked tensor inside an opaque block are those of a quantized or a float computation.

    Both references are computed from the engine's own values at the preceding tensors.
    """

    tensor: str
    samples: int
    verdict: Literal["as quantized", "as float", "cannot be told apart"]
    why: str = Field(default="", description="why this cannot be determined")
    engine: Measured | None = Field(default=None, description="the engine's values against the float model's")
    simulated: Measured | None = Field(default=None, description="the quantized simulation's against the float model's")
    to_quantized_db: Finite = Field(default=None, description="SQNR of the engine's values against the quantized form")
    to_float_db: Finite = Field(default=None, description="SQNR of the engine's values against the float form")


class OpenedInfo(Part):
    """The precision of an opaque node in an engine whose inner tensors were marked: one that it can run in, but not
    necessarily does, since marked tensors break fusions. Source ``values`` is weaker still: the values show the
    rounding of that precision, but a float kernel between separate Q and DQ kernels would show it too.
    """

    precision: Precision | None = None
    status: Status
    source: ActualSource | Literal["values"]
    values: OpenedValues | None = Field(default=None, description="if the opened engine was run on a GPU")
    input_types: list[str] = Field(default_factory=list)
    output_types: list[str] = Field(default_factory=list)
    engine_layers: list[str] = Field(default_factory=list)
    tactics: list[str] = Field(default_factory=list)
    time_ms: dict[str, float] = Field(default_factory=dict)


class ActualInfo(Part):
    """The precision that the node runs in, as far as the source can tell."""

    precision: Precision | None = None
    input_types: list[str] = Field(default_factory=list)
    output_types: list[str] = Field(default_factory=list)
    source: ActualSource = "none"
    opened: OpenedInfo | None = Field(default=None, description="for opaque nodes, if the recipe has open = true")


class LayerError(Measured):
    """The node's output compared with the same tensor of the float model.

    ``drop_db`` is by how many dB the output is below the worst of the node's inputs: the loss in this node itself. It
    is null if no input has an error.
    """

    drop_db: Finite = None


class LayerInfo(Part):
    """One node of the final graph."""

    node: str
    op: str
    role: NodeRole = Field(default="compute", description="compute; convert (Q/DQ, Cast); other (constants, shapes)")
    asked: Asked | None = None
    actual: ActualInfo = Field(default_factory=ActualInfo)
    status: Status = "unknown"
    reason: str = Field(default="", description="why asked and actual differ, or what became of the node")
    remedy: str = Field(default="", description="what to do if they differ, if anything is known to help")
    inputs: list[str] = Field(
        default_factory=list, description="the tensors it reads, including those that its subgraphs read from outside"
    )
    outputs: list[str] = Field(default_factory=list, description="the tensors it produces")
    begins: dict[str, str] = Field(
        default_factory=dict, description="for Loop and Scan: by tensor in the body, the tensor with its initial value"
    )
    ends: list[str] = Field(default_factory=list, description="the output tensors of its subgraphs")
    engine_layers: list[str] = Field(default_factory=list)
    error: LayerError | None = None
    time_ms: dict[str, float] = Field(
        default_factory=dict, description="by profile; an engine layer's time counts for its node with the most work"
    )
    macs: int | None = None

    @property
    def asked_precision(self) -> Precision | None:
        """The requested precision, or None."""
        return self.asked.precision if self.asked else None

    @property
    def why(self) -> str:
        """Why the node runs in its precision: by the engine if known, else the reason of the request."""
        known = self.reason if self.status != "unknown" else ""
        return known or (self.asked.reason if self.asked else self.reason)


class Declined(Part):
    """A node that a pass declined to change, with the rule."""

    node: str
    op: str = ""
    rule: str
    reason: str = ""
    by: str = ""


class RangeInfo(Part):
    """The calibrated range of one tensor.

    ``histogram`` has counts or shares of magnitudes in equal bins from 0 to the largest magnitude seen.
    """

    tensor: str
    amax: float
    method: str = ""
    observed: tuple[float, float] | None = None
    per_profile: dict[str, float] = Field(default_factory=dict)
    samples: int = 0
    clipped: Finite = Field(default=None, description="share of values beyond amax")
    sqnr_db: Finite = None
    outlier_ratio: Finite = Field(default=None, description="largest magnitude over the 99.9th percentile")
    histogram: list[float] | None = None
    quantized: bool = Field(default=True, description="whether the tensor is quantized; else its range is not used")


class StepInfo(Part):
    """One step of the run: done or reused, and why."""

    name: str
    status: Literal["done", "reused"] = "done"
    seconds: float = 0.0
    why: str = ""
    first: bool = Field(default=False, exclude=True, description="whether it was never done in this run folder")
    said: list[str] = Field(default_factory=list, exclude=True, description="messages to print before the next step")


class Report(Part):
    """The result of a run: for every ONNX node the requested and actual precision, status, reason, error and time."""

    schema_id: Literal["qtool-report-1"] = Field(default="qtool-report-1", alias="schema")
    tool: Tool
    recipe: RecipeInfo
    model: ModelInfo
    profiles: list[ProfileInfo] = Field(default_factory=list)
    backend: BackendInfo
    summary: Summary
    accuracy: Accuracy | None = None
    device: DeviceInfo | None = Field(default=None, description="the engine's run on the GPU")
    latency: dict[str, JsonValue] | None = None
    payoff: PayoffInfo | None = Field(default=None, description="time in conversions, and whether quantizing paid")
    prediction: PredictionInfo | None = Field(default=None, description="time predicted for a named GPU")
    search: SearchInfo | None = Field(default=None, description="the precision search, if the recipe has one")
    sensitivity: SensitivityInfo | None = Field(default=None, description="by ``qtool sensitivity``, if it was run")
    bisection: BisectionInfo | None = Field(default=None, description="by ``qtool bisect``, if it was run")
    weak_spots: list[WeakSpotInfo] = Field(default_factory=list, description="the worst layers with causes")
    layers: list[LayerInfo]
    tensors: list[TensorInfo] = Field(
        default_factory=list, description="of the final graph, with types and shapes at the first profile's opt shapes"
    )
    declined: list[Declined] = Field(default_factory=list)
    ranges: list[RangeInfo] | None = None
    steps: list[StepInfo] = Field(default_factory=list)

    @model_validator(mode="after")
    def _counts_add_up(self) -> Report:
        twice = [name for name, count in Counter(layer.node for layer in self.layers).items() if count > 1]
        if twice:
            raise ValueError(f"node '{twice[0]}' appears more than once in layers")
        expected = {
            "nodes": len(self.layers),
            "computing": sum(layer.role == "compute" for layer in self.layers),
            **counts(self.layers),
        }
        for name, value in expected.items():
            held = getattr(self.summary, name)
            if held != value:
                raise ValueError(f"summary.{name} is {held}, but the layers give {value}")
        return self

    @property
    def harms(self) -> list[LayerHarm]:
        """The cost of each layer at the output, highest first: from ``qtool sensitivity``, else from the search."""
        if self.sensitivity is not None:
            return self.sensitivity.layers
        return self.search.layers if self.search is not None else []

    @property
    def computing(self) -> list[LayerInfo]:
        """The layers that compute, in graph order: no Q/DQ, no Cast, no shape arithmetic."""
        return [layer for layer in self.layers if layer.role == "compute"]

    def to_json(self) -> dict[str, Any]:
        """The content of report.json as Python objects."""
        return self.model_dump(mode="json", by_alias=True)

    def save(self, path: Path) -> None:
        """Write report.json atomically; long lists are converted to JSON in parts."""
        write_json(path, streamed(self))

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "report") -> Report:
        """Read what ``to_json`` returned.

        Raises:
            QtoolError: a different schema, unknown keys, or inconsistent counts.
        """
        if content.get("schema") != SCHEMA:
            raise QtoolError(
                f"schema is {content.get('schema')!r}, not '{SCHEMA}'", where=where, remedy="run the recipe again"
            )
        with reading(where, _KIND):
            try:
                return cls.model_validate(content)
            except ValidationError as error:
                fault = error.errors()[0]
                place = shortened(".".join(str(part) for part in fault["loc"])) or "the report"
                raise QtoolError(f"{place}: {wanted_words(fault)}", where=where, remedy=_KIND.remedy) from error

    @classmethod
    @collector_paused()
    def load(cls, path: Path) -> Report:
        """Read report.json.

        Raises:
            QtoolError: the file is missing, not strict JSON, or not a report.
        """
        content = read_json(path, _KIND)
        if not isinstance(content, dict):
            raise QtoolError("is not a JSON object", where=str(path), remedy="give a report.json that qtool wrote")
        return cls.from_json(content, str(path))


def counts(layers: Iterable[LayerInfo]) -> dict[str, dict[str, int]]:
    """``by_asked``, ``by_actual`` and ``by_status`` of the layers; nodes without a precision count as 'none'."""
    layers = list(layers)
    words = [*(str(p) for p in Precision), NONE]

    def ordered(found: Iterable[str]) -> dict[str, int]:
        tally = Counter(found)
        return {word: tally[word] for word in sorted(tally, key=lambda w: (words.index(w) if w in words else 99, w))}

    return {
        "by_asked": ordered(word(layer.asked_precision) for layer in layers),
        "by_actual": ordered(word(layer.actual.precision) for layer in layers),
        "by_status": ordered(layer.status for layer in layers),
    }


def word(precision: Precision | None) -> str:
    """The precision as a word in counts and pages; 'none' without one."""
    return _PRECISION_WORDS[precision]


def schema() -> dict[str, Any]:
    """The JSON Schema of report.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Report.model_json_schema(by_alias=True, mode="serialization"),
    }
