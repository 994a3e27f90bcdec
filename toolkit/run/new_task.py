"""The ``task`` of a new recipe: guessed on its samples, with the reason beside it and a budget in its words."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from toolkit.base.errors import ModelError
from toolkit.base.text import plain, toml_string
from toolkit.data.dataset import CalibrationData
from toolkit.data.images import holds_images
from toolkit.evaluation.guess import Guess, guess
from toolkit.evaluation.metric_table import task_of
from toolkit.evaluation.observed import observe
from toolkit.evaluation.outputs import widened
from toolkit.graph.model import Model
from toolkit.graph.sessions import session
from toolkit.report.findings import sentence
from toolkit.run.task import SEEN


def guessed(model: Model, source: Path, metric: str | None = None, output: str | None = None) -> Guess | None:
    """What a model is for, by its outputs on the first samples; None where onnxruntime cannot run it, or of images.

    Args:
        model: the float model.
        source: the samples.
        metric: the metric that the recipe names.
        output: the output that it looks at.
    """
    if holds_images(source):
        # how they become samples is a part of the recipe that is being written
        return None
    try:
        loaded = session(model)
        data = CalibrationData.open(str(source.resolve()), model)
        seen = [
            (batch.inputs, {n: widened(v).copy() for n, v in loaded.run(batch.inputs).items()}, batch.count)
            for batch in islice(data.batches(1), SEEN)
        ]
    except ModelError:
        return None
    return guess(observe(model, seen), task_of(metric), output) if seen else None


def task_lines(found: Guess | None) -> list[str]:
    """The lines that name the task and say why; where the guess is unsure, a run guesses again and says so."""
    if found is None:
        return []
    why = f"# {plain(sentence(found.finding()))}"
    named = f"task = {toml_string(found.task)}"
    return [why, named if found.sure else f"# {named}"]


def task_budget(found: Guess) -> str:
    """The task's own limit, written out so that it can be changed."""
    least = min((0.95 if part.task == "embedding" else 0.99 for part in found.parts), default=0.99)
    return f"budget = {{ min_unchanged = {least} }}"
