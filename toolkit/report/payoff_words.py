"""What is said of the engine's speed: in the report's first line, and what to try where quantizing did not pay."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.report.engine_parts import Latencies, Overhead, Payoff, PayoffGroup, PayoffInfo
from toolkit.report.fragments import keep_fragment
from toolkit.report.payoff import unpaid
from toolkit.report.schema import LayerInfo, PassInfo, Suggestion

_HEAVY_SHARE = 0.1
_QUANTIZERS = ("insert_qdq", "search_precision")


def main_comparison(payoff: PayoffInfo | None) -> tuple[str, Payoff] | None:
    """The comparison that the first line is about: with FP16 where that was built, else with BF16."""
    if payoff is None or not payoff.against:
        return None
    # beside FP32 even an engine that did not pay looks fast
    name = next((word for word in ("fp16", "bf16") if word in payoff.against), next(iter(payoff.against)))
    return name, payoff.against[name]


def slower_words(payoff: PayoffInfo | None) -> str:
    """That the engine is slower than the unquantized model's, in numbers; empty where it is in no profile."""
    found = main_comparison(payoff)
    slow = _sorted(found[1], "slower") if found is not None else []
    if found is None or not slow:
        return ""
    profile, times = slow[0]
    others = f" and in {len(slow) - 1} more" if len(slow) > 1 else ""
    return f"SLOWER than {found[0].upper()}: {pair_words(times)} in profile '{profile}'{others}"


def speed_words(payoff: PayoffInfo | None) -> str:
    """How much faster the engine is where it is slower nowhere; empty where nothing is known or it is slower."""
    found = main_comparison(payoff)
    if found is None or not found[1].profiles or slower_words(payoff):
        return ""
    name, compared = found
    gains = sorted(1 / times.ratio for times in compared.profiles.values() if times.ratio > 0)
    if not _sorted(compared, "faster") or not gains:
        profile, times = next(iter(compared.profiles.items()))
        return f"no faster than {name.upper()} ({pair_words(times)} in profile '{profile}')"
    words = f"{gains[-1]:.2f}" if f"{gains[0]:.2f}" == f"{gains[-1]:.2f}" else f"{gains[0]:.2f} to {gains[-1]:.2f}"
    return f"{words} times as fast as {name.upper()}"


def pair_words(times: Latencies) -> str:
    """Both latencies: "0.690 ms against 0.579"."""
    return f"{times.ours_ms:.3f} ms against {times.other_ms:.3f}"


def overhead_words(one: Overhead) -> str:
    """What a profile's time goes into besides computing."""
    parts = [
        f"{value:.3f} ms in {count} {what}{'' if count == 1 else 's'}"
        for value, count, what in (
            (one.reformat_ms, one.reformats, "reformat"),
            (one.qdq_ms, one.qdq_kernels, "Q/DQ kernel"),
        )
        if count
    ]
    said = " and ".join(parts) or "nothing in reformats or Q/DQ kernels"
    return f"{said} of {one.layers_ms:.3f} ms" + (f" ({one.share:.0%})" if parts else "")


def payoff_warnings(payoff: PayoffInfo | None) -> list[str]:
    """That conversions take much of the time, in the profile where they take the largest share."""
    heavy = [item for item in (payoff.overhead.items() if payoff is not None else ()) if item[1].share > _HEAVY_SHARE]
    if not heavy:
        return []
    profile, one = max(heavy, key=lambda item: item[1].share)
    others = f"; {len(heavy) - 1} more profiles are alike" if len(heavy) > 1 else ""
    return [f"profile '{profile}' spends {overhead_words(one)}{others}"]


def payoff_suggestions(
    payoff: PayoffInfo | None, layers: Sequence[LayerInfo], measured: bool, passes: Sequence[PassInfo] = ()
) -> list[Suggestion]:
    """What to try where quantizing did not pay, or how to learn whether it did.

    Args:
        payoff: what was compared.
        layers: the report's layers.
        measured: whether the engine's latency was measured, so that another's could be too.
        passes: the recipe's passes: what it tried already is not suggested.
    """
    quantized = any(layer.actual.precision is not None and layer.actual.precision.quantized for layer in layers)
    found = main_comparison(payoff)
    if found is None:
        if not measured or not quantized:
            return []
        text = "Build the unquantized model too: its latency and layer times say whether quantizing paid, and where."
        return [Suggestion(text=text, fragment='[engine]\ncompare = ["fp16"]\n')]
    name, compared = found
    slow = _sorted(compared, "slower")
    said = []
    own = [one for one in passes if one.use in _QUANTIZERS]
    if slow and quantized and not any(one.settings.get("only_if_faster") for one in own):
        use = own[0].use if own else _QUANTIZERS[0]
        profile, times = slow[0]
        text = (
            f"Quantized, the engine is slower than in {name.upper()} ({pair_words(times)} in profile '{profile}'): let "
            f"{use} build and measure, and give back the layers that do not pay."
        )
        said.append(Suggestion(text=text, fragment=f'[[pass]]\nuse = "{use}"\nonly_if_faster = true\n'))
    dear = unpaid(compared)
    if dear and quantized:
        said.append(_leave(dear, name))
    return said


def _leave(dear: Sequence[PayoffGroup], precision: str) -> Suggestion:
    """Leave the groups that cost time in the other engine's precision."""
    first = dear[0]
    cost = -first.times[first.worst].gain_ms
    groups = "one group of layers is" if len(dear) == 1 else f"{len(dear)} groups of layers are"
    text = (
        f"Leave what does not pay in {precision.upper()}: {groups} slower quantized, '{first.name}' by {cost:.3f} ms "
        f"in profile '{first.worst}' ({first.why}). Put this before the pass that quantizes."
    )
    nodes = [node for group in dear for node in group.quantized]
    return Suggestion(text=text, fragment=keep_fragment(nodes, precision))


def _sorted(compared: Payoff, paid: str) -> list[tuple[str, Latencies]]:
    """The profiles in which it paid so, the slowest first."""
    found = [(name, times) for name, times in compared.profiles.items() if times.paid == paid]
    return sorted(found, key=lambda item: -item[1].ratio)
