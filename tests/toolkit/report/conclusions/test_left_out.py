"""The first line where quantizing came to nothing, or to nothing for all layers of a kind."""

from __future__ import annotations

import pytest

from tests.toolkit.report.samples import QUANTIZING, SEARCHING
from toolkit.base.precision import Precision
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.headline import headline
from toolkit.report.conclusions.left_out import left_out
from toolkit.report.findings import sentence
from toolkit.report.schema.report import ActualInfo, Asked, Declined, LayerInfo, PassInfo

FOLD = PassInfo(use="fold_constants")


def layer(node, op, precision):
    return LayerInfo(
        node=node,
        op=op,
        role="compute",
        asked=Asked(precision=precision),
        actual=ActualInfo(precision=None),
        status="unknown",
    )


def declined(node, op, rule, by="insert_qdq"):
    return Declined(node=node, op=op, rule=rule, reason=f"because of {rule}", by=by)


def described(quantized, left):
    """Layers ``{name: op}`` that are quantized, and what is declined ``{name: (op, rule)}``."""
    layers = [layer(name, op, Precision.INT8) for name, op in quantized.items()]
    layers += [layer(name, op, Precision.FP16) for name, (op, _) in left.items()]
    return layers, [declined(name, op, rule) for name, (op, rule) in left.items()]


LINEAR = {f"m{i}": ("MatMul", "computed-weights") for i in range(6)}
SCORES = {f"s{i}": ("MatMul", "activation-matmul") for i in range(2)}


@pytest.mark.parametrize("passes", [[FOLD, QUANTIZING], [SEARCHING]])
def test_nothing_quantized_is_said_with_the_rule(passes):
    layers, entries = described({}, {**LINEAR, **SCORES, "c": ("Conv", "foreign-pair")})
    found = left_out(layers, entries, passes)
    assert found.code is ReportCode.NOTHING_QUANTIZED
    assert {key: found.values[key] for key in ("count", "of", "rule", "node")} == {
        "count": 6, "of": 7, "rule": "computed-weights", "node": "m0"
    }  # fmt: skip
    first = headline(layers, None, left=found)
    assert "none of 9 layers" in first and "6 of 7" in first and "computed-weights" in first


def test_the_first_line_has_no_room_for_a_long_reason():
    """It stands beside the layer; the line said 103 words of a search's reasons."""
    layers, entries = described({}, {f"c{i}": ("Conv", "kept") for i in range(5)})
    why = "search_precision keeps it in fp16: all layers in int8 together miss the accuracy budget " * 5
    long = [one.model_copy(update={"reason": why.strip()}) for one in entries]
    found = left_out(layers, long, [SEARCHING])
    assert "miss the accuracy budget" in sentence(found)
    first = headline(layers, None, left=found)
    assert "all 5 layers with weights are left in float by rule 'kept' (such as 'c0')" in first
    assert "budget" not in first and len(first.split()) < 40
    assert "('c0': because of kept)" in headline(layers, None, left=left_out(layers, entries, [SEARCHING]))


def test_what_the_recipe_wishes_is_said_too_where_nothing_is_quantized():
    layers, entries = described({}, {"a": ("Gemm", "kept"), "b": ("Gemm", "kept")})
    assert left_out(layers, entries, [QUANTIZING]).values["rule"] == "kept"


def test_all_linear_layers_left_out_for_one_rule():
    layers, entries = described({"c": "Conv"}, {**LINEAR, **SCORES})
    found = left_out(layers, entries, [QUANTIZING])
    assert found.code is ReportCode.KIND_LEFT_OUT and found.values["kind"] == "linear" and found.values["count"] == 6
    assert "6 linear layers" in sentence(found)


@pytest.mark.parametrize(
    ("quantized", "left"),
    [
        ({"c": "Conv", "g": "Gemm"}, LINEAR),
        ({"c": "Conv"}, {"m": ("MatMul", "computed-weights")}),
        ({"c": "Conv"}, {"m": ("MatMul", "computed-weights"), "n": ("MatMul", "foreign-pair")}),
        ({"c": "Conv"}, {"m": ("MatMul", "excluded"), "n": ("MatMul", "excluded")}),
        ({"c": "Conv"}, SCORES),
    ],
)
def test_it_is_not_said_of_parts_of_a_kind_or_of_what_was_wished(quantized, left):
    layers, entries = described(quantized, left)
    assert left_out(layers, entries, [QUANTIZING]) is None


def test_layers_of_a_kind_that_something_else_keeps_float_are_not_those_of_the_rule():
    layers, entries = described({"c": "Conv"}, {"a": ("Gemm", "subgraph"), "b": ("Gemm", "subgraph")})
    assert left_out(layers, entries, [QUANTIZING]).code is ReportCode.KIND_LEFT_OUT
    # another pass asked for it, or an engine's rules keep it float
    other = [*layers, layer("d", "MatMul", Precision.FP16)]
    assert left_out(other, entries, [QUANTIZING]) is None


def test_a_model_without_such_layers():
    layers, _ = described({}, {"r": ("LSTM", "")})
    assert left_out(layers, [], [QUANTIZING]).code is ReportCode.NO_LAYER_TO_QUANTIZE
    assert left_out(layers, [], [FOLD]).code is ReportCode.NO_PASS_QUANTIZES


def test_products_of_activations_alone_are_said():
    layers, entries = described({}, SCORES)
    found = left_out(layers, entries, [QUANTIZING])
    assert (
        found.code is ReportCode.NOTHING_QUANTIZED
        and found.values["rule"] == "activation-matmul"
        and found.values["of"] == 2
    )


def test_what_a_later_pass_took_out_is_said_with_that_pass():
    layers = [layer("c", "Conv", Precision.FP16), layer("d", "Conv", Precision.FP16)]
    for one in layers:
        one.asked.by, one.asked.reason = "keep_precision", "chosen by '*'"
    found = left_out(layers, [], [QUANTIZING])
    assert found.code is ReportCode.FLOAT_REQUESTED
    assert dict(found.values) == {"count": 2, "of": 2, "node": "c", "by": "keep_precision", "reason": "chosen by '*'"}


def test_what_the_engine_runs_in_float_against_all_requests_is_said():
    layers = [layer("c", "Conv", Precision.INT8), layer("d", "Conv", Precision.INT8)]
    assert left_out(layers, [], [QUANTIZING]) is None
    for one in layers:
        one.actual.precision = Precision.FP16
    found = left_out(layers, [], [QUANTIZING])
    assert found.code is ReportCode.NONE_RUNS_AS_REQUESTED and found.values["count"] == 2
    assert "2 layers were requested quantized" in sentence(found)
    layers[0].actual.precision = Precision.INT8
    assert left_out(layers, [], [QUANTIZING]) is None
