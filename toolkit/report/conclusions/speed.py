"""The engine's speed compared with the unquantized model's, and advice if quantizing did not pay."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.contract.findings import Finding
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role
from toolkit.report.codes import ReportCode
from toolkit.report.fragments import Advice, keep_fragment
from toolkit.report.schema.engine import Latencies, Payoff, PayoffGroup, PayoffInfo
from toolkit.report.schema.report import LayerInfo, PassInfo
from toolkit.report.sections.payoff import unpaid

_HEAVY_SHARE = 0.1
_IF_FASTER = "only_if_faster"
_CACHE_REFUSED = "timing cache will not be used"
"""Part of TensorRT's message, as of 8.6.0."""


def main_comparison(payoff: PayoffInfo | None) -> tuple[str, Payoff] | None:
    """The comparison for the first line: with FP16 if that was built, else BF16, else the first."""
    if payoff is None or not payoff.against:
        return None
    # compared with FP32 even an engine that does not pay looks fast
    name = next((word for word in ("fp16", "bf16") if word in payoff.against), next(iter(payoff.against)))
    return name, payoff.against[name]


def slower(payoff: PayoffInfo | None) -> Finding | None:
    """The finding that the engine is slower than the unquantized model's in some profile; None if in none."""
    found = main_comparison(payoff)
    slow = _sorted(found[1], "slower") if found is not None else []
    if found is None or not slow:
        return None
    return ReportCode.SLOWER_THAN_FLOAT(precision=found[0], **_times(slow[0]), more=len(slow) - 1)


def speed(payoff: PayoffInfo | None) -> Finding | None:
    """How much faster the engine is, if it is slower in no profile; else, or if nothing is known, None."""
    found = main_comparison(payoff)
    if found is None or not found[1].profiles or slower(payoff) is not None:
        return None
    name, compared = found
    if compared.alike:
        return ReportCode.SAME_AS_FLOAT(precision=name, **_times(next(iter(compared.profiles.items()))))
    gains = sorted(1 / times.ratio for times in compared.profiles.values() if times.ratio > 0)
    if not _sorted(compared, "faster") or not gains:
        return ReportCode.NO_FASTER_THAN_FLOAT(precision=name, **_times(next(iter(compared.profiles.items()))))
    return ReportCode.FASTER_THAN_FLOAT(precision=name, least=gains[0], most=gains[-1])


def payoff_warnings(payoff: PayoffInfo | None) -> list[Finding]:
    """The warning that conversions take more than 10% of the time, in the profile with their largest share."""
    heavy = [item for item in (payoff.overhead.items() if payoff is not None else ()) if item[1].share > _HEAVY_SHARE]
    if not heavy:
        return []
    profile, one = max(heavy, key=lambda item: item[1].share)
    return [ReportCode.CONVERSIONS_HEAVY(profile=profile, more=len(heavy) - 1, **one.model_dump(), share=one.share)]


def timing_cache_warnings(log: Sequence[str]) -> list[Finding]:
    """The warning that TensorRT did not use the timing cache, from its messages."""
    said = next((line for line in log if _CACHE_REFUSED in line), None)
    return [ReportCode.TIMING_CACHE_REFUSED(said=said)] if said is not None else []


def payoff_advice(
    payoff: PayoffInfo | None, layers: Sequence[LayerInfo], measured: bool, passes: Sequence[PassInfo] = ()
) -> list[Advice]:
    """Advice if quantizing did not pay, or on how to measure whether it does.

    Args:
        measured: whether the engine's latency was measured, so that another engine's could be too.
        passes: the recipe's passes; settings that it uses already are not suggested.
    """
    quantized = any(layer.actual.precision is not None and layer.actual.precision.quantized for layer in layers)
    found = main_comparison(payoff)
    if found is None:
        if not measured or not quantized:
            return []
        return [Advice(ReportCode.COMPARE_WITH_FLOAT(), '[engine]\ncompare = ["fp16"]\n')]
    name, compared = found
    slow = _sorted(compared, "slower")
    said = []
    use = _can_remove_pairs(passes)
    if slow and quantized and use is not None:
        finding = ReportCode.GIVE_BACK_WHAT_IS_SLOWER(quantizer=use, precision=name, **_times(slow[0]))
        said.append(Advice(finding, f'[[pass]]\nuse = "{use}"\n{_IF_FASTER} = true\n'))
    dear = unpaid(compared)
    if dear and quantized:
        said.append(_leave(dear, name))
    return said


def _can_remove_pairs(passes: Sequence[PassInfo]) -> str | None:
    """The pass that could remove the pairs that do not pay; None if one does so already, or none can."""
    own = [one for one in passes if one.role in (Role.QUANTIZE, Role.SEARCH)]
    if any(one.settings.get(_IF_FASTER) for one in own):
        return None
    if not own:
        return pass_name(Role.QUANTIZE)
    return next((one.use for one in own if _IF_FASTER in one.options), None)


def _leave(dear: Sequence[PayoffGroup], precision: str) -> Advice:
    """Advice to leave the groups that cost time in the other engine's precision."""
    first = dear[0]
    finding = ReportCode.LEAVE_WHAT_DOES_NOT_PAY(
        precision=precision, groups=len(dear), node=first.name, cost_ms=-first.times[first.worst].gain_ms,
        profile=first.worst, why=first.why,
    )  # fmt: skip
    nodes = [node for group in dear for node in group.quantized]
    return Advice(finding, keep_fragment(nodes, precision))


def _sorted(compared: Payoff, paid: str) -> list[tuple[str, Latencies]]:
    """The profiles whose outcome is ``paid``, the slowest first."""
    found = [(name, times) for name, times in compared.profiles.items() if times.paid == paid]
    return sorted(found, key=lambda item: -item[1].ratio)


def _times(one: tuple[str, Latencies]) -> dict[str, float | str]:
    profile, times = one
    return {"profile": profile, "ms": times.ours_ms, "float_ms": times.other_ms}
