"""Whether a helper pass is kept: only if it improves the reported figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from toolkit.base.decibels import decibels
from toolkit.base.errors import QtoolError, RangesError
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.contract.installed import installed_for
from toolkit.contract.ranges import Ranges
from toolkit.contract.roles import Role
from toolkit.graph.model import Model
from toolkit.graph.sessions.measured import squashed_by
from toolkit.graph.sessions.session import session

LEAST_DB = 0.1
"""The smallest gain: the reported figure has one decimal and must visibly rise."""
SAMPLES = 64
_BATCH = 8


@dataclass(frozen=True)
class Effect:
    """The effect of a helper pass on the SQNR of the worst output relative to the float model, in dB.

    Attributes:
        before_db: without the pass.
        after_db: with it.
        quantized: the type that all layers are quantized to for the measurement; empty if the model has Q/DQ pairs,
            with which it is measured as it is.
        before_share: share of answers that match the float model's without the pass, for the worst part that the task
            judges; None without a task.
        after_share: with it.
        samples: how many samples it was measured on.
        output: the worst output with the pass.
        squashed_by: the operator that maps it to a fixed range, such as Softmax; empty without one.
    """

    before_db: float
    after_db: float
    quantized: str = ""
    before_share: float | None = None
    after_share: float | None = None
    samples: int = 0
    output: str = ""
    squashed_by: str | None = None

    @property
    def helps(self) -> bool:
        """Whether the pass gains at least ``LEAST_DB``; NaN is no gain."""
        return self.after_db >= self.before_db + LEAST_DB and self.after_db > self.before_db


class HelperTrial:
    """The model and the context as they were before a helper pass, to be restored if it does not help.

    Args:
        model: the current model, before the pass.
        insist: keep the pass in any case.
        settings: those of the quantizing pass with which the effect is measured.
    """

    def __init__(
        self, model: Model, context: Context, insist: bool, settings: Mapping[str, object] | None = None
    ) -> None:
        self.before, self.insist, self.settings = model.copy(), insist, dict(settings or {})
        self.plan, self.ranges = context.plan.copy(), _copied(context.known_ranges)
        self.events = len(context.journal.events)

    def settle(self, by: str, model: Model, context: Context) -> None:
        """Keep or undo the pass's changes; the journal gets the figures with and without it, and the decision."""
        if model.fingerprint() == self.before.fingerprint():
            return
        journal = context.journal
        effect = effect_of(self.before, model, context, self.ranges, self.settings)
        if effect is None:
            # given ranges are for the original model
            known = context.provider is not None or (self.ranges is not None and bool(self.ranges.tensors))
            if known and not self.insist:
                self._undo(model, context, Code.GAIN_UNKNOWN(by=by))
                journal.noted(Code.HELPER_UNMEASURED(by=by))
            return
        applied = effect.helps or self.insist
        shown = {"by": by, **{key: value for key, value in asdict(effect).items() if value is not None}}
        if not applied:
            self._undo(model, context, Code.NO_GAIN(**shown))
        journal.noted(Code.EFFECT(**shown, applied=applied, helps=effect.helps))

    def _undo(self, model: Model, context: Context, why: Any) -> None:
        journal = context.journal
        said, journal.events[self.events :] = journal.events[self.events :], []
        model.become(self.before)
        context.plan, context.known_ranges = self.plan, self.ranges
        nodes = dict.fromkeys(event.node for event in said if event.kind == "changed")
        journal.events += [event for event in said if event.kind != "changed"]
        for node in nodes:
            journal.declined(node, why)


