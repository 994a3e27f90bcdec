"""The verdict, the layers where the error arises, and the warnings, from the joined data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.evaluation.node_errors.opened_values import AS_QUANTIZED
from toolkit.evaluation.tasks import FOUND
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.device import FEW, failure, judged, on_device, worse
from toolkit.report.schema.report import (
    Accuracy,
    BackendInfo,
    DeviceInfo,
    LayerError,
    LayerInfo,
    ProfileInfo,
    RangeInfo,
    Verdict,
)
from toolkit.report.schema.task import PartFigures
from toolkit.report.sections.describe import unlike_profiles

BROKEN_AGREEMENT = 0.8
BROKEN_COSINE = 0.8
BROKEN_SQNR_DB = 3.0
BROKEN_METRIC = 0.8
DOUBTFUL_AGREEMENT = 0.95
DOUBTFUL_SQNR_DB = 10.0
CLIPPED = 0.05
BROKEN_SHARE = 0.5
BROKEN_PSNR_DB = 20.0
_BROKEN_LEVELS = {
    "positions": BROKEN_AGREEMENT, "detections": BROKEN_AGREEMENT, "iou": BROKEN_AGREEMENT, "points": BROKEN_AGREEMENT,
    "labels": BROKEN_AGREEMENT,
    "cosine_p5": BROKEN_COSINE, "psnr_db": BROKEN_PSNR_DB, "snr_db": BROKEN_SQNR_DB,
}  # fmt: skip
"""By figure (see ``AnswerTally``), the level below which changed answers count as broken: an answer with hundreds of
detections counts as changed if one of them is.
"""
LOST_DB = 6.0
"""Below this SQNR a signal counts as lost: the noise power is more than a quarter of its own."""
_CULPRIT_DROP_DB = 3.0


def verdict(accuracy: Accuracy | None, device: DeviceInfo | None = None, late: Finding | None = None) -> Verdict:
    """The verdict: usable, doubtful, missed, broken or unmeasured; the worse of the simulation's and the engine's.

    Doubtful: no limit is missed, but the samples are too few to prove it, the signal of an output or a layer is lost
        although the limits hold, or the float model itself is wrong by the labels.

    Missed: a limit of the budget is missed, or the engine takes too long (``late``, the finding of ``too_slow``).

    Broken: one of these is true, in the simulation, in the engine, or in any profile of the engine:

    - an output holds NaN or infinity;
    - the metric lost more than a fifth of its value, and no budget allowed it;
    - no metric was measured, more than half of the answers or of all detections are lost, and clearly so (detections,
      positions or masks agree by less than 80%, a cosine similarity is below 0.8, an SNR below 3 dB, or a PSNR below 20
      dB), and no other task by which the same outputs can be read finds them unchanged;
    - an output whose answers no task finds unchanged has a top-1 agreement below 80%, a cosine similarity
      below 0.8, an SQNR below 3 dB, or noise beyond the variation between samples;
    - the engine does not run on its own GPU.
    """
    found = judged_accuracy(accuracy, device)
    return "missed" if late is not None and found != "broken" else found


def judged_accuracy(accuracy: Accuracy | None, device: DeviceInfo | None) -> Verdict:
    """The verdict without the latency limit."""
    if failure(device) is not None:
        return "broken"
    found, own = _simulated(accuracy), on_device(device)
    if own is None or device is None:
        return found
    if any(breakage(one) for _, one in judged(device)):
        return "broken"
    if own.drawing:
        # the engine draws its own random numbers, so its outputs cannot be judged
        return found
    # if onnxruntime measured nothing, only the engine's results are known
    return _simulated(own) if found == "unmeasured" else worse(found, _simulated(own))


def _simulated(accuracy: Accuracy | None) -> Verdict:
    if accuracy is None or (accuracy.quantized is None and not accuracy.outputs and accuracy.met is None):
        return "unmeasured"
    if breakage(accuracy) is not None:
        return "broken"
    if accuracy.drawing:
        return "unmeasured"
    if accuracy.met is False:
        return "missed"
    if accuracy.not_compared and not accuracy.output_compared:
        return "unmeasured"
    return "doubtful" if accuracy.doubts else "usable"


def breakage(accuracy: Accuracy) -> Finding | None:
    """What is broken beyond what any budget allows; None if nothing is."""
    for name, output in accuracy.outputs.items():
        if output.incomparable:
            return ReportCode.OUTPUT_NOT_FINITE(output=name)
    if accuracy.drawing:
        return None
    before, after = accuracy.before, accuracy.quantized
    if before is not None and after is not None and accuracy.rising:
        lost = not accuracy.met and before > 0 and after < before * BROKEN_METRIC
        return ReportCode.METRIC_COLLAPSED(metric=accuracy.metric or "", before=before, after=after) if lost else None
    return _lost_answers(accuracy) or _lost_output(accuracy)


def _lost_answers(accuracy: Accuracy) -> Finding | None:
    """The first part of the outputs whose answers are clearly lost; None if there is none."""
    for part in accuracy.parts:
        missed = part.standing == "missed" and not accuracy.met
        lost = missed and (part.unchanged < BROKEN_SHARE or detections_lost(part.figure, part.level))
        if lost and _far(part) and not _else_kept(part, accuracy.parts):
            return ReportCode.ANSWERS_LOST(
                outputs=part.outputs, channels=part.channels, unchanged=part.unchanged, least=part.least,
                answers=part.answers, figure=part.figure, level=part.level,
            )  # fmt: skip
    return None


def detections_lost(figure: str, level: float | None) -> bool:
    """Whether most detections are lost; most answers can be unchanged all the same if most samples have no detections.

    Args:
        figure: the name of the figure, see ``AnswerTally``.
        level: its value.
    """
    return figure in FOUND and level is not None and level < BROKEN_SHARE


def _lost_output(accuracy: Accuracy) -> Finding | None:
    """The first output whose values are lost, of those whose answers no task finds unchanged; None if there is none."""
    answered = {name for part in accuracy.parts for name in part.outputs}
    answered -= {name for part in accuracy.parts if part.standing == "missed" for name in part.outputs}
    for name, output in accuracy.outputs.items():
        if name in answered or output.ranked:
            # without an object a detector's boxes are noise, so low levels are only doubts, see ``Accuracy.doubts``
            continue
        if not accuracy.met and output.agreement is not None and output.agreement < BROKEN_AGREEMENT:
            return ReportCode.AGREEMENT_LOW(output=name, agreement=output.agreement, discrete=output.discrete)
        if output.cosine is not None and output.cosine < BROKEN_COSINE:
            return ReportCode.COSINE_LOW(output=name, cosine=output.cosine)
        if output.sqnr_db is not None and output.sqnr_db < BROKEN_SQNR_DB:
            return ReportCode.SQNR_LOW(output=name, sqnr_db=output.sqnr_db)
        if output.variation_db is not None and output.variation_db < 0:
            return ReportCode.NOISE_OVER_VARIATION(output=name)
    return None


def _else_kept(part: PartFigures, parts: Sequence[PartFigures]) -> bool:
    """Whether the same outputs, read as another task, keep their answers: the task was not certain."""
    others = [one for one in parts if one.outputs == part.outputs and one.task != part.task]
    return bool(others) and all(one.standing != "missed" for one in others)


def _far(part: PartFigures) -> bool:
    """Whether lost answers are far from the float model's, by the part's figure; True if it has none."""
    least = _BROKEN_LEVELS.get(part.figure)
    return part.level is None or least is None or part.level < least


@dataclass(frozen=True)
class QuantizedCount:
    """How many of the computing layers run quantized, as far as known.

    Attributes:
        layers: how many layers compute.
        known: whether actual precisions are known; else requested precisions are counted.
        quantized: number of layers by quantized precision, the most frequent first.
        hidden: number of layers inside blocks that do not show their precision.
        opened: how many of the hidden layers were judged by values of the opened block.
        as_quantized: how many of the opened layers compute as quantized.
    """

    layers: int
    known: bool
    quantized: dict[str, int] = field(default_factory=dict)
    hidden: int = 0
    opened: int = 0
    as_quantized: int = 0


def quantized_count(layers: Iterable[LayerInfo]) -> QuantizedCount:
    """Count the computing layers that run quantized, by actual precision; if none is known, by requested precision."""
    computing = [layer for layer in layers if layer.role == "compute"]
    known = any(layer.actual.precision is not None for layer in computing)
    types = [layer.actual.precision if known else layer.asked_precision for layer in computing]
    hidden = [layer for layer in computing if layer.status == "opaque"]
    values = [layer.actual.opened.values for layer in hidden if layer.actual.opened is not None]
    told = [one for one in values if one is not None]
    return QuantizedCount(
        len(computing),
        known,
        dict(Counter(str(one) for one in types if one is not None and one.quantized).most_common()),
        len(hidden),
        len(told),
        sum(one.verdict == AS_QUANTIZED for one in told),
    )


def culprits(layers: Iterable[LayerInfo], most: int = 5) -> list[LayerInfo]:
    """The layers where the error arises: at least 3 dB worse than their inputs, those that add most noise first.

    A layer requested to be quantized counts even if the engine computes it in float, since its pairs still round.

    The noise added is the layer's noise-to-signal ratio minus that of its worst input; a layer whose inputs have no
    error of their own counts only with an SQNR below 30 dB, since eight bits usually cost that much.
    """
    added: list[tuple[float, LayerInfo]] = []
    for layer in layers:
        error = layer.error
        noise = _added_noise(error) if layer.role == "compute" and error is not None else None
        if noise is not None and quantized_type(layer) is not None:
            added.append((noise, layer))
    return [layer for _, layer in sorted(added, key=lambda pair: -pair[0])[:most]]


def _added_noise(error: LayerError) -> float | None:
    """The noise-to-signal ratio that a layer adds; None if that is too little, or not known."""
    if error.sqnr_db is None:
        return math.inf if error.incomparable else None
    noise: float = 10 ** (-error.sqnr_db / 10)
    if error.drop_db is None:
        return noise if error.sqnr_db < 30 else None
    return noise - 10 ** (-(error.sqnr_db + error.drop_db) / 10) if error.drop_db >= _CULPRIT_DROP_DB else None


def worst(layers: Iterable[LayerInfo], most: int = 10) -> list[LayerInfo]:
    """The computing layers with the lowest SQNR, those with NaN or infinity first, without identical ones."""
    measured = [
        layer
        for layer in layers
        if layer.role == "compute" and layer.error is not None and not layer.error.identical
        and (layer.error.sqnr_db is not None or layer.error.incomparable)
    ]  # fmt: skip

    def key(layer: LayerInfo) -> float:
        level = layer.error.sqnr_db if layer.error else None
        return -math.inf if level is None else level

    return sorted(measured, key=key)[:most]


def warnings_of(
    layers: Sequence[LayerInfo],
    accuracy: Accuracy | None,
    backend: BackendInfo,
    profiles: Sequence[ProfileInfo],
    ranges: Sequence[RangeInfo] | None,
) -> list[Finding]:
    """Warnings about the figures, from layers, accuracy, profiles and ranges."""
    found: list[Finding] = []
    overridden = [layer for layer in layers if layer.status == "overridden"]
    if overridden:
        first = overridden[0]
        found.append(
            ReportCode.LAYERS_OVERRIDDEN(count=len(overridden), node=first.node, why=first.reason, remedy=first.remedy)
        )
    calibrated = any(profile.samples for profile in profiles)
    without = [profile.name for profile in profiles if calibrated and profile.samples == 0]
    found += [ReportCode.PROFILE_WITHOUT_SAMPLES(profile=name) for name in without]
    found += _accuracy_warnings(accuracy) if accuracy is not None else []
    clipped = [info for info in ranges or () if (info.clipped or 0.0) > CLIPPED]
    if clipped:
        one = max(clipped, key=lambda info: info.clipped or 0.0)
        found.append(ReportCode.RANGES_CLIP(count=len(clipped), limit=CLIPPED, tensor=one.tensor, clipped=one.clipped))
    unlike = [info for info in ranges or () if unlike_profiles(info)]
    if unlike:
        found.append(ReportCode.RANGES_DIFFER_BY_PROFILE(count=len(unlike)))
    if backend.name == "none":
        found.append(ReportCode.ONLY_REQUESTS_KNOWN())
    return found


def _accuracy_warnings(accuracy: Accuracy) -> list[Finding]:
    """Warnings about few samples, samples seen by calibration, and outputs that agree little with the float model's."""
    found: list[Finding] = []
    if not accuracy.held_out:
        found.append(ReportCode.ACCURACY_ON_SEEN_SAMPLES())
    # a model whose samples have several rows is judged row by row
    rows = [part.answers for part in accuracy.parts if part.task != "generation"]
    if 0 < max([accuracy.samples, *rows]) < FEW:
        found.append(ReportCode.ACCURACY_ON_FEW_SAMPLES(samples=accuracy.samples))
    # discrete numbers such as pixels can be close without being equal
    near = {name for part in accuracy.parts if part.standing != "missed" for name in part.outputs}
    near -= {name for part in accuracy.parts if part.task != "regression" for name in part.outputs}
    for name, output in accuracy.outputs.items():
        share, level = output.agreement, output.sqnr_db
        if output.discrete and name in near:
            continue
        if accuracy.metric is None and share is not None and share < DOUBTFUL_AGREEMENT:
            found.append(ReportCode.AGREEMENT_DOUBTFUL(output=name, agreement=share, discrete=output.discrete))
        elif level is not None and level < DOUBTFUL_SQNR_DB:
            found.append(ReportCode.SQNR_DOUBTFUL(output=name, sqnr_db=level))
    return found


def lost_layers(layers: Iterable[LayerInfo]) -> Finding | None:
    """The layers with multiply-accumulates whose signal is lost, the worst first; None if there are none."""
    # ``macs`` is None for a computing operator whose count depends on a batch of any size
    computing = ((layer.node, layer.error) for layer in layers if layer.macs != 0 and layer.error is not None)
    found = [
        (error.sqnr_db, node) for node, error in computing if error.sqnr_db is not None and error.sqnr_db < LOST_DB
    ]
    if not found:
        return None
    return ReportCode.LAYER_SIGNAL_LOST(nodes=[node for _, node in sorted(found)], sqnr_db=min(found)[0])


def quantized_type(layer: LayerInfo) -> Precision | None:
    """The quantized type that a layer or its pairs round to: the actual precision, else the requested one; or None."""
    types = (layer.actual.precision, layer.asked_precision)
    return next((one for one in types if one is not None and one.quantized), None)
