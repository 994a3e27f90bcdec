"""The inspector's JSON of every dialect into one record, and files that are broken in every way."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolkit.backends.recorded_models import DATA, KIND, names_in
from tests.toolkit.backends.recorded_models import content as load
from toolkit.backends.layers.inspector import plain_name, read_layers, tactic_word, type_word
from toolkit.backends.layers.layer import Layer, Port
from toolkit.base.errors import BackendError
from toolkit.base.reading import parse_json


def test_8_6_with_control_characters():
    layers = read_layers(load("rn50_good"))
    assert len(layers) == 57
    quantize, first, conv = layers[:3]
    assert (quantize.name, quantize.kind, quantize.origin) == ("x_Q", "Reformat", "QDQ")
    assert quantize.inputs[0] == Port("x", "fp32", "Row major linear FP32", (32, 3, 224, 224))
    assert quantize.outputs[0].precision == "int8"
    assert first.nodes == ("/c/Conv", "/r/Relu", "/p/MaxPool") and first.weights == "int8"
    assert conv.tactic.startswith("sm80_xmma") and conv.inputs[0].format.startswith("Thirty-two wide")
    assert Counter(port.precision for layer in layers for port in layer.outputs) == {"int8": 55, "fp32": 2}


def test_8_6_lists_the_layers_of_every_profile_and_each_gets_its_own():
    assert len(names_in("mnist_mixed_profile1")) == 26
    first, second = read_layers(load("mnist_mixed_profile0"), 0), read_layers(load("mnist_mixed_profile1"), 1)
    assert [layer.name for layer in first] == [layer.name for layer in second] and len(first) == 13
    assert {layer.profile for layer in first} == {0} and {layer.profile for layer in second} == {1}
    conv2 = [next(layer for layer in some if layer.name == "conv2 + relu2") for some in (first, second)]
    assert [layer.weights for layer in conv2] == ["int8", "fp16"]
    assert [layer.outputs[0].name for layer in conv2] == ["r2", "r2"]
    assert conv2[1].outputs[0].shape[0] == 16


def test_8_6_myelin():
    block = read_layers(load("bert_good"))[1]
    assert block.kind == "Myelin" and block.name.startswith("{ForeignNode[/b/Cast...") and block.nodes == ()
    assert [port.precision for port in block.inputs] == ["int32"] * 3


def test_layers_of_tensorrt_10():
    quantize, conv, softmax = read_layers(load("dialect_10"))
    assert quantize.nodes == ("x/Q",) and quantize.inputs[0].precision == "fp16"
    assert conv.nodes == ("w/DQ", "conv", "relu") and conv.stream == 1
    assert [port.precision for port in softmax.inputs] == ["bf16", "int64"]
    assert [port.precision for port in softmax.outputs] == ["fp8", "fp32"]


def test_layers_of_tensorrt_11():
    reformat, conv = read_layers(load("dialect_11"))
    assert reformat.origin == "REFORMAT" and reformat.inputs[0].format == "Row major linear"
    assert conv.inputs[0].precision == "fp16" and conv.outputs[0].precision == "bf16" and conv.stream == 2


def test_layers_of_which_only_names_are_known():
    assert read_layers(load("names_only"), 1) == [Layer("conv1 + relu1", profile=1), Layer("softmax", profile=1)]


@pytest.mark.parametrize("content", [[1, 2, 3], {"Layers": [None]}])
def test_a_list_of_other_things_holds_no_layers(content):
    with pytest.raises(BackendError, match=r"entr(y|ies) is a layer: the first is"):
        read_layers(content)
    assert read_layers([]) == []


def test_a_bare_list():
    assert [layer.name for layer in read_layers(load("dialect_11")["Layers"])] == [
        "Reformatting CopyNode for Input Tensor 0 to conv",
        "conv",
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Row major linear FP32", "fp32"), ("Row major linear FP16 format", "fp16"), ("Half", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"), ("Float", "fp32"),
        ("BFloat16", "bf16"), ("Row major linear BF16", "bf16"), ("FP8", "fp8"), ("FP8 E4M3", "fp8"),
        ("Row major linear Int32", "int32"), ("Int64", "int64"), ("Bool", "bool"), ("UInt8", "uint8"),
        ("Int4", "int4"), ("FP4", "fp4"), ("N/A due to dynamic shapes", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_tensors_type_is_read_from_the_inspectors_format(text, word):
    assert type_word(text) == word


@pytest.mark.parametrize(
    ("tactic", "word"),
    [
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw", "int8"),
        ("sm90_xmma_fprop_implicit_gemm_i8f32_i8i32_f32_nchw_vect_c_32", "int8"),
        ("sm72_xmma_pooling_IMMA_NCxHW32_generic_kMAX", "int8"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc", "fp16"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs", "fp32"),
        ("sm50_xmma_pooling_tiled_FP32NCHW_kMAX_tP2", "fp32"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "bf16"),
        ("sm89_xmma_gemm_e4m3bf16_e4m3f32_f32", "fp8"),
        ("turing_h1688cudnn_256x64", "fp16"), ("0x0000000000000000", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_kernels_type_is_read_from_its_tactic(tactic, word):
    assert tactic_word(tactic) == word


def test_a_profiles_suffix_is_no_part_of_a_layers_name():
    assert plain_name("conv [profile 12]") == "conv" and plain_name("conv [profile]") == "conv [profile]"


@pytest.mark.parametrize("text", [b"", b"{", b"[1,", b"\xff\xfe", b"nonsense", b"[" * 100_000])
def test_what_is_no_json(text):
    with pytest.raises(BackendError, match=r"some\.json: this is not what an engine inspector writes"):
        parse_json(text, "some.json", KIND, strict=False)


@pytest.mark.parametrize("content", [None, 3, "text", {}, {"Layers": None}, {"Layers": {}}, {"layer": []}])
def test_what_has_no_layers(content):
    with pytest.raises(BackendError, match="no list of layers"):
        read_layers(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["Name", "LayerType", "Inputs", "Outputs", "Format/Datatype", "DataType", "Dimensions", "Metadata", "TacticName",
     "Weights", "ConvWeights", "StreamId", "Origin", "Type", "Format"]
)  # fmt: skip
FIELDS = st.dictionaries(KEYS, JSON | st.sampled_from(["a [profile 1]", "Half", "[ONNX Layer: a]\x1f[ONNX Layer: "]))
PORTS = st.lists(FIELDS | st.text(max_size=5) | JSON, max_size=3)
LAYERS = st.lists(JSON | st.builds(lambda a, b, c: {**a, "Inputs": b, "Outputs": c}, FIELDS, PORTS, PORTS), max_size=5)


@settings(max_examples=100, deadline=None)
@given(LAYERS, st.integers(0, 2), JSON)
def test_any_content_is_read_or_refused(layers, profile, bindings):
    for content in ({"Layers": layers, "Bindings": bindings}, layers, bindings):
        try:
            found = read_layers(content, profile)
        except BackendError:
            continue
        assert all(isinstance(layer, Layer) and layer.profile == profile for layer in found)
        for layer in found:
            assert all(isinstance(port, Port) for port in (*layer.inputs, *layer.outputs))
            json.dumps([layer.name, layer.kind, layer.tactic, layer.nodes, layer.stream])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_recorded_file_with_bytes_lost_or_changed(data):
    name = data.draw(st.sampled_from(["dialect_10", "mnist_mixed_profile0", "bert_good"]))
    content = bytearray((DATA / f"{name}.json").read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[start : start + data.draw(st.integers(1, 400))]
    else:
        content[start] = data.draw(st.integers(0, 255))
    try:
        read_layers(parse_json(bytes(content), "layers.json", KIND, strict=False))
    except BackendError as error:
        assert "layers.json" in str(error)
