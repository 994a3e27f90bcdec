"""Guess a model's task from shapes, sample values, names and operators; several kinds of clue must agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.guessing.clue import SHARES, Clue, of_values
from toolkit.evaluation.guessing.clues import clues_to
from toolkit.evaluation.guessing.detection import detection_part
from toolkit.evaluation.guessing.parts import parts_for
from toolkit.evaluation.guessing.similarities import with_other_towers
from toolkit.evaluation.guessing.value_clues import no_classes
from toolkit.evaluation.metrics.table import tasks_judged
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.tasks import OutputPart

_SURE_KINDS, _LEAD = 2, 1.0
"""Kinds of clue that a sure guess needs, and by how much weight it must lead.

A single kind can mislead: any vector of 10 values has the shape of class scores. The lead is the weight of one ordinary
clue (a name, a usual width): a task that is ahead by less could be overtaken by a renamed output, so both are judged.
"""
_OF_READ, _OF_OTHERS = 3.0, 2.0
"""Weight of the recipe's metric as a clue for the output that it reads, and for all other outputs.

With the shape that fits (1.0), the first outweighs the clues to continuous values (3.5, see ``clue.of_values``). The
second does not: the output's own clues decide, so a mask beside boxes is still read as a mask.
"""
_SAYS_OF_ONE = frozenset({"classification", "segmentation"})
"""Tasks whose metric is no clue for outputs that it does not read: labels of classes say nothing about them, such as
the depth beside a mask, whereas a model with one continuous output is likely to have others.
"""
_DETECTION_WORDS = frozenset({"box", "boxes", "bbox", "bboxes", "det", "dets", "detection", "detections", "nms"})
_DETECTION_OPS = frozenset({"NonMaxSuppression", "EfficientNMS_TRT", "BatchedNMS_TRT", "NMSRotated"})
STRICTEST = ("detection", "sequence", "ctc", "generation", "classification", "segmentation", "regression", "embedding")
"""Order of tied tasks: the one whose comparison is strictest comes first and names the output's task."""


@dataclass
class Guess:
    """The guessed task of a model and how each of its outputs is judged.

    Attributes:
        task: the task of the main output.
        sure: whether at least two kinds of clue support the task and no other task comes close.
        parts: the judged parts of each output.
        clues: the clues that support the task.
        others: tasks that fit about as well; the main output is judged by them too.
    """

    task: str
    sure: bool
    parts: list[OutputPart] = field(default_factory=list)
    clues: list[Finding] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def finding(self) -> Finding:
        """The guess with its clues, as a finding for the report."""
        return EvaluationCode.TASK_GUESSED(
            task=self.task,
            sure=self.sure,
            clues=self.clues,
            others=self.others,
            outputs=outputs_judged_as(self.task, self.parts),
        )


def outputs_judged_as(task: str, parts: Sequence[OutputPart]) -> list[str]:
    """Names of the outputs that have a part judged by a task, without duplicates, in the order of the parts."""
    return list(dict.fromkeys(name for part in parts if part.task == task for name in part.outputs))


def guess(
    seen: SeenModel, metric_task: str = "", output: str | None = None, judged_already: Sequence[OutputPart] = ()
) -> Guess:
    """Guess the model's task and how each output is judged.

    Args:
        seen: the model with its outputs for a few samples.
        metric_task: the task of the recipe's metric; empty if there is no metric.
        output: the output that the metric reads; None for the first output that it can read.
        judged_already: parts whose outputs are not judged again. They still serve as clues for other outputs, and the
            metric reads the first of their outputs that has its task.
    """
    given = {name for part in judged_already for name in part.outputs}
    left = replace(seen, outputs=[one for one in seen.outputs if one.name not in given]) if given else seen
    detected = detection_part(left) if metric_task in ("", "detection") else None
    parts: list[OutputPart] = []
    guesses: list[Guess] = []
    of_read: list[Guess] = []
    if detected is not None:
        clues = _detection_clues(seen, detected, metric_task)
        parts.append(detected)
        guesses.append(Guess("detection", len({one.values["kind"] for one in clues}) >= _SURE_KINDS, clues=clues))
    taken = given | (set(detected.outputs) if detected is not None else set())
    boxes = [part for part in (*judged_already, detected) if part is not None and part.task == "detection"]
    reads = output or _first_read(seen, metric_task, taken, judged_already)
    for one in seen.outputs:
        if one.name in taken or not one.samples:
            continue
        if one.name in seen.states and one.name != output:
            # a state is only an input of the next step, so its values are compared, not its argmax
            parts += parts_for("regression", one, seen)
            continue
        named = metric_task if one.name == reads or metric_task not in _SAYS_OF_ONE else ""
        said = _OF_READ if one.name == reads else _OF_OTHERS
        own = _of_output(one, seen, named, _beside_boxes(one, seen, boxes), said)
        for task in (own.task, *own.others):
            parts += parts_for(task, one, seen)
        guesses.append(own)
        of_read += [own] if one.name == reads else []
    parts = with_other_towers(parts, seen)
    if not guesses:
        return Guess("regression", False, parts)
    # the metric's task is the model's; without one it is that of the first output: exporters put the main output first
    main = next((each for each in (*of_read, *guesses) if each.task in tasks_judged(metric_task)), guesses[0])
    return replace(main, parts=parts)


