"""The evaluation held against the budget: what was missed, and what could not be judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from toolkit.base.text import count
from toolkit.report.parts import ROUNDING

if TYPE_CHECKING:
    from toolkit.report.schema import Accuracy, DeviceInfo
    from toolkit.run.recipe import BudgetSection, Recipe


def accuracy_of(measured: Mapping[str, Any], recipe: Recipe, source: str = "onnxruntime") -> Accuracy | None:
    """The evaluation as the report holds it, with the budget's verdict; None where nothing was asked or measured.

    A budget that cannot be judged is missed: silence would pass for a promise kept.

    Args:
        measured: the content of evaluation.json.
        recipe: its budget.
        source: what ran the quantized model, in words.
    """
    from toolkit.report.schema import Accuracy, OutputError

    budget = recipe.evaluation.budget
    asked = any(limit is not None for _, limit in budget)
    if not measured.get("measured"):
        if not asked:
            return None
        why = "nothing was measured, so no budget can be kept: the recipe has neither evaluation nor calibration data"
        return Accuracy(budget=budget.max_drop, met=False, misses=[why])
    misses = [*_metric_misses(budget, measured), *_output_misses(budget, measured)]
    notes = list(measured.get("notes", []))
    if measured.get("random"):
        notes.append("measured on random data")
    return Accuracy(
        metric=measured["metric"],
        **{"float": measured["float_value"]},  # noqa: PIE804 (a keyword of Python's own name, the alias in JSON)
        quantized=measured.get("value"),
        drop=measured.get("drop"),
        budget=budget.max_drop,
        met=not misses if asked else None,
        samples=measured["samples"],
        outputs={name: OutputError(**output) for name, output in measured["outputs"].items()},
        source=source,
        held_out=measured["held_out"],
        notes=notes,
        misses=misses,
    )


def device_of(measured: Mapping[str, Any], recipe: Recipe) -> DeviceInfo:
    """The engine's own figures as the report holds them, held against the same budget.

    The budget is judged over all profiles together, as it is for the simulation; a profile that misses it by itself,
    on however few samples, is noted.

    Args:
        measured: the content of device.json.
        recipe: its budget.
    """
    from toolkit.report.schema import DeviceInfo

    said = {key: measured[key] for key in ("status", "why", "gpu", "samples", "left_out", "notes") if key in measured}
    if measured["status"] != "ran":
        return DeviceInfo(**said)
    source = f"the engine on {measured['gpu'] or 'the GPU'}"
    common = {"measured": True, "held_out": measured["held_out"], "random": measured["random"]}
    whole = accuracy_of({**measured["all"], **common}, recipe, source)
    profiles = {name: accuracy_of({**one, **common}, recipe, source) for name, one in measured["profiles"].items()}
    device = DeviceInfo(**said, accuracy=whole, profiles={name: one for name, one in profiles.items() if one})
    if whole is not None and not whole.misses:
        alone = [(name, miss) for name, one in device.profiles.items() for miss in one.misses]
        device.notes += [f"profile '{name}' by itself: {miss}" for name, miss in alone]
    return device


def _metric_misses(budget: BudgetSection, measured: Mapping[str, Any]) -> list[str]:
    misses = []
    drop, value = measured.get("drop"), measured.get("value")
    why = "the metric is no finite number" if measured.get("metric") else "the recipe has no metric"
    if budget.max_drop is not None:
        if drop is None:
            misses.append(f"max_drop cannot be judged: {why}")
        elif not drop <= budget.max_drop + ROUNDING:
            misses.append(f"the metric drops by {drop:.4g}, more than {budget.max_drop}")
    if budget.min_value is not None:
        if value is None:
            misses.append(f"min_value cannot be judged: {why}")
        elif not value >= budget.min_value:
            misses.append(f"the metric is {value:.4g}, below {budget.min_value}")
    return misses


def _output_misses(budget: BudgetSection, measured: Mapping[str, Any]) -> list[str]:
    misses = []
    outputs: Mapping[str, Mapping[str, Any]] = measured["outputs"]
    if budget.min_sqnr_db is None and budget.min_agreement is None:
        return []
    samples = count(measured["samples"], "sample")
    for name, unlike in measured.get("unlike", {}).items():
        misses.append(
            f"output '{name}' cannot be judged: on {unlike} of {samples} its shape is another than the float model's"
        )
    if budget.min_sqnr_db is not None:
        floats = {name: output for name, output in outputs.items() if name not in measured.get("discrete", [])}
        if not floats and not misses:
            misses.append("min_sqnr_db cannot be judged: no output holds floats")
        for name, output in floats.items():
            sqnr = output["sqnr_db"]
            if sqnr is None and output["max_abs"] == 0:
                continue
            if sqnr is None:
                misses.append(
                    f"output '{name}' has no SQNR: it holds NaN or infinity"
                    if output["max_abs"] is None
                    else f"output '{name}' has no SQNR: the float model's is zero throughout, this one's is not"
                )
            elif not sqnr >= budget.min_sqnr_db:
                misses.append(f"output '{name}' has {sqnr:.4g} dB, below {budget.min_sqnr_db}")
    if budget.min_agreement is not None:
        shares = {name: o["agreement"] for name, o in outputs.items() if o["agreement"] is not None}
        if not shares and not misses:
            misses.append(
                "min_agreement cannot be judged: no output holds integers or scores of a fixed number of classes"
            )
        for name, share in shares.items():
            if not share >= budget.min_agreement:
                misses.append(f"output '{name}' agrees on {share:.1%}, below {budget.min_agreement}")
    return misses
