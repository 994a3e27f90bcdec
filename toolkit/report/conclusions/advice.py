"""Suggestions from the joined data, the most useful first, with recipe fragments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from toolkit.backends.choose import installed
from toolkit.backends.codes import EngineCode
from toolkit.backends.unsupported import unsupported_operators
from toolkit.base.precision import Precision
from toolkit.base.text import toml_string
from toolkit.contract.findings import Code, Finding
from toolkit.contract.registry import passes_with_role
from toolkit.contract.roles import Role
from toolkit.placement.codes import PlacementCode
from toolkit.placement.ops import PAIR_OPERATORS
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.device import failure
from toolkit.report.conclusions.verdict import CLIPPED, culprits, quantized_type, verdict
from toolkit.report.fragments import Advice, keep_fragment
from toolkit.report.schema.report import Accuracy, BackendInfo, Declined, DeviceInfo, LayerInfo, PassInfo, RangeInfo
from toolkit.report.sections.describe import unlike_profiles
from toolkit.report.sections.shares import work_in
from toolkit.search.quantizer.quantizer import Quantizer

_SETTLED = frozenset(
    str(code.value)
    for code in (
        Code.EXCLUDED, Code.NOT_INCLUDED, Code.COMPLETE, Code.KEPT, Code.NOT_FASTER, Code.SUBGRAPH, Code.NO_BLOCKS_IN,
        Code.NO_WEIGHT_MATRIX, PlacementCode.RUN_TIME_WEIGHTS, Code.PATCHES, Code.VECTOR, Code.ONE_SIDED,
        Code.SUM_STAYS_FLOAT, Code.SUM_OF_MANY, Code.BROADCAST, Code.UNLIKE_BRANCHES, PlacementCode.LACKS_INT8,
    )
)  # fmt: skip
"""Rules of declined nodes that leave nothing to try: the user asked for float, the node is quantized already or was
measured, it cannot be calibrated, it has no quantized form or kernel, or quantizing it would only cost time.
"""
_FINE_DB = 40.0
_MUCH_WORK = 0.05
"""The least share of the work for which the report suggests rewriting layers."""
_KEPT_IN = "fp16"
_WITHOUT_GPU = "tensorrt_rtx"
_T = TypeVar("_T")


def advice(
    layers: Sequence[LayerInfo],
    accuracy: Accuracy | None,
    backend: BackendInfo,
    declined: Sequence[Declined],
    ranges: Sequence[RangeInfo] | None,
    searched: bool = False,
    device: DeviceInfo | None = None,
    passes: Sequence[PassInfo] = (),
    chosen: Finding | None = None,
) -> list[Advice]:
    """Suggestions of what to try next, the most useful first.

    Args:
        accuracy: the measured accuracy; None if there is none.
        backend: what built the engine.
        searched: whether a search measured the layers one by one: then ``search_advice`` names the layers to keep,
            since the error at the layer is a poorer guide.
        device: the engine's run on the GPU; it affects the verdict unless the engine failed to run.
        chosen: why this backend was used.
    """
    result = verdict(accuracy, None if failure(device) is not None else device)
    # without samples a budget counts as missed, but a search could not measure anything either
    measured = accuracy is None or bool(accuracy.samples)
    failing = result in ("missed", "broken")
    blamed = [] if searched else culprits(layers)
    quantizing = quantizers(passes)
    found = _other_method(ranges or ())
    if failing and measured:
        found += _search_instead(passes)
        found += [_keep(blamed)] if blamed else []
    found += _unlike_profiles(ranges or ())
    if result == "unmeasured" or not measured:
        found.append(_labelled_samples())
    elif accuracy is not None and accuracy.met is None and result == "usable":
        found.append(Advice(ReportCode.SET_A_BUDGET(), "[evaluation]\nbudget = { max_drop = 0.005 }\n"))
    some = not_all(blamed, sum(layer.role == "compute" and quantized_type(layer) is not None for layer in layers))
    if result in ("usable", "doubtful") and some and not as_good_as_float(accuracy):
        found.append(_keep(some, usable=True))
    if not failing:
        found += _as_products(layers) if any(one.role in (Role.QUANTIZE, Role.SEARCH) for one in passes) else []
        found += _more_quantized(declined, quantizing)
    return found + _engine_advice(backend, chosen, layers, accuracy)


def _labelled_samples() -> Advice:
    fragment = '[evaluation]\ndata = "..."\nmetric = "top1"\nbudget = { max_drop = 0.005 }\n'
    return Advice(ReportCode.GIVE_LABELLED_SAMPLES(), fragment)


def _engine_advice(
    backend: BackendInfo, chosen: Finding | None, layers: Sequence[LayerInfo], accuracy: Accuracy | None
) -> list[Advice]:
    """To change the model where a backend refuses it, or to build an engine where none was built."""
    if chosen is not None and chosen.code is EngineCode.BACKEND_REFUSES_MODEL and chosen.values.get("remedy"):
        return [_mend(chosen, layers, accuracy)]
    if backend.name != "none":
        return []
    if (lacking := next((one for one in layers if one.op in unsupported_operators()), None)) is not None:
        return [Advice(ReportCode.REPLACE_FOR_TENSORRT(node=lacking.node, op=lacking.op))]
    found = ReportCode.BUILD_AN_ENGINE(installed=installed(_WITHOUT_GPU))
    return [Advice(found, f'[engine]\nbackend = "{_WITHOUT_GPU}"\n')]


def _as_products(layers: Sequence[LayerInfo]) -> list[Advice]:
    """Advice to write Einsums of an activation and weights as MatMul, which can be quantized, if they matter."""
    made = {tensor for layer in layers for tensor in layer.outputs}
    einsums = [
        layer.node
        for layer in layers
        if layer.op == "Einsum" and len(layer.inputs) == 2 and sum(name in made for name in layer.inputs) == 1
    ]
    work = work_in(layers)
    share = work.share(einsums) if work.of == "macs" else 0.0
    if share < _MUCH_WORK:
        return []
    return [Advice(ReportCode.WRITE_AS_MATMUL(count=len(einsums), node=einsums[0], share=share))]


def not_all(costly: list[_T], quantized: int) -> list[_T]:
    """``costly`` without its last entry if it covers all quantized layers: keeping them all would be the float model.

    Args:
        costly: some of the quantized layers, the most costly first.
        quantized: how many quantized layers there are.
    """
    return costly[:-1] if len(costly) >= quantized else costly


def _other_method(ranges: Sequence[RangeInfo]) -> list[Advice]:
    """Advice to use another calibration method for the tensor that is clipped most."""
    clipped = [info for info in ranges if (info.clipped or 0.0) > CLIPPED]
    if not clipped:
        return []
    info = max(clipped, key=lambda one: one.clipped or 0.0)
    finding = ReportCode.TRY_ANOTHER_METHOD(tensor=info.tensor, method=info.method, clipped=info.clipped)
    return [Advice(finding, f'[calibration]\nmethods = {{ {toml_string(info.tensor)} = "minmax" }}\n')]


def _unlike_profiles(ranges: Sequence[RangeInfo]) -> list[Advice]:
    """Advice to check the samples of the two profiles whose ranges of a tensor differ most."""
    unlike = [(info, pair) for info in ranges if (pair := unlike_profiles(info))]
    if not unlike:
        return []
    info, (low, high, ratio) = max(unlike, key=lambda entry: entry[1][2])
    return [Advice(ReportCode.CHECK_PROFILES_SAMPLES(tensor=info.tensor, ratio=ratio, high=high, low=low))]


def _more_quantized(declined: Sequence[Declined], quantizing: set[str]) -> list[Advice]:
    """Advice on quantizing more of the layers that stayed in float."""
    found = []
    inside = [entry.node for entry in declined if entry.by in quantizing and entry.rule == Code.SUBGRAPH.value]
    if inside:
        found.append(Advice(ReportCode.TAKE_OUT_OF_BODIES(count=len(inside), node=inside[0])))
    by_rule = _worth_quantizing(declined, quantizing)
    if by_rule:
        rule, entries = max(by_rule.items(), key=lambda item: len(item[1]))
        node, reason = entries[0].node, entries[0].reason
        found.append(Advice(ReportCode.BEGIN_WITH_DECLINED(count=len(entries), rule=rule, node=node, reason=reason)))
    return found


def _mend(chosen: Finding, layers: Sequence[LayerInfo], accuracy: Accuracy | None) -> Advice:
    """Advice on changing a model that a backend refused."""
    values = {name: chosen.values[name] for name in ("backend", "taken", "remedy")}
    pairs = any(one.op in PAIR_OPERATORS or (one.asked_precision or Precision.FP32).quantized for one in layers)
    runs = accuracy is not None and bool(accuracy.samples) and not accuracy.refused
    return Advice(ReportCode.MEND_FOR_BACKEND(**values, pairs=pairs, runs=runs))


def as_good_as_float(accuracy: Accuracy | None) -> bool:
    """Whether more float layers would gain nothing: no drop of the metric, or 40 dB SQNR or more at every output."""
    if accuracy is None:
        return False
    if accuracy.drop is not None:
        return accuracy.drop <= 0
    levels = [one for one in accuracy.outputs.values() if not one.ranked]
    return bool(levels) and all(o.identical or (o.sqnr_db is not None and o.sqnr_db >= _FINE_DB) for o in levels)


def titles(passes: Sequence[PassInfo], *roles: Role) -> set[str]:
    """The titles, as in the journal, of the recipe's and the installed passes with these roles."""
    own = {one.title for one in passes if one.role in roles}
    return own | {kind.title() for role in roles for _, kind in passes_with_role(role)}