def _first_read(seen: SeenModel, metric_task: str, taken: set[str], judged_already: Sequence[OutputPart]) -> str | None:
    """The output that the metric reads if the recipe names none: the first that is judged by its task, or else fits."""
    tasks = tasks_judged(metric_task)
    read = [name for part in judged_already if part.task in tasks for name in part.outputs]
    likely = (one for one in seen.outputs if one.samples and one.name not in taken and one.name not in seen.states)
    return next(iter(read), None) or next((one.name for one in likely if tasks & set(fitting(one))), None)


def _beside_boxes(output: SeenOutput, seen: SeenModel, parts: Sequence[OutputPart]) -> list[Clue]:
    """Clues that an output holds one vector of values for each of a detector's boxes, such as mask coefficients."""
    by_name = {one.name: one for one in seen.outputs}
    named = [by_name[part.outputs[0]] for part in parts]
    if output.discrete or len(output.shape) != 2 or output.ops & SHARES:
        return []
    return of_values("beside boxes", 2.5) if any(one.shape[:-1] == output.shape[:-1] for one in named) else []


def _of_output(output: SeenOutput, seen: SeenModel, metric_task: str, more: Sequence[Clue], said: float) -> Guess:
    """The guess for one output, without its parts.

    Args:
        seen: the model that it belongs to.
        metric_task: the task of the recipe's metric; empty if it is no clue for this output.
        more: clues in addition to those of ``clues_to``.
        said: the weight of the metric as a clue.
    """
    if output.empty:
        return Guess("regression", False)
    found: dict[str, list[Clue]] = defaultdict(list)
    for clue in (*clues_to(output, seen), *more):
        found[clue.task].append(clue)
    if metric_task == "classification" and metric_task not in fitting(output):
        # metrics of classification also apply to classes per position
        metric_task = "sequence"
    if metric_task in fitting(output):
        found[metric_task] += [Clue(metric_task, "metric", said), Clue(metric_task, "shape", 1.0, "fits")]
    found = {task: clues for task, clues in found.items() if task in fitting(output)}
    if not found:
        return Guess("regression", False)
    weight = {task: sum(clue.weight for clue in clues) for task, clues in found.items()}
    best = max(weight.values())
    tied = sorted((task for task in weight if weight[task] > best - _LEAD), key=STRICTEST.index)
    kinds = {clue.kind for clue in found[tied[0]]}
    sure = len(tied) == 1 and len(kinds) >= _SURE_KINDS
    # a CTC transcript is derived from the label of each position: if all labels are unchanged, so is the transcript
    others = [task for task in tied[1:] if (tied[0], task) != ("sequence", "ctc")]
    told = [
        EvaluationCode.TASK_CLUE(kind=clue.kind, what=clue.what, output=output.name, value=clue.value)
        for clue in found[tied[0]]
    ]
    return Guess(tied[0], sure, clues=told, others=others)


def fitting(output: SeenOutput) -> tuple[str, ...]:
    """The tasks that are possible for an output by its shape and dtype."""
    shape = output.shape
    wide = [extent for extent in shape if extent > 1]
    if output.discrete:
        places = ("sequence", "segmentation", "generation") if len(wide) <= 2 else ("segmentation",)
        chosen = places if wide else ("classification",)
        return (*chosen, "regression") if no_classes(output) else chosen
    if output.ops == {"TopK"}:
        # TopK sorts its values, so the argmax is always 0; the classes are in its indices output
        return ("regression", "embedding")
    if len(wide) <= 1 and len(shape) <= 1:
        per_position = bool(shape) and output.in_stretches(-1)
        return ("classification", "embedding", "regression", *(("segmentation",) if per_position else ()))
    if len(shape) == 2:
        rows = ("sequence", "ctc", "generation", "embedding", "regression", "segmentation")
        return rows if len(wide) > 1 else (*rows, "classification")
    if len(wide) <= 1:
        return ("classification", "embedding", "regression", "segmentation")
    return ("segmentation", "regression", "embedding", "generation")


def _detection_clues(seen: SeenModel, part: OutputPart, metric_task: str) -> list[Finding]:
    clue = EvaluationCode.TASK_CLUE
    found = [clue(kind="values", what=part.settings["layout"], output=part.outputs[0], value=None)]
    found += [clue(kind="operator", what=op, output="", value=None) for op in sorted(seen.ops & _DETECTION_OPS)]
    words = {word for one in seen.outputs if one.name in part.outputs for word in one.words}
    found += [clue(kind="name", what=word, output="", value=None) for word in sorted(words & _DETECTION_WORDS)]
    if part.settings["layout"] == "joint" or len(part.outputs) > 1:
        found.append(clue(kind="shape", what="anchors", output=part.outputs[0], value=None))
    if metric_task:
        found.append(clue(kind="metric", what="", output="", value=None))
    return found
