"""Real builds with TensorRT-RTX, on any machine that has it."""

from __future__ import annotations

import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import normal, placeholder_context
from tests.toolkit.backends.backend_models import (
    FLOAT,
    FP8,
    HALF,
    make,
    node,
    profile,
    profiles,
    quantized_conv,
    recurrent,
    save,
    tensor,
)
from toolkit.backends.backend import EngineSettings
from toolkit.backends.codes import EngineCode
from toolkit.backends.lowering.prepare import lower_for
from toolkit.backends.lowering.strong import lower
from toolkit.backends.rtx import RtxBackend, target_capabilities
from toolkit.base.errors import BackendError
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install qtool[rtx]")
pytestmark = pytest.mark.rtx

SMALL = profile("small", x=((1, 4, 8, 8), (1, 4, 8, 8), (4, 4, 8, 8)))
LARGE = profile("large", x=((4, 4, 8, 8), (8, 4, 8, 8), (16, 4, 8, 8)))
SETTINGS = EngineSettings(compute_capabilities=("8.9",))


def build(model, folder, some=None, settings=SETTINGS, **more):
    return RtxBackend().build(save(model, folder), profiles(SMALL, LARGE) if some is None else some, settings, **more)


@pytest.mark.parametrize("kind", [3, FP8], ids=["int8", "fp8"])
def test_an_engine_with_two_profiles_and_its_typed_layers(tmp_path, kind):
    done = []
    made = build(quantized_conv(kind), tmp_path, progress=lambda *event: done.append(event))
    assert made.engine is not None and len(made.engine) > 10_000
    assert made.version and made.seconds > 0 and made.source == "network"
    conv = next(layer for layer in made.layers if layer.nodes == ("conv",))
    assert conv.kind == "CONVOLUTION" and conv.outputs[0].precision == "fp16"
    assert conv.outputs[0].shape == (-1, 8, 6, 6)
    assert done[0] == ("parsing", 0, 1) and done[-1][1] == done[-1][2]
    assert made.raw["layers"] and made.settings["typing"] == "strong"


def test_warnings_are_in_the_log_and_nothing_is_printed(tmp_path, capfd):
    heard = []
    made = build(quantized_conv(), tmp_path, log=heard.append)
    assert any(line.startswith("WARNING: ") for line in made.log)
    assert set(made.log) <= set(heard)
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_a_dynamic_input_without_shapes_is_named(tmp_path):
    with pytest.raises(BackendError, match=r"input 'x' has the dynamic shape.*shapes.x ="):
        build(quantized_conv(), tmp_path, Profiles())


def test_each_profile_must_cover_the_input(tmp_path):
    with pytest.raises(BackendError, match=r"profile 'empty': input 'x'"):
        build(quantized_conv(), tmp_path, profiles(SMALL, profile("empty")))


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({"x": ((1, 3, 8, 8),) * 3}, r"shape \[-1, 4, 8, 8\] in the model and min \[1, 3, 8, 8\]"),
        ({"x": ((1, 4, 8),) * 3}, "as many dimensions as the model has"),
        ({"x": ((1, 4, 8, 8),) * 3, "X": ((1,),) * 3}, "no input 'X'. Did you mean 'x'"),
    ],
)
def test_a_profile_that_contradicts_the_model(tmp_path, shapes, match):
    with pytest.raises(BackendError, match=match):
        build(quantized_conv(), tmp_path, profiles(profile("wrong", **shapes)))


def test_a_node_that_the_parser_refuses_is_named_with_the_reason(tmp_path):
    nodes = [node("Cast", ["x"], ["h"], "cast", to=HALF), node("Relu", ["h"], ["r"], "fine"),
             node("Conv", ["r", "w", "b"], ["y"], "bad")]  # fmt: skip
    inits = [tensor("w", [[[[1.0]]]], HALF), tensor("b", [1.0], HALF)]
    model = make(nodes, {"x": (FLOAT, [1, 1, 4, 4])}, {"y": (HALF, [1, 1, 4, 4])}, inits)
    path = save(model, tmp_path)
    import onnx

    proto = onnx.load(path)
    proto.graph.initializer[[t.name for t in proto.graph.initializer].index("b")].CopyFrom(tensor("b", [1.0], FLOAT))
    onnx.save(proto, path)
    with pytest.raises(BackendError, match=r"at node 'bad' \(Conv\).*same type.*Cast") as caught:
        RtxBackend().build(path, Profiles(), SETTINGS)
    assert caught.value.exit_status == 3 and str(path) in str(caught.value)


def test_a_node_of_which_the_parser_speaks_without_its_name_is_named(tmp_path):
    nodes = [node("ScatterElements", ["x", "edges", "m"], ["y"], "sum of neighbours", reduction="add")]
    edges = tensor("edges", [0, 0, 1], 7)
    model = make(nodes, {"x": (HALF, [4]), "m": (HALF, [3])}, {"y": (HALF, [4])}, [edges], opset=18)
    with pytest.raises(BackendError, match=r"at node 'sum of neighbours' \(ScatterElements\).*reduction") as caught:
        build(model, tmp_path, Profiles())
    assert "MatMul with a matrix of ones" in caught.value.remedy


