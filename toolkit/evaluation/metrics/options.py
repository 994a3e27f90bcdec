"""What a metric must know about its output, from how that is read for its task."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolkit.evaluation.metric import MetricOptions
from toolkit.evaluation.metrics.table import task_of
from toolkit.evaluation.tasks import OutputPart


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
        metric: its name.
        output: the output that it looks at; the first where None.
        parts: how the outputs are read.
        blank: CTC's blank class; that of the part where None.
        space: the class that parts words.
        threshold: the score above which a label holds or a place is in the mask; for labels the part's where None.
    """
    task = task_of(metric)
    # metrics over positions belong to classification too
    alike = (task, "sequence") if task == "classification" else (task,)
    own = [part for part in parts if output is None or output in part.outputs]
    chosen = next((part for part in own if part.task in alike), None)
    boxes = next((part for part in parts if part.task == "detection" and part.settings["layout"] != "indices"), None)
    settings = dict(chosen.settings) if chosen is not None else {}
    known = blank if blank is not None else int(settings.get("blank", 0))
    layout = json.dumps(boxes.to_json()) if boxes is not None else None
    name = output if output is not None or chosen is None else chosen.outputs[0]
    # the threshold of a mask may have been chosen for comparing two models
    limit = settings.get("threshold") if threshold is None and task == "classification" else threshold
    axis, lengths = settings.get("axis"), settings.get("lengths")
    return MetricOptions(name, known, space, layout, settings.get("batch_axis", 0), axis, limit, lengths)
