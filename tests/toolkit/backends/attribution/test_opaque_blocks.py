"""Opening opaque blocks: which tensors are marked, how, and what becomes of the evidence."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import TypeAdapter

from tests.conftest import MODELS, build, node, normal, said
from tests.toolkit.backends.payoff_stand_in import StandIn
from toolkit import Code, Journal, Model, Recipe
from toolkit.backends.attribution.nodes import attribute
from toolkit.backends.attribution.opaque_blocks import marks, with_evidence
from toolkit.backends.building.mark_tensors import mark_tensors
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Actual, Build, Layer, Port
from toolkit.base.errors import BackendError
from toolkit.cli.main import invoke
from toolkit.contract.plan import PrecisionPlan
from toolkit.report.findings import sentence
from toolkit.run.pipeline import run


def block():
    """matmul - softmax - matmul - relu - layer norm - matmul, the last one an output."""
    weights = {f"w{i}": normal(8, 8, seed=i) for i in range(3)}
    weights |= {"gain": np.ones(8, np.float32), "shift": np.zeros(8, np.float32)}
    return Model.from_proto(build(
        [
            node("MatMul", ["x", "w0"], ["m0"]), node("Softmax", ["m0"], ["s"]), node("MatMul", ["s", "w1"], ["m1"]),
            node("Relu", ["m1"], ["r"]), node("LayerNormalization", ["r", "gain", "shift"], ["n"]),
            node("MatMul", ["n", "w2"], ["y"]),
        ],
        {"x": ["n", 8]}, {"y": ["n", 8]}, weights,
    ))  # fmt: skip


def asked(*names):
    plan = PrecisionPlan()
    for name in names:
        plan.ask(name, "int8", "the test asks")
    return plan


OPAQUE = Actual(
    None, source="inspector", status="opaque", reason=EngineCode.IN_KERNEL_OF(node="b"), engine_layers=("b",)
)


def test_marks_are_float_borders_inside_the_block_and_no_outputs():
    model = block()
    found = marks(model, dict.fromkeys(model.node_names(), OPAQUE), asked("m1"))
    assert found.tensors == ("m0", "s", "m1", "n") and found.left_out == ()
    assert marks(model, {**dict.fromkeys(model.node_names(), OPAQUE), "s": Actual(None)}, asked()).tensors == (
        "m0",
        "m1",
        "n",
    )
    assert marks(model, {}, asked("m1")).tensors == ()


def test_a_norm_in_pieces_is_marked_where_it_ends():
    """As where it is one operator: not at each of its pieces."""
    numbers = {"two": np.float32(2).reshape(()), "eps": np.float32(1e-5).reshape(())}
    model = Model.from_proto(build(
        [
            node("MatMul", ["x", "w0"], ["m0"]), node("ReduceMean", ["m0"], ["mean"], axes=[-1]), node("Sub", ["m0", "mean"], ["d"]),
            node("Pow", ["d", "two"], ["sq"]), node("ReduceMean", ["sq"], ["var"], axes=[-1]), node("Add", ["var", "eps"], ["ve"]),
            node("Sqrt", ["ve"], ["sd"]), node("Div", ["d", "sd"], ["n"]), node("Mul", ["n", "gain"], ["g"]),
            node("MatMul", ["g", "w1"], ["y"]),
        ],
        {"x": ["n", 8]}, {"y": ["n", 8]}, {"w0": normal(8, 8), "w1": normal(8, 8, seed=1), "gain": np.ones(8, np.float32), **numbers},
    ))  # fmt: skip
    assert marks(model, dict.fromkeys(model.node_names(), OPAQUE), asked()).tensors == ("m0", "g")


def test_too_many_marks_leave_out_what_nobody_asked_to_quantize():
    model = block()
    found = marks(model, dict.fromkeys(model.node_names(), OPAQUE), asked("m1", "r"), limit=3)
    assert found.tensors == ("m0", "m1", "r") and found.left_out == ("s", "n")


def test_evidence_leaves_nodes_opaque_and_warns_that_it_is_another_engine():
    model = block()
    whole = Layer("{ForeignNode[m0...y]}", "Myelin", (Port("x", "fp16"),), (Port("y", "fp16"),))
    before = attribute(model, Build("tensorrt", "8.6", b"", [whole], "inspector"), asked("m1"))
    assert {actual.status for actual in before.values()} == {"opaque"}
    pieces = [
        Layer("{ForeignNode[m0...s]}", "Myelin", (Port("x", "fp16"),), (Port("s", "fp16"),)),
        Layer(
            "m1",
            "MatrixMultiply",
            (Port("s", "int8"),),
            (Port("m1", "fp16"),),
            tactic="sm80_xmma_gemm_i8i8",
            nodes=("m1",),
        ),
        Layer("{ForeignNode[r...y]}", "Myelin", (Port("m1", "fp16"),), (Port("y", "fp16"),)),
    ]
    opened = Build("tensorrt", "8.6", b"", pieces, "inspector", time_ms={"m1": {"a": 0.25}})
    found, told = with_evidence(before, attribute(model, opened, asked("m1")), opened)
    assert set(found) == set(model.node_names()) and {actual.status for actual in found.values()} == {"opaque"}
    one = found["m1"]
    assert told == 1 and one.precision is None and one.opened["precision"] == "int8"
    assert one.opened["tactics"] == ["sm80_xmma_gemm_i8i8"] and one.opened["time_ms"] == {"a": 0.25}
    runs = EngineCode.OPENED_RUNS(
        precision="int8", source="inspector", layer="m1", kernel="sm80_xmma_gemm_i8i8", fused=False
    )
    assert one.reason == EngineCode.OPENED(block=before["m1"].reason, shown=runs, values=None, told=True)
    assert found["s"].reason.values["shown"] == EngineCode.OPENED_IN_BLOCK(block="{ForeignNode[m0...s]}")
    assert found["s"].reason.values["told"] is False and found["s"].opened["precision"] is None
    read = TypeAdapter(Actual)
    assert read.validate_json(read.dump_json(one)) == one


class Tensor(SimpleNamespace):
    pass


def network(debug):
    tensors = {name: Tensor(name=name, dtype="FLOAT") for name in ("a", "b", "c", "y")}
    tensors["c"].dtype = "INT32"

    def layer(*names, fixed=()):
        return SimpleNamespace(
            num_outputs=len(names),
            get_output=lambda i: tensors[names[i]],
            output_type_is_set=lambda i: names[i] in fixed,
        )

    layers = [layer("a"), layer("b", "c", fixed=("b",)), layer("y")]
    made = SimpleNamespace(
        num_layers=3,
        get_layer=lambda i: layers[i],
        num_outputs=1,
        get_output=lambda i: tensors["y"],
        outputs=[],
        debug=[],
    )
    made.mark_output = made.outputs.append
    if debug:
        made.mark_debug = lambda tensor: made.debug.append(tensor) or True
    return made, tensors


TRT = SimpleNamespace(DataType=SimpleNamespace(FLOAT="FLOAT", HALF="HALF"))


@pytest.mark.parametrize("half", [True, False])
def test_8_6_marks_outputs_and_does_not_force_them_to_float32(half):
    made, tensors = network(debug=False)
    assert mark_tensors(TRT, made, ["a", "b", "c", "y", "gone"], half) == ["gone"]
    assert [t.name for t in made.outputs] == ["a", "b", "c"]
    assert [tensors[n].dtype for n in "abcy"] == ["HALF" if half else "FLOAT", "FLOAT", "INT32", "FLOAT"]


def test_10_marks_debug_tensors_and_leaves_outputs_alone():
    made, tensors = network(debug=True)
    assert mark_tensors(TRT, made, ["a", "b"], True) == []
    assert [t.name for t in made.debug] == ["a", "b"] and made.outputs == [] and tensors["a"].dtype == "FLOAT"


def test_the_child_is_told_what_to_mark_and_which_asks_are_orders(tmp_path, monkeypatch):
    from toolkit.backends import tensorrt
    from toolkit.backends.backend import EngineSettings, Extras
    from toolkit.base.profiles import Profiles

    told = {}

    def run_job(job, request, log, progress):
        told.update(request)
        raise BackendError("stop here")

    monkeypatch.setattr(tensorrt, "run_job", run_job)
    plan = asked("m1")
    plan.ask("m0", "fp16", "int8 is not faster", free=True)
    plan.ask("s", "fp32", "the test asks")
    assert PrecisionPlan.from_json(json.loads(json.dumps(plan.to_json()))).to_json() == plan.to_json()
    backend = tensorrt.TensorRTBackend({"version": "8.6.0", "strong": False, "weak": True, "implicit": True})
    with pytest.raises(BackendError, match="stop here"):
        backend.build(tmp_path / "m.onnx", Profiles(), EngineSettings(), extras=Extras(plan=plan, opened=("m0", "s")))
    assert told["opened"] == ["m0", "s"] and told["plan"] == {"m1": "int8", "s": "fp32"}


# ---------------------------------------------------------------- a run

RECIPE = """
[model]
path = "{model}"
[[profile]]
name = "only"
shapes.image = {{ min = [1, 1, 8, 8], opt = [8, 1, 8, 8], max = [16, 1, 8, 8] }}
[calibration]
data = "{data}"
samples = 16
[[pass]]
use = "fold_constants"
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "insert_qdq"
{only}
[engine]
prefer = "int8"
{engine}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    names = [n.name for n in Model.load(MODELS / "digits_cnn.onnx").nodes if n.op in ("Conv", "Gemm")]
    backend = StandIn(
        dict.fromkeys(names, 1.0), {n: 1.5 if i == 1 else 0.5 for i, n in enumerate(names)}, {"only": 1.0}
    )
    monkeypatch.setattr("toolkit.backends.choose.choose", lambda name="auto": (backend, EngineCode.BACKEND_REQUESTED()))

    def write(only="", engine=""):
        path = tmp_path / "r.toml"
        text = RECIPE.format(
            model=MODELS / "digits_cnn.onnx", data=MODELS / "digits_calibration.npz", only=only, engine=engine
        )
        path.write_text(text)
        return path

    return backend, names, write, tmp_path


