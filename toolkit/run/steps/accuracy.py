"""The evaluation in the report's form: figures, the verdict on the limits, and limits that could not be judged."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from toolkit.base.given import shown
from toolkit.evaluation.metrics.table import is_share
from toolkit.evaluation.numerics.intervals import LimitStanding, around
from toolkit.evaluation.numerics.resampling import drop_error
from toolkit.evaluation.tasks import chooses_class, ranked_outputs, reader
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.report.findings.outputs.accuracy import SIMULATION, differ_as_shown
from toolkit.report.findings.words import clause
from toolkit.report.schema.accuracy import Accuracy, OutputError
from toolkit.report.schema.report import DeviceInfo
from toolkit.report.schema.task import FewAnswers, PartFigures, TaskInfo
from toolkit.run.task.doubts import doubts_of, one_answer, samples_identical, samples_show_nothing
from toolkit.run.task.judgement import judge

if TYPE_CHECKING:
    from toolkit.evaluation.comparison.outputs import EvaluationResult, Unrounded
    from toolkit.evaluation.tasks import AnswerTally
    from toolkit.run.recipe.sections import BudgetSection
    from toolkit.run.steps.device import DeviceRecord
    from toolkit.run.task.task import TaskRecord


def accuracy_of(
    found: EvaluationResult | None,
    budget: BudgetSection,
    *,
    held_out: bool = True,
    random: bool = False,
    source: str = SIMULATION,
    task: TaskRecord | None = None,
) -> Accuracy | None:
    """The evaluation in the report's form, judged by the budget; None without a budget if nothing was measured.

    A budget that cannot be judged counts as missed, so that it is not mistaken for one that was kept. If the recipe has
    no limit that covers the task's own limit, the task's limit applies.

    Args:
        found: the measured figures; None if nothing was measured.
        held_out: whether the samples were not used for calibration.
        random: whether the samples are random.
        source: the runtime of the quantized model, in words.
        task: the model's task; None if unknown.
    """
    asked = any(limit is not None for _, limit in budget)
    if found is None:
        if not asked:
            return None
        return Accuracy(budget=budget.max_drop, met=False, misses=[sentence(ReportCode.BUDGET_WITHOUT_DATA())])
    each = task.at_once if task is not None else 1
    drawing = list(task.unlike if source == SIMULATION else task.drawing) if task is not None else []
    judged, interval = judge(found, budget, task, drawing=bool(drawing)), _interval(found)
    limits, few, misses = judged.limits, judged.few, judged.misses
    notes = [*found.notes, *([ReportCode.MEASURED_ON_RANDOM_DATA()] if random else [])]
    most = judged.most_drop(found.float_value)
    doubts = [] if drawing else doubts_of(found, None if misses else few, task, limited=judged.counts, most=most)
    accuracy = Accuracy(
        metric=shown(found.metric) if found.metric is not None else None,
        before=found.float_value,
        quantized=found.value,
        drop=found.drop,
        higher_is_better=found.rising if found.value is not None else None,
        drop_low=interval[0] if interval is not None else None,
        drop_high=interval[1] if interval is not None else None,
        budget=limits["max_drop"],
        relative_budget=limits["max_relative_drop"],
        met=not misses if judged.standing is not None else None,
        standing=judged.standing,
        by_default=not asked,
        samples=found.samples * each,
        layer_samples=found.layer_samples * each,
        outputs=_outputs(found, budget),
        source=source,
        held_out=held_out,
        refused=found.refused,
        notes=[sentence(note) for note in notes],
        misses=[sentence(miss) for miss in misses],
        not_compared=found.not_compared,
        in_place=found.in_place,
        task=_task_info(task),
        parts=_parts(found, limits["min_unchanged"], judged.counts),
        doubts=[clause(sentence(one)) for one in doubts],
        drawing=drawing,
        float_wrong=task is not None and task.suspicion is not None,
        few=FewAnswers(**few.values) if few is not None else None,
        shows_nothing=samples_show_nothing(found),
        quantized_source=task is not None and task.quantized_source,
    )
    return _beside(accuracy, found.unrounded, budget, task) if found.unrounded is not None else accuracy


def _beside(accuracy: Accuracy, found: Unrounded, budget: BudgetSection, task: TaskRecord | None) -> Accuracy:
    """The accuracy with differences that appear when onnxruntime computes model.onnx with its own optimizations.

    If these were measured on a part of the samples, the figure is an estimate: the figure on all samples, shifted by
    the difference on that part. There is no estimate if the difference may be due to chance.
    """
    unrounded = accuracy_of(found.found, budget, task=task)
    rounded = accuracy_of(found.rounded, budget, task=task) if found.rounded is not None else accuracy
    assert unrounded is not None and rounded is not None
    value, mine, theirs = (_first_figure(one, accuracy) for one in (accuracy, rounded, unrounded))
    told, figure, few = [], None, found.rounded is not None
    some: dict[str, Any] = {"samples": unrounded.samples, "of": accuracy.samples} if few else {}
    if value is not None and mine is not None and theirs is not None and mine != theirs:
        figure = theirs
        if few:
            told_apart = not _by_chance(found, theirs - mine, _first_part(unrounded, accuracy))
            figure = _moved(found.found, value, theirs - mine) if told_apart else None
        moved = {"moved": found.moved, "estimate": figure} if few else {}
        if differ_as_shown(accuracy.metric, mine, theirs):
            said = ReportCode.UNROUNDED_DIFFERS(metric=accuracy.metric, value=mine, unrounded=theirs, **some, **moved)
            told.append(sentence(said))
    doubts = []
    if (
        unrounded.misses
        and not accuracy.misses
        and (not rounded.misses or _drops_too_far(accuracy, rounded, unrounded))
    ):
        doubts.append(clause(sentence(ReportCode.UNROUNDED_MISSES(miss=unrounded.misses[0], **some))))
    return accuracy.model_copy(
        update={
            "unrounded": figure,
            "unrounded_samples": unrounded.samples if few else None,
            "notes": [*told, *accuracy.notes],
            "doubts": [*accuracy.doubts, *doubts],
        }
    )


def _drops_too_far(accuracy: Accuracy, rounded: Accuracy, unrounded: Accuracy) -> bool:
    """Whether the drop on all samples, shifted by the difference on some, misses its limit, when chance may decide."""
    drops = (accuracy.drop, unrounded.drop, rounded.drop)
    if accuracy.most_drop is None or any(drop is None for drop in drops):
        return False
    whole, without, with_rounding = (drop or 0.0 for drop in drops)
    return whole + without - with_rounding > accuracy.most_drop


def _moved(judged: EvaluationResult, value: float, by: float) -> float:
    """A figure shifted by its change on a part of the samples, clipped to its possible values."""
    share, moved = judged.metric is None or is_share(judged.metric), value + by
    if share or not judged.rising:
        moved = max(moved, min(value, 0.0))
    return min(moved, 1.0) if share else moved


def _first_figure(accuracy: Accuracy, first: Accuracy) -> float | None:
    """The report's headline figure: the metric, or the share of unchanged answers of ``first``'s first part."""
    if first.metric is not None or not first.parts:
        return accuracy.quantized
    part = _first_part(accuracy, first)
    return part.unchanged if part is not None else None


def _first_part(accuracy: Accuracy, first: Accuracy) -> PartFigures | None:
    """The figures of the first part of ``first``; None if there are none."""
    wanted = [(one.outputs, one.channels) for one in first.parts[:1]]
    return next((one for one in accuracy.parts if (one.outputs, one.channels) in wanted), None)


def _by_chance(found: Unrounded, by: float, part: PartFigures | None) -> bool:
    """Whether the change ``by`` of the headline figure, on a part of the samples, may be due to chance (95 % interval).

    A metric's standard error is the jackknife's. Without one, the standard error of a share of correct or unchanged
    answers is at least sqrt(d) / n if d of n answers are gained or lost (McNemar's test), since further answers may
    have changed in both directions.
    """
    error, answers = None, part.answers if part is not None else 0
    if found.rounded is not None and found.rounded.metric is not None:
        error = drop_error(*([after for _, after in one.left_out] for one in (found.rounded, found.found)))
        answers = found.found.metric_answers
    if error is None and answers:
        error = math.sqrt(abs(by) / answers)
    if error is None:
        return False
    low, high = around(by, error)
    return low <= 0 <= high


def _interval(found: EvaluationResult) -> tuple[float, float] | None:
    """The 95 % interval of the drop; None if its standard error is unknown."""
    error = found.drop_error
    return around(found.drop, error) if found.drop is not None and error is not None else None


def _parts(found: EvaluationResult, least: float | None, counts: bool) -> list[PartFigures]:
    """The answers part by part, the worst first; ``counts``: whether the budget limits the share of unchanged ones."""
    made = []
    order = list(LimitStanding)
    for tally in sorted(found.tallies, key=lambda one: (-order.index(one.standing(least)), one.share)):
        low, high = tally.interval
        lacks = _what_samples_lack(tally, found, least)
        made.append(
            PartFigures(
                task=tally.part.task,
                outputs=list(tally.part.outputs),
                channels=tally.part.first_and_last,
                unchanged=tally.share,
                answers=tally.answers,
                least=tally.least if least is None else least,
                level=tally.level,
                figure=tally.figure,
                low=low,
                high=high,
                standing=("unproven" if lacks else tally.standing(least).value),
                lacks=lacks,
                counts=counts,
                rule=sentence(rule) if (rule := reader(tally.part).rule()) is not None else "",
            )
        )
    return made


def _what_samples_lack(
    tally: AnswerTally, found: EvaluationResult, least: float | None
) -> Literal["", "answers", "objects", "other answer", "varied samples"]:
    """What the samples lack to prove that enough of a part's answers are unchanged; empty if proven or missed."""
    standing = tally.standing(least)
    if standing is LimitStanding.MISSED:
        return ""
    if tally.empty:
        return "objects"
    if tally in one_answer(found) or (tally.judges_values and standing is LimitStanding.UNPROVEN):
        return "other answer"
    if samples_identical(found):
        return "varied samples"
    return "answers" if standing is LimitStanding.UNPROVEN else ""


def _task_info(task: TaskRecord | None) -> TaskInfo | None:
    if task is None or task.why is None:
        return None
    return TaskInfo(name=task.task, sure=task.sure, why=" ".join(map(sentence, task.reading)))


def _outputs(found: EvaluationResult, budget: BudgetSection) -> dict[str, OutputError]:
    """The outputs' figures, without argmax agreement for outputs that have no classes or several labels at once."""
    shown = {name: OutputError(**asdict(output)) for name, output in found.outputs.items()}
    ranked = shown.keys() & ranked_outputs(found.tallies)
    for name in ranked:
        matched = found.beside.get(name)
        if not shown[name].incomparable:
            shown[name] = OutputError(**(asdict(matched) if matched is not None else {}), ranked=True)
    classes = {name for tally in found.tallies if chooses_class(tally.part) for name in tally.part.outputs}
    if found.tallies and budget.min_agreement is None:
        for name, output in shown.items():
            if name not in classes and name not in found.discrete:
                output.agreement = None
    return shown


def device_of(record: DeviceRecord, budget: BudgetSection, task: TaskRecord | None = None) -> DeviceInfo:
    """The engine's own figures in the report's form, judged by the same budget.

    The budget is judged over all profiles together, as in the simulation; a profile that misses it on its own is noted,
    however few its samples.
    """
    if record.status != "ran":
        return DeviceInfo(status=record.status, why=sentence(record.why) if record.why else "", gpu=record.gpu)

    def judged(found: EvaluationResult | None) -> Accuracy | None:
        source = f"the engine on {record.gpu or 'the GPU'}"
        return accuracy_of(found, budget, held_out=record.held_out, random=record.random, source=source, task=task)

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
