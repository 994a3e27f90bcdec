"""The verdict, its first line and the warnings: all read off the joined data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from toolkit.base.precision import Precision
from toolkit.base.text import count
from toolkit.report.describe import unlike_profiles
from toolkit.report.device import FEW, failure, judged, on_device, worse
from toolkit.report.payoff_words import slower_words, speed_words
from toolkit.report.schema import (
    Accuracy,
    BackendInfo,
    DeviceInfo,
    LayerInfo,
    OutputError,
    PayoffInfo,
    ProfileInfo,
    RangeInfo,
    Verdict,
)

BROKEN_AGREEMENT = 0.8
BROKEN_COSINE = 0.8
BROKEN_SQNR_DB = 3.0
BROKEN_METRIC = 0.8
DOUBTFUL_AGREEMENT = 0.95
DOUBTFUL_SQNR_DB = 10.0
CLIPPED = 0.05
_CULPRIT_DROP_DB = 3.0


def verdict(accuracy: Accuracy | None, device: DeviceInfo | None = None, late: str = "") -> Verdict:
    """Whether the result is usable, missed its budget, is broken, or was not measured: the worse of model and engine.

    ``late`` is what ``late_words`` says: an engine that takes too long misses its budget too.

    Broken: an output holds NaN or infinity; or the metric lost more than a fifth of its value and no budget allowed
    it; or, where no metric was measured, fewer than 80% of the winners agree, the SQNR is below 3 dB, or the noise is
    louder than what differs from sample to sample. An engine that does not run on its own GPU is broken too, and one
    that is broken in any profile.
    """
    found = _accurate(accuracy, device)
    return "missed" if late and found != "broken" else found


def _accurate(accuracy: Accuracy | None, device: DeviceInfo | None) -> Verdict:
    if failure(device):
        return "broken"
    found, own = _simulated(accuracy), on_device(device)
    if own is None or device is None:
        return found
    if any(breakage(one) for _, one in judged(device)):
        return "broken"
    return worse(found, _simulated(own))


def _simulated(accuracy: Accuracy | None) -> Verdict:
    if accuracy is None or (accuracy.quantized is None and not accuracy.outputs and accuracy.met is None):
        return "unmeasured"
    if breakage(accuracy):
        return "broken"
    return "missed" if accuracy.met is False else "usable"


def breakage(accuracy: Accuracy) -> str:
    """What is plainly broken, in words; empty where nothing is."""
    for name, output in accuracy.outputs.items():
        if output.incomparable:
            return f"output '{name}' holds NaN or infinity"
    before, after = accuracy.before, accuracy.quantized
    if before is not None and after is not None and accuracy.rising:
        lost = not accuracy.met and before > 0 and after < before * BROKEN_METRIC
        return f"{accuracy.metric or 'the metric'} fell from {_number(before)} to {_number(after)}" if lost else ""
    for name, output in accuracy.outputs.items():
        if not accuracy.met and output.agreement is not None and output.agreement < BROKEN_AGREEMENT:
            return f"output '{name}' names the float model's winner on only {output.agreement:.1%} of the samples"
        if output.cosine is not None and output.cosine < BROKEN_COSINE:
            return f"output '{name}' has a cosine of {output.cosine:.2f} to the float model's"
        if output.sqnr_db is not None and output.sqnr_db < BROKEN_SQNR_DB:
            return f"output '{name}' has {output.sqnr_db:.1f} dB of signal to noise"
        if output.variation_db is not None and output.variation_db < 0:
            return f"the noise of output '{name}' is louder than what differs from sample to sample"
    return ""


def headline(
    layers: Sequence[LayerInfo],
    accuracy: Accuracy | None,
    device: DeviceInfo | None = None,
    payoff: PayoffInfo | None = None,
    late: str = "",
    predicted: str = "",
) -> str:
    """The report's first line: whether the result is usable, in numbers, how much runs quantized, and whether it paid.

    An engine slower than the unquantized model's is called that first, unless it is no good anyway.

    Args:
        layers: the report's layers.
        accuracy: what the evaluation measured.
        device: the engine's run on the GPU.
        payoff: its time beside that of unquantized engines.
        late: that it misses a limit of time, see ``late_words``.
        predicted: that it is predicted to be slow, see ``slow_plan_words``; said where no other engine was measured.
    """
    found, slow = verdict(accuracy, device, late), slower_words(payoff)
    speed = speed_words(payoff) or ("" if slow else predicted)
    running = "; ".join(words for words in (quantized_words(layers), speed) if words)
    told = _told(found, accuracy, device, running, late)
    if not slow:
        return told
    return f"{told} {slow}." if found in ("broken", "missed") else f"{slow}. {told}"


def _told(found: Verdict, accuracy: Accuracy | None, device: DeviceInfo | None, running: str, late: str) -> str:
    """The first line without the speed: ``running`` says what runs quantized."""
    sentence = f"{running[:1].upper()}{running[1:]}."
    if failed := failure(device):
        return f"BROKEN: {failed}. {sentence}"
    if late and _accurate(accuracy, device) in ("usable", "unmeasured"):
        known = accuracy_words(accuracy) if accuracy is not None else ""
        return f"MISSED ITS BUDGET: {'; '.join((late, known or 'the accuracy was not measured', running))}."
    if accuracy is None or found == "unmeasured":
        return f"Not measured: nothing says yet whether the result is usable; {running}."
    own = on_device(device)
    on_gpu = f"on the GPU {brief_words(own)}" if own is not None else ""
    if found == "broken":
        where = [("", accuracy)] + [(f"on the GPU {place}, ", one) for place, one in (judged(device) if device else ())]
        where += [("on the GPU ", own)] if own is not None else []
        broken = next(f"{place}{words}" for place, one in where if (words := breakage(one)))
        return f"BROKEN: {broken}; do not deploy. {sentence}"
    if found == "missed":
        guilty, place = (accuracy, "") if accuracy.met is False or own is None else (own, " on the GPU")
        over = guilty.drop_kept is False
        said = ["" if over or not guilty.misses else guilty.misses[0], accuracy_words(guilty), late]
        said.append(f"simulated {brief_words(accuracy)}" if place else on_gpu)
        return f"MISSED ITS BUDGET{place}: {'; '.join(words for words in (*said, running) if words)}."
    words = "; ".join(words for words in (accuracy_words(accuracy), on_gpu, running) if words)
    told = "measured" if accuracy.met is None else ""
    if 0 < accuracy.samples < FEW:
        told = f"{count(accuracy.samples, 'sample')} {'tells' if accuracy.samples == 1 else 'tell'}"
    doubt = (f" as far as {told}" if told else "") + (", no budget was set" if accuracy.met is None else "")
    return f"Usable{doubt}: {words}."


def brief_words(accuracy: Accuracy) -> str:
    """The one figure that says most: the metric, or the first output's."""
    if accuracy.quantized is not None:
        return _number(accuracy.quantized)
    figures = (f"{name} {_output_figures(output)[0]}" for name, output in accuracy.outputs.items())
    return next(figures, "nothing measured")


