"""The options of a metric, from the way its output is read for the task."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolkit.evaluation.metric import MetricOptions
from toolkit.evaluation.metrics.table import task_of
from toolkit.evaluation.numerics.boxes import boxes_known
from toolkit.evaluation.tasks import OutputPart, scales_of


def options_for(
    metric: str | None,
    output: str | None,
    parts: Sequence[OutputPart],
    blank: int | None = None,
    space: int | None = None,
    threshold: float | None = None,
) -> MetricOptions:
    """The options of a metric.

    Args:
        metric: the metric's name.
        output: the output for the metric; None for the first.
        parts: the parts of the outputs, with their tasks.
        blank: CTC's blank class; None for that of the part.
        space: the class that separates words.
        threshold: the score above which a label is set or a pixel is in the mask; None for the part's, for labels.
    """
    task = task_of(metric)
    # metrics of classification also apply to positions
    alike = (task, "sequence") if task == "classification" else (task,)
    own = [part for part in parts if output is None or output in part.outputs]
    fitting = [part for part in own if part.task in alike]
    # a part of two towers has the other tower's output second
    chosen = next((part for part in fitting if output in (None, part.outputs[0])), next(iter(fitting), None))
    detectors = [part for part in parts if part.task == "detection"]
    boxes = next((part for part in detectors if boxes_known(part.settings)), next(iter(detectors), None))
    settings = dict(chosen.settings) if chosen is not None else {}
    known = blank if blank is not None else int(settings.get("blank", 0))
    layout = json.dumps(boxes.to_json()) if boxes is not None else None
    name = output if output is not None or chosen is None else chosen.outputs[0]
    # a mask's threshold may have been chosen to compare two models
    limit = settings.get("threshold") if threshold is None and task == "classification" else threshold
    axis, lengths = settings.get("axis"), settings.get("lengths")
    towers = chosen.outputs if chosen is not None and task == "embedding" else ()
    among = next((one for one in towers if one != name), None)
    scales = scales_of(parts)
    return MetricOptions(name, known, space, layout, settings.get("batch_axis", 0), axis, limit, lengths, among, scales)
