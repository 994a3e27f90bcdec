"""The budget of a search: that of the pass or the recipe, reduced to the limits that can be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import RecipeError
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.evaluation.budget import Budget, judged_by_task
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outputs import class_like, discrete_outputs
from toolkit.evaluation.comparison.share_limits import UNREAD
from toolkit.evaluation.metrics.by_name import make_metric
from toolkit.evaluation.metrics.table import follows_float, is_counted, is_rate_of_errors, is_share, usual_limits
from toolkit.search.codes import DemandCode

if TYPE_CHECKING:
    from toolkit.graph.model import Model

OWN_LIMITS = ("max_drop", "min_sqnr_db", "min_agreement", "min_unchanged")
"""The limits that a search pass may set in place of the recipe's."""
DISTANCES = frozenset({"mse", "mae"})
"""Metrics whose rise can be computed without labels l, from the float model's values f and the quantized model's q.

The mean of (q - l)^2 exceeds that of (f - l)^2 by the mean of (q - f)^2 if q - f and f - l are uncorrelated, as for
a least squares fit, whose residuals are independent of the model's inputs. The mean of |q - l| exceeds that of
|f - l| by at most the mean of |q - f|.
"""
_DEFAULTS = {"max_drop": 0.01, "min_agreement": 0.98, "min_sqnr_db": 20.0}


@dataclass(frozen=True)
class Judged:
    """What a budget can be judged on.

    Attributes:
        outputs: the model's outputs.
        classes: the outputs with class scores.
        discrete: the outputs with integers or other discrete values.
        metric: the metric if the samples have labels for it, else None.
        output: the output that the metric reads.
        allow_code: whether the metric may be user code.
        answers: reads outputs as the task specifies; None without a task.
        named: the recipe's metric, for which the samples may have no labels.
        reads: the output that ``named`` reads; None if unknown.
        against_float: whether ``metric`` is measured against the float model's outputs; see ``needs_no_labels``.
    """

    outputs: Sequence[str]
    classes: Sequence[str]
    discrete: Sequence[str]
    metric: str | None = None
    output: str | None = None
    allow_code: bool = True
    answers: Answers | None = None
    named: str | None = None
    reads: str | None = None
    against_float: bool = False

    @classmethod
    def of(
        cls,
        model: Model,
        metric: str | None,
        output: str | None,
        allow_code: bool,
        answers: Answers | None = None,
        named: str | None = None,
        reads: str | None = None,
        against_float: bool = False,
    ) -> Judged:
        """Collect what a model's outputs allow to be judged."""
        outputs = model.graph.outputs
        names, classes = [t.name for t in outputs], [t.name for t in outputs if class_like(t.shape)]
        discrete = discrete_outputs(model)
        return cls(
            outputs=names,
            classes=classes,
            discrete=discrete,
            metric=metric,
            output=output,
            allow_code=allow_code,
            answers=answers,
            named=named,
            reads=reads,
            against_float=against_float,
        )


def needs_no_labels(metric: str | None, own: Mapping[str, float | None], section: Any) -> bool:
    """Whether the limit on a metric's drop can be checked without labels, from the float model's outputs alone.

    Args:
        metric: the recipe's metric.
        own: as in ``budget_for``.
        section: as in ``budget_for``.
    """
    drop = own.get("max_drop") if _any(own) else getattr(section, "max_drop", None)
    return metric in DISTANCES and drop is not None


def counted_answers(
    answers: Answers | None, metric: str | None, own: Mapping[str, float | None], section: Any
) -> Answers | None:
    """How answers are counted on samples without labels: as the metric counts them if its drop is limited.

    Args:
        answers: reads outputs as the task specifies.
        metric: the recipe's metric.
        own: as in ``budget_for``.
        section: as in ``budget_for``.
    """
    here = _any(own)
    drop, given = (own.get(name) if here else getattr(section, name, None) for name in ("max_drop", "min_unchanged"))
    return answers.counted_by(metric) if answers is not None and drop is not None and given is None else answers