def accuracy_words(accuracy: Accuracy) -> str:
    """The accuracy in one phrase: the metric before and after, or the outputs' own figures."""
    before, after = accuracy.before, accuracy.quantized
    if after is not None and before is not None:
        words = f"{accuracy.metric or 'metric'} {_number(after)} against {_number(before)} float"
        notes = []
        if accuracy.drop is not None:
            points = accuracy.in_points
            notes.append(change_words(accuracy.drop, accuracy) + (" points" if points else ""))
            if accuracy.budget is not None:
                notes.append(f"budget {amount(accuracy.budget, points)}")
        return words + (f" ({', '.join(notes)})" if notes else "")
    return "; ".join(
        f"{name} " + ", ".join(_output_figures(output)) for name, output in list(accuracy.outputs.items())[:3]
    )


def quantized_words(layers: Iterable[LayerInfo]) -> str:
    """How many of the computing layers run quantized, by actual precision, or by asked where no actual is known."""
    computing = [layer for layer in layers if layer.role == "compute"]
    actual = [layer.actual.precision for layer in computing]
    known = any(precision is not None for precision in actual)
    blocks = _hidden_words(computing)
    found = actual if known else [layer.asked_precision for layer in computing]
    tally = Counter(precision for precision in found if precision is not None and precision.quantized)
    if not tally:
        verb = "runs" if known else "is asked to run"
        return f"none of {count(len(computing), 'layer')} {verb} quantized{blocks}"
    (first, most), *others = tally.most_common()
    verb = ("runs" if most == 1 else "run") if known else ("is asked" if most == 1 else "are asked") + " to run"
    words = f"{most} of {count(len(computing), 'layer')} {verb} in {str(first).upper()}"
    words += "".join(f", {number} in {str(precision).upper()}" for precision, number in others)
    return words + (blocks or ("" if known else ", with no engine to confirm it"))


def _hidden_words(layers: Sequence[LayerInfo]) -> str:
    """How many layers run inside blocks that do not show their types, and what opening them told."""
    hidden = [layer for layer in layers if layer.status == "opaque"]
    if not hidden:
        return ""
    told = [layer.actual.opened.values for layer in hidden if layer.actual.opened is not None]
    shown = sum(values is not None and values.verdict == "as quantized" for values in told)
    words = f", {len(hidden)} inside blocks that hide their precision"
    verb = "computes" if shown == 1 else "compute"
    return words + (f" (opened, {shown} of them {verb} as quantized)" if shown else "")


def evidence(layers: Iterable[LayerInfo]) -> str:
    """How the actual precisions are known, in words; empty where none is."""
    tally = Counter(layer.actual.source for layer in layers if layer.role == "compute" and layer.actual.precision)
    words = {
        "inspector": "from the engine's inspector",
        "tactic": "from the engine's kernels",
        "weights": "from the engine's weights",
        "network": "inferred from the typed network (no GPU opened the engine)",
    }
    return ", ".join(f"{number} {words.get(source, source)}" for source, number in tally.most_common())


