"""Budget limits without effect: no result can miss them (a percentage given as a share), or they lack a metric."""

from __future__ import annotations

from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.run.recipe.passes import named_passes
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.recipe.sections import SHARES

_LOWEST = {"min_agreement": 0.0, "min_unchanged": 0.0, "min_iou": 0.0, "min_matched": 0.0, "min_cosine": -1.0}
_OF_METRIC = ("max_drop", "max_relative_drop", "min_value")


def idle_limits(recipe: Recipe, float_value: float | None, allow_code: bool = False) -> list[Finding]:
    """The limits of the recipe's budget and passes that hold for any quantization, or that need a missing metric.

    Args:
        float_value: the float model's metric value; None if unknown.
        allow_code: whether the recipe may name code.

    Raises:
        RecipeError: an unknown pass or setting.
        NotAllowedError: a pass is code, and code is not allowed.
    """
    section, found = recipe.evaluation, []
    metric = section.metric if section.metric in SHARES else None
    of_passes = [(name, one.accuracy_limits()) for name, one in named_passes(recipe, allow_code)]
    for where, limits in (("", dict(section.budget)), *of_passes):
        known = {name: float(one) for name, one in limits.items() if isinstance(one, (int, float))}
        if section.metric is None:
            found += [
                EvaluationCode.LIMIT_WITHOUT_METRIC(limit=name, value=known[name], by=where)
                for name in _OF_METRIC
                if name in known
            ]
        lowest = [name for name, least in _LOWEST.items() if known.get(name, least + 1) <= least]
        if metric is not None:
            # a share cannot drop by more than its value
            lost = {"max_drop": float_value or 1.0, "max_relative_drop": 1.0}
            lowest += [name for name, most in lost.items() if known.get(name, 0.0) >= most]
            lowest += ["min_value"] if known.get("min_value", 1.0) <= 0 else []
        found += [
            EvaluationCode.LIMIT_NEVER_MISSED(
                limit=name, value=known[name], by=where, metric=metric or "", float_value=float_value
            )
            for name in lowest
        ]
    return found
