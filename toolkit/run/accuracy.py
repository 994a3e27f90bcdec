"""The evaluation held against the budget: what was missed, and what could not be judged."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
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
        return Accuracy(budget=budget.max_drop, met=False, misses=[sentence(ReportCode.BUDGET_WITHOUT_DATA())])
    misses = [*_metric_misses(budget, found), *_output_misses(budget, found)]
    notes = [*found.notes, *([ReportCode.MEASURED_ON_RANDOM_DATA()] if random else [])]
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
        notes=[sentence(note) for note in notes],
        misses=[sentence(miss) for miss in misses],
        not_compared=found.not_compared,
        in_place=found.in_place,
    )


def device_of(record: DeviceRecord, budget: BudgetSection) -> DeviceInfo:
    """The engine's own figures as the report holds them, held against the same budget.

    The budget is judged over all profiles together, as it is for the simulation; a profile that misses it by itself,
    on however few samples, is noted.
    """
    if record.status != "ran":
        return DeviceInfo(status=record.status, why=sentence(record.why) if record.why else "", gpu=record.gpu)

    def judged(found: EvaluationResult | None) -> Accuracy | None:
        source = f"the engine on {record.gpu or 'the GPU'}"
        return accuracy_of(found, budget, held_out=record.held_out, random=record.random, source=source)

    whole = judged(record.found)
    profiles = {name: judged(one) for name, one in record.profiles.items()}
    device = DeviceInfo(
        status=record.status,
        gpu=record.gpu,
        samples=record.samples,
        left_out=record.left_out,
        notes=[sentence(note) for note in record.notes],
        accuracy=whole,
        profiles={name: one for name, one in profiles.items() if one},
    )
    if whole is not None and not whole.misses:
        alone = [(name, miss) for name, one in device.profiles.items() for miss in one.misses]
        device.notes += [sentence(ReportCode.PROFILE_MISSES(profile=name, miss=miss)) for name, miss in alone]
    return device


def _metric_misses(budget: BudgetSection, found: EvaluationResult) -> list[Finding]:
    misses = []
    drop, value = found.drop, found.value
    unknown = ReportCode.LIMIT_NOT_FINITE if found.metric else ReportCode.LIMIT_WITHOUT_METRIC
    if found.metric is None and found.not_compared:
        unknown = ReportCode.LIMIT_NOT_COMPUTED
    if budget.max_drop is not None:
        if drop is None:
            misses.append(unknown(limit="max_drop"))
        elif not drop <= budget.max_drop + ROUNDING:
            misses.append(ReportCode.DROP_OVER_LIMIT(drop=drop, limit=budget.max_drop))
    if budget.min_value is not None:
        if value is None:
            misses.append(unknown(limit="min_value"))
        elif not value >= budget.min_value:
            misses.append(ReportCode.METRIC_BELOW_LIMIT(value=value, limit=budget.min_value))
    return misses


def _output_misses(budget: BudgetSection, found: EvaluationResult) -> list[Finding]:
    if budget.min_sqnr_db is None and budget.min_agreement is None:
        return []
    limit = "min_sqnr_db" if budget.min_sqnr_db is not None else "min_agreement"
    lacking = ReportCode.LIMIT_NOT_COMPUTED(limit=limit) if found.not_compared else None
    misses = [
        ReportCode.OUTPUT_SHAPE_NOT_JUDGED(output=name, unlike=unlike, samples=found.samples)
        for name, unlike in found.unlike.items()
    ]
    if budget.min_sqnr_db is not None:
        floats = {name: output for name, output in found.outputs.items() if name not in found.discrete}
        if not floats and not misses:
            misses.append(lacking or ReportCode.NO_FLOAT_OUTPUT())
        for name, output in floats.items():
            sqnr = output.sqnr_db
            if sqnr is None and output.max_abs == 0:
                continue
            if sqnr is None:
                unknown = ReportCode.SQNR_NOT_FINITE if output.max_abs is None else ReportCode.SQNR_WITHOUT_SIGNAL
                misses.append(unknown(output=name))
            elif not sqnr >= budget.min_sqnr_db:
                misses.append(ReportCode.SQNR_BELOW_LIMIT(output=name, sqnr_db=sqnr, limit=budget.min_sqnr_db))
    if budget.min_agreement is not None:
        shares = {name: o.agreement for name, o in found.outputs.items() if o.agreement is not None}
        if not shares and not misses:
            misses.append(lacking or ReportCode.NO_OUTPUT_WITH_CLASSES())
        for name, share in shares.items():
            if not share >= budget.min_agreement:
                misses.append(
                    ReportCode.AGREEMENT_BELOW_LIMIT(
                        output=name, agreement=share, limit=budget.min_agreement, discrete=name in found.discrete
                    )
                )
    return misses
