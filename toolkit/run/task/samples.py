"""Check of the evaluation samples before anything is built."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.base.code import failure_of
from toolkit.base.errors import FAILURES, DataError, ModelError, QtoolError
from toolkit.base.given import shown
from toolkit.base.reads import needs_now
from toolkit.base.types import Array
from toolkit.base.versions import code_fingerprint
from toolkit.run.inputs.batches import batches_run
from toolkit.run.keys.keys import evaluation_key
from toolkit.run.keys.user_code import measuring_uses_own_code

if TYPE_CHECKING:
    from toolkit.data.dataset import Batch, CalibrationData
    from toolkit.graph.sessions.session import Session
    from toolkit.run.inputs.inputs import Inputs

_DONE = "samples"


def first_samples_fit(inputs: Inputs) -> None:
    """Check the first batch of evaluation samples, and run one sample through the float model and the metric.

    A completed check is stored in the run folder, and not repeated until model, samples, settings or code change.

    Raises:
        DataError: samples or labels do not fit the model or the metric.
        ModelError: onnxruntime cannot run the model.
    """
    key = {"model": inputs.prints.of_model(), "code": code_fingerprint(), **evaluation_key(inputs)}
    if inputs.job.folder.find(_DONE, key)[0]:
        return
    data, _ = inputs.evaluation_data(inputs.source())
    if data is not None:
        fit(inputs, data, inputs.job.recipe.evaluation.batch)
    inputs.job.folder.store(_DONE, key, [], needs=needs_now() if measuring_uses_own_code(inputs.job) else None)


def sample_counts(data: CalibrationData | None) -> dict[str, Any]:
    """The number of samples, in total, per profile, and outside all profiles; empty if there is no data."""
    if data is None:
        return {}
    counts = data.counts
    return {"samples": counts.samples, "profiles": counts.per_profile, "skipped": counts.skipped, "cut": counts.cut}


def fit(inputs: Inputs, data: CalibrationData, count: int | None = None) -> None:
    """Check ``count`` evaluation samples (all if None), and run the first one.

    Raises:
        DataError: samples or labels do not fit the model or the metric.
        ModelError: onnxruntime cannot run the model.
        RecipeError: a profile allows batches that the model cannot compute.
    """
    from toolkit.evaluation.metric import are_shares, by_sample, check_labels, label_of

    classes, axis = _first(inputs, data)
    for sample in islice(data.samples(), count):
        if classes:
            try:
                label = by_sample(label_of(sample.labels), axis)
                if not are_shares(label):
                    check_labels(label, classes)
            except DataError as error:
                error.at(sample.origin)
                raise


def _first(inputs: Inputs, data: CalibrationData) -> tuple[int, int | None]:
    """Run the first sample; returns the number of classes of its label (0 if none), and the output's batch axis."""
    from toolkit.evaluation.comparison.outputs import metric_computable
    from toolkit.evaluation.metrics.by_name import make_metric
    from toolkit.graph.sessions.session import own_session
    from toolkit.run.task.task import look, metric_options

    section = inputs.job.recipe.evaluation
    # a user's metric may need as many samples as the evaluation passes to it at once
    batch = next(iter(data.batches(section.batch if ":" in (section.metric or "") else 1)), None)
    if batch is None:
        raise data.no_samples_error()
    loaded = own_session(inputs.source())
    batches_run(inputs, data, loaded)
    outputs = float_outputs(inputs, batch, loaded)
    lacking = [t.name for t in inputs.source().graph.outputs if t.name not in outputs]
    if section.metric is None or not metric_computable(section.output, lacking):
        return 0, 0
    options = metric_options(section, look(inputs).record) if ":" not in section.metric else None
    metric = make_metric(section.metric, section.output, inputs.job.allow_code, options)
    try:
        metric.update(outputs, batch.labels or {})
    except QtoolError as error:
        error.at(batch.origins[0])
        raise
    except FAILURES as error:
        raise DataError(
            f"the metric '{shown(section.metric)}' failed on the first sample: {failure_of(error)}",
            where=inputs.job.recipe.locate("evaluation", "metric"),
            remedy="fix the metric, or the labels that it reads",
        ) from error
    return int(getattr(metric, "classes", 0)), options.batch_axis if options is not None else 0


def float_outputs(inputs: Inputs, batch: Batch, loaded: Session) -> dict[str, Array]:
    """The float model's outputs for a batch, by name, floats in float32.

    Args:
        batch: a batch of the evaluation's samples.
        loaded: the float model's session.

    Raises:
        ModelError: onnxruntime cannot run the model, or an output has only NaN and infinities, which would compare as
            equal to anything.
    """
    from toolkit.data.faults import run_samples
    from toolkit.evaluation.comparison.outputs import widened

    outputs = {name: widened(value) for name, value in run_samples(batch, loaded.run).items()}
    for name, value in outputs.items():
        if value.dtype.kind == "f" and value.size and not np.isfinite(value).any():
            raise ModelError(
                f"output '{name}' of the float model has no finite value on {batch.origins[0]} "
                f"({value.reshape(-1)[0]:g})",
                where=str(inputs.job.model_path),
                remedy="fix the model or the sample: nothing can be compared with it",
            )
    return outputs
