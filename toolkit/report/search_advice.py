"""The search in words: one line for the terminal, and what to try next where layers were measured one by one."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.contract.journal import Journal
from toolkit.report.advice import as_good_as_float
from toolkit.report.fragments import keep_fragment
from toolkit.report.schema import Accuracy, LayerInfo, Suggestion, Verdict
from toolkit.report.search_parts import PlanPoint, SearchInfo
from toolkit.report.verdict import brief_words

_MOST = 5
_ALONE = " alone, with nothing quantized, already misses "
_LEAST_SHARE = 0.01
_UNITS = {"max_ms": " ms", "min_sqnr_db": " dB"}


def search_line(info: SearchInfo) -> str:
    """The search in one line."""
    plan = info.chosen
    met = "is within its budget" if info.met else f"MISSES its budget: {lacks_words(info)}"
    times = f"{plan.predicted_ms:.4g} ms predicted on the {info.gpu}, float {info.float_ms:.4g} ms"
    if info.measured_share:
        times += f", {info.measured_share:.0%} of it measured"
    level = f", {plan.sqnr_db:.1f} dB" if plan.sqnr_db is not None else ""
    return (
        f"Search: {count(info.evaluations, 'plan')} on {count(info.samples, 'sample')}; the chosen one "
        f"{met}; {count(plan.kept, 'layer')} float, {plan.quantized_share:.0%} of the "
        f"multiply-accumulates in {str(info.precision).upper()}{level}; {times}"
    )


def lacks_words(info: SearchInfo | PlanPoint) -> str:
    """How far the chosen plan, or this one, misses each limit."""
    words = [f"{name} by {value:.3g}{_UNITS.get(name, '')}" if value is not None else f"{name} without measure"
             for name, value in info.lacks.items()]  # fmt: skip
    return ", ".join(words)


def budget_words(info: SearchInfo) -> str:
    """The budget's limits, and the margin kept from them."""
    limits = [f"{name} {value:g}" for name, value in info.budget.items() if name != "margin"]
    margin = info.budget.get("margin")
    return ", ".join(limits) + (f", with a margin of {margin:g}" if margin else "")


def rest_alone(journal: Journal) -> str:
    """What the search noted where the type of the float layers misses the budget with nothing quantized; else empty."""
    noted = (e.reason for e in journal.of("noted") if e.rule == "search-float16" and _ALONE in e.reason)
    return next(noted, "").partition(":")[0]


def search_suggestions(
    info: SearchInfo,
    result: Verdict,
    blamed: Sequence[LayerInfo],
    accuracy: Accuracy | None = None,
    alone: str = "",
    helped: bool = False,
) -> list[Suggestion]:
    """What the search's own numbers say to try next.

    Args:
        info: the search.
        result: the run's verdict.
        blamed: the layers where the error comes in by their local error; named where they are others.
        accuracy: what the evaluation measured.
        alone: what ``rest_alone`` gives.
        helped: whether the recipe's search tries helper passes already.
    """
    found: list[Suggestion] = []
    if result in ("missed", "broken") and info.met and (alone or not info.chosen.quantized_share):
        # no choice of layers mends what is missed with nothing quantized
        return [_other_rest(info, accuracy, alone)]
    if not info.met:
        found.append(_unmet(info, helped))
    elif result in ("missed", "broken"):
        margin = 2 * max(info.budget.get("margin", 0.0), 0.5)
        found.append(
            Suggestion(
                text=f"The search met its budget on its {count(info.samples, 'sample')}, the evaluation missed it: "
                "let it keep a larger margin, or decide on more samples.",
                fragment=f'[[pass]]\nuse = "search_precision"\nmargin = {margin:g}\n',
            )
        )
    left = [layer for layer in info.layers if not layer.kept and layer.share >= _LEAST_SHARE][:_MOST]
    late = set(info.lacks) == {"max_ms"}
    gains = result in ("missed", "broken") or (result == "usable" and not as_good_as_float(accuracy))
    if left and gains and not late:
        precision, first = str(info.rest), left[0]
        text = (f"{'If accuracy matters more than speed: keep' if result == 'usable' else 'Keep'} "
                f"{count(len(left), 'more layer')} in {precision.upper()}: '{first.node}' has "
                f"{first.share:.0%} of the harm that the search measured at the output.")  # fmt: skip
        others = [layer.node for layer in blamed if layer.node not in {one.node for one in left}]
        if others:
            shares = {layer.node: layer.share for layer in info.layers}
            one = others[0]
            known = f", but has {shares[one]:.1%} of the harm at the output" if one in shares else ""
            text += f" (By its own error alone '{one}' stands out{known}.)"
        found.append(Suggestion(text=text, fragment=keep_fragment([layer.node for layer in left], precision)))
    return found


def _unmet(info: SearchInfo, helped: bool) -> Suggestion:
    """What helps where no plan meets the search's budget."""
    if set(info.lacks) == {"max_ms"}:
        fastest = min(info.plans, key=lambda plan: plan.predicted_ms)
        text = (
            f"No plan that the search tried is fast enough: the fastest takes {fastest.predicted_ms:.4g} ms on the "
            f"{info.gpu}, with nothing quantized {info.float_ms:.4g} ms. Raise max_ms, give smaller opt shapes, "
        )
        if info.prefer != "time":
            return Suggestion(text=text + "or let it look for the fastest plan.",
                              fragment='[[pass]]\nuse = "search_precision"\nprefer = "time"\n')  # fmt: skip
        return Suggestion(text=text + "or take a faster GPU.")
    text = f"No plan that the search tried meets its budget: the nearest misses {lacks_words(info)}. "
    if helped:
        fragment = f'[[pass]]\nuse = "search_precision"\nevaluations = {4 * info.evaluations}\n'
        return Suggestion(text=text + "Give it more evaluations, or loosen the budget.", fragment=fragment)
    return Suggestion(text=text + "Give it more evaluations, let it try helpers, or loosen the budget.",
                      fragment='[[pass]]\nuse = "search_precision"\nhelpers = ["equalize", "smooth"]\n')  # fmt: skip


def _other_rest(info: SearchInfo, accuracy: Accuracy | None, alone: str) -> Suggestion:
    """What helps where the budget is missed whatever is quantized: another type for the float layers."""
    rest, level = str(info.rest), ""
    if not info.chosen.quantized_share and accuracy is not None:
        levels = [output.sqnr_db for output in accuracy.outputs.values() if output.sqnr_db is not None]
        level = f"{rest} itself gives {f'{min(levels):.1f} dB' if levels else brief_words(accuracy)}"
    said = "The chosen plan quantizes nothing" if level else ""
    text = "; ".join(words for words in (said, level, alone) if words)
    remedy = "No choice of layers mends that: "
    if rest == "fp32":
        return Suggestion(text=f"{text}. {remedy}loosen the budget.")
    return Suggestion(text=f"{text}. {remedy}run the float layers in FP32, or loosen the budget.",
                      fragment='[engine]\nrest = "fp32"\n')  # fmt: skip
