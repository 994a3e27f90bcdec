"""Models that come quantized: refused where TensorRT takes none of it, and never taken for float models."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal
from tests.conftest import run as infer
from tests.toolkit.conftest import GOOD, complain
from toolkit import Code, Model, run
from toolkit.base.code import import_path
from toolkit.cli.main import invoke
from toolkit.contract.journal import Journal
from toolkit.graph.files.header import read_header
from toolkit.report.findings import sentence
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys.keys import evaluation_key
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.steps.passes import PassesStep


def inputs_of(place, allow_code=False):
    return Inputs(Job(Recipe.load(place / "recipe.toml"), RunFolder(place / "out"), allow_code))


def integers(domain=""):
    scale, zero = np.float32(0.1), np.uint8(128)
    made = node("QLinearMatMul", ["q", "s", "z", "w", "s", "z", "s", "z"], ["m"])
    if domain:
        made = node("QGemm", ["q", "s", "z", "w", "s", "z"], ["m"])
        made.domain = domain
    proto = build(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {"x": ["n", 4]}, {"y": ["n", 4]}, {"s": scale, "z": zero, "w": np.full((4, 4), 130, np.uint8)},
    )  # fmt: skip
    proto.graph.node[1].input[0] = "m"
    proto.graph.node.insert(1, made)
    if domain:
        proto.opset_import.add(domain=domain, version=1)
    return proto


@pytest.mark.parametrize(("domain", "op"), [("", "QLinearMatMul 1"), ("com.microsoft", "QGemm 1")])
@pytest.mark.parametrize("command", ["run", "check", "new", "calibrate"])
def test_integer_operators_are_refused_by_name_before_anything_is_done(place, capsys, monkeypatch, command, domain, op):
    onnx.save(integers(domain), str(place / "model.onnx"))
    np.savez(place / "data.npz", x=normal(12, 4))
    monkeypatch.setattr(PassesStep, "run", lambda self: pytest.fail("a step was begun"))
    target = place / "model.onnx" if command == "new" else place / "recipe.toml"
    out = [] if command == "check" else ["--out", str(place / "made")]
    said = complain(place, capsys, command, str(target), *out)
    assert f"this model is quantized with {'integer' if domain else 'QLinear*'} operators ({op})" in said
    assert "model.onnx" in said and "Export the float model" in said
    assert not (place / "made").is_file()


@pytest.mark.parametrize("command", ["run", "check", "new"])
def test_operators_with_narrow_weights_are_said_to_be_that(place, capsys, command):
    """They are no integer operators: their activations are float."""
    narrow = node("MatMulNBits", ["x", "w", "s"], ["y"], K=32, N=4, bits=4, block_size=32)
    narrow.domain = "com.microsoft"
    weights = {"w": np.full((4, 1, 16), 0x97, np.uint8), "s": np.full(4, 0.1, np.float32)}
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 32]}, {"y": None}, weights)
    proto.graph.node[0].CopyFrom(narrow)
    proto.opset_import.add(domain="com.microsoft", version=1)
    onnx.save(proto, str(place / "model.onnx"))
    np.savez(place / "data.npz", x=normal(12, 32))
    said = complain(place, capsys, command, str(place / ("model.onnx" if command == "new" else "recipe.toml")))
    assert "weights are stored in a few bits and its activations are float" in said and "(MatMulNBits 1)" in said
    assert "dtype = 'int4'" in said and "integer operators" not in said


def test_operators_of_subgraphs_count_too(place, capsys):
    proto = integers()
    branch = onnx.helper.make_graph(
        [n for n in proto.graph.node if n.op_type == "QLinearMatMul"], "then", [],
        [onnx.helper.make_tensor_value_info("m", TensorProto.UINT8, None)],
    )  # fmt: skip
    choose = onnx.helper.make_node("If", ["c"], ["m"], then_branch=branch, else_branch=branch)
    del proto.graph.node[1]
    proto.graph.node.insert(1, choose)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    onnx.save(proto, str(place / "model.onnx"))
    assert "QLinearMatMul 2" in complain(place, capsys, "check", str(place / "recipe.toml"))


def quantized(place):
    """What qtool itself makes of the model of ``place``, in its place."""
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "first")]) == 0
    (place / "float.onnx").write_bytes((place / "model.onnx").read_bytes())
    (place / "model.onnx").write_bytes((place / "first" / "model.onnx").read_bytes())


PAIRS = Code.QUANTIZED_SOURCE(pairs=2)


def test_a_model_with_pairs_is_called_that_unless_they_are_stripped(place, capsys):
    quantized(place)
    capsys.readouterr()
    assert invoke(["check", str(place / "recipe.toml")]) == 0
    assert "strip_qdq" in sentence(PAIRS) and f"warning: {sentence(PAIRS)}\n" in capsys.readouterr().out
    assert invoke(["check", str(place / "recipe.toml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["warnings"] and not any("Q/DQ" in note for note in found["notes"])
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) in (0, 1)
    events = [json.loads(line) for line in (place / "out" / "journal.jsonl").read_text().splitlines()]
    assert [e["values"] for e in events if e.get("rule") == PAIRS.code] == [{"pairs": 2}]
    assert sentence(PAIRS) in " ".join(capsys.readouterr().out.split())

    text = GOOD.replace("[[pass]]", '[[pass]]\nuse = "strip_qdq"\n\n[[pass]]', 1)
    (place / "recipe.toml").write_text(text)
    assert invoke(["check", str(place / "recipe.toml")]) == 0
    assert "warning:" not in capsys.readouterr().out
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) in (0, 1)
    assert "quantized-source" not in (place / "out" / "journal.jsonl").read_text()


def test_with_strip_qdq_results_are_compared_with_the_float_model(place):
    quantized(place)
    text = GOOD.replace("[[pass]]", '[[pass]]\nuse = "strip_qdq"\n\n[[pass]]', 1)
    (place / "recipe.toml").write_text(text)
    inputs = inputs_of(place)
    samples = {"x": normal(2, 3, 4, 4, seed=9)}
    wanted = StripQDQ()(Model.load(place / "model.onnx"))
    assert np.array_equal(infer(inputs.reference(), samples)[0], infer(wanted, samples)[0])
    assert not np.array_equal(infer(inputs.source(), samples)[0], infer(wanted, samples)[0])
    # the quantized form of a model is its own reference only where nothing is stripped
    (place / "recipe.toml").write_text(GOOD)
    plain = inputs_of(place)
    assert plain.reference() is plain.source()


def test_a_source_that_is_quantized_itself_is_not_called_float(tmp_path):
    x = normal(40, 6, seed=2)
    pair = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["back"])]
    proto = build(
        [*pair, node("MatMul", ["back", "w"], ["y"])], {"x": ["n", 6]}, {"y": ["n", 5]},
        {"s": np.float32(0.03), "z": np.int8(0), "w": normal(6, 5)},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=x)
    np.savez(tmp_path / "test.npz", x=x, label=np.arange(40) % 5)
    passes = ["insert_qdq"], ["strip_qdq", "insert_qdq"]
    for chosen in passes:
        recipe = Recipe.build(
            "r", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")}, passes=chosen,
            engine={"backend": "none"}, evaluation={"data": str(tmp_path / "test.npz"), "metric": "top1"},
        )  # fmt: skip
        made, kept = run(recipe, tmp_path / "out").report, chosen is passes[0]
        assert made.accuracy.quantized_source is kept
        assert ("of the source, which is quantized itself" in made.summary.headline) is kept
        assert ("float (drop" in made.summary.headline) is not kept


def test_the_pairs_are_taken_out_once_whoever_asks_first(place, monkeypatch):
    quantized(place)
    (place / "recipe.toml").write_text(GOOD.replace("[[pass]]", '[[pass]]\nuse = "strip_qdq"\n[[pass]]', 1))
    stripped, apply = [], StripQDQ.apply
    monkeypatch.setattr(StripQDQ, "apply", lambda self, *of: (stripped.append(self), apply(self, *of))[1])
    inputs = inputs_of(place)
    assert inputs.reference() is not inputs.source() and len(stripped) == 1


def test_strip_by_its_modules_name_counts_and_what_it_does_not_name_stays(place, capsys):
    quantized(place)
    strip = '[[pass]]\nuse = "{use}"\n{more}\n[[pass]]'
    (place / "mine_abc.py").write_text("from passes.strip_qdq import StripQDQ\n")
    recipe = place / "recipe.toml"
    for use, more, told in (
        ("mine_abc:StripQDQ", "", False), ("strip_qdq", 'nodes = ["made_by_an_earlier_pass"]\n', True),
    ):  # fmt: skip
        recipe.write_text(GOOD.replace("[[pass]]", strip.format(use=use, more=more), 1))
        inputs = inputs_of(place, allow_code=True)
        with import_path(place):
            journal = Journal()
            inputs.source(journal)
            assert any(event.rule == "quantized-source" for event in journal) == told
            assert (inputs.reference() is inputs.source()) == told
            assert evaluation_key(inputs)["stripped"]


def test_operators_of_other_domains_are_not_taken_for_integer_ones(place):
    onnx.save(integers("com.microsoft"), str(place / "model.onnx"))
    assert read_header(place / "model.onnx").ops["QGemm"] == 1
    onnx.save(integers("my.plugins"), str(place / "model.onnx"))
    assert "QGemm" not in read_header(place / "model.onnx").ops


def test_the_reference_is_part_of_the_keys(place):
    quantized(place)
    keys = []
    for text in (GOOD, GOOD.replace("[[pass]]", '[[pass]]\nuse = "strip_qdq"\n\n[[pass]]', 1)):
        (place / "recipe.toml").write_text(text)
        keys.append(evaluation_key(inputs_of(place)))
    assert keys[0] != keys[1]


def test_new_takes_the_pairs_out(place, capsys):
    quantized(place)
    out = place / "fresh.toml"
    words = ["new", str(place / "model.onnx"), "--data", str(place / "data.npz"), "--out", str(out)]
    assert invoke(words) == 0
    assert [entry["use"] for entry in Recipe.load(out).passes][:2] == ["strip_qdq", "fold_constants"]
    assert "# The model has 2 Q/DQ pairs" in out.read_text()
    capsys.readouterr()
    assert invoke(["check", str(out)]) == 0
    assert "warning" not in capsys.readouterr().out
    assert invoke(["new", str(place / "float.onnx"), "--out", str(out), "--force"]) == 0
    assert "strip_qdq" not in out.read_text()


def test_notes_on_a_model_are_said_to_whoever_asks(place):
    from toolkit.contract.journal import Journal

    quantized(place)
    inputs = inputs_of(place)
    inputs.source()
    late = Journal()
    inputs.source(late)
    assert [event.rule for event in late] == ["quantized-source"]


@pytest.mark.parametrize("kept", [[], ["b"]])
def test_pairs_that_a_recipe_keeps_are_what_it_requests(tmp_path, kept):
    """With no pass that quantizes, too: the engine runs the layers between them quantized."""
    pair = [node("QuantizeLinear", ["{}", "s", "z"], ["{}_q"]), node("DequantizeLinear", ["{}_q", "s", "z"], ["{}_d"])]

    def paired(tensor):
        return [
            node(one.op_type, [i.format(tensor) for i in one.input], [o.format(tensor) for o in one.output])
            for one in pair
        ]

    nodes = [
        *paired("x"), *paired("v"), node("MatMul", ["x_d", "v_d"], ["h"], "a"),
        *paired("h"), *paired("w"), node("MatMul", ["h_d", "w_d"], ["g"], "b"),
        node("MatMul", ["g", "u"], ["y"], "c"),
    ]  # fmt: skip
    weights = {"v": normal(6, 6), "w": normal(6, 6, seed=1), "u": normal(6, 6, seed=2)}
    proto = build(
        nodes, {"x": ["n", 6]}, {"y": ["n", 6]}, {**weights, "s": np.float32(0.05), "z": np.int8(0)}, opset=17
    )
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(16, 6))
    recipe = Recipe.build(
        "r", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=[{"use": "keep_precision", "nodes": kept, "precision": "fp16"}] if kept else [],
        engine={"backend": "none"}, evaluation={"data": str(tmp_path / "data.npz"), "task": "regression"},
    )  # fmt: skip
    report = run(recipe, tmp_path / "out").report
    asked = {layer.node: str(layer.asked_precision) for layer in report.layers if layer.op == "MatMul"}
    assert asked == {"a": "int8", "b": "fp16" if kept else "int8", "c": "fp16"}
    assert report.summary.asked_share == pytest.approx(1 / 3 if kept else 2 / 3)
    first = next(layer for layer in report.layers if layer.node == "a")
    assert first.asked.by == "the model's Q/DQ pairs" and "its own Q/DQ pairs" in first.asked.reason
    number = "1 of 3 layers is" if kept else "2 of 3 layers are"
    assert f"{number} requested in INT8" in report.summary.headline
