"""The effect of quantization on a model's outputs: noise, agreement, divergence and expected argmax changes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from toolkit.base.decibels import decibels
from toolkit.base.types import Array
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.metric import are_shares
from toolkit.evaluation.metrics.table import LabelFigures
from toolkit.evaluation.numerics.difference import Difference, is_float, positions_on, same_argmax
from toolkit.evaluation.numerics.divergence import divergence
from toolkit.evaluation.numerics.resampling import MetricScore
from toolkit.evaluation.tasks import SET_TASKS, AnswerTally, Rows, chooses_class
from toolkit.evaluation.tasks.chance import expected_flips, gaps_and_errors, unmasked

_AT_ONCE = 1 << 16
"""The most scores to process at a time, so that intermediate results stay in a core's cache."""


@dataclass(frozen=True)
class Outcome:
    """The outputs of a quantized model compared with the float model's, over all samples.

    Attributes:
        noise: noise power over signal power of the worst output; infinite if NaN or infinity occurred. If no output
            holds floats, the share of elements that differ.
        cosine: cosine similarity of the worst output, or None.
        kl: mean Kullback-Leibler divergence KL(float || quantized) in nats, of the outputs if they are probabilities,
            else of their softmax; None if no output has classes.
        agreement: top-1 agreement with the float model of the worst output, or its share of equal elements if it holds
            no floats; None if no output has either.
        flips: expected share of positions whose argmax changes, see ``expected_flips``; None without classes.
        metric: the user's metric, or None.
        positions: number of positions behind ``agreement``.
        parts: noise over signal of each batch, in order.
        agreement_error: standard error of ``agreement`` over samples; None if not known.
        variation_db: power of the variation between samples over the noise, in dB, of the worst output among those
            compared entry by entry (see ``by_entry``); None if nothing varies or there are too few samples.
        tallies: the unchanged answers by part of the outputs, as the task reads them; empty without a task.
        metric_answers: number of answers that ``metric`` is a share of; 0 if it is not a share, or not known.
        noises: ``noise`` of each output, by name.
        metric_left_out: values of ``metric`` with one of several groups of samples left out each, see ``resampling``.
        metric_samples: number of samples with a label, see ``MetricScore.samples``.
        metric_spread: the value of ``metric`` for the best constant, see ``MetricScore.spread``.
        output: the worst output, which ``noise`` is of; empty if not known.
    """

    noise: float
    cosine: float | None = None
    kl: float | None = None
    agreement: float | None = None
    flips: float | None = None
    metric: float | None = None
    positions: int = 0
    parts: tuple[float, ...] = ()
    agreement_error: float | None = None
    variation_db: float | None = None
    tallies: tuple[AnswerTally, ...] = ()
    metric_answers: int = 0
    output: str = ""
    metric_left_out: tuple[float, ...] = ()
    metric_samples: int = 0
    metric_spread: float = 0.0
    noises: tuple[tuple[str, float], ...] = ()

    def at(self, output: str) -> float:
        """``noise`` of one output; if not known, of the worst output."""
        return next((noise for name, noise in self.noises if name == output), self.noise)

    @property
    def of_classes(self) -> bool:
        """Whether an argmax is meaningful for the outputs: the task has classes, or no task is known."""
        return not self.tallies or any(chooses_class(tally.part) for tally in self.tallies)

    @property
    def by_entry(self) -> bool:
        """Whether the worst output can be compared entry by entry: it is not a set of detections."""
        sets = {name for tally in self.tallies if tally.part.task in SET_TASKS for name in tally.part.outputs}
        return self.output not in sets

    @property
    def kept(self) -> float | None:
        """The share of unchanged answers in the worst part, 0 to 1; None without a task."""
        return min((tally.share for tally in self.tallies), default=None)

    @property
    def expected(self) -> float | None:
        """The largest expected share of changed answers of any part, 0 to 1; None if there is no expectation."""
        shares = [one.expected / one.answers for one in self.tallies if one.expected is not None and one.answers]
        return max(shares, default=None)

    @property
    def standard_error(self) -> float:
        """The standard error of the argmax agreement; 0 if there is none."""
        if self.agreement is None or not self.positions or not self.of_classes:
            return 0.0
        binomial = math.sqrt(self.agreement * (1 - self.agreement) / self.positions)
        # positions of one sample often change together, and then the spread between samples is larger
        return max(binomial, self.agreement_error or 0.0)

    @property
    def behind_metric(self) -> LabelFigures:
        """The arguments of ``usual_drop`` besides the metric and its value."""
        return {"samples": self.metric_samples, "answers": self.metric_answers, "spread": self.metric_spread}

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise) of the worst output in dB; infinite if nothing differs."""
        return decibels(1.0, self.noise)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for JSON, with infinities as strings."""
        # asdict copies every value: 35 ms instead of 0.8 for 300 outputs, for every layer that is measured
        content = {**vars(self), "tallies": [tally.to_json() for tally in self.tallies]}
        return {k: v if k == "tallies" else _plain(v) for k, v in content.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Outcome:
        """Read what ``to_json`` returned."""
        keys = ("cosine", "kl", "agreement", "flips", "metric", "agreement_error", "variation_db")
        values = {key: _number(content.get(key)) for key in keys}
        parts = tuple(float(part) for part in content.get("parts", ()))
        tallies = tuple(AnswerTally.from_json(one) for one in content.get("tallies", ()))
        positions, answers = int(content["positions"]), int(content.get("metric_answers", 0))
        return cls(
            float(content["noise"]), **values, positions=positions, metric_answers=answers, parts=parts,
            tallies=tallies, output=str(content.get("output", "")),
            metric_left_out=tuple(float(one) for one in content.get("metric_left_out", ())),
            metric_samples=int(content.get("metric_samples", 0)),
            metric_spread=float(content.get("metric_spread", 0.0)),
            noises=tuple((str(name), float(noise)) for name, noise in content.get("noises", ())),
        )  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass
class BatchOutcome:
    """The comparison of one batch.

    Attributes:
        differences: by output, signal and noise sums.
        discrete: the outputs that hold integers or the like, not floats.
        kl: Kullback-Leibler divergence in nats, summed over positions.
        positions: number of these positions.
        gaps: by output with classes, the float model's best score minus its second best, float32 [positions].
        errors: by output with classes, the variance of the scores' errors over the classes, float32 [positions].
        shares: by output with classes or integers, the share of each sample's positions that keep their argmax or
            value, float64 [batch].
        answers: the answers by part, from the task's readers.
    """

    differences: dict[str, Difference] = field(default_factory=dict)
    discrete: set[str] = field(default_factory=set)
    kl: float = 0.0
    positions: int = 0
    gaps: dict[str, Array] = field(default_factory=dict)
    errors: dict[str, Array] = field(default_factory=dict)
    shares: dict[str, Array] = field(default_factory=dict)
    answers: list[Rows] = field(default_factory=list)


def compare(
    reference: Mapping[str, Array],
    values: Mapping[str, Array],
    classes: Sequence[str],
    answers: Answers | None = None,
    inputs: Mapping[str, Array] | None = None,
) -> BatchOutcome:
    """Compare one batch of outputs with the float model's.

    An output with another shape, such as another number of detections, counts as lost entirely; rows ranked by score
    are compared as a set.

    Args:
        reference: the float model's outputs.
        values: the quantized model's outputs.
        classes: outputs whose last axis holds scores of classes.
        answers: interprets both by the task; None without a task.
        inputs: the batch's inputs, see ``Answers.rows``.
    """
    part = BatchOutcome(answers=answers.rows(reference, values, inputs) if answers is not None else [])
    if answers is not None:
        reference, values = answers.side_by_side(reference, values)
    for name, wanted in reference.items():
        found, difference = values[name], Difference()
        on = answers.entries_on(name, reference, inputs) if answers is not None else None
        part.differences[name] = difference
        if not is_float(wanted.dtype):
            part.discrete.add(name)
            if wanted.shape != found.shape:
                difference.positions += max(wanted.size, found.size)
                continue
            difference.add_equal(wanted, found, on)
            _share(part, name, np.asarray(wanted == found), on)
        elif wanted.shape != found.shape:
            difference.lose(wanted, found, max(len(wanted), len(found)) if name in classes else 0)
        else:
            difference.add(wanted, found, on=on)
            if name in classes and wanted.size > 0:
                a, b = np.asarray(wanted, np.float32), np.asarray(found, np.float32)
                same = difference.add_argmax(a, b, on)
                if not difference.broken and (answers is None or name not in answers.unscored):
                    _scores(part, name, a, b, same, None if on is None else positions_on(on, a))
    return part


def _scores(part: BatchOutcome, name: str, wanted: Array, found: Array, same: Array, on: Array | None = None) -> None:
    scores, others = unmasked(wanted, found)
    if scores is not wanted:
        wanted, found, same = scores, others, same_argmax(scores, others)
    _share(part, name, same, on)
    if on is not None:
        wanted, found = wanted[on], found[on]
    part.positions += wanted.size // wanted.shape[-1]
    rows, others = (values.reshape(-1, values.shape[-1]) for values in (wanted, found))
    at_once, told, shares = max(1, _AT_ONCE // rows.shape[1]), [], are_shares(rows)
    for begin in range(0, len(rows), at_once):
        some, other = rows[begin : begin + at_once], others[begin : begin + at_once]
        part.kl += divergence(some, other, shares)
        told.append(gaps_and_errors(some, other))
    if told:
        part.gaps[name], part.errors[name] = (np.concatenate(one) for one in zip(*told))


def _share(part: BatchOutcome, name: str, same: Array, on: Array | None = None) -> None:
    if not same.ndim or not same.size:
        return
    kept = same.reshape(len(same), -1)
    if on is None:
        part.shares[name] = kept.mean(axis=1)
        return
    counted = np.broadcast_to(on, same.shape).reshape(kept.shape)
    many = counted.sum(axis=1)
    part.shares[name] = (kept & counted).sum(axis=1)[many > 0] / many[many > 0]


def varying_shares(
    references: Sequence[Mapping[str, Array]],
    answers: Answers | None = None,
    inputs: Sequence[Mapping[str, Array]] = (),
) -> dict[str, float]:
    """By float output, the share of its power that varies between samples, if there are enough samples.

    Args:
        references: the float model's outputs, batch by batch.
        answers: as for ``compare``.
        inputs: the inputs, batch by batch.
    """
    found: dict[str, Difference] = {}
    for number, outputs in enumerate(references):
        for name, values in (outputs if answers is None else answers.floats(outputs)).items():
            if is_float(values.dtype):
                given = inputs[number] if inputs else None
                on = answers.entries_on(name, outputs, given) if answers is not None else None
                one = found.setdefault(name, Difference())
                one.add(values, values, on=on)
                one.follow(values, on)
    shares = {name: one.varying for name, one in found.items()}
    return {name: share for name, share in shares.items() if share is not None}


def summed(
    parts: Sequence[BatchOutcome],
    score: MetricScore | None = None,
    varying: Mapping[str, float] | None = None,
    answers: Answers | None = None,
) -> Outcome:
    """The outcome over all batches, added in order.

    Args:
        score: the score of the user's metric.
        varying: the result of ``varying_shares`` for the float model.
        answers: as for ``compare``.
    """
    score = score or MetricScore()
    total: dict[str, Difference] = {}
    for part in parts:
        for name, one in part.differences.items():
            total.setdefault(name, Difference()).merge(one)
    positions = sum(part.positions for part in parts)
    cosines = [d.cosine for d in total.values() if d.cosine is not None]
    discrete = {name for part in parts for name in part.discrete}
    agreement, counted = _agreement(total, discrete)
    noise, output = _noise(total, discrete)
    sets = {name for part in answers.parts if part.task in SET_TASKS for name in part.outputs} if answers else set()
    return Outcome(
        noise=noise,
        cosine=min(cosines, default=None),
        kl=max(sum(part.kl for part in parts) / positions, 0.0) if positions else None,
        agreement=agreement,
        flips=_flips(parts),
        metric=score.value,
        positions=counted,
        parts=tuple(_noise(part.differences, discrete)[0] for part in parts),
        agreement_error=_agreement_error(parts),
        variation_db=_variation_db(total, {name: share for name, share in (varying or {}).items() if name not in sets}),
        tallies=answers.tallies([part.answers for part in parts]) if answers is not None else (),
        metric_answers=score.answers,
        output=output,
        metric_left_out=score.left_out,
        metric_samples=score.samples,
        metric_spread=score.spread,
        noises=tuple(_noises(total, discrete).items()),
    )


def _agreement_error(parts: Sequence[BatchOutcome]) -> float | None:
    """Standard error of the worst output's agreement over samples, since errors within a sample are correlated."""
    names = sorted({name for part in parts for name in part.shares})
    shares = [np.concatenate([part.shares[name] for part in parts if name in part.shares]) for name in names]
    if not shares:
        return None
    worst = min(shares, key=lambda values: float(values.mean()))
    return float(worst.std(ddof=1) / math.sqrt(len(worst))) if len(worst) > 1 else None


def _variation_db(total: Mapping[str, Difference], varying: Mapping[str, float]) -> float | None:
    ratios = {name: _ratio(difference) for name, difference in total.items() if name in varying}
    found = [10 * math.log10(varying[name] / ratio) for name, ratio in ratios.items() if 0 < ratio < math.inf]
    return min(found, default=None)


def _agreement(total: Mapping[str, Difference], discrete: Collection[str]) -> tuple[float | None, int]:
    """The worst output's agreement, and its number of positions.

    Of equal shares, the one with the fewest scored positions is chosen, before those of integers, which may only be a
    shape.
    """
    found = [(d.agreement, name in discrete, -d.positions if name in discrete else d.positions)
             for name, d in total.items() if d.agreement is not None]  # fmt: skip
    share, _, positions = min(found, default=(None, False, 0))
    return share, abs(positions)


def _noise(differences: Mapping[str, Difference], discrete: Collection[str]) -> tuple[float, str]:
    """The noise of the worst output, and its name."""
    known = _noises(differences, discrete)
    worst = max(known, key=known.__getitem__, default="")
    return known.get(worst, 0.0), worst


def _noises(differences: Mapping[str, Difference], discrete: Collection[str]) -> dict[str, float]:
    """The noise of each output; integer outputs count only if no output holds floats."""
    ratios = {name: _ratio(difference) for name, difference in differences.items() if name not in discrete}
    return ratios or {name: 1.0 - d.agreement for name, d in differences.items() if d.agreement is not None}


def _ratio(difference: Difference) -> float:
    if difference.broken:
        return math.inf
    if difference.noise == 0:
        return 0.0
    return difference.noise / difference.signal if difference.signal else math.inf


def _flips(parts: Sequence[BatchOutcome]) -> float | None:
    names = {name for part in parts for name in part.gaps}
    found = [
        expected_flips(
            *(np.concatenate([getattr(p, key)[name] for p in parts if name in p.gaps]) for key in ("gaps", "errors"))
        )
        for name in sorted(names)
    ]
    return max(found, default=None)