def test_an_operator_nobody_has(tmp_path):
    import onnx

    model = make([node("Relu", ["x"], ["y"], "odd")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])})
    path = save(model, tmp_path)
    proto = onnx.load(path)
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Frobnicate", "com.example"
    proto.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(proto, path)
    with pytest.raises(BackendError, match=r"at node 'odd' \(Frobnicate\).*operator is not supported"):
        RtxBackend().build(path, Profiles(), SETTINGS)


def test_an_unknown_compute_capability(tmp_path):
    with pytest.raises(BackendError, match=r"does not build for compute capability 9.0"):
        build(quantized_conv(), tmp_path, settings=EngineSettings(compute_capabilities=("9.0",)))


def test_settings_that_rtx_lacks(tmp_path):
    with pytest.raises(BackendError, match=r"no tactic source 'CUDNN'"):
        build(quantized_conv(), tmp_path, settings=EngineSettings(tactic_sources=("CUDNN",)))
    with pytest.raises(BackendError, match=r"strong typing"):
        build(quantized_conv(), tmp_path, settings=EngineSettings(typing="weak"))
    with pytest.raises(BackendError, match=r'quantization = "implicit"'):
        build(quantized_conv(), tmp_path, settings=EngineSettings(quantization="implicit"))


@pytest.mark.parametrize("setting", ["version_compatible", "refit"])
def test_settings_that_rtx_cannot_follow_here(tmp_path, monkeypatch, setting):
    from toolkit.backends import rtx

    monkeypatch.setattr(rtx, "find_gpu", lambda: None)
    with pytest.raises(BackendError, match=rf"{setting}: TensorRT-RTX (builds|cannot build).*[Ll]eave the setting out"):
        build(quantized_conv(), tmp_path, settings=EngineSettings(**{setting: True}))


def test_hardware_compatible_is_every_gpu_from_ampere_on(tmp_path):
    made = build(quantized_conv(), tmp_path, settings=EngineSettings(hardware_compatible=True))
    assert made.engine and made.settings["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0", "12.1"]


def test_a_type_that_the_gpu_lacks(tmp_path):
    with pytest.raises(BackendError, match=r"HW-specific datatypes.*FP8 needs 8.9 or later"):
        build(quantized_conv(FP8), tmp_path, settings=EngineSettings(compute_capabilities=("8.6", "8.9")))


def test_settings_that_rtx_has(tmp_path):
    settings = EngineSettings(
        compute_capabilities=("8.6", "8.9"), workspace=1 << 28, optimization_level=1, tactic_sources=(),
        sparse_weights=True, timing_cache=tmp_path / "timing.cache", avg_timing_iterations=4,
    )  # fmt: skip
    assert build(quantized_conv(), tmp_path, settings=settings).engine


def test_one_compute_capability_is_chosen_and_said(monkeypatch):
    from toolkit.backends import rtx
    from toolkit.base.gpu import Gpu

    monkeypatch.setattr(rtx, "find_gpu", lambda: None)
    assert target_capabilities(EngineSettings()) == (["8.9"], EngineCode.CAPABILITY_DEFAULT(capability="8.9"))
    monkeypatch.setattr(rtx, "find_gpu", lambda: Gpu("RTX 3090", "8.6"))
    assert target_capabilities(EngineSettings())[0] == ["8.6"]
    monkeypatch.setattr(rtx, "find_gpu", lambda: Gpu("H200", "9.0"))
    why = EngineCode.CAPABILITY_UNSUPPORTED(capability="8.9", gpu="H200", gpu_capability="9.0")
    assert target_capabilities(EngineSettings()) == (["8.9"], why)
    assert target_capabilities(SETTINGS) == (["8.9"], EngineCode.CAPABILITY_REQUESTED())


@pytest.mark.parametrize("opset", [17, 19, 21, 23])
def test_models_of_every_opset_are_built(tmp_path, opset):
    ir = 8 if opset < 19 else 10
    model = make([node("Relu", ["x"], ["y"], "r")], {"x": (HALF, [2])}, {"y": (HALF, [2])}, opset=opset, ir=ir)
    assert build(model, tmp_path, Profiles()).engine


def test_a_loop_that_leaves_out_its_condition_builds_as_it_is_lowered(tmp_path):
    from tests.control_flow import conv_in_loop
    from toolkit import Model

    proto = conv_in_loop(condition=False)
    sizes = profiles(profile("one", x=((1, 4, 8), (2, 4, 8), (2, 4, 8))))
    assert build(lower(Model.from_proto(proto), PrecisionPlan()).model, tmp_path, sizes).engine