def budget_for(
    judged: Judged,
    own: Mapping[str, float | None],
    section: Any,
    journal: Journal,
    *,
    margin: float = 0.0,
    max_ms: float | None = None,
) -> Budget:
    """The limits of the pass, else those of the recipe and its task; without any, a default that the journal notes.

    Args:
        judged: the model's outputs, and the metric if there is one.
        own: the pass's ``OWN_LIMITS``; None for those not set.
        section: ``[evaluation] budget``, or None.
        journal: gets a note of a default.
        margin: as in ``Budget``.
        max_ms: as in ``Budget``.

    Raises:
        RecipeError: an SQNR is required and no output holds floats, or an agreement and no output has classes or
            integers.
    """
    named_here = _any(own)
    only_integers = len(judged.discrete) == len(judged.outputs)
    classes = bool(judged.classes) or only_integers
    limits, replaces_drop = _judgeable(judged, _asked(own, section, named_here), classes)
    usual = judged.metric is not None and not _any(limits)
    if usual:
        limits |= usual_limits(judged.metric)
        for kind, value in usual_limits(judged.metric).items():
            journal.noted(_usual_note(judged.metric, kind, value))
    # limits set in the search pass replace all others
    by_task = not named_here and judged_by_task(limits, judged.answers, measured=judged.metric is not None)
    if not by_task and not _any(limits):
        kind = "max_drop" if judged.metric else "min_agreement" if classes else "min_sqnr_db"
        limits[kind] = _DEFAULTS[kind]
        journal.noted(Code.SEARCH_BUDGET(limit=kind, value=limits[kind]))
    if limits.get("min_sqnr_db") is not None and only_integers:
        raise RecipeError("min_sqnr_db cannot be judged: no output of the model holds floats",
                          remedy="give min_agreement, the smallest share of equal elements")  # fmt: skip
    if limits.get("min_agreement") is not None and not judged.classes and not judged.discrete:
        raise RecipeError("min_agreement cannot be judged: no output holds integers or scores of a fixed number of "
                          "classes", remedy="give min_sqnr_db")  # fmt: skip
    better = True
    if judged.metric is not None:
        better = make_metric(judged.metric, judged.output, judged.allow_code).higher_is_better
    limit = limits.get
    known = judged.answers is not None and any(judged.reads in part.outputs for part in judged.answers.parts)
    reads = judged.reads if replaces_drop and known else None
    return Budget(
        max_drop=limit("max_drop"),
        min_value=limit("min_value"),
        min_sqnr_db=limit("min_sqnr_db"),
        min_agreement=limit("min_agreement"),
        max_ms=max_ms,
        margin=margin,
        higher_is_better=better,
        max_relative_drop=limit("max_relative_drop"),
        min_unchanged=limit("min_unchanged"),
        by_task=by_task,
        replaces_drop=replaces_drop,
        reads=reads,
        counted=is_counted(judged.metric),
        usual=judged.metric if usual and follows_float(judged.metric) else None,
    )


def _usual_note(metric: str | None, kind: str, value: float) -> Finding:
    if not follows_float(metric):
        return Code.SEARCH_BUDGET(limit=kind, value=value)
    rate = is_rate_of_errors(metric)
    return (EvaluationCode.USUAL_RATE_LIMIT if rate else EvaluationCode.USUAL_ERROR_LIMIT)(metric=metric, value=value)


def _any(limits: Mapping[str, float | None]) -> bool:
    return any(value is not None for value in limits.values())


def _asked(own: Mapping[str, float | None], section: Any, named_here: bool) -> dict[str, float | None]:
    """The pass's own limits if it sets any (``named_here``), else the recipe's."""
    if named_here:
        return dict(own)
    names = dict.fromkeys((*own, "min_value", "max_relative_drop", "min_unchanged"))
    return {key: getattr(section, key, None) for key in names}


def _judgeable(judged: Judged, limits: dict[str, float | None], classes: bool) -> tuple[dict[str, float | None], bool]:
    """The limits that the samples can judge.

    Args:
        judged: the model's outputs, and the metric if there is one.
        limits: the requested limits.
        classes: whether an output holds classes.

    Returns:
        The limits, and whether a limit on changed answers replaces one on a drop that cannot be measured.
    """
    limits, replaces_drop = dict(limits), False
    if judged.against_float or judged.metric is None:
        # these limits are on the value of the metric itself
        limits.pop("min_value", None)
        limits.pop("max_relative_drop", None)
    if judged.metric is None:
        drop = limits.pop("max_drop", None)
        # samples with unchanged answers lose no accuracy, so the likely loss of the others bounds the drop of a share
        if drop is not None and drop < 1:
            if judged.answers is not None and is_share(judged.named) and limits.get("min_unchanged") is None:
                limits["min_unchanged"], replaces_drop = 1.0 - drop, True
            elif judged.answers is None and classes and limits.get("min_agreement") is None:
                limits["min_agreement"] = 1.0 - drop
    return limits, replaces_drop


def unlabelled(data: str, metric: str, by_float: bool) -> Finding:
    """The finding that a search on samples without labels cannot measure the recipe's metric.

    Args:
        data: the name of the samples.
        metric: the recipe's metric.
        by_float: whether the float model's outputs serve as labels (see ``needs_no_labels``); else its answers do.
    """
    return DemandCode.UNLABELLED(data=data, metric=metric, by_float=by_float)


def without_labels(judged: Judged, budget: Budget, data: str) -> Finding:
    """The finding that names the limits used in place of the recipe's metric, on samples without labels for it.

    Args:
        judged: the model's outputs, and the recipe's metric.
        budget: the limits in use.
        data: the name of the samples.
    """
    held: dict[str, float | None] = {"max_drop": budget.max_drop, "min_unchanged": budget.min_unchanged}
    held |= {"min_agreement": budget.min_agreement, "min_sqnr_db": budget.min_sqnr_db}
    limits = {name: value for name, value in held.items() if value is not None}
    likely = "likely" if budget.replaces_drop else "task" if budget.by_task else "given"
    how = "float" if judged.against_float else likely
    others = {part.outputs for part in judged.answers.parts} if judged.answers is not None else set()
    looser = budget.reads is not None and len(others) > 1 and (budget.min_unchanged or 0.0) > 1 - UNREAD
    apart = {"reads": budget.reads, "others": 1 - UNREAD} if looser else {}
    return Code.SEARCH_WITHOUT_LABELS(
        data=data, metric=judged.named, how=how, limits=list(limits), values=list(limits.values()), **apart
    )
