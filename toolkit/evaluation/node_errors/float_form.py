"""Chooses the float model that node errors are measured against.

A pass such as smooth, equalize or shift computes the same function with rescaled or shifted inner tensors, which would
look wrong compared with the source model's tensors of the same names. The float form of the prepared model, with its
pairs bypassed, has the same scales; it is used if its outputs equal the source model's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.difference import Difference
from toolkit.graph.model import Model
from toolkit.graph.sessions.ort_session import cause_of
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import Session, session

if TYPE_CHECKING:
    from toolkit.data.dataset import Batch, CalibrationData

SAME_DB = 60.0
"""From this SQNR on, two float models count as the same function, apart from rounding."""
_FIT_DB = 12.0
"""A tensor counts as rescaled if a linear fit per channel reduces its error from the source's by this much: to a
quarter.
"""
_FEW, _LEAST = 8, 6
"""Number of samples for finding rescaled tensors, and the least values per channel for a meaningful fit."""


def node_reference(
    source: Model, plain: Model, loaded: Session, data: CalibrationData, samples: int
) -> tuple[Model, set[str], list[Finding]]:
    """The model to compare the nodes of a quantized model with.

    Args:
        source: the float model that the recipe started from.
        plain: the float form of the model after the passes.
        loaded: the source's session.
        samples: number of samples, spread over all, to compare the outputs on.

    Returns:
        The model to compare with, the names of its inner tensors to leave out since a pass rescaled or shifted them,
        and notes. The model is ``plain`` if its graph differs from the source's but its outputs are equal, else
        ``source``.
    """
    if plain.fingerprint() == source.fingerprint():
        return source, set(), []
    few, facts = data.spread(samples), source.facts()
    outputs = [name for name in loaded.outputs if facts.is_float(name)]
    try:
        level = _level(loaded, plain, outputs, few.batches(1))
        if level >= SAME_DB:
            return plain, set(), []
        rescaled = _rescaled(source, plain, data.spread(_FEW).batches(1))
    except ModelError as error:
        return source, set(), [EvaluationCode.FLOAT_FORM_NOT_RUN(why=cause_of(error))]
    notes = [EvaluationCode.RESCALED_TENSORS_LEFT_OUT(sqnr_db=level, tensors=sorted(rescaled))] if rescaled else []
    return source, rescaled, notes


def _level(loaded: Session, plain: Model, outputs: list[str], batches: Iterable[Batch]) -> float:
    """SQNR in dB of the worst float output; infinite if all are equal, minus infinity if NaN occurred."""
    other = session(plain, outputs=outputs)
    found = {name: Difference() for name in outputs}
    for part in batches:
        wanted, given = loaded.run(part.inputs, outputs), other.run(part.inputs)
        for name, difference in found.items():
            if wanted[name].shape != given[name].shape:
                return -np.inf
            difference.add(wanted[name], given[name])
    levels = []
    for difference in found.values():
        level = np.inf if difference.noise == 0 else difference.sqnr_db
        levels.append(-np.inf if difference.broken or level is None else level)
    return float(min(levels, default=np.inf))


def _rescaled(source: Model, plain: Model, batches: Iterable[Batch]) -> set[str]:
    """The common inner tensors that are much closer to the source's after a linear fit per channel."""
    known = {tensor.name for node in plain.nodes for tensor in node.outputs} - not_run(source).tensors.keys()
    known -= {tensor.name for tensor in source.graph.outputs}
    facts = source.facts()
    names = sorted({t.name for n in source.nodes for t in n.outputs if t.name in known and facts.is_float(t.name)})
    a, b = (session(model, outputs=names) for model in (source, plain))
    fits: dict[tuple[str, int], _Fit] = {}
    for part in batches:
        wanted, given = a.run(part.inputs), b.run(part.inputs)
        for name in names:
            if wanted[name].shape == given[name].shape and wanted[name].ndim > 1:
                for axis in {1, wanted[name].ndim - 1}:
                    fits.setdefault((name, axis), _Fit()).add(wanted[name], given[name], axis)
    return {name for (name, _), fit in fits.items() if fit.rescaled}


class _Fit:
    """A linear least-squares fit per channel between two tensors, collected batch by batch.

    Attributes:
        count: number of values per channel.
        sums: sums of x, y, x * x, x * y and y * y, with x the source's values, float64 [5, channels]; None at first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: Array | None = None

    def add(self, wanted: Array, given: Array, axis: int) -> None:
        """Add a batch of both tensors, with channels along ``axis``."""
        if not wanted.size:
            return
        x, y = (np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
                for values in (wanted, given))  # fmt: skip
        # masks of -inf are of no use for the fit
        x, y = (np.where(np.isfinite(x) & np.isfinite(y), values, 0.0) for values in (x, y))
        new = np.stack([x.sum(1), y.sum(1), (x * x).sum(1), (x * y).sum(1), (y * y).sum(1)])
        if self.sums is None or self.sums.shape == new.shape:
            self.sums = new if self.sums is None else self.sums + new
            self.count += x.shape[1]

    @property
    def rescaled(self) -> bool:
        """Whether the fits explain most of a difference that exceeds rounding."""
        if self.sums is None or self.count < _LEAST:
            return False
        x, y, xx, xy, yy = self.sums
        signal, noise = xx.sum(), max((xx - 2 * xy + yy).sum(), 0.0)
        own, both, other = xx - x * x / self.count, xy - x * y / self.count, yy - y * y / self.count
        slope = np.divide(both, own, out=np.zeros_like(own), where=own > 1e-12 * xx)
        # unbiased: fitting two numbers per channel also reduces noise that is not linear
        left = np.maximum(other - slope * both, 0.0).sum() * self.count / (self.count - 2)
        return bool(noise > signal * 10 ** (-SAME_DB / 10) and left < noise * 10 ** (-_FIT_DB / 10))