def effect_of(
    before: Model,
    after: Model,
    context: Context,
    known: Ranges | None = None,
    settings: Mapping[str, object] | None = None,
) -> Effect | None:
    """The effect of a change to a model, on at most 64 calibration samples.

    A float model is measured with the pairs that the installed pass of role ``QUANTIZE`` inserts by default. Both are
    compared with the float outputs of ``before``, so that a pass that changes the function is detected.

    Args:
        before: the model without the helper pass.
        context: for samples and ranges.
        known: the ranges known for ``before``; those of ``after`` are in ``context``.
        settings: those of the pass that quantizes.

    Returns:
        None if nothing can be measured: there are no samples, or nothing is quantized.

    Raises:
        ModelError: onnxruntime cannot run one of them.
    """
    try:
        data = context.calibration_samples()
    except RangesError:
        return None
    if any(node.op == "DequantizeLinear" for node, _ in before.walk()):
        reference = _stripped(before)
        return _measured(reference, (before, after), data, context) if reference is not None else None
    kinds = installed_for(Role.QUANTIZE)
    if not kinds:
        return None
    quantize = kinds[0][1](**(settings or {}))
    quantized = []
    for model, ranges in ((before, known), (after, context.known_ranges)):
        apart = replace(context.fork(), known_ranges=_copied(ranges))
        wanted = quantize.ranges_wanted(model.copy(), apart)
        if not wanted and quantize.precision.ranged:
            return None
        # pairs of the original model: its statistics may have been collected already
        apart.ranges(model, wanted or [], quantize.precision)
        trial = model.copy()
        quantize(trial, apart)
        quantized.append(trial)
    return _measured(before, quantized, data, context, str(Precision(quantize.dtype)))


def _stripped(model: Model) -> Model | None:
    """The model without its pairs, by the installed pass of role ``STRIP``; None if there is none."""
    for _, strip in installed_for(Role.STRIP)[:1]:
        plain = model.copy()
        try:
            strip()(plain, Context(dry_run=True))
        except QtoolError:
            return None
        return plain
    return None


def _measured(reference: Model, models: Sequence[Model], data: Any, context: Context, quantized: str = "") -> Effect:
    """The worst output of two models relative to a third, and the unchanged answers, if a task defines them."""
    float_one = session(reference)
    both = [session(model, float_one.outputs) for model in models]
    answers = context.evaluation.answers if context.evaluation is not None else None
    answers = answers.within(float_one.outputs) if answers is not None else None
    sums: list[dict[str, tuple[float, float]]] = [{}, {}]
    read: list[list[Any]] = [[], []]
    seen = 0
    for batch in data.batches(_BATCH):
        wanted = float_one.run(batch.inputs)
        for one, own, rows in zip(both, sums, read):
            found = one.run(batch.inputs)
            pair = answers.side_by_side(wanted, found) if answers is not None else (wanted, found)
            for name, value in pair[1].items():
                noise, signal = _difference(pair[0][name], value)
                was = own.get(name, (0.0, 0.0))
                own[name] = was[0] + noise, was[1] + signal
            if answers is not None:
                rows.append(answers.rows(wanted, found, batch.inputs))
        seen += batch.count
        if seen >= SAMPLES:
            break
    known = [{name: decibels(signal, noise) for name, (noise, signal) in own.items()} for own in sums]
    levels = [min(own.values(), default=math.nan) for own in known]
    worst = min(known[1], key=known[1].__getitem__, default="")
    shares: list[float | None] = [None, None]
    if answers is not None and seen:
        shares = [min(tally.share for tally in answers.tallies(rows)) for rows in read]
    return Effect(
        levels[0], levels[1], quantized, shares[0], shares[1], seen, worst, squashed_by(reference, worst) or None
    )


def _difference(wanted: Array, found: Array) -> tuple[float, float]:
    """Noise and signal power of an output; for non-floats the number of elements that differ, and of all elements."""
    if wanted.shape != found.shape:
        return math.inf, 1.0
    if wanted.dtype.kind not in "fV":
        return float(np.count_nonzero(wanted != found)), float(wanted.size)
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    noise = float(((a[finite] - b[finite]) ** 2).sum()) if np.isfinite(b[finite]).all() else math.inf
    return noise, float((a[finite] ** 2).sum())


def _copied(ranges: Ranges | None) -> Ranges | None:
    return replace(ranges, tensors=dict(ranges.tensors)) if ranges is not None else None
