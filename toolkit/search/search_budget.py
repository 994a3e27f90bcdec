"""The budget that a search works to: what the pass or the recipe says, made to fit what can be judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.base.errors import RecipeError
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.metrics import make_metric
from toolkit.simulation.simulation import Simulation

_DEFAULTS = {"max_drop": 0.01, "min_agreement": 0.98, "min_sqnr_db": 20.0}


def budget_for(
    simulation: Simulation,
    own: Mapping[str, float | None],
    section: Any,
    journal: Journal,
    *,
    margin: float = 0.0,
    max_ms: float | None = None,
) -> Budget:
    """The limits that are given, else the recipe's, else a usual one, which the journal says.

    Args:
        simulation: the model, its outputs, and whether there is a metric.
        own: max_drop, min_sqnr_db and min_agreement as the pass has them; None where not given.
        section: ``[evaluation] budget``, or None.
        journal: is told of a default.
        margin: as in ``Budget``.
        max_ms: as in ``Budget``.

    Raises:
        RecipeError: an SQNR is asked for and no output holds floats.
    """
    limits = dict(own)
    if not any(value is not None for value in limits.values()):
        limits = {key: getattr(section, key, None) for key in (*own, "min_value")}
    settings = simulation.settings
    only_integers = len(simulation.discrete) == len(simulation.outputs)
    classes = bool(simulation.classes) or only_integers
    if settings.metric is None:
        drop = limits.pop("max_drop", None)
        limits.pop("min_value", None)
        # a sample whose argmax stays cannot lose accuracy: agreement bounds the drop
        if drop is not None and classes and limits.get("min_agreement") is None:
            limits["min_agreement"] = 1.0 - drop
    if not any(value is not None for value in limits.values()):
        kind = "max_drop" if settings.metric else "min_agreement" if classes else "min_sqnr_db"
        limits[kind] = _DEFAULTS[kind]
        journal.noted(Code.SEARCH_BUDGET(limit=kind, value=limits[kind]))
    if limits.get("min_sqnr_db") is not None and only_integers:
        raise RecipeError("min_sqnr_db cannot be judged: no output of the model holds floats",
                          remedy="give min_agreement, the smallest share of equal elements")  # fmt: skip
    better = True
    if settings.metric is not None:
        better = make_metric(settings.metric, settings.output, settings.allow_code).higher_is_better
    limit = limits.get
    return Budget(limit("max_drop"), limit("min_value"), limit("min_sqnr_db"), limit("min_agreement"), max_ms, margin,
                  higher_is_better=better)  # fmt: skip
