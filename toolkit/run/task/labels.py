"""Labels that a recipe does not use or cannot use; reported when a recipe is written, checked and run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from toolkit.base.errors import DataError, RecipeError
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.labels.label_choice import labelled_output, measured_fits
from toolkit.evaluation.labels.label_fit import FittingMetric, fitting_metrics, out_of_range_label
from toolkit.evaluation.metric import UNLABELLED
from toolkit.evaluation.observation.observed import SeenModel

if TYPE_CHECKING:
    from toolkit.data.sample import Sample


def unfit(labels: Sequence[Array], seen: SeenModel | None) -> Finding:
    """The finding that no built-in metric fits the labels, given as one array per sample."""
    numbers = [one for one in labels if one.dtype.kind in "biuf"]
    flat = np.concatenate([one[np.isfinite(one)] for one in numbers] or [np.zeros(0)])
    known = {one.name: list(one.shape) for one in seen.outputs if one.samples} if seen is not None else {}
    whole, short, metric = _nearest_form(labels, seen) if seen is not None else (False, False, "")
    return EvaluationCode.LABELS_FIT_NOTHING(
        shape=list(labels[0].shape) if labels else [], dtype=labels[0].dtype.name if labels else "",
        low=flat.min() if flat.size else None, high=flat.max() if flat.size else None,
        outputs=list(known), shapes=list(known.values()), broken=sum(not np.isfinite(one).all() for one in numbers),
        whole=whole, short=short, metric=metric,
    )  # fmt: skip


def _nearest_form(labels: Sequence[Array], seen: SeenModel) -> tuple[bool, bool, str]:
    """Whether labels would fit a metric as integers, without a last axis of 1, or both; and that metric, else ""."""
    floats = bool(labels) and all(one.dtype.kind == "f" and (one == np.rint(one)).all() for one in labels)
    longer = bool(labels) and all(one.ndim > 1 and one.shape[-1] == 1 for one in labels)
    for whole, short in ((floats, False), (False, longer), (floats and longer, longer)):
        if whole or short:
            given = [one.astype(np.int64) if whole else one for one in labels]
            fits = fitting_metrics(seen, guess(seen), [one[..., 0] if short else one for one in given])
            if fits:
                return whole, short, fits[0].metric
    return False, False, ""


def all_finite(label: Array) -> bool:
    """Whether a label has neither NaN nor infinity; always true for types other than float."""
    return label.dtype.kind != "f" or bool(np.isfinite(label).all())


def not_finite(labels: Sequence[Array], samples: Sequence[Sample], seen: SeenModel) -> Finding | None:
    """The finding that a label is NaN or infinite, with its place and a metric that fits the others; None if none is.

    Args:
        labels: one array per sample.
        samples: the samples themselves.
        seen: the model with its outputs for a few samples.
    """
    broken = [not all_finite(one) for one in labels]
    if not any(broken):
        return None
    first = broken.index(True)
    wrong = [~np.isfinite(one) for one, bad in zip(labels, broken) if bad]
    others = [one for one, bad in zip(labels, broken) if not bad]
    fits = fitting_metrics(seen, guess(seen), others) if others else []
    at = [int(place) for place in np.argwhere(wrong[0])[0]]
    return EvaluationCode.LABEL_NOT_FINITE(
        origin=samples[first].origin, at=at, value=float(labels[first][tuple(at)]),
        values=sum(int(one.sum()) for one in wrong), samples=len(wrong),
        metric=fits[0].metric if fits else "", output=fits[0].output if fits else "",
    )  # fmt: skip


def refuse_stray(labels: Sequence[Array], samples: Sequence[Sample], seen: SeenModel) -> None:
    """Check that labels with the layout of class numbers are valid classes of the output.

    Raises:
        DataError: one is not.
    """
    found = out_of_range_label(seen, guess(seen), labels)
    if found is None:
        return
    cure = f"subtract {found.low} from every label" if found.from_another_start else "number the classes from 0"
    if found.value < 0 and labels[found.index].ndim:
        cure = f"{cure}, write {UNLABELLED} where a position has no label"
    raise DataError(
        f"the label {found.value} is not a class of output '{found.output}', whose {found.classes} classes are 0 to "
        f"{found.classes - 1}; labels reach from {found.low} to {found.high}",
        where=samples[found.index].origin,
        remedy=f"{cure}, or name a metric that reads such labels",
    )


def _fitting(
    fits: Sequence[FittingMetric],
    seen: SeenModel,
    answers: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]],
) -> Finding:
    best = fits[0]
    if len({one.output for one in fits}) > 1:
        # a failure is reported with its reason when that metric is requested
        with suppress(DataError, RecipeError):
            best = labelled_output(measured_fits(fits, seen, answers))[0].fit
    return EvaluationCode.LABELS_UNUSED(metric=best.metric, output=best.output)


def unused(
    labels: Sequence[Array],
    samples: Sequence[Sample],
    seen: SeenModel,
    answers: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]],
) -> Finding:
    """A possible use of labels that no metric reads, or why there is none.

    Args:
        labels: one array per sample.
        samples: the samples themselves.
        seen: the model with its outputs for a few samples.
        answers: the float model's outputs and the labels, read only if several outputs fit the labels.
    """
    broken = not_finite(labels, samples, seen)
    if broken is not None:
        return broken
    fits = fitting_metrics(seen, guess(seen), labels)
    if fits:
        return _fitting(fits, seen, answers)
    found = out_of_range_label(seen, guess(seen), labels)
    if found is None:
        return unfit(labels, seen)
    return EvaluationCode.LABEL_OUT_OF_RANGE(
        origin=samples[found.index].origin, value=found.value, output=found.output, classes=found.classes,
        low=found.low, high=found.high, shifted=found.from_another_start,
    )  # fmt: skip
