"""Masks of Attention that ONNX broadcasts: the values are those of the masks written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from tests.control_flow import subgraph, switch
from toolkit.graph.ort_forms.kernels import has_kernel
from toolkit.graph.ort_forms.masks import spread_masks
from toolkit.graph.sessions.session import session

HEADS, QUERIES, KEYS, WIDTH = 2, 5, 7, 4
KIND = {bool: TensorProto.BOOL, np.float32: TensorProto.FLOAT}


def wanted(q, k, v, mask):
    """softmax(q k^T / sqrt(d) + mask) v, of [batch, heads, length, d]."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH)
    scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


@pytest.mark.skipif(not has_kernel("", "Attention"), reason="onnxruntime has no Attention of ONNX's")
@pytest.mark.parametrize("kind", [bool, np.float32])
@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize(
    "shape", [(3, 1, 1, KEYS), (1, 1, 1, KEYS), (3, 1, QUERIES, KEYS), (3, HEADS, 1, KEYS), (QUERIES, KEYS), (1, KEYS)]
)
@pytest.mark.parametrize("split", [True, False])
def test_a_mask_counts_for_every_query(shape, kind, opset, split):
    q, k, v = (
        normal(3, HEADS, QUERIES, WIDTH),
        normal(3, HEADS, KEYS, WIDTH, seed=1),
        normal(3, HEADS, KEYS, WIDTH, seed=2),
    )
    mask = np.random.default_rng(3).random(shape) > 0.4
    mask[..., 0] = True
    if kind is not bool:
        mask = np.where(mask, normal(*shape, seed=4), np.float32(-1e9)).astype(np.float32)
    given = {"q": q, "k": k, "v": v}
    attrs = {}
    if not split:
        # the heads beside each other, as [batch, length, heads x d]
        given = {name: one.swapaxes(1, 2).reshape(3, -1, HEADS * WIDTH) for name, one in given.items()}
        attrs = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    shapes = {name: ["b", *one.shape[1:]] for name, one in given.items()}
    proto = build(
        [node("Attention", ["q", "k", "v", "m"], ["y"], **attrs)], {**shapes, "m": list(shape)}, {"y": shapes["q"]},
        opset=opset, ir_version=11, types={"m": KIND[kind]},
    )  # fmt: skip
    found = session(proto).run({**given, "m": mask})["y"]
    right = wanted(q, k, v, mask)
    right = right if split else right.swapaxes(1, 2).reshape(3, QUERIES, -1)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not has_kernel("", "Attention"), reason="onnxruntime has no Attention of ONNX's")
def test_masks_within_a_body_are_spread_where_those_around_it_are():
    def read(out):
        return node("Attention", ["q", "k", "v", "m"], [out])

    inner = switch("inner", "yes", ["b"], subgraph([read("c")], {"c": None}), subgraph([read("d")], {"d": None}))
    nodes = [
        read("a"), switch("outer", "yes", ["e"], subgraph([read("f"), inner, node("Add", ["f", "b"], ["g"])], {"g": None}),
                          subgraph([read("h")], {"h": None})),
        node("Add", ["a", "e"], ["y"]),
    ]  # fmt: skip
    shapes = {"q": ["b", HEADS, QUERIES, WIDTH], "k": ["b", HEADS, KEYS, WIDTH], "v": ["b", HEADS, KEYS, WIDTH]}
    proto = build(nodes, {**shapes, "m": ["b", 1, 1, KEYS], "yes": []}, {"y": None}, opset=23, ir_version=11,
                  types={"yes": TensorProto.BOOL})  # fmt: skip
    given = {name: normal(3, *shape[1:], seed=number) for number, (name, shape) in enumerate(shapes.items())}
    mask = normal(3, 1, 1, KEYS, seed=4)
    found = session(proto).run({**given, "m": mask, "yes": np.array(True)})["y"]
    np.testing.assert_allclose(found, 3 * wanted(*given.values(), mask), rtol=1e-4, atol=1e-5)


def test_a_mask_is_spread_once_and_one_of_several_rows_not_at_all():
    shapes = {"q": [1, 2, 5, 4], "k": [1, 2, 7, 4], "v": [1, 2, 7, 4]}
    attention = node("Attention", ["q", "k", "v", "m"], ["y"])
    for mask, spread in (([1, 1, 1, 7], True), ([1, 1, 5, 7], False), ([1, 1, "rows", 7], True)):
        proto = build([attention], {**shapes, "m": mask}, {"y": shapes["q"]}, opset=23, ir_version=11)
        assert spread_masks(proto) is spread
        # what was exported so is opened by a session as it is
        assert not spread_masks(proto) and len(proto.graph.node) == (5 if spread else 1)
