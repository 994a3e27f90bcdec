"""The report's first line, and how many layers run quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from toolkit.base.precision import Precision
from toolkit.base.text import count
from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.device import FEW, failure, judged, on_device
from toolkit.report.conclusions.speed import slower, speed
from toolkit.report.conclusions.verdict import QuantizedCount, breakage, judged_accuracy, quantized_count, verdict
from toolkit.report.findings import sentence
from toolkit.report.findings.outputs.accuracy import brief, figures, unrounded
from toolkit.report.findings.words import capital, quoted
from toolkit.report.schema.report import Accuracy, DeviceInfo, LayerInfo, PayoffInfo, Verdict

_WRONG = "CHECK LABELS AND PREPROCESSING"
_LONG, _LONG_RESULT = 12, 60
"""Words of a reason that the first line has no room for; where nothing is quantized the reason is the result."""
_SIMULATED = "accuracy is simulated, not measured on an engine"
_SOURCES = {
    "inspector": "from the engine's inspector",
    "tactic": "from the engine's kernels",
    "weights": "from the engine's weights",
    "network": "inferred from the typed network (no GPU opened the engine)",
}


def headline(
    layers: Sequence[LayerInfo],
    accuracy: Accuracy | None,
    device: DeviceInfo | None = None,
    payoff: PayoffInfo | None = None,
    late: Finding | None = None,
    predicted: Finding | None = None,
    left: Finding | None = None,
    refused: str = "",
) -> str:
    """The report's first line: the verdict with its figures, how many layers run quantized, and the speed.

    If the engine is slower than the unquantized model's, the line begins with that, unless the result is broken or
    missed.

    Args:
        accuracy: the measured accuracy; None if there is none.
        device: the engine's run on the GPU.
        payoff: the engine's latency against that of unquantized engines.
        late: the finding that a latency limit is missed, see ``search_time.too_slow``.
        predicted: the finding that the engine is predicted to be slow, see ``search_time.slow_plan``; used if no
            unquantized engine was measured.
        left: the finding that nothing, or no layer of a kind, was quantized, see ``left_out``.
        refused: the backend that cannot build the model, if there is no engine for that reason; else empty.
    """
    found, slow = verdict(accuracy, device, late), slower(payoff)
    pace = speed(payoff) or (None if slow is not None else predicted)
    converted = left is not None and left.code is ReportCode.FLOAT_CONVERTED
    counted = [] if converted else [quantized_words(quantized_count(layers))]
    reason = _short(left, _LONG if quantized_count(layers).quantized else _LONG_RESULT)
    simulated = [_SIMULATED] if found != "unmeasured" and not refused and _is_simulated(accuracy, device) else []
    running = "; ".join([*counted, *(sentence(one) for one in (reason, pace) if one is not None), *simulated])
    told = _told(found, accuracy, device, running, late, refused)
    if slow is None:
        return told
    return f"{told} {sentence(slow)}." if found in ("broken", "missed") else f"{sentence(slow)}. {told}"


def _is_simulated(accuracy: Accuracy | None, device: DeviceInfo | None) -> bool:
    """Whether the figures are those of the simulation alone: no engine ran on the samples, nor failed to."""
    return accuracy is not None and on_device(device) is None and failure(device) is None


def _short(left: Finding | None, most: int) -> Finding | None:
    """The finding without its example's reason, if that has more than ``most`` words: the layer's entry has it."""
    long = left is not None and len(str(left.values.get("reason", "")).split()) > most
    return left.code(**{**left.values, "reason": ""}) if left is not None and long else left


def _told(
    found: Verdict, accuracy: Accuracy | None, device: DeviceInfo | None, running: str, late: Finding | None,
    refused: str = "",
) -> str:  # fmt: skip
    """The first line without the speed; ``running`` says how many layers run quantized."""
    failed = failure(device)
    if failed is not None:
        return f"BROKEN: {sentence(failed)}. {capital(running)}."
    own = on_device(device)
    if own is not None and own is not accuracy and judged_accuracy(accuracy, None) == "unmeasured":
        # only the engine was run, or only its outputs could be compared
        return _told(found, own, device if found == "broken" else None, f"measured on the GPU; {running}", late)
    if late is not None and judged_accuracy(accuracy, device) in ("usable", "unmeasured"):
        known = figures(accuracy) if accuracy is not None else ""
        return f"MISSED ITS BUDGET: {'; '.join((sentence(late), known or 'accuracy was not measured', running))}."
    if accuracy is None or found == "unmeasured":
        return _unmeasured(accuracy, running)
    if found == "broken":
        return f"BROKEN: {_broken(accuracy, device)}; do not deploy. {capital(running)}."
    if found == "missed":
        return _missed(accuracy, own, running, late)
    lacking = _not_compared(accuracy) if accuracy.not_compared else ""
    said = (figures(accuracy), unrounded(accuracy), lacking, _on_gpu(own), running)
    words = "; ".join(filter(None, said))
    if found == "doubtful":
        doubted = accuracy if accuracy.doubts or own is None else own
        return f"{_doubtful(doubted)}; {words}."
    exported = " (as `qtool export` writes it)" if accuracy.refused else ""
    where = f" in onnxruntime only{exported}, since {refused} cannot build the model" if refused else ""
    return f"Usable{_doubt(accuracy)}{where}: {words}."


def _on_gpu(own: Accuracy | None) -> str:
    return f"on the GPU {brief(own)}" if own is not None else ""


def _unmeasured(accuracy: Accuracy | None, running: str) -> str:
    """The first line for a result that was not measured, with the reason."""
    if accuracy is not None and accuracy.not_compared:
        known = f"{figures(accuracy)}; " if accuracy.outputs else ""
        return f"Not measured at the model's outputs: {_not_compared(accuracy)}; {known}{running}."
    if accuracy is not None and accuracy.drawing:
        verb = "draws" if len(accuracy.drawing) == 1 else "draw"
        unlike = f"{quoted(accuracy.drawing)} {verb} different random numbers in every run"
        return f"Not measured: {unlike}, so outputs differ without any quantization; {running}."
    return f"Not measured: no data shows whether the result is usable; {running}."


def _missed(accuracy: Accuracy, own: Accuracy | None, running: str, late: Finding | None) -> str:
    """The first line for a missed limit, in the simulation or by the engine on the GPU (``own``)."""
    guilty, place = (accuracy, "") if accuracy.met is False or own is None else (own, " on the GPU")
    over = guilty.drop_kept is False
    miss = "" if over or not guilty.misses else guilty.misses[0]
    said = [miss, figures(guilty, not (miss and guilty.parts and guilty.parts[0].standing == "missed"))]
    said += [unrounded(guilty)] + ([accuracy.doubts[0]] if accuracy.float_wrong else [])
    other = f"simulated {brief(accuracy)}" if place else _on_gpu(own)
    said += ["" if late is None else sentence(late), other, running]
    whose = "the metric's default" if over else "the task's own"
    default = f" ({whose}; the recipe has none)" if guilty.by_default else ""
    return f"MISSED ITS BUDGET{default}{place}: {'; '.join(filter(None, said))}."


def _not_compared(accuracy: Accuracy) -> str:
    """Which outputs were not compared, and which tensors instead."""
    instead = f", so what it reads was compared: {quoted(accuracy.in_place)}" if accuracy.in_place else ""
    verb = "comes" if len(accuracy.not_compared) == 1 else "come"
    return f"{quoted(accuracy.not_compared)} {verb} from a node that onnxruntime cannot run{instead}"


def _doubtful(accuracy: Accuracy) -> str:
    """Why a result that misses no limit is not called usable, too few samples first."""
    first = accuracy.doubts[0]
    if accuracy.float_wrong:
        return f"{_WRONG}: {first}"
    if accuracy.shows_nothing:
        return f"NOT PROVEN: {first}"
    if accuracy.standing != "unproven":
        return f"Within its budget, but {first}"
    return ", but ".join([capital(first), *accuracy.doubts[1:2]])


def _doubt(accuracy: Accuracy) -> str:
    """Qualifications of a usable result: few samples, no budget."""
    few = f" on only {count(accuracy.samples, 'sample')}" if 0 < accuracy.samples < FEW else ""
    return few + (", no budget set" if accuracy.met is None else "")


def _broken(accuracy: Accuracy, device: DeviceInfo | None) -> str:
    """What is broken, and where: in the simulation, in one profile of the engine, or in the engine as a whole."""
    own = on_device(device)
    places = [("", accuracy)]
    places += [(f"on the GPU in profile '{name}', ", one) for name, one in (judged(device) if device else ())]
    places += [("on the GPU ", own)] if own is not None else []
    return next(f"{place}{sentence(why)}" for place, one in places if (why := breakage(one)) is not None)


def quantized_words(found: QuantizedCount) -> str:
    """How many of the computing layers run quantized, or are requested to if no engine is known."""
    hidden = ""
    if found.hidden:
        hidden = f", {found.hidden} inside blocks that hide their precision"
        verb = "computes" if found.as_quantized == 1 else "compute"
        hidden += f" (opened, {found.as_quantized} of them {verb} as quantized)" if found.as_quantized else ""
    layers = count(found.layers, "layer")
    if not found.quantized:
        return f"none of {layers} {'runs' if found.known else 'is requested'} quantized{hidden}"
    (first, most), *others = found.quantized.items()
    verb = ("runs" if most == 1 else "run") if found.known else ("is requested" if most == 1 else "are requested")
    words = f"{most} of {layers} {verb} {_how(first)}"
    words += "".join(f", {number} {_how(precision)}" for precision, number in others)
    return words + (hidden or ("" if found.known else " (no engine confirms it)"))


def _how(precision: str) -> str:
    return f"with {precision.upper()} weights" if Precision(precision).weights_only else f"in {precision.upper()}"


def evidence(layers: Iterable[LayerInfo]) -> str:
    """The sources of the actual precisions; empty if none is known."""
    tally = Counter(layer.actual.source for layer in layers if layer.role == "compute" and layer.actual.precision)
    return ", ".join(f"{number} {_SOURCES.get(source, source)}" for source, number in tally.most_common())


def opened_words(layers: Iterable[LayerInfo]) -> str:
    """How many nodes in opaque blocks computed as quantized or as float, by their values; empty if none was opened."""
    inner = [layer.actual.opened for layer in layers if layer.actual.opened is not None]
    tally = Counter(one.values.verdict for one in inner if one.values is not None)
    if not tally:
        return ""
    counts = ", ".join(f"{number} {verdict}" for verdict, number in tally.most_common())
    return f"{count(tally.total(), 'node')} inside opaque blocks, by their values once opened: {counts}"
