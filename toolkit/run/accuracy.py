"""The evaluation held against the budget: what was missed, and what could not be judged."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from toolkit.base.text import count
from toolkit.report.parts import ROUNDING, Accuracy, OutputError
from toolkit.report.schema import DeviceInfo

if TYPE_CHECKING:
    from toolkit.evaluation.outputs import EvaluationResult
    from toolkit.run.sections import BudgetSection
    from toolkit.run.steps.device import DeviceRecord


def accuracy_of(
    found: EvaluationResult | None,
    budget: BudgetSection,
    *,
    held_out: bool = True,
    random: bool = False,
    source: str = "onnxruntime",
) -> Accuracy | None:
    """The evaluation as the report holds it, with the budget's verdict; None where nothing was asked or measured.

    A budget that cannot be judged is missed: silence would pass for a promise kept.

    Args:
        found: what was measured; None where nothing was.
        budget: what must hold.
        held_out: whether calibration did not see the samples.
        random: whether they are made up.
        source: what ran the quantized model, in words.
    """
    asked = any(limit is not None for _, limit in budget)
    if found is None:
        if not asked:
            return None
        why = "nothing was measured, so no budget can be kept: the recipe has neither evaluation nor calibration data"
        return Accuracy(budget=budget.max_drop, met=False, misses=[why])
    misses = [*_metric_misses(budget, found), *_output_misses(budget, found)]
    return Accuracy(
        metric=found.metric,
        before=found.float_value,
        quantized=found.value,
        drop=found.drop,
        budget=budget.max_drop,
        met=not misses if asked else None,
        samples=found.samples,
        outputs={name: OutputError(**asdict(output)) for name, output in found.outputs.items()},
        source=source,
        held_out=held_out,
        notes=[*found.notes, *(["measured on random data"] if random else [])],
        misses=misses,
    )


def device_of(record: DeviceRecord, budget: BudgetSection) -> DeviceInfo:
    """The engine's own figures as the report holds them, held against the same budget.

    The budget is judged over all profiles together, as it is for the simulation; a profile that misses it by itself,
    on however few samples, is noted.
    """
    if record.status != "ran":
        return DeviceInfo(status=record.status, why=record.why, gpu=record.gpu)

    def judged(found: EvaluationResult | None) -> Accuracy | None:
        source = f"the engine on {record.gpu or 'the GPU'}"
        return accuracy_of(found, budget, held_out=record.held_out, random=record.random, source=source)

    whole = judged(record.found)
    profiles = {name: judged(one) for name, one in record.profiles.items()}
    device = DeviceInfo(
        status=record.status,
        why=record.why,
        gpu=record.gpu,
        samples=record.samples,
        left_out=record.left_out,
        notes=list(record.notes),
        accuracy=whole,
        profiles={name: one for name, one in profiles.items() if one},
    )
    if whole is not None and not whole.misses:
        alone = [(name, miss) for name, one in device.profiles.items() for miss in one.misses]
        device.notes += [f"profile '{name}' by itself: {miss}" for name, miss in alone]
    return device


def _metric_misses(budget: BudgetSection, found: EvaluationResult) -> list[str]:
    misses = []
    drop, value = found.drop, found.value
    why = "the metric is no finite number" if found.metric else "the recipe has no metric"
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


def _output_misses(budget: BudgetSection, found: EvaluationResult) -> list[str]:
    misses = []
    outputs = found.outputs
    if budget.min_sqnr_db is None and budget.min_agreement is None:
        return []
    samples = count(found.samples, "sample")
    for name, unlike in found.unlike.items():
        misses.append(
            f"output '{name}' cannot be judged: on {unlike} of {samples} its shape is another than the float model's"
        )
    if budget.min_sqnr_db is not None:
        floats = {name: output for name, output in outputs.items() if name not in found.discrete}
        if not floats and not misses:
            misses.append("min_sqnr_db cannot be judged: no output holds floats")
        for name, output in floats.items():
            sqnr = output.sqnr_db
            if sqnr is None and output.max_abs == 0:
                continue
            if sqnr is None:
                misses.append(
                    f"output '{name}' has no SQNR: it holds NaN or infinity"
                    if output.max_abs is None
                    else f"output '{name}' has no SQNR: the float model's is zero throughout, this one's is not"
                )
            elif not sqnr >= budget.min_sqnr_db:
                misses.append(f"output '{name}' has {sqnr:.4g} dB, below {budget.min_sqnr_db}")
    if budget.min_agreement is not None:
        shares = {name: o.agreement for name, o in outputs.items() if o.agreement is not None}
        if not shares and not misses:
            misses.append(
                "min_agreement cannot be judged: no output holds integers or scores of a fixed number of classes"
            )
        for name, share in shares.items():
            if not share >= budget.min_agreement:
                misses.append(f"output '{name}' agrees on {share:.1%}, below {budget.min_agreement}")
    return misses
