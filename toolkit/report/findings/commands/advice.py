"""Messages with advice on what to try next."""

from __future__ import annotations

from toolkit.base.text import count as counted
from toolkit.contract.roles import Role
from toolkit.report.codes import ReportCode
from toolkit.report.findings.outputs.accuracy import number
from toolkit.report.findings.quantization.search import lacks_words
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import pass_for, percent

_TRADE = "If accuracy matters more than speed: keep"


def _keep(count: int, precision: str, node: str, sqnr_db: float | None, overridden: bool, usable: bool) -> str:
    level = f"{sqnr_db:.1f} dB SQNR" if sqnr_db is not None else "NaN or infinity"
    text = f"{_TRADE if usable else 'Keep'} {counted(count, 'layer')} in {precision.upper()}: "
    text += f"'{node}' ({level}) adds the most error."
    if overridden:
        text += " The engine computes it in another precision than requested, but its Q/DQ pairs still round."
    return text + " That is the layer's own error; qtool sensitivity measures what each layer costs at the output."


def _declined(count: int, rule: str, node: str, reason: str) -> str:
    return (
        f"{counted(count, 'node')} {'was' if count == 1 else 'were'} declined by rule '{rule}', such as '{node}': "
        f"{reason}. To quantize more, start there."
    )


def _keep_more(
    count: int, precision: str, node: str, share: float, usable: bool, other: str, other_share: float | None
) -> str:
    text = (
        f"{_TRADE if usable else 'Keep'} {counted(count, 'more layer')} in {precision.upper()}: '{node}' causes "
        f"{percent(share, 0)} of the loss that the search measured at the output."
    )
    if other:
        known = f", but it causes only {percent(other_share)} of that loss" if other_share is not None else ""
        text += f" ('{other}' has the largest error of its own{known}.)"
    return text


def _too_slow(ms: float, float_ms: float, gpu: str, by_time: bool) -> str:
    last = "use a faster GPU" if by_time else "search for the fastest plan"
    return (
        f"No plan that was tried is fast enough: the fastest takes {ms:.4g} ms on the {gpu}, the unquantized model "
        f"{float_ms:.4g} ms. Raise max_ms, use smaller opt shapes, or {last}."
    )


def _unmet(limits: tuple[str, ...], lacks: tuple[float | None, ...], helpers: tuple[str, ...]) -> str:
    nearest = lacks_words(dict(zip(limits, lacks)))
    more = ", try helper passes" if helpers else ""
    return (
        f"No plan that was tried meets the budget: the nearest misses {nearest}. Allow more evaluations{more}, or "
        "loosen the budget."
    )


def _float_type(
    rest: str, nothing_quantized: bool, alone: str | None, sqnr_db: float | None, metric: float | None
) -> str:
    parts = []
    if nothing_quantized and not alone:
        level = f"{sqnr_db:.1f} dB SQNR" if sqnr_db is not None else number(metric) if metric is not None else ""
        parts.append(f"The chosen plan quantizes nothing{f', and {rest.upper()} itself has {level}' if level else ''}")
    if alone:
        parts.append(alone.rstrip("."))
    cure = "Loosen the budget." if rest == "fp32" else 'Set [engine] rest = "fp32", or loosen the budget.'
    return f"{'; '.join(parts)}. No choice of layers fixes that. {cure}"


_PAIRS = " with its Q/DQ pairs"

ADVICE: Table = {
    ReportCode.FIRST_MEND_DATA: (
        "First {remedy}: keeping layers in float only hides that the values of '{tensor}' are clipped."
    ),
    ReportCode.TRY_ANOTHER_METHOD: lambda tensor, method, clipped: (
        f"The range of '{tensor}' ({method}) clips {percent(clipped)} of its values: try another method."
    ),
    ReportCode.SEARCH_INSTEAD: (
        "Let a search decide in place of {quantizer}: it tries helper passes and keeps in float what misses the budget."
    ),
    ReportCode.KEEP_LAYERS: _keep,
    ReportCode.CHECK_PROFILES_SAMPLES: (
        "The range of '{tensor}' is {ratio:.1f} times as wide in profile '{high}' as in '{low}', and one scale serves "
        "both: check that each profile's samples are typical, or build one engine per profile."
    ),
    ReportCode.GIVE_LABELLED_SAMPLES: "Give the recipe labelled samples that calibration does not see, and a budget.",
    ReportCode.SET_A_BUDGET: "Set a budget, so that the next run judges the result (exit status 1 if it is missed).",
    ReportCode.BEGIN_WITH_DECLINED: _declined,
    ReportCode.WRITE_AS_MATMUL: lambda count, node, share: (
        f"{counted(count, 'Einsum')} of activations and weights, such as '{node}', {'does' if count == 1 else 'do'} "
        f"{percent(share)} of the multiply-accumulates. Einsum has no quantized kernel, but MatMul has: write "
        f"{'it' if count == 1 else 'them'} as MatMul (torch.matmul) and export again."
    ),
    ReportCode.TAKE_OUT_OF_BODIES: lambda count, node: (
        f"{counted(count, 'layer')}, such as '{node}', {'is' if count == 1 else 'are'} inside an If, Loop or Scan, "
        "where nothing is quantized and types are kept: export the model without it, unrolled or for the one case that "
        f"is needed. If an input's value decides an If, fixed_inputs of {pass_for(Role.FOLD)} takes that case."
    ),
    ReportCode.BUILD_AN_ENGINE: lambda installed=False: (
        'Build an engine to see what runs: backend = "tensorrt_rtx" '
        + "(pip install 'qtool[rtx]') " * (not installed)
        + "needs no GPU."
    ),
    ReportCode.REPLACE_FOR_TENSORRT: (
        "No TensorRT supports '{node}' ({op}): for an engine, replace it in the model with supported operators."
    ),
    ReportCode.MEND_FOR_BACKEND: lambda backend, taken, remedy, pairs=True, runs=True: (
        (f"No engine was built, but model.onnx{_PAIRS * pairs} runs in ONNX Runtime. " * (runs and taken == "none"))
        + f"For an engine of {backend}: {remedy}."
    ),
    ReportCode.WIDEN_MARGIN: lambda samples: (
        f"The search met its budget on its {counted(samples, 'sample')}, but the evaluation missed it: set a larger "
        "margin, or search on more samples."
    ),
    ReportCode.LABEL_CALIBRATION: lambda metric, samples: (
        f"The {counted(samples, 'sample')} that the search decided on had no labels, so it kept layers in float by "
        f"a substitute for {metric}: add labels under 'label' to the calibration data to decide by {metric} itself."
    ),
    ReportCode.LOWER_LIMIT: lambda samples, metric: (
        f"The search met its budget on its {counted(samples, 'sample')}, but the evaluation missed it, and '{metric}' "
        "does not show how much samples differ: give the search a smaller limit, or more samples."
    ),
    ReportCode.KEEP_MORE_LAYERS: _keep_more,
    ReportCode.NO_PLAN_FAST_ENOUGH: _too_slow,
    ReportCode.NO_PLAN_MEETS_BUDGET: _unmet,
    ReportCode.FLOAT_TYPE_MISSES_BUDGET: _float_type,
}
