"""Messages on engines timed to decide which layers to quantize, and on the sources of times."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.contract.findings import Code
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import every, joined, percent
from toolkit.search.codes import AttentionCode, TrialCode


def _against(profiles: tuple[str, ...], ms: tuple[float, ...], without_ms: tuple[float, ...], other: str) -> str:
    """Both latencies by profile, in words."""
    told = [
        f"{here:.4g} ms against {there:.4g} ms {other}" + (f" in profile '{name}'" if len(profiles) > 1 else "")
        for name, here, there in zip(profiles, ms, without_ms)
    ]
    return joined(told)


def _layers_slower(
    quantized: str, plain: str, layers: int, profiles: tuple[str, ...], ms: tuple[float, ...],
    without_ms: tuple[float, ...],
) -> str:  # fmt: skip
    block = f" (one block with {count(layers - 1, 'other layer')})" if layers > 1 else ""
    times = _against(profiles, ms, without_ms, f"in {plain}")
    return f"{quantized} with its Q/DQ and reformat kernels is not faster: {times}{block}"


def _role_slower(
    layers: int, total: int, role: str, quantized: str, profiles: tuple[str, ...], ms: tuple[float, ...],
    without_ms: tuple[float, ...],
) -> str:  # fmt: skip
    some = f"{every(total) if layers == total else f'{layers} of {total}'} {role} layers"
    times = _against(profiles, ms, without_ms, "without")
    return f"the engine with {some if total > 1 else f'its only {role} layer'} in {quantized} takes {times}"


def _none_faster(
    quantized: str, plain: str, profiles: tuple[str, ...], ms: tuple[float, ...], without_ms: tuple[float, ...],
    ratio: float, noise: float,
) -> str:  # fmt: skip
    times = _against(profiles, ms, without_ms, f"for {plain}")
    return (
        f"no {quantized.upper()} engine is measurably faster than {plain.upper()} (best: {ratio:.3f} +- {noise:.3f} of "
        f"its latency; {times})"
    )


def _every_slower(
    quantized: str, plain: str, profiles: tuple[str, ...], ms: tuple[float, ...], without_ms: tuple[float, ...],
    ratio: float, noise: float,
) -> str:  # fmt: skip
    times = _against(profiles, ms, without_ms, f"for {plain}")
    return (
        f"every {quantized.upper()} engine tried is slower than {plain.upper()} (best: {ratio:.3f} +- {noise:.3f} of "
        f'its latency; {times}); [engine] prefer = "int8" quantizes anyway'
    )


def _only_if_faster(
    engines: int, reused: int, quantized: str, plain: str, units: int, left: int, why: str = "",
    profiles: tuple[str, ...] = (), ms: tuple[float, ...] = (), without_ms: tuple[float, ...] = (),
    ratio: float = 0.0, noise: float = 0.0,
) -> str:  # fmt: skip
    timed = f"{count(engines, 'engine')} timed" + (f" ({reused} of them before)" if reused else "")
    if not left:
        return f"{timed}; all Q/DQ pairs are removed: {why}."
    times = _against(profiles, ms, without_ms, f"in {plain}")
    return (
        f"{timed}; {left} of {count(units, 'node')} stay {quantized}: {times} ({ratio:.3f} +- {noise:.3f} of the "
        "latency)."
    )


def _from_report(
    file: str, profile: str, layers: int, in_blocks: int, others: int, precisions: tuple[str, ...], other_model: bool,
    gpu: str, predicted_for: str, outdated: bool = False,
) -> str:  # fmt: skip
    parts = [f"Measured times of {count(layers, 'layer')} in profile '{profile}' are taken from {file}"]
    if in_blocks:
        parts.append(f"{count(in_blocks, 'layer')} left out that ran inside blocks timed only as a whole")
    if others:
        parts.append(f"{count(others, 'layer')} left out that did not run in {' or '.join(precisions)}")
    if other_model:
        parts.append("that run was of another model (its fingerprint differs), matched by layer names")
    if outdated:
        parts.append("the report is out of date, since a later run in its folder has not finished")
    if gpu:
        parts.append(f"measured on a {gpu}, while the rest is predicted for the {predicted_for}: set gpu")
    return "; ".join(parts) + "."


def _measured(
    gpu: str, profile: str, layers: int, quantized: str, ms: float, rest: str, rest_ms: float, sharing: int,
    by_layer: bool,
) -> str:  # fmt: skip
    where = f" on the {gpu}" if gpu else ""
    text = (
        f"Layer times measured{where} in profile '{profile}': the engine with {count(layers, 'layer')} requested in "
        f"{quantized} takes {ms:.4g} ms, in {rest} {rest_ms:.4g} ms"
    )
    if sharing and not by_layer:
        text += "; it shows no layer times, so layers share its latency by their multiply-accumulates"
    elif sharing:
        text += f"; {count(sharing, 'layer')} in common blocks share their time by multiply-accumulates"
    return f"{text}."


def _plan_timed(ms: float, predicted_ms: float, all_quantized: bool, taken_ms: float | None = None) -> str:
    text = f"The engine of the chosen plan takes {ms:.4g} ms ({predicted_ms:.4g} ms predicted)"
    if taken_ms is None:
        return f"{text}."
    what = _what_is_quantized(all_quantized)
    return f"{text}; the engine with {what} takes {taken_ms:.4g} ms and is taken instead."


def _what_is_quantized(all_quantized: bool) -> str:
    return f"{'all layers' if all_quantized else 'no layer'} quantized"


TIMING: Table = {
    Code.TIMES_FROM_REPORT: _from_report,
    Code.TIMES_PREDICTED: "Layer times are predicted, not measured: {why}",
    Code.TIMES_MEASURED: _measured,
    TrialCode.COMPARED: (
        "Engines take long to build ({seconds:.0f} s even as trials), so those that are only compared, and whose "
        "latencies are given here, are built at [engine] trial_level; the one that is taken is built at its own level."
    ),
    TrialCode.AHEAD: lambda seconds, beside: (
        f"The engine without pairs was started early, as the run would build it, and took {seconds:.0f} s to build"
        + (f" with {count(beside, 'trial')} built in parallel" if beside else "")
        + "; every engine was measured alone."
    ),
    TrialCode.PLAN_NOT_BUILT: lambda predicted_ms, taken_ms, all_quantized: (
        f"The engine of the chosen plan was not built: engines take long to build, and it is predicted to take "
        f"{predicted_ms:.4g} ms where the engine with {_what_is_quantized(all_quantized)} takes {taken_ms:.4g} ms, "
        "which is taken."
    ),
    AttentionCode.TIMED: lambda products, ratio, noise, taken: (
        f"With pairs on {count(len(products), 'product')} of attention too, an engine takes {ratio:.3f} +- {noise:.3f} "
        f"of the latency without: they {'are searched too' if taken else 'stay in float'}."
    ),
    AttentionCode.NOT_TIMED: (
        "Whether pairs on products of attention make the engine faster was not measured, so they stay in float: {error}"
    ),
    Code.TIMES_SHARE: lambda share, gpu, scale: (
        f"{percent(share, 0)} of the chosen plan's predicted time was measured; the rest is the roofline of the {gpu} "
        f"times {scale:.3g}."
    ),
    Code.GPU_UNKNOWN: (
        "No datasheet figures are known for the {gpu}: what is not measured is predicted for the {predicted_for}."
    ),
    Code.LATER_PASSES: lambda passes: f"The engines that were timed do not include what {joined(passes)} will change.",
    Code.PLAN_NOT_TIMED: "The engine of the chosen plan was not timed: {error}",
    Code.PLAN_TIMED: _plan_timed,
    Code.TRIAL: "kept in float in this candidate",
    Code.KEPT_LATER: "a later pass makes it float again",
    Code.TRIAL_FAILED: "An engine with {quantized} of {units} nodes quantized could not be timed: {error}",
    Code.TRIAL_BUILT_ANEW: "An engine to be built by another GPU or in parallel with others was built again: {why}",
    Code.NOT_IN_TURN: "Engines were not measured in turn in profile '{profile}'; their builds' own times count: {why}",
    Code.SPEED_UNKNOWN: "Whether quantizing makes the engine slower than the float one was not measured: {why}",
    Code.ONLY_IF_FASTER: _only_if_faster,
    Code.LAYERS_SLOWER: _layers_slower,
    Code.ROLE_SLOWER: _role_slower,
    Code.ROLE_NOT_BUILT: "no engine can be built with the pairs of all layers; it can without those of {role}",
    Code.NO_ENGINE_BUILT: "no engine with {quantized} pairs could be built ({tried} tried)",
    Code.NO_ENGINE_FASTER: _none_faster,
    Code.EVERY_ENGINE_SLOWER: _every_slower,
}