def steps(result):
    return {step.name: step.status for step in result.steps}


def test_a_run_that_opens_reports_the_evidence_beside_what_is_opaque(recipe):
    backend, names, write, folder = recipe
    backend.opaque = True
    plain = run(write(), folder / "out", device_check=False)
    assert {layer.status for layer in plain.report.layers if layer.node in names} == {"opaque"} and len(
        backend.built
    ) == 1
    asked = Recipe.load(write(engine="open = true"))
    result = run(asked, folder / "out", device_check=False)
    assert steps(result)["engine"] == "reused" and steps(result)["open"] == "done" and len(backend.built) == 2
    assert backend.opened[0] == () and backend.opened[1]
    told = {layer.node: layer for layer in result.report.layers if layer.node in names}
    assert {layer.status for layer in told.values()} == {"opaque"}
    inner = [layer.actual.opened for layer in told.values()]
    assert all(one is not None and str(one.precision) == "int8" for one in inner)
    assert all("marked tensors break fusions" in layer.reason for layer in told.values())
    assert "opened at" in (folder / "out" / "journal.jsonl").read_text()
    assert steps(run(asked, folder / "out", device_check=False))["open"] == "reused"
    again = run(write(), folder / "out", device_check=False)
    assert "open" not in steps(again) and not (folder / "out" / ".qtool" / "opened.json").exists()