def culprits(layers: Iterable[LayerInfo], most: int = 5) -> list[LayerInfo]:
    """Where the error comes in: layers at least 3 dB worse than their inputs, those that add most noise first.

    A layer that was asked quantized counts even where its engine computes it in float: its pairs still round.

    The noise added is the layer's noise-to-signal ratio less that of its worst input; layers whose inputs have no
    error of their own are left out where they are within 30 dB of exact, the usual cost of eight bits.
    """
    added: list[tuple[float, LayerInfo]] = []
    for layer in layers:
        error = layer.error
        if layer.role != "compute" or error is None or error.identical or quantized_type(layer) is None:
            continue
        if error.sqnr_db is None:
            if error.incomparable:
                added.append((math.inf, layer))
            continue
        noise = 10 ** (-error.sqnr_db / 10)
        if error.drop_db is None and error.sqnr_db < 30:
            added.append((noise, layer))
        elif error.drop_db is not None and error.drop_db >= _CULPRIT_DROP_DB:
            added.append((noise - 10 ** (-(error.sqnr_db + error.drop_db) / 10), layer))
    return [layer for _, layer in sorted(added, key=lambda pair: -pair[0])[:most]]


def worst(layers: Iterable[LayerInfo], most: int = 10) -> list[LayerInfo]:
    """The computing layers with the lowest SQNR, those with NaN or infinity first; identical ones are left out."""
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
) -> list[str]:
    """What the reader must know before trusting the figures."""
    found: list[str] = []
    overridden = [layer for layer in layers if layer.status == "overridden"]
    if overridden:
        named = f"'{overridden[0].node}'" + (" among them" if len(overridden) > 1 else "")
        found.append(f"{_layers(len(overridden))} in another precision than asked, {named}")
    found += [
        f"profile '{profile.name}' got no calibration sample: its ranges are those of the other profiles"
        for profile in profiles
        if profile.samples == 0
    ]
    if accuracy is not None:
        if not accuracy.held_out:
            found.append("accuracy was measured on samples that calibration saw: it flatters the result")
        if 0 < accuracy.samples < FEW:
            few = count(accuracy.samples, "sample")
            found.append(f"accuracy was measured on {few}: give [evaluation] data with more")
        for name, output in accuracy.outputs.items():
            if accuracy.metric is None and output.agreement is not None and output.agreement < DOUBTFUL_AGREEMENT:
                found.append(f"output '{name}' names the float model's winner on {output.agreement:.1%} of the samples")
            elif output.sqnr_db is not None and output.sqnr_db < DOUBTFUL_SQNR_DB:
                found.append(f"output '{name}' has only {output.sqnr_db:.1f} dB of signal to noise")
    clipped = [info for info in ranges or () if (info.clipped or 0.0) > CLIPPED]
    if clipped:
        one = max(clipped, key=lambda info: info.clipped or 0.0)
        found.append(f"{count(len(clipped), 'range')} cut off over 5% of the values: '{one.tensor}' {one.clipped:.1%}")
    unlike = [info for info in ranges or () if unlike_profiles(info)]
    if unlike:
        found.append(f"{count(len(unlike), 'tensor')} with ranges that differ twofold or more between profiles")
    if backend.name == "none":
        found.append("no engine was built: what is asked is known, what would run is not")
    return found


def quantized_type(layer: LayerInfo) -> Precision | None:
    """The type that a layer or its pairs round to: the actual one where quantized, else that asked for; or None."""
    types = (layer.actual.precision, layer.asked_precision)
    return next((one for one in types if one is not None and one.quantized), None)


def change_words(drop: float, accuracy: Accuracy) -> str:
    """The change of the metric with its direction: a drop or a gain, worse or better where less is better."""
    worse, better = ("drop", "gain") if accuracy.rising else ("worse by", "better by")
    return f"{worse if drop >= 0 else better} {amount(abs(drop), accuracy.in_points)}"


def amount(value: float, in_points: bool) -> str:
    """A change of the metric, in percentage points or in its own units."""
    return f"{value * 100:.2f}".rstrip("0").rstrip(".") if in_points else f"{value:.4g}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.4g}"


def _output_figures(output: OutputError) -> list[str]:
    if output.identical:
        return ["identical to float"]
    figures = [f"{output.sqnr_db:.1f} dB SQNR"] if output.sqnr_db is not None else []
    figures += [f"same winner on {output.agreement:.1%}"] if output.agreement is not None else []
    return figures or ([f"cosine {output.cosine:.4f}"] if output.cosine is not None else ["not measured"])


def _layers(number: int) -> str:
    return f"{count(number, 'layer')} {'runs' if number == 1 else 'run'}"
