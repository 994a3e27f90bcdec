"""Layers in another float type than the rest are told with their reason."""

from __future__ import annotations

from tests.toolkit.report.samples import build
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.report.conclusions.other_floats import other_floats
from toolkit.report.schema.report import ActualInfo, Asked, Declined, LayerInfo
from toolkit.report.terminal.report import to_text

FP16, FP32, INT8 = Precision.FP16, Precision.FP32, Precision.INT8


def layer(name, asked, actual=None, reason="", role="compute", by="rest"):
    return LayerInfo(node=name, op="Div", role=role, asked=Asked(precision=asked, reason=f"why {name}", by=by),
                     actual=ActualInfo(precision=actual), reason=reason)  # fmt: skip


def test_each_decider_is_named_with_one_layer_and_its_reason():
    layers = [
        layer("a", FP16, FP16), layer("b", INT8, INT8), layer("c", FP32, by="guard_fp16"), layer("d", FP16),
        layer("e", FP16), layer("f", FP16, FP32, "no kernel"), layer("cast", FP32, role="convert"), layer("g", INT8),
    ]  # fmt: skip
    stays = [Declined(node=one, rule=Code.STAYS_FP32.value, reason="tiny", by="lowering") for one in ("d", "e", "g")]
    told = [
        (one.values["count"], one.values["by"], one.values["node"], one.values["reason"])
        for one in other_floats(layers, FP16, stays)
    ]
    assert told == [(2, "lowering", "d", "tiny"), (1, "guard_fp16", "c", "why c"), (1, "the engine", "f", "no kernel")]
    assert other_floats([layer("c", FP32)], FP32) == []


def test_they_are_in_the_terminal_under_the_counts():
    report = build([layer("c", FP32, by="guard_fp16")], None)
    report.summary.floats = ["1 layer in FP32 and not in FP16, by guard_fp16: 'c' (why c)."]
    assert report.summary.floats[0] in " ".join(to_text(report).split())