def test_a_block_that_cannot_be_opened_is_said_and_the_run_goes_on(recipe):
    backend, names, write, folder = recipe
    backend.opaque, backend.refuse = True, lambda what: "no such output" if isinstance(what, tuple) else ""
    result = run(write(engine="open = true"), folder / "out", device_check=False)
    assert {layer.status for layer in result.report.layers if layer.node in names} == {"opaque"}
    (failed,) = said(Journal.from_jsonl((folder / "out" / "journal.jsonl").read_text()), Code.OPENING_FAILED)
    assert "no such output" in failed["error"]


def test_where_nothing_is_opaque_nothing_is_built_twice(recipe):
    backend, _, write, folder = recipe
    run(write(engine="open = true"), folder / "out", device_check=False)
    assert len(backend.built) == 1 and "nothing to open" in (folder / "out" / "journal.jsonl").read_text()


def test_open_is_an_option_of_the_command(recipe, capsys):
    backend, _, write, folder = recipe
    backend.opaque = True
    assert invoke(["run", str(write()), "--open", "--no-device-check", "--out", str(folder / "out"), "--json"]) in (
        0,
        1,
    )
    content = json.loads(capsys.readouterr().out)
    assert any(layer["actual"].get("opened") for layer in content["layers"])


# ---------------------------------------------------------------- only_if_faster in a run


def test_only_if_faster_in_a_recipe_measures_once_and_reports_which_pairs_it_removed(recipe):
    backend, names, write, folder = recipe
    path = write(only="only_if_faster = true")
    result = run(path, folder / "out", device_check=False)
    declined = {d.node: d for d in result.report.declined if d.rule == "not-faster"}
    assert set(declined) == {names[1]}
    layer = next(one for one in result.report.layers if one.node == names[1])
    assert str(layer.asked.precision) == "fp16" and "is not faster" in layer.asked.reason
    count = len(backend.built)
    assert backend.built[-1] == frozenset(names) - {names[1]}
    assert (folder / "out" / "faster.json").exists()
    assert not [p for p in (folder / "out" / ".qtool").iterdir() if p.name.startswith("qtool-")]
    assert (
        set(steps(run(path, folder / "out", device_check=False)).values()) == {"reused"} and len(backend.built) == count
    )
    changed = run(
        write(only="only_if_faster = true", engine="sparse_weights = true"), folder / "out", device_check=False
    )
    assert steps(changed)["passes"] == "done" and len(backend.built) > count


def test_check_says_what_only_if_faster_would_do_or_cannot(recipe, monkeypatch, capsys):
    backend, _, write, _ = recipe
    path = write(only="only_if_faster = true")
    assert invoke(["check", str(path)]) == 0
    assert sentence(Code.DRY_RUN(step="engines")) in capsys.readouterr().out and backend.built == []
    backend.cannot_measure = lambda: "there is no GPU here to measure on"
    assert invoke(["check", str(path)]) == 2
    said = capsys.readouterr().err
    assert "r.toml:16" in said and "no GPU here" in said and "remove only_if_faster" in said
