"""Decide how a model is judged: by the task that the recipe names, or else by a guessed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from toolkit.base.errors import RecipeError
from toolkit.base.settings import without_effect
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.guessing.detection import detection_part
from toolkit.evaluation.guessing.guess import Guess, fitting, guess, outputs_judged_as
from toolkit.evaluation.guessing.parts import parts_for
from toolkit.evaluation.guessing.similarities import with_other_towers
from toolkit.evaluation.metrics.table import METRICS, task_of, tasks_judged
from toolkit.evaluation.observation.observed import SeenModel
from toolkit.evaluation.tasks import OutputPart, reader

_READ_AS = {
    "segmentation": {"segmentation"},
    "ctc": {"ctc"},
    # the logits of a single next token have the shape of class scores
    "generation": {"generation", "classification"},
}
"""By the metric's task, the tasks one of which the output's shape must fit. For other tasks only the labels decide."""


def judged_by(
    seen: SeenModel,
    task: str | None,
    metric: str | None,
    output: str | None,
    floors: Mapping[str, float],
    given: Mapping[str, float | None],
    classes: Mapping[str, int | None] | None = None,
    strict: bool = True,
) -> tuple[Guess, Finding]:
    """The task, the parts of the outputs that are judged, and the reason as a finding.

    Args:
        seen: the model with its outputs for a few samples.
        task: the recipe's task; None to guess it.
        metric: the recipe's metric; None if there is none.
        output: the output that the metric reads; None for any.
        floors: levels from which on an answer counts as unchanged, by their names in the budget.
        given: the recipe's ``blank`` and ``threshold``; None for those that it does not set.
        classes: other settings that name a class of CTC scores, such as ``space``.
        strict: whether to refuse settings that no task reads. False for a run that is judged again, on other samples or
            by the rules of an earlier release: the user cannot change its recipe.

    Raises:
        RecipeError: no output fits the task or the metric of the recipe, a class that it names does not exist, or no
            task reads a setting that it has; the error's value is the setting.
    """
    if strict:
        refuse_unread(seen, metric, output)
    if not any(one.samples for one in seen.outputs):
        # a plugin that onnxruntime does not know computes them all
        found = Guess(task, True, []) if task else guess(seen, task_of(metric), output)
        why = EvaluationCode.OUTPUTS_UNSEEN(**({"task": task} if task else {}))
    elif task is None:
        found = guess(seen, task_of(metric), output)
        why = found.finding()
    else:
        found = _named(seen, task, output, task_of(metric))
        why = EvaluationCode.TASK_NAMED(task=task, outputs=outputs_judged_as(task, found.parts))
    _classes_exist(seen, found.parts, {**(classes or {}), "blank": given.get("blank")})
    if strict:
        _has_effect(found.parts, metric, floors, given)
    found.parts = [_with(part, floors, given) for part in found.parts]
    return found, why


def refuse_unread(seen: SeenModel, metric: str | None, output: str | None) -> None:
    """Check that an output has a shape that the metric can read.

    Raises:
        RecipeError: none has; the metric would take the samples of a batch for positions.
    """
    read = _READ_AS.get(task_of(metric))
    chosen = [one for one in seen.outputs if one.samples and output in (None, one.name)]
    if read is None or not chosen or any(read & set(fitting(one)) for one in chosen):
        return
    names = {one.name for one in chosen}
    tasks = {part.task for part in guess(seen).parts if names & set(part.outputs)}
    others = [name for name, info in METRICS.items() if info.task in tasks]
    elsewhere = [one.name for one in seen.outputs if one.samples and read & set(fitting(one))]
    shapes = ", ".join(f"'{one.name}' {list(one.shape)}" for one in chosen)
    raise RecipeError(
        f"the metric {metric} is for {task_of(metric)}, but no output fits that task: a sample has {shapes}",
        remedy=f"set [evaluation] output to '{elsewhere[0]}'" if elsewhere else f"use one of {', '.join(others)}",
        value="metric",
    )


def _has_effect(
    parts: Sequence[OutputPart], metric: str | None, floors: Mapping[str, float], given: Mapping[str, float | None]
) -> None:
    """Check that the recipe's floors, blank and threshold are read by the task of some output, or by the metric.

    Raises:
        RecipeError: one of them is not.
    """
    tasks = ", ".join(dict.fromkeys(part.task for part in parts))
    read = {reader(part).floor_name for part in parts} | {name for part in parts for name in part.settings}
    if task_of(metric) == "ctc":
        read.add("blank")
    for place, settings in (("budget.", floors), ("", given)):
        for name, value in settings.items():
            if parts and value is not None and name not in read:
                what, remedy = without_effect(f"{name} = {value:g}", f"the outputs are judged as {tasks}", name)
                raise RecipeError(what, remedy=f"{remedy}, or name another task", value=f"{place}{name}")


def _named(seen: SeenModel, task: str, output: str | None, metric_task: str) -> Guess:
    """The parts of all outputs if the recipe names the task.

    The outputs that are guessed to have the task are read by it, or, if there are none, all whose shape fits; the rest
    are judged as guessed. Naming the task that would be guessed changes nothing.

    Raises:
        RecipeError: no output fits the task.
    """
    chosen = [one for one in seen.outputs if one.samples and output in (None, one.name)]
    chosen = [one for one in chosen if one.name not in seen.states] or chosen
    parts: list[OutputPart] = []
    said = metric_task if task in tasks_judged(metric_task) else ""
    if task == "detection":
        found = detection_part(seen)
        parts = [found] if found is not None else []
    else:
        alike = {name for part in guess(seen, said, output).parts if part.task == task for name in part.outputs}
        chosen = [one for one in chosen if one.name in alike] or chosen
        parts = [part for one in chosen if task in fitting(one) for part in parts_for(task, one, seen)]
    if not parts:
        shapes = ", ".join(f"'{one.name}' {list(one.shape)}" for one in chosen) or "no output"
        raise RecipeError(
            f"no output can be read for the task {task}: a sample has {shapes}",
            remedy="name another task, or leave task out to let it be guessed",
        )
    parts += guess(seen, said, output, judged_already=parts).parts
    return Guess(task, True, with_other_towers(parts, seen))


def _classes_exist(seen: SeenModel, parts: Sequence[OutputPart], named: Mapping[str, float | None]) -> None:
    """Check that classes named by settings, such as ``blank``, exist in the outputs that are read as CTC scores.

    Raises:
        RecipeError: one does not.
    """
    by_name = {one.name: one for one in seen.outputs}
    for part in parts:
        output = by_name[part.outputs[0]]
        if part.task != "ctc" or output.discrete:
            continue
        count = output.shape[int(part.settings["axis"])]
        for name, number in named.items():
            if number is not None and number >= count:
                raise RecipeError(
                    f"{name} is {number:g}, and output '{output.name}' has {count} classes, 0 to {count - 1}",
                    remedy=f"give a class of the output, often 0 or {count - 1}, or leave {name} out",
                    value=name,
                )


def _with(part: OutputPart, floors: Mapping[str, float], given: Mapping[str, float | None]) -> OutputPart:
    settings = dict(part.settings)
    floor = floors.get(reader(part).floor_name)
    if floor is not None:
        settings["floor"] = floor
    settings |= {name: value for name, value in given.items() if value is not None and name in settings}
    return replace(part, settings=settings)