@pytest.mark.parametrize("size", [8, 64])
def test_attention_builds_whether_or_not_there_is_a_fused_kernel(tmp_path, size):
    """Heads of 8 have none, for which TensorRT-RTX 1.7.1 fails unless it may use several; those of 64 have one."""
    shapes = {"q": (HALF, [2, 4, 16, size]), "k": (HALF, [2, 2, 16, size]), "v": (HALF, [2, 2, 16, size])}
    attention = node("Attention", list("qkv"), ["y"], "attention")
    made = build(make([attention], shapes, {"y": shapes["q"]}, opset=24, ir=11), tmp_path, Profiles())
    assert made.engine and ("attention",) in [layer.nodes for layer in made.layers]


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(("lengths", "asked"), [(True, "fp16"), (False, "fp16"), (False, "fp32")])
def test_a_recurrent_layer_builds_as_it_is_lowered(tmp_path, op, lengths, asked):
    plan = PrecisionPlan()
    plan.ask("h", Precision(asked), "test")
    assert build(lower(recurrent(op, lengths), plan).model, tmp_path, Profiles()).engine


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direct", [True, False])
def test_a_recurrent_layer_that_reads_a_float16_input_builds(tmp_path, op, direct):
    """Its constant lengths keep it in FP32."""
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * 4
    begin = [] if direct else [node("Transpose", ["x"], ["t"], "t", perm=[1, 0, 2])]
    nodes = [*begin, node(op, ["x" if direct else "t", "w", "r", "", "lengths"], ["h"], "h", hidden_size=4)]
    weights = [tensor("w", normal(1, rows, 6).tolist(), FLOAT), tensor("r", normal(1, rows, 4).tolist(), FLOAT),
               tensor("lengths", [5, 2, 3], 6)]  # fmt: skip
    shape = [5, 3, 6] if direct else [3, 5, 6]
    model = make(nodes, {"x": (FLOAT, shape)}, {"h": (FLOAT, [5, 1, 3, 4])}, weights)
    made = lower(model, PrecisionPlan(), io={"x": Precision.FP16}).model
    assert build(made, tmp_path, Profiles()).engine


def test_a_path_with_spaces_and_unicode(tmp_path):
    folder = tmp_path / "ein Örtchen"
    folder.mkdir()
    assert build(quantized_conv(), folder).engine


@pytest.mark.parametrize("pairs", [True, False])
def test_a_transposed_convolution_that_bfloat16_is_asked_of_is_built_in_fp32(tmp_path, pairs):
    """RTX's builder infers no type of one in bfloat16; a search or `auto` ended without an engine, and without a word."""
    nodes = [node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4),
             node("ConvTranspose", ["c", "v"], ["y"], "up", strides=[2, 2])]  # fmt: skip
    weights = [tensor("w", normal(8, 3, 3, 3).tolist(), FLOAT), tensor("v", normal(8, 3, 2, 2).tolist(), FLOAT)]
    model = make(nodes, {"x": (FLOAT, [1, 3, 16, 16])}, {"y": (FLOAT, [1, 3, 32, 32])}, weights)
    context, backend = placeholder_context(), RtxBackend()
    if pairs:
        InsertQDQ()(model, context)
    made = lower_for(backend, SETTINGS, model, context.plan, rest=Precision.BF16, journal=Journal())
    why = EngineCode.BUILDER_LACKS_TYPE(op="ConvTranspose", precision=Precision.BF16)
    assert made.types.reason == {"up": why} and made.types.node["c"] is Precision.BF16
    assert build(made.model, tmp_path, Profiles()).engine
    assert lower(model, context.plan, rest=Precision.BF16).types.node["up"] is Precision.BF16


@pytest.mark.parametrize(
    "op", ["MeanVarianceNormalization", "GlobalLpPool", "RandomNormalLike", "RandomUniformLike", "Mish"]
)
@pytest.mark.parametrize("asked", ["fp16", "bf16"])
def test_an_operator_that_the_parser_lacks_in_a_type_is_built_in_fp32(tmp_path, op, asked):
    attrs = {"axes": [2, 3]} if op == "MeanVarianceNormalization" else {}
    nodes = [node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4), node(op, ["c"], ["m"], "m", **attrs),
             node("Add", ["c", "m"], ["y"], "a")]  # fmt: skip
    weights = [tensor("w", normal(8, 3, 3, 3).tolist(), FLOAT)]
    model = make(nodes, {"x": (FLOAT, [1, 3, 8, 8])}, {"y": (FLOAT, [1, 8, 8, 8])}, weights, opset=18)
    made = lower_for(RtxBackend(), SETTINGS, model, PrecisionPlan(), rest=Precision(asked), journal=Journal())
    lacks = asked == "bf16" or op == "MeanVarianceNormalization"
    why = EngineCode.PARSER_LACKS_TYPE(op=op, precision=Precision(asked))
    assert made.types.reason == ({"m": why} if lacks else {}) and made.types.node["a"] is Precision(asked)
    assert build(made.model, tmp_path, Profiles()).engine
