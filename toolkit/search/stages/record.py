"""The record of a search for users and the report: search.json, and whether its plan is faster in predicted time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolkit.base.errors import QtoolError
from toolkit.base.files import write_json
from toolkit.base.precision import Precision
from toolkit.base.reading import FileKind, read_json, reading
from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.causes.weak_spots import WeakSpot
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.plans.evaluations import SCHEMA
from toolkit.search.plans.search import SearchResult
from toolkit.search.plans.searched_plan import SearchedPlan, lacks_json, lacks_of
from toolkit.search.sensitivity.measure import Sensitivity

_KIND = FileKind("it cannot be read as a search.json", QtoolError, "run the recipe again")


@dataclass
class SearchRecord:
    """A completed search; the content of search.json.

    Attributes:
        best: the plan that was chosen.
        plans: all plans that were evaluated, in order.
        front: the plans that are on the Pareto front of noise and time.
        reference: the float model's outcome.
        float_ms: the float model's predicted latency in milliseconds.
        sensitivity: the measurements of all layers; None if the first plan met the budget.
        methods: for each tensor whose range the best plan replaces, the calibration method of the new range.
        precision: the quantized type.
        rest: the type of the layers kept float.
        gpu: the GPU that times are predicted for; empty if they only order plans.
        prefer: what made a plan cheap: int8 or time.
        budget: the limits of the search.
        higher_is_better: whether a higher value of the metric is better.
        samples: how many samples the search decided on.
        metric: the metric's name; None without a metric.
        measured_share: share of the best plan's time that was measured, 0 to 1.
        share_of: the unit of the plans' quantized shares.
        warnings: findings about the plan that every user must see.
        notes: other findings for the user.
        weak_spots: the worst layers, explained.
        inferences: the price of all runs of a model, in float inferences of the search's samples.
        first: the price at which the first plan within the budget was found; None if none was found.
        lacks_in_types: how far the best plan misses the budget in the types that it runs in; see ``SearchResult``.
        rest_lacks: how far the unquantized model with its layers in ``rest`` misses the budget.
        squashed_by: the operator that maps the best plan's noisiest output into a fixed range; empty if none does.
        allowed: the share of answers that may be expected to change, with the margin; None if only a count is known.
        real: the best plan's outcome in the types that it runs in; None if not measured.
        unlabelled: the recipe's metric, if the samples have no labels for it; else None.
    """

    best: SearchedPlan
    plans: list[SearchedPlan]
    front: list[SearchedPlan]
    reference: Outcome
    float_ms: float
    sensitivity: Sensitivity | None
    methods: dict[str, str]
    precision: Precision
    rest: Precision
    gpu: str
    prefer: str
    budget: dict[str, float]
    higher_is_better: bool
    samples: int
    metric: str | None
    measured_share: float
    share_of: Literal["macs", "nodes"]
    warnings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    weak_spots: list[WeakSpot] = field(default_factory=list)
    inferences: float = 0.0
    first: float | None = None
    lacks_in_types: dict[str, float] = field(default_factory=dict)
    rest_lacks: dict[str, float] = field(default_factory=dict)
    squashed_by: str = ""
    allowed: float | None = None
    real: Outcome | None = None
    unlabelled: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of search.json."""
        return {
            "schema": SCHEMA, "met": self.best.meets, "best": self.best.to_json(), "evaluations": len(self.plans),
            "inferences": self.inferences, "first_within_budget": self.first,
            "float": {**self.reference.to_json(), "predicted_ms": self.float_ms}, "methods": self.methods,
            "notes": [note.to_json() for note in self.notes], "front": [plan.to_json() for plan in self.front],
            "sensitivity": self.sensitivity.to_json() if self.sensitivity is not None else None,
            "precision": str(self.precision), "rest": str(self.rest), "gpu": self.gpu, "prefer": self.prefer,
            "budget": self.budget, "higher_is_better": self.higher_is_better, "samples": self.samples,
            "metric": self.metric, "measured_share": self.measured_share, "share_of": self.share_of,
            "plans": [plan.to_json() for plan in self.plans],
            "warnings": [warning.to_json() for warning in self.warnings],
            "weak_spots": [spot.to_json() for spot in self.weak_spots],
            "lacks_in_types": lacks_json(self.lacks_in_types), "rest_lacks": lacks_json(self.rest_lacks),
            "squashed_by": self.squashed_by, "allowed": self.allowed, "unlabelled": self.unlabelled,
            "in_types": self.real.to_json() if self.real is not None else None,
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SearchRecord:
        """Parse the result of ``to_json``.

        Raises:
            QtoolError: it has another schema.
            KeyError, TypeError, ValueError: it is not a record.
        """
        if content.get("schema") != SCHEMA:
            raise QtoolError(f"schema is {content.get('schema')!r}, not '{SCHEMA}'", remedy=_KIND.remedy)
        held, float_side = content["sensitivity"], content["float"]
        return cls(
            best=SearchedPlan.from_json(content["best"]),
            plans=[SearchedPlan.from_json(plan) for plan in content["plans"]],
            front=[SearchedPlan.from_json(plan) for plan in content["front"]],
            reference=Outcome.from_json(float_side),
            float_ms=float(float_side["predicted_ms"]),
            sensitivity=Sensitivity.from_json(held) if held is not None else None,
            methods={str(name): str(method) for name, method in content["methods"].items()},
            precision=Precision(content["precision"]),
            rest=Precision(content["rest"]),
            gpu=str(content["gpu"]),
            prefer=str(content["prefer"]),
            budget={str(name): float(limit) for name, limit in content["budget"].items()},
            higher_is_better=bool(content["higher_is_better"]),
            samples=int(content["samples"]),
            metric=str(content["metric"]) if content["metric"] is not None else None,
            measured_share=float(content["measured_share"]),
            share_of=_counted(content["share_of"]),
            warnings=[Finding.from_json(one) for one in content["warnings"]],
            notes=[Finding.from_json(one) for one in content["notes"]],
            weak_spots=[WeakSpot.from_json(one) for one in content["weak_spots"]],
            inferences=float(content["inferences"]),
            first=float(content["first_within_budget"]) if content["first_within_budget"] is not None else None,
            lacks_in_types=lacks_of(content["lacks_in_types"]),
            rest_lacks=lacks_of(content["rest_lacks"]),
            # the key's name in earlier releases
            squashed_by=str(content["behind"] if "behind" in content else content["squashed_by"]),
            allowed=float(content["allowed"]) if content["allowed"] is not None else None,
            real=Outcome.from_json(content["in_types"]) if content["in_types"] is not None else None,
            unlabelled=content.get("unlabelled"),
        )

    def save(self, path: Path) -> None:
        """Write search.json atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> SearchRecord:
        """Read search.json.

        Raises:
            QtoolError: the file is not a record.
        """
        try:
            with reading(path, _KIND):
                return cls.from_json(read_json(path, _KIND))
        except QtoolError as error:
            error.at(str(path))
            raise


def record(
    found: SearchResult,
    cost: CostModel,
    budget: Budget,
    prefer: str,
    samples: int,
    spots: Sequence[WeakSpot] = (),
    doubts: Sequence[Finding] = (),
    metric: str | None = None,
    unlabelled: str | None = None,
) -> SearchRecord:
    """Create the record of a search.

    Args:
        found: the search's result.
        cost: the cost model that predicted its times.
        budget: the limits of the search.
        prefer: what made a plan cheap: int8 or time.
        samples: how many samples it decided on.
        spots: the worst layers, explained.
        doubts: findings that limit how far the result can be trusted.
        metric: the metric measured on the samples; None without one.
        unlabelled: the recipe's metric, if the samples have no labels for it; else None.
    """
    slower = slower_than_float(found, cost, prefer)
    limits = {k: v for k, v in asdict(budget).items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    if budget.usual is not None and found.reference.metric is not None:
        limits.pop("max_relative_drop", None)
        limits |= budget.drops(found.best.outcome, abs(found.reference.metric))
    if budget.by_task and budget.min_unchanged is None:
        limits |= {"min_unchanged": max((tally.least for tally in found.best.outcome.tallies), default=1.0)}
    worst = budget.worst_share(found.best.outcome, found.reference)
    allowed = budget.allowed(worst) if worst is not None and worst.expected is not None else None
    return SearchRecord(
        best=found.best,
        plans=found.plans,
        front=found.front(),
        reference=found.reference,
        float_ms=cost.time(cost.switches.names) * 1e3,
        sensitivity=found.sensitivity,
        methods=found.methods,
        precision=cost.switches.precision,
        rest=cost.rest,
        gpu=cost.place,
        prefer=prefer,
        budget=limits,
        higher_is_better=budget.higher_is_better,
        samples=samples,
        metric=metric,
        measured_share=cost.measured_share(found.best.kept),
        share_of=cost.work.of,
        warnings=list(filter(None, (found.no_plan, slower))),
        notes=[*doubts, *found.notes],
        weak_spots=list(spots),
        inferences=found.inferences,
        first=found.first,
        lacks_in_types=found.lacks_in_types,
        rest_lacks=found.rest_lacks,
        squashed_by=found.squashed_by,
        allowed=allowed,
        real=found.real,
        unlabelled=unlabelled,
    )


def _counted(word: Any) -> Literal["macs", "nodes"]:
    if word == "macs":
        return "macs"
    if word == "nodes":
        return "nodes"
    raise ValueError(f"share_of is {word!r}")


def slower_than_float(found: SearchResult, cost: CostModel, prefer: str) -> Finding | None:
    """The finding that the chosen plan is predicted to be slower than the float model, with a remedy; else None.

    Also None if no GPU is named or measured, so that times only order plans.
    """
    plain = cost.time(cost.switches.names)
    best = found.best
    if not cost.place or best.seconds <= plain or len(best.kept) == len(cost.switches.names):
        return None
    faster = [plan for plan in found.plans if plan.meets and plan.seconds < plain]
    other = min(faster, key=lambda plan: plan.seconds, default=None)
    known = {"other_ms": other.seconds * 1e3, "other_kept": len(other.kept)} if other is not None else {}
    return Code.SEARCH_SLOWER(
        ms=best.seconds * 1e3, float_ms=plain * 1e3, gpu=cost.place, measured_share=cost.measured_share(best.kept),
        rest=cost.rest, prefer=prefer, plans=len(found.plans), **known,
    )  # fmt: skip
