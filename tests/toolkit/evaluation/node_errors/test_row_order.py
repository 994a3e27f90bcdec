"""Layers whose rows are selected by value have no error: row by row the models hold different objects."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.evaluation.node_errors.measure import comparable
from toolkit.evaluation.node_errors.row_order import rows_by_value, selected_rows
from toolkit.report.findings import sentence

WEIGHTS = {
    "w": normal(8, 8), "v": normal(8, 8, seed=1), "k": np.array([4]), "zero": np.float32(0), "most": np.array([9]),
    "one": np.array([1]), "last": np.array([-1]),
}  # fmt: skip
SCORES = [node("MatMul", ["x", "w"], ["m"]), node("ReduceMax", ["m"], ["s"], axes=[1], keepdims=0)]
HEAD = [node("MatMul", ["rows", "v"], ["h"]), node("Relu", ["h"], ["y"])]


def measured(nodes, inputs=None, outputs=None, opset=13):
    proto = build(nodes, inputs or {"x": [20, 8]}, outputs or {"y": None}, WEIGHTS, opset=opset)
    model = Model.from_proto(proto)
    return model, {tensor for _, tensor, _ in comparable(model, model.copy())}


def by_top_k():
    return [*SCORES, node("TopK", ["s", "k"], ["best", "at"], "top", axis=0), node("Gather", ["m", "at"], ["rows"])]


def by_threshold():
    picked = [node("Greater", ["s", "zero"], ["over"]), node("NonZero", ["over"], ["nz"], "which")]
    return [*SCORES, *picked, node("Squeeze", ["nz"], ["at"]), node("Gather", ["m", "at"], ["rows"])]


def by_compress():
    return [
        *SCORES,
        node("Greater", ["s", "zero"], ["over"]),
        node("Compress", ["m", "over"], ["rows"], "pick", axis=0),
    ]


@pytest.mark.parametrize("select", [by_top_k, by_threshold, by_compress])
def test_layers_after_rows_selected_by_value_have_no_error(select):
    model, tensors = measured([*select(), *HEAD])
    assert {"m", "s"} <= tensors and not {"rows", "h", "y"} & tensors
    (note,) = rows_by_value(model)
    name = {by_top_k: "top", by_threshold: "which", by_compress: "pick"}[select]
    assert dict(note.values) == {"by": (name,), "layers": 1}
    assert sentence(note).startswith(f"1 layer after '{name}' has no error figure")


def test_sorted_scores_are_compared_by_rank():
    _, tensors = measured([*SCORES, node("TopK", ["s", "k"], ["best", "at"], axis=0), node("Relu", ["best"], ["y"])])
    assert {"best", "y"} <= tensors


def test_rows_that_are_written_back_to_their_places_are_compared_again():
    """As of experts, each of which computes the tokens that were routed to it."""
    back = [node("Unsqueeze", ["at", "last"], ["to"]), node("ScatterND", ["m", "to", "h"], ["put"]),
            node("MatMul", ["put", "v"], ["y"])]  # fmt: skip
    _, tensors = measured([*by_threshold(), HEAD[0], *back])
    assert {"put", "y"} <= tensors and not {"rows", "h"} & tensors


def test_rows_written_back_to_places_among_selected_rows_stay_selected():
    """As of regions of a detector, which are pooled level by level."""
    level = [node("Greater", ["h", "zero"], ["big"]), node("NonZero", ["big"], ["nz2"], "level"),
             node("Transpose", ["nz2"], ["to"], perm=[1, 0]), node("GatherND", ["h", "to"], ["part"]),
             node("ScatterND", ["h", "to", "part"], ["y"])]  # fmt: skip
    model, tensors = measured([*by_top_k(), HEAD[0], *level])
    assert "y" not in tensors and selected_rows(model)["y"] == {"top"}


def test_a_sum_over_all_that_was_selected_has_no_order():
    """As over the nearest neighbours of each point."""
    near = [node("MatMul", ["m", "w"], ["far"]), node("TopK", ["far", "k"], ["best", "at"], axis=1),
            node("Gather", ["m", "at"], ["rows"]), node("ReduceMax", ["rows"], ["point"], axes=[1], keepdims=0),
            node("MatMul", ["point", "v"], ["y"])]  # fmt: skip
    _, tensors = measured([SCORES[0], *near])
    assert {"point", "y"} <= tensors and "rows" not in tensors


def mixed():
    """Nodes that mix the rows of the nearest four of each point by a product with their shares, [20, 1, 8]."""
    return [
        node("MatMul", ["m", "w"], ["far"]), node("TopK", ["far", "k"], ["best", "at"], "near", axis=1),
        node("Gather", ["m", "at"], ["rows"]), node("Softmax", ["best"], ["share"], axis=1),
        node("Unsqueeze", ["share", "one"], ["shares"]), node("MatMul", ["shares", "rows"], ["mix"]),
    ]  # fmt: skip


def test_a_product_over_all_that_was_selected_has_no_order():
    """As of experts that a router mixes by its shares, after which a model has most of its layers."""
    model, tensors = measured([SCORES[0], *mixed(), node("MatMul", ["mix", "v"], ["y"])], outputs={"y": [20, 1, 8]})
    assert {"mix", "y"} <= tensors and "rows" not in tensors and not rows_by_value(model)


def test_attention_among_selected_rows_has_a_row_for_each_of_them_again():
    attention = [node("Transpose", ["rows"], ["turned"], perm=[1, 0]), node("MatMul", ["rows", "turned"], ["far"]),
                 node("Softmax", ["far"], ["share"], axis=1), node("MatMul", ["share", "rows"], ["mix"])]  # fmt: skip
    model, tensors = measured([*by_top_k(), *attention, node("MatMul", ["mix", "v"], ["y"])])
    assert not {"far", "mix", "y"} & tensors and selected_rows(model)["y"] == {"top"}


def test_rows_that_an_input_selects_are_the_same_in_both_models():
    """As of a mask, or positions of a token."""
    given = [node("MatMul", ["x", "w"], ["m"]), node("NonZero", ["mask"], ["nz"]), node("Squeeze", ["nz"], ["at"]),
             node("Gather", ["m", "at"], ["rows"]), *HEAD]  # fmt: skip
    model, tensors = measured(given, {"x": [20, 8], "mask": [20]})
    assert {"rows", "h", "y"} <= tensors and not rows_by_value(model)
