"""TensorRT's messages become one error that names the node and a remedy."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from toolkit.backends.building.messages import Messages


def heard(*texts, severity="ERROR"):
    passed = []
    messages = Messages(SimpleNamespace(log=passed.append))
    for text in texts:
        messages.take(severity, text)
    assert len(passed) == len(texts)
    return messages


@pytest.mark.parametrize(
    ("texts", "node", "remedy"),
    [
        (["4: [network.cpp::validate::3031] Error Code 4: Internal Error (input: kMAX dimensions in profile 0 are [4,3] "
          "but input has static dimensions [4,4].)"], "", "the profile's shapes"),
        (["10: [optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (Could not find any implementation for "
          "node conv1 + relu1 due to obeyed PRECISION_CONSTRAINTS.)"], "conv1 + relu1", 'constraints = "prefer"'),
        (["While parsing node number 3 [NonMax -> \"y\"]:", "--- Begin node ---",
          'input: "x"\noutput: "y"\nname: "nms"\nop_type: "NonMax"\n', "--- End node ---",
          "ERROR: ModelImporter.cpp:199 In function parseGraph:\n[8] No importer registered for op: NonMax."], "nms",
         "operator is not supported"),
        (["--- Begin node ---\nNode name: /split", "--- End node ---",
          "ERROR: onnxOpCheckers.cpp:1120 In function checkSplitToSequence:\n[8] false"], "/split",
         "operator is not supported"),
        (["While parsing node number 1 [Attention -> \"a\"]:", "--- Begin node ---\nNode name: Attention_0", "--- End node ---",
          "ERROR: onnxOpImporters.cpp:612 In function importAttention:\n[6] Assertion failed: inputs.at(0).shape().nbDims == "
          "inputs.at(1).shape().nbDims: Q, K, and V inputs must have the same number of dimensions."], "Attention_0",
         "before onnxruntime's optimizer"),
        (["ModelImporter.cpp:726: While parsing node number 2 [SkipLayerNormalization -> \"y\"]:",
          "ERROR: onnxOpImporters.cpp:6119 In function importFallbackPluginImporter:\n[8] Assertion failed: creator && "
          "\"Plugin not found, are the plugin name, version, and namespace correct?\""], "", "before onnxruntime's optimizer"),
        (["While parsing node number 3 [TRT_FP4DynamicQuantize -> \"y\"]:",
          "[8] No importer registered for op: TRT_FP4DynamicQuantize."], "", "NVFP4 needs TensorRT 10.8"),
        (["1: [defaultAllocator.cpp::allocate::20] Error Code 1: Cuda Runtime (out of memory)"], "", "free GPU memory"),
        (["Error Code 1: Myelin ([pass.cpp:1500: run_passes] Cannot compile for target(s) sm86, because the model contains "
          "HW-specific datatypes: fp8_e4m3.)"], "", "FP8 needs 8.9 or later"),
        (["Assertion failed: shiftIsAllZeros: TensorRT only supports symmetric quantization: zero point must be 0"], "",
         "(pass strip_qdq)"),
        (["While parsing node number 2 [HardSwish -> \"y\"]:", "--- Begin node ---\nNode name: swish", "--- End node ---",
          "ERROR: onnxOpImporters.cpp:9072 In function importHardSwish:\n[8] Assertion failed: Only FLOAT, HALF or INT8 input is "
          "supported for the HardSwish operator in this version of TensorRT. The current type = BF16."], "swish",
         "request fp16 or fp32 for this node (pass keep_precision)"),
        (["While parsing node number 0 [Resize -> \"y\"]:", "--- Begin node ---\nNode name: up", "--- End node ---",
          "ERROR: onnxOpCheckers.cpp:772 In function checkResize:\n[9] (keep_aspect_ratio_policy == \"stretch\") && \"Only "
          "`stretch` is supported currently as `keep_aspect_ratio_policy`.\""], "up", "only stretches"),
        (["While parsing node number 0 [Resize -> \"y\"]:", "--- Begin node ---\nNode name: up", "--- End node ---",
          "ERROR: onnxOpCheckers.cpp:760 In function checkResize:\n[9] (antialias == 0) && \"Antialiasing is not supported "
          "currently.\""], "up", "without antialias"),
        (["While parsing node number 7 [Loop -> \"y\"]:", "--- Begin node ---\nNode name: while", "--- End node ---",
          "Assertion failed: false: TensorRT cannot infer the shape of scan output z since no trip limit was set."], "while",
         "only counts its iterations"),
        (["1: No Myelin Error exists",
          "1: [codeGenerator.cpp::compileGraph::884] Error Code 1: Myelin (No Myelin Error exists)"], "",
         "give every profile one size"),
        (["/Transpose: ITensor::getDimensions: Error Code 4: API Usage Error (/Transpose: first input has type UInt8 but must "
          "have type Float, Half, BFloat16, FP8, Int8, Int64, Int32, or Bool.)",
          "Invalid Node - /Transpose\nITensor::getDimensions: Error Code 4: API Usage Error (/Transpose: first input has type "
          "UInt8 but must have type Float)\nCuda Runtime (In catchCudaError at checkMacros.cpp:250 (cudaError 35: CUDA driver "
          "version is insufficient for CUDA runtime version))"], "/Transpose", "Cast to float before this node, right after"),
        (["Invalid Node - /Pow\nError Code 4: API Usage Error (/Pow: second input has type Int64 but must have type Float)"],
         "/Pow", "put a Cast before this node"),
        (["something nobody has seen"], "", "see TensorRT's messages"),
    ],
)  # fmt: skip
def test_the_node_and_the_remedy(texts, node, remedy):
    error = heard(*texts).error("TensorRT 8.6.0 could not build", "m.onnx")
    assert str(error).startswith("m.onnx: TensorRT 8.6.0 could not build" + (f" at node '{node}'" if node else ""))
    assert remedy in error.remedy and error.exit_status == 3
    assert "Begin node" not in str(error) and "\n" not in str(error) and not error.what.endswith(".")


def test_the_parsers_framing_is_not_what_it_said():
    error = heard(
        'ModelImporter.cpp:726: While parsing node number 4 [Conv -> "c"]:', "ModelImporter.cpp:727: --- Begin node ---",
        'ModelImporter.cpp:728: input: "x_dq"\noutput: "c"\nname: "conv"\nop_type: "Conv"\n',
        "ModelImporter.cpp:729: --- End node ---",
        "ModelImporter.cpp:732: ERROR: onnx2trt_utils.cpp:2107 In function convMultiInput:\n[8] Assertion failed: "
        'checkSpatialDims(kernel_tensor_ptr->getDimensions()) && "The input tensor shape misaligns with the input kernel '
        'shape."',
    ).error("TensorRT 8.6.0 could not build", "m.onnx")  # fmt: skip
    assert "at node 'conv' (Conv): Assertion failed: checkSpatialDims" in error.what and "Begin" not in error.what
    assert "kernel_shape" in error.remedy


def test_a_complaint_about_the_driver_is_not_the_cause():
    error = heard(
        "add: ElementWiseOperation SUM must have same input types. But they are of types Half and Float.",
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: driver is insufficient)",
    ).error("refused", "m.onnx")
    assert "add a Cast" in error.remedy and "driver" not in error.what


def test_a_timing_cache_that_is_left_out_is_not_the_cause():
    error = heard(
        "1: [myelinCache.h::deserializeFromBuffer::52] Error Code 1: Myelin (Myelin error from unknown graph)",
        "4: The timing cache will not be used!",
        "2: Assertion !n->candidateRequirements.empty() failed. All of the candidates were removed, which points to the "
        "node being incorrectly marked as an int8 node.",
    ).error("TensorRT 8.6.0 could not build", "m.onnx")
    assert "candidates were removed" in error.what and "cache" not in error.what
    assert 'constraints = "prefer"' in error.remedy


def test_where_tensorrt_said_nothing_the_cause_speaks():
    assert "Invalid  Engine".replace("  ", " ") in str(heard().error("failed", "m.onnx", "Invalid   Engine"))
    assert "gave no reason" in str(heard().error("failed", "m.onnx"))


def test_warnings_are_kept_once_and_do_not_explain_an_error():
    messages = heard("a scale was widened", "a scale was widened", severity="WARNING")
    assert messages.lines() == ["WARNING: a scale was widened"]
    assert "widened" not in str(messages.error("failed", "m.onnx"))
    messages = heard("CUDA initialization failure with error: 35", severity="WARNING")
    assert "nvidia-smi" in str(messages.error("failed", "m.onnx", "factory function returned nullptr"))


def test_verbose_messages_go_nowhere():
    messages = Messages(SimpleNamespace(log=lambda text: pytest.fail(text)))
    messages.take("VERBOSE", "thousands of these")
    assert not messages.kept and not messages.lines()


def test_a_fault_that_names_no_node_is_that_of_the_node_being_read():
    """So RTX 1.7.1 speaks of a ScatterElements that adds; once a node has been read, it is not at fault."""
    messages = Messages(SimpleNamespace(log=lambda text: None))
    said = [
        ("VERBOSE", "Static check for parsing node: /conv/Gather [Gather]"),
        ("VERBOSE", "Parsing node: /conv/Gather [Gather]"),
        ("VERBOSE", "/conv/Gather [Gather] outputs: [m -> (8, 16)[FLOAT]], "),
        ("VERBOSE", "Static check for parsing node: /conv/sum of all [ScatterElements]"),
        ("VERBOSE", "Parsing node: /conv/sum of all [ScatterElements]"),
        ("VERBOSE", "/conv/sum of all [ScatterElements] inputs: [m -> (8, 16)[FLOAT]], "),
        ("ERROR", "ModelImporter.cpp:151: ERROR: onnxOpImporters.cpp:7476 In function importScatterElements:\n"
         "[9] Unsupported reduction type"),
    ]  # fmt: skip
    for one in said:
        messages.take(*one)
    error = messages.error("TensorRT-RTX 1.7.1 refused the model", "m.onnx")
    assert "refused the model at node '/conv/sum of all' (ScatterElements): Unsupported reduction type" in str(error)
    assert "MatMul with a matrix of ones" in error.remedy
    messages.take("VERBOSE", "/conv/sum of all [ScatterElements] outputs: [y -> (6, 16)[FLOAT]], ")
    assert "at node" not in str(messages.error("TensorRT-RTX 1.7.1 could not build", "m.onnx"))


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([shape.cpp:175: ~op_constraints_msg_streamer_t] Error "
            "during shape inference of /ScatterElements_1: The extent of dimension i (0) of indices (__mye1954_proxy={min=24,"
            " max=57}) must be less than or equal to the extent of data (__mye1950_proxy={min=8, max=19}) for 0 <= i < rank)",
            "MatMul with a matrix of ones",
        ),
        (
            "ModelImporter.cpp:151: ERROR: onnxOpImporters.cpp:9100 In function importNonZero:\n[8] Assertion failed: creator"
            " && getPluginCreatorVersion(creator) == CreatorVersion::kV3ONE: NonZero plugin creator version 1 was not found "
            "in plugin registry.",
            "not supported: replace it",
        ),
        (
            "/_src/plugin/roiAlignPlugin/roiAlignPlugin.cpp (161) - Cuda Error in ROIAlignV3: 35 (CUDA driver version is "
            "insufficient for CUDA runtime version); Assertion failed: plugin != nullptr: ROIAlign plugin was not found in "
            "the plugin registry!",
            "build on a machine with one",
        ),
        (
            "1: [cudaDriverHelpers.cpp::operator()::94] Error Code 1: Cuda Runtime (CUDA driver version is insufficient for "
            "CUDA runtime version)",
            "check the GPU's driver",
        ),
        (
            "ModelImporter.cpp:151: ERROR: onnxOpImporters.cpp:600 In function importBatchNormalization:\n[8] Assertion "
            'failed: !isTraining && "This version of TensorRT does not support training_mode == 1 in BatchNormalization."',
            "export the model for inference",
        ),
        (
            "ModelImporter.cpp:151: ERROR: onnxOpImporters.cpp:500 In function importAttention:\n[8] Assertion failed: "
            "node.output().size() == 1: TensorRT only supports Attention nodes with one output.",
            "put a Concat of the past and the new ones before it",
        ),
    ],
    ids=[
        "more values to scatter than places",
        "an operator whose plugin a release lacks",
        "a plugin without a GPU",
        "a driver that is too old",
        "statistics of the batch",
        "attention that keeps keys and values",
    ],
)
def test_what_can_be_done_about_an_operator_is_told(said, remedy):
    assert remedy in heard(said).error("TensorRT-RTX 1.7.1 could not build", "m.onnx").remedy


def test_an_input_of_a_type_that_tensorrt_lacks_is_named():
    """As RTX 1.7.1 says it after it has looked at all nodes; the input's name stands where a file's does."""
    messages = Messages(SimpleNamespace(log=lambda text: None))
    for one in (
        ("VERBOSE", "Static check for parsing node: last [Greater]"),
        ("ERROR", "ModelImporter.cpp:151: ERROR: an: image:992 In function importInput:\n[8] Assertion failed: "
         'convertDtype(onnxDtype.elem_type(), &trtDtype) && "Failed to convert ONNX date type"'),
    ):  # fmt: skip
        messages.take(*one)
    error = messages.error("TensorRT-RTX 1.7.1 refused the model", "m.onnx")
    assert error.what.startswith("TensorRT-RTX 1.7.1 refused the model at input 'an: image': Assertion failed: convert")
    assert "does not support this type: give the input another" in error.remedy


@pytest.mark.parametrize("logged", [True, False])
def test_a_message_that_no_remedy_is_known_for_points_to_the_log_where_there_is_one(logged):
    messages = Messages(SimpleNamespace(log=lambda text: None), logged=logged)
    messages.take("ERROR", "something new")
    assert ("build.log" in messages.error("TensorRT 10 could not build", "m.onnx").remedy) is logged


def test_remedies_name_settings_that_the_recipe_has():
    from toolkit.backends.building.messages import _REMEDIES
    from toolkit.run.recipe.sections import EngineSection

    named = [setting for _, remedy in _REMEDIES for setting in re.findall(r"\[engine\] (\w+)", remedy)]
    assert "workspace_mb" in named and set(named) <= set(EngineSection.model_fields)


def test_a_layer_that_has_no_kernel_is_told_by_its_node():
    said = (
        "[tacticSupply.cpp::getSupportedFormats::48] Error Code 2: Internal Error (Assertion !layerImpls.empty() failed. "
        "nms_113 has no runners that implement it In getSupportedFormats at /_src/optimizer/builder/tacticSupply.cpp:48)"
    )
    layers = [
        {"name": "nms", "type": "SHUFFLE", "metadata": ""},
        {"name": "nms_113", "type": "NMS", "metadata": "[ONNX Layer: nms]"},
    ]
    error = heard(said).error("TensorRT-RTX 1.7 could not build", "m.onnx", layers=layers)
    assert error.what.startswith("TensorRT-RTX 1.7 could not build at node 'nms' (layer NMS): ")
    assert "has no kernel for it: cut it off the model" in error.remedy
    assert "at node 'nms_113': " in heard(said).error("TensorRT-RTX 1.7 could not build", "m.onnx").what
