"""What to try next, read off the joined data: the most useful first, with a piece of recipe where one helps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from toolkit.base.text import count, toml_string
from toolkit.report.describe import unlike_profiles
from toolkit.report.device import failure
from toolkit.report.fragments import keep_fragment
from toolkit.report.schema import (
    Accuracy,
    BackendInfo,
    Declined,
    DeviceInfo,
    LayerInfo,
    PassInfo,
    RangeInfo,
    Suggestion,
)
from toolkit.report.verdict import CLIPPED, culprits, verdict

_SETTLED = ("excluded", "complete", "kept", "subgraph")
"""Rules by which nothing is left to try: the user's own wish, what is quantized already, what cannot be calibrated."""
_FINE_DB = 40.0


def suggestions(
    layers: Sequence[LayerInfo],
    accuracy: Accuracy | None,
    backend: BackendInfo,
    declined: Sequence[Declined],
    ranges: Sequence[RangeInfo] | None,
    searched: bool = False,
    device: DeviceInfo | None = None,
    passes: Sequence[PassInfo] = (),
) -> list[Suggestion]:
    """What to try next, most useful first; an engine that does worse than the simulation counts, one that crashes not.

    Where a search measured the layers one by one (``searched``), its own suggestions say which to keep: error at the
    layer is a poorer guide, and would name others.
    """
    result = verdict(accuracy, None if failure(device) else device)
    found: list[Suggestion] = []
    blamed = culprits(layers)
    clipped = [info for info in ranges or () if (info.clipped or 0.0) > CLIPPED]
    if clipped:
        info = max(clipped, key=lambda one: one.clipped or 0.0)
        text = f"The range of '{info.tensor}' ({info.method}) cuts off {info.clipped:.1%} of its values: try another."
        fragment = f'[calibration]\nmethods = {{ {toml_string(info.tensor)} = "minmax" }}\n'
        found.append(Suggestion(text=text, fragment=fragment))
    if result in ("missed", "broken"):
        found += _search_instead(passes)
        found += [_keep(blamed)] if blamed and not searched else []
    unlike = [(info, pair) for info in ranges or () if (pair := unlike_profiles(info))]
    if unlike:
        info, (low, high, ratio) = max(unlike, key=lambda entry: entry[1][2])
        found.append(
            Suggestion(
                text=f"The range of '{info.tensor}' is {ratio:.1f} times as wide in profile '{high}' as in '{low}', "
                "and one scale serves both: check that each profile's samples are typical, or build one engine each."
            )
        )
    if result == "unmeasured":
        found.append(
            Suggestion(
                text="Give the recipe labelled samples that calibration does not see, and a budget.",
                fragment='[evaluation]\ndata = "test.npz"\nmetric = "top1"\nbudget = { max_drop = 0.005 }\n',
            )
        )
    elif accuracy is not None and accuracy.met is None and result == "usable":
        found.append(
            Suggestion(
                text="Set a budget, so that the next run judges by itself (exit status 1 where it is missed).",
                fragment="[evaluation]\nbudget = { max_drop = 0.005 }\n",
            )
        )
    if result == "usable" and blamed and not searched and not as_good_as_float(accuracy):
        keep = _keep(blamed)
        found.append(Suggestion(text=f"If accuracy matters more than speed: {keep.text}", fragment=keep.fragment))
    by_rule: dict[str, list[Declined]] = defaultdict(list)
    for entry in declined:
        if entry.by in ("insert_qdq", "search_precision") and entry.rule not in _SETTLED:
            by_rule[entry.rule].append(entry)
    if by_rule and result not in ("missed", "broken"):
        rule, entries = max(by_rule.items(), key=lambda item: len(item[1]))
        found.append(
            Suggestion(text=f"{count(len(entries), 'node')} declined by rule '{rule}', such as '{entries[0].node}': "
                            f"{entries[0].reason}. To quantize more, begin there.")
        )  # fmt: skip
    if backend.name == "none":
        found.append(
            Suggestion(text="Build an engine to see what runs: pip install 'qtool[rtx]' needs no GPU.",
                       fragment='[engine]\nbackend = "tensorrt_rtx"\n')
        )  # fmt: skip
    return found


def as_good_as_float(accuracy: Accuracy | None) -> bool:
    """Whether keeping more layers float could gain nothing that is worth its time."""
    if accuracy is None:
        return False
    if accuracy.drop is not None:
        return accuracy.drop <= 0
    return all(o.identical or (o.sqnr_db is not None and o.sqnr_db >= _FINE_DB) for o in accuracy.outputs.values())


def _search_instead(passes: Sequence[PassInfo]) -> list[Suggestion]:
    """The search in place of insert_qdq, where the recipe has that and no search."""
    plain = next((one for one in passes if one.use == "insert_qdq"), None)
    if plain is None or any(one.use == "search_precision" for one in passes):
        return []
    import tomli_w

    entry = {"use": "search_precision", "helpers": ["equalize", "smooth"], **plain.settings}
    text = "Let a search decide in place of insert_qdq: it tries helper passes and keeps float what misses the budget."
    return [Suggestion(text=text, fragment=tomli_w.dumps({"pass": [entry]}))]


def _keep(blamed: Sequence[LayerInfo]) -> Suggestion:
    chosen, precision = list(blamed), "fp16"
    first = chosen[0]
    level = first.error.sqnr_db if first.error else None
    said = f"{level:.1f} dB" if level is not None else "NaN or infinity"
    text = f"Keep {count(len(chosen), 'layer')} in {precision.upper()}: '{first.node}' ({said}) adds the most error."
    if first.status == "overridden":
        text += " The engine computes it in another precision than asked, but its pairs still round."
    text += " That is its own error; qtool sensitivity measures what each layer costs at the output."
    return Suggestion(text=text, fragment=keep_fragment([layer.node for layer in chosen], precision))
