"""An input of one value that decides an If: what new says of it, and what fixed_inputs makes of the model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.fold_constants import FoldConstants
from tests.conftest import build, node, normal, ops, run
from toolkit import Code, Context, Model, RecipeError
from toolkit.cli.main import invoke
from toolkit.data.dataset import CalibrationData
from toolkit.run.new.fixed_inputs import deciding_inputs, fixed_input_lines
from toolkit.run.recipe.recipe import Recipe


def by_rate(rate_shape=(), kind=TensorProto.INT64, also="rate"):
    """Two convolutions of which the sampling rate says which one runs; ``also`` is what it is compared with."""

    def branch(name, weight):
        made = helper.make_node("Conv", ["x", weight], [f"{name}_y"], name=f"{name}_conv")
        return helper.make_graph(
            [made], name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)]
        )

    limit = np.asarray(12000, helper.tensor_dtype_to_np_dtype(kind)).reshape(rate_shape)
    nodes = [
        node("Greater", ["rate", "limit" if also == "rate" else also], ["high"]),
        node("If", ["high"], ["y"], "which"),
    ]
    nodes[1].attribute.extend([helper.make_attribute("then_branch", branch("then", "w")),
                               helper.make_attribute("else_branch", branch("else", "v"))])  # fmt: skip
    inputs = {"x": ["n", 3, 16], "rate": list(rate_shape)} | ({also: list(rate_shape)} if also != "rate" else {})
    return build(nodes, inputs, {"y": ["n", 4, 14]}, {"limit": limit, "w": normal(4, 3, 3), "v": normal(4, 3, 3, seed=1)},
                 types={name: kind for name in inputs if name != "x"})  # fmt: skip


def fixed(proto, **values):
    """The model with inputs of one value, and the journal."""
    model, context = Model.from_proto(proto).copy(), Context()
    FoldConstants(fixed_inputs=values)(model, context)
    return model, context.journal


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize(("value", "conv"), [(16000, "then_conv"), (8000, "else_conv")])
def test_an_if_that_a_fixed_input_decides_becomes_its_branch(shape, value, conv):
    proto = by_rate(shape)
    model, journal = fixed(proto, rate=value)
    assert [one.name for one in model.nodes if one.op == "Conv"] == [conv] and "If" not in ops(model)
    assert [tensor.name for tensor in model.graph.inputs] == ["x", "rate"]
    model.check()
    feeds = {"x": normal(2, 3, 16), "rate": np.full(shape, value)}
    (wanted,), (found,) = run(proto, feeds), run(model, feeds)
    np.testing.assert_array_equal(wanted, found)
    (note,) = [event.why for event in journal.of("noted") if event.why.code is Code.INPUT_FIXED]
    assert note.values == {"input": "rate", "value": value, "readers": 1}


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [(TensorProto.INT64, 16000.5, r"input 'rate' holds int64, not 16000\.5"),
     (TensorProto.INT64, 2**63, "holds int64, not 9223372036854775808"),
     (TensorProto.INT64, 10**30, "holds int64, not 1000000000000000000000000000000"),
     (TensorProto.INT16, 40000, "holds int16, not 40000"), (TensorProto.FLOAT, 10**400, "holds float32, not 1000"),
     (TensorProto.FLOAT16, 70000, "holds float16, not 70000"), (TensorProto.FLOAT, 1e39, r"holds float32, not 1e\+39")],
)  # fmt: skip
def test_a_value_that_an_inputs_type_does_not_hold_is_refused(kind, value, message):
    with pytest.raises(RecipeError, match=message):
        fixed(by_rate(kind=kind), rate=value)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_a_float_input_takes_the_nearest_value_of_its_type(kind):
    """0.1 is none that float32 holds."""
    proto = by_rate(kind=kind)
    proto.graph.output.add().CopyFrom(helper.make_tensor_value_info("twice", kind, []))
    proto.graph.node.append(helper.make_node("Add", ["rate", "rate"], ["twice"], name="add"))
    model, _ = fixed(proto, rate=0.1)
    assert [one.name for one in model.nodes if one.op == "Conv"] == ["else_conv"]
    (stored,) = [one for one in model.to_proto().graph.initializer if one.name == "rate_fixed"]
    assert stored.data_type == kind
    assert numpy_helper.to_array(stored) == helper.tensor_dtype_to_np_dtype(kind).type(0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"rat": 16000}, "names 'rat', which is not an input of the model. Did you mean 'rate'"),
     ({"x": 1.0}, "the shape of input 'x' is not fixed")],
)  # fmt: skip
def test_what_cannot_be_fixed_is_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        fixed(by_rate(), **values)


def test_an_input_that_another_if_reads_within_its_branches_decides_as_well():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (int64[1] rate, float[1] x, bool[1] other) => (float[1] y) <int64[1] limit = {12000}> {
            high = Greater(rate, limit)
            both = If (high) <then_branch = a () => (bool[1] p) { p = Identity(other) },
                              else_branch = b () => (bool[1] q) { q = Not(other) }>
            y = If (both) <then_branch = c () => (float[1] r) { r = Relu(x) }, else_branch = d () => (float[1] s) { s = Neg(x) }>
        }
    """)
    model.graph.node[1].name, model.graph.node[2].name = "first", "second"
    assert deciding_inputs(Model.from_proto(model)) == {"rate": ["first"]}


def test_only_an_input_of_one_value_that_decides_alone_is_named():
    assert deciding_inputs(Model.from_proto(by_rate())) == {"rate": ["which"]}
    assert deciding_inputs(Model.from_proto(by_rate((1,)))) == {"rate": ["which"]}
    assert deciding_inputs(Model.from_proto(by_rate(also="other"))) == {}
    assert deciding_inputs(Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]}))) == {}


@pytest.mark.parametrize("rates", [[16000] * 8, [16000, 8000] * 4])
def test_a_new_recipe_names_the_value_where_all_samples_have_it(tmp_path, capsys, rates):
    """As a comment: with another value the model would be another one."""
    onnx.save(by_rate(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=normal(8, 3, 16), rate=np.asarray(rates))
    target = tmp_path / "r.toml"
    assert invoke(["new", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "c.npz"), "--out", str(target)]) == 0
    told = "Input 'rate' is 16000 in every sample and decides which branch of 'which' runs; nothing in a branch is quantized."
    alike = len(set(rates)) == 1
    assert (told in capsys.readouterr().out) is alike and ("fixed_inputs" in target.read_text()) is alike
    if alike:
        text = target.read_text().replace("# fixed_inputs", "fixed_inputs")
        target.write_text(text)
        assert Recipe.parse(text).passes[0]["fixed_inputs"] == {"rate": 16000}
        assert invoke(["check", str(target)]) == 0
        assert "requested: 1 int8" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_a_float_is_named_as_a_person_would_write_it(kind):
    """And not by the digits of float64, which nobody gave."""
    model = Model.from_proto(by_rate(kind=kind))
    value = helper.tensor_dtype_to_np_dtype(kind).type(0.1)
    data = CalibrationData.open([{"x": normal(3, 16)[None], "rate": np.asarray(value)}] * 2, model)
    lines, (found,) = fixed_input_lines(model, [data])
    assert lines[-1] == '# fixed_inputs = { "rate" = 0.1 }' and found.values["value"] == 0.1
