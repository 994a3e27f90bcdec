"""Errors of layers leave out padding: they are those of the sentences without it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.insert_qdq import InsertQDQ
from tests.conftest import node, placeholder_context
from tests.toolkit.evaluation.observation.test_position_mask import LENGTH, TAGS, sentences, tagger
from toolkit import Model
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.evaluate import evaluate
from toolkit.evaluation.node_errors.layer_positions import LayerPositions
from toolkit.evaluation.numerics.difference import Difference
from toolkit.evaluation.tasks import OutputPart
from toolkit.graph.sessions.session import session
from toolkit.report.findings import sentence

SETTINGS = {"batch_axis": 0, "axis": -1, "mask": "mask", "mask_off": 0, "positions": -2}
PART = OutputPart("sequence", ("logits",), SETTINGS)


def flattened():
    """The tagger with its scores computed of one matrix of all tokens."""
    proto = tagger()
    last = proto.graph.node[-1]
    proto.graph.node.insert(len(proto.graph.node) - 1, node("Reshape", ["state", "rows"], ["flat"]))
    last.input[0], last.output[0] = "flat", "tags"
    proto.graph.node.append(node("Reshape", ["tags", "back"], ["logits"]))
    for name, values in (("rows", [-1, 16]), ("back", [-1, LENGTH, TAGS])):
        proto.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
    return proto


def fixed():
    proto = tagger()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[1].dim_value = LENGTH
    return proto


def pair(proto):
    model = Model.from_proto(proto)
    other = model.copy()
    InsertQDQ()(other, placeholder_context(3.0))
    return model, other


@pytest.mark.parametrize(
    ("proto", "looked_at"),
    [(tagger(), ("xq", "scores", "hidden", "p", "seen", "state", "logits")), (flattened(), ("state", "tags"))],
    ids=["sentences", "one matrix of all tokens"],
)
def test_the_error_of_a_layer_is_that_of_sentences_without_padding(proto, looked_at):
    model, other = pair(proto)
    given, on = sentences(8)
    data = CalibrationData.open([{name: value[i : i + 1] for name, value in given.items()} for i in range(8)], model)
    found = evaluate(model, other, data, answers=Answers([PART])).nodes
    every = evaluate(model, other, data).nodes
    a, b = (session(one, outputs=looked_at) for one in (model, other))
    for name in looked_at:
        direct = Difference()
        for row, length in enumerate(on.sum(axis=1)):
            short = {key: value[row : row + 1, :length] for key, value in given.items()}
            if "flat" in model.tensor_names():
                # the length of a sentence is written into the graph
                whole = {key: value[row : row + 1] for key, value in given.items()}
                wanted, made = (one.run(whole)[name].reshape(LENGTH, -1)[:length] for one in (a, b))
            else:
                wanted, made = (one.run(short)[name] for one in (a, b))
            direct.add(wanted, made)
        of = model.producer(next(t for n in model.nodes for t in n.outputs if t.name == name)).name
        assert found[of].sqnr_db == pytest.approx(direct.sqnr_db, abs=0.01)
        assert found[of].max_abs == pytest.approx(direct.max_abs, rel=1e-3)
        assert name in ("scores", "hidden") or every[of].sqnr_db != pytest.approx(direct.sqnr_db, abs=0.01)


def positions(proto, *parts):
    return LayerPositions.of(parts or [PART], Model.from_proto(proto))


@pytest.mark.parametrize(
    ("proto", "shape", "shown"),
    [
        (tagger(), (2, LENGTH, 16), (2, LENGTH, 1)),
        (tagger(), (2, 4, LENGTH, LENGTH), (2, 1, LENGTH, LENGTH)),
        (tagger(), (2 * LENGTH, 16), (2 * LENGTH, 1)),
        (tagger(), (2, 16), None),
        (tagger(), (5, LENGTH, 16), None),
        (fixed(), (2, LENGTH, 16), (2, LENGTH, 1)),
        # of a fixed length either axis may be the features
        (fixed(), (2, LENGTH, LENGTH), None),
    ],
)
def test_positions_lie_where_a_tensor_is_as_long_as_they_are(proto, shape, shown):
    mask = (np.arange(LENGTH) < np.array([[3], [5]])).astype(np.int64)
    on = positions(proto).on("unknown", np.zeros(shape, np.float32), {"mask": mask})
    assert (on is None) if shown is None else on.shape == shown
    if shown is not None:
        assert np.broadcast_to(on, shape).sum() * (LENGTH * 2) == np.prod(shape) * mask.sum() or len(shape) == 4


def test_a_feature_axis_that_is_as_long_as_a_sentence_by_chance_has_no_positions():
    known = positions(tagger())
    state = np.zeros((1, 16, 16), np.float32)
    assert known.on("state", state, {"mask": np.tile(np.arange(16) < 9, (1, 1)).astype(np.int64)}).shape == (1, 16, 1)


def test_padding_counts_where_another_output_may_read_it():
    pooled = OutputPart("embedding", ("pooled",), {"batch_axis": 0})
    assert positions(tagger(), PART, pooled) is None and positions(tagger(), pooled) is None
    assert positions(tagger(), PART) is not None


def widened(proto):
    """The tagger with as many features as its sentences have words."""
    for one in proto.graph.initializer:
        if 16 in one.dims:
            values = numpy_helper.to_array(one)
            cut = values[tuple(slice(LENGTH) if size == 16 else slice(None) for size in values.shape)]
            one.CopyFrom(numpy_helper.from_array(cut.copy(), one.name))
    return proto


def test_channels_are_no_positions_though_as_many():
    """Of [samples, features] the padding of a sentence hid features."""
    mask = (np.arange(LENGTH) < np.array([[3], [5]])).astype(np.int64)
    pooled = np.zeros((2, LENGTH), np.float32)
    # a fixed length that no layer has channels of: scores of positions
    assert positions(fixed()).on("unknown", pooled, {"mask": mask}).shape == (2, LENGTH)
    alike = positions(widened(fixed()))
    for shape in ((2, LENGTH), (2, LENGTH, 48), (2, 7, LENGTH)):
        assert alike.on("unknown", np.zeros(shape, np.float32), {"mask": mask}) is None
    # a length that is dynamic is told by the shapes that are known, and by these alone
    dynamic = positions(widened(tagger()))
    assert dynamic.on("unknown", pooled, {"mask": mask}) is None
    state = np.zeros((2, LENGTH, LENGTH), np.float32)
    assert dynamic.on("state", state, {"mask": mask}).shape == (2, LENGTH, 1)


def test_that_the_axes_cannot_be_told_is_said():
    (said,) = [LayerPositions.untold([PART], Model.from_proto(widened(fixed())))]
    assert said == EvaluationCode.LAYER_POSITIONS_UNTOLD(input="mask", positions=LENGTH)
    assert f"'mask' turns off: layers have as many channels as it has positions, {LENGTH}," in sentence(said)
    for told in (fixed(), tagger(), widened(tagger())):
        assert LayerPositions.untold([PART], Model.from_proto(told)) is None
    assert LayerPositions.untold([OutputPart("embedding", ("pooled",))], Model.from_proto(fixed())) is None