def quantizers(passes: Sequence[PassInfo]) -> set[str]:
    """The titles, as in the journal, of the passes that quantize or search."""
    return titles(passes, Role.QUANTIZE, Role.SEARCH)


def _worth_quantizing(declined: Sequence[Declined], quantizing: set[str]) -> Mapping[str, list[Declined]]:
    """By rule, the nodes declined by passes that quantize although quantizing them may be possible."""
    by_rule: dict[str, list[Declined]] = defaultdict(list)
    for entry in declined:
        if entry.by in quantizing and entry.rule not in _SETTLED:
            by_rule[entry.rule].append(entry)
    return by_rule


def _search_instead(passes: Sequence[PassInfo]) -> list[Advice]:
    """Advice to use a search in place of the pass that quantizes, if the recipe has such a pass and no search."""
    plain = next((one for one in passes if one.role is Role.QUANTIZE), None)
    searches = passes_with_role(Role.SEARCH)
    if plain is None or not searches or any(one.role is Role.SEARCH for one in passes):
        return []
    import tomli_w

    name, kind = searches[0]
    entry: dict[str, Any] = {"use": name}
    if "helpers" in kind.model_fields:
        entry["helpers"] = [helper for helper, _ in passes_with_role(Role.HELP)]
    search = kind()
    if isinstance(search, Quantizer) and search.plain().title() == plain.title:
        entry |= plain.settings
    else:
        shared = Quantizer.model_fields.keys() & kind.model_fields.keys()
        entry |= {key: value for key, value in plain.settings.items() if key in shared}
        entry["quantizer"] = plain.use
        if own := {key: value for key, value in plain.settings.items() if key not in shared}:
            entry["quantizer_settings"] = own
    return [Advice(ReportCode.SEARCH_INSTEAD(quantizer=plain.use), tomli_w.dumps({"pass": [entry]}))]


def _keep(blamed: Sequence[LayerInfo], usable: bool = False) -> Advice:
    first = blamed[0]
    level = first.error.sqnr_db if first.error else None
    finding = ReportCode.KEEP_LAYERS(
        count=len(blamed), precision=_KEPT_IN, node=first.node, sqnr_db=level,
        overridden=first.status == "overridden", usable=usable,
    )  # fmt: skip
    return Advice(finding, keep_fragment([layer.node for layer in blamed], _KEPT_IN))
