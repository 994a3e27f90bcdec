"""Command lines as people write them in public, read into orders."""

from __future__ import annotations

import argparse
import re

import pytest

from toolkit.base.errors import QtoolError
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.terms import OUTCOMES, POLYGRAPHY, SHORT, TRTEXEC, Term
from toolkit.run.migrate.shell_scripts.command import orders_of_command
from toolkit.run.migrate.shell_scripts.shell import commands_in


def said(text):
    """What the one command of a text says: its terms with their values, in order."""
    ((_, words),) = commands_in(text)
    return [(order.term, order.value) for order in orders_of_command(words)]


def faults(text):
    ((_, words),) = commands_in(text)
    return {order.said: order.why.code for order in orders_of_command(words) if order.why is not None}


def test_a_depth_model_with_types_for_no_layer():
    """From a ROS package's README: layer types without a layer, which trtexec refuses."""
    line = (
        "./trtexec --onnx=zoe_nk.onnx --builderOptimizationLevel=3 --useSpinWait --useRuntime=full --useCudaGraph "
        "--precisionConstraints=obey --allowGPUFallback --tacticSources=+CUBLAS,+CUDNN,+JIT_CONVOLUTIONS,+CUBLAS_LT "
        "--inputIOFormats=fp32:chw --outputIOFormats=fp32:chw --sparsity=enable --layerOutputTypes=fp32 "
        "--layerPrecisions=fp32 --saveEngine=zoe_nk.trt"
    )
    assert faults(line) == {
        "--layerOutputTypes=fp32": MigrateCode.VALUE_UNREADABLE,
        "--layerPrecisions=fp32": MigrateCode.VALUE_UNREADABLE,
    }
    found = dict(said(line))
    assert found[Term.LEVEL] == 3 and found[Term.OBEY] == "obey" and found[Term.SPARSE] == "enable"
    assert found[Term.INPUT_IO] == [("fp32", "chw")] and found[Term.MODEL] == "zoe_nk.onnx"


def test_a_jetson_script_with_continued_lines_and_a_log():
    text = """#!/bin/bash
# FP32 trunk, inputs as they are
/usr/src/tensorrt/bin/trtexec \\
  --onnx=./model.onnx \\
  --plugins=build/libpointpillar_core.so \\
  --inputIOFormats=fp16:chw,int32:chw,int32:chw \\
  --layerOutputTypes=cls_preds:fp32,box_preds:fp32,dir_cls_preds:fp32 \\
  --noTF32 \\
  --verbose --dumpLayerInfo --dumpProfile --separateProfileRun --profilingVerbosity=detailed \\
  > model/pointpillar_fp32.log 2>&1
"""
    found = said(text)
    assert (Term.NO_TF32, "") in found and not faults(text)
    assert (Term.TYPES, [("cls_preds", "fp32"), ("box_preds", "fp32"), ("dir_cls_preds", "fp32")]) in found
    assert (Term.INPUT_IO, [("fp16", "chw"), ("int32", "chw"), ("int32", "chw")]) in found


def test_a_deployment_script_with_variables():
    text = """
CALIB_ARGS=""
if [[ -n "$CALIB_DIR" ]]; then
    CALIB_ARGS="--int8 --calib=$CALIB_DIR"
else
    CALIB_ARGS="--fp16"
fi
SIZE=640
ARGS="--int8 --workspace=512"
"$TRTEXEC" \\
    --onnx="$ONNX_PATH" --inputIOFormats=fp32:chw \\
    --shapes="image:1x3x${SIZE}x${SIZE}" \\
    $ARGS $CALIB_ARGS
"""
    found = said(text)
    assert (Term.SHAPES, {"image": [1, 3, 640, 640]}) in found
    assert (Term.INT8, "") in found and (Term.WORKSPACE, 512 << 20) in found
    assert (Term.MODEL, "$ONNX_PATH") in found
    # it has several values, and nobody knows which
    assert faults(text) == {"$CALIB_ARGS": MigrateCode.STRAY_WORD}


def test_what_tao_converter_users_write_with_spaces():
    found = said("trtexec --onnx=m.onnx --layerPrecisions cls/mul:fp32,box/mul_6:fp32 --precisionConstraints obey")
    assert found[1:] == [(Term.LAYERS, [("cls/mul", "fp32"), ("box/mul_6", "fp32")]), (Term.OBEY, "obey")]


def test_shapes_of_several_profiles_go_to_their_profile():
    one = "trtexec --onnx=m.onnx --profile=0 --minShapes=x:1x3 --maxShapes=x:8x3 --profile=1 --optShapes='in:0':32x3"
    assert said(one)[2:] == [
        (Term.MIN, (0, {"x": [1, 3]})), (Term.MAX, (0, {"x": [8, 3]})), (Term.PROFILE, 1), (Term.OPT, (1, {"in:0": [32, 3]})),
    ]  # fmt: skip
    text = """polygraphy convert dynamic_identity.onnx -o dynamic_identity.engine \\
        --trt-min-shapes X:[1,3,28,28] --trt-opt-shapes X:[1,3,28,28] --trt-max-shapes X:[1,3,28,28] \\
        --trt-min-shapes X:[1,3,28,28] --trt-opt-shapes X:[4,3,28,28] --trt-max-shapes X:[32,3,28,28]"""
    found = [value for term, value in said(text) if term is Term.MAX]
    assert found == [(0, {"X": [1, 3, 28, 28]}), (1, {"X": [32, 3, 28, 28]})]


def test_polygraphy_with_its_values_as_words():
    text = (
        "polygraphy convert yolov7_withRe.onnx --int8 --data-loader-script ./data_loader.py --calibration-cache "
        "identity_calib.cache --pool-limit workspace:2G -vv --layer-precisions a:float16 /b:c:float32 "
        "--input-shapes images:[1,3,832, 832] -o identity.engine"
    )
    assert said(text) == [
        (Term.MODEL, "yolov7_withRe.onnx"), (Term.INT8, ""), (Term.LOADER, "./data_loader.py"),
        (Term.CACHE, "identity_calib.cache"), (Term.WORKSPACE, 2 << 30), (Term.PRINTING, ""),
        (Term.LAYERS, [("a", "fp16"), ("/b:c", "fp32")]), (Term.SHAPES, {"images": [1, 3, 832, 832]}),
        (Term.ENGINE_OUT, "identity.engine"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "value"),
    [("--workspace=4096", 4096 << 20), ("--memPoolSize=workspace:1.5G,dlaSRAM:1M", 3 << 29),
     ("--memPoolSize=workspace:512MiB", 512 << 20), ("--memPoolSize=dlaSRAM:1M", None)],
)  # fmt: skip
def test_a_size_of_the_workspace_is_read_in_any_unit(line, value):
    assert said(f"trtexec {line}") == [(Term.WORKSPACE, value)]


def test_what_is_no_flag_is_named():
    text = "trtexec --onnx=m.onnx --frobnicate=3 stray --minShapes=x:axb --builderOptimizationLevel=high"
    assert faults(text) == {
        "--frobnicate=3": MigrateCode.UNKNOWN_FLAG, "stray": MigrateCode.STRAY_WORD,
        "--minShapes=x:axb": MigrateCode.VALUE_UNREADABLE, "--builderOptimizationLevel=high": MigrateCode.VALUE_UNREADABLE,
    }  # fmt: skip


def test_several_commands_on_a_line_and_a_redirection_in_the_middle():
    found = commands_in("cd x && trtexec --onnx=a.onnx > log 2>&1 --fp16; trtexec --loadEngine=a.plan | tee log")
    assert [words for _, words in found] == [
        ["trtexec", "--onnx=a.onnx", "--fp16"], ["trtexec", "--loadEngine=a.plan"]
    ]  # fmt: skip


def test_what_does_not_parse():
    with pytest.raises(QtoolError, match="line 2"):
        commands_in("cd x\ntrtexec --onnx='a.onnx --fp16\n")
    with pytest.raises(QtoolError, match="polygraphy inspect"):
        orders_of_command(["polygraphy", "inspect", "m.onnx"])


@pytest.mark.parametrize(
    "line",
    [
        "env POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy convert m.onnx --compute-capabilities 8.9 12.0",
        "export POLYGRAPHY_USE_TENSORRT_RTX=1\npolygraphy convert m.onnx --compute-capabilities 8.9 12.0",
    ],
)
def test_polygraphy_for_tensorrt_rtx(line):
    assert said(line) == [
        (Term.BACKEND, "tensorrt_rtx"), (Term.MODEL, "m.onnx"), (Term.GPUS, ["8.9", "12.0"])
    ]  # fmt: skip
    assert said("POLYGRAPHY_USE_TENSORRT_RTX=0 polygraphy convert m.onnx") == [(Term.MODEL, "m.onnx")]


def test_tactic_sources_are_those_that_are_on():
    assert said("trtexec --tacticSources=+CUDNN,-JIT_CONVOLUTIONS") == [
        (Term.TACTICS, ["cudnn", "edge_mask_convolutions"])
    ]


@pytest.mark.parametrize(("tool", "rtx"), [("convert", False), ("run", False), ("convert", True), ("run", True)])
def test_the_table_has_every_flag_that_polygraphy_has(tool, rtx, monkeypatch):
    from polygraphy import config
    from polygraphy.tools.convert.convert import Convert
    from polygraphy.tools.run.run import Run

    monkeypatch.setattr(config, "USE_TENSORRT_RTX", rtx)
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    made = {"convert": Convert, "run": Run}[tool]()
    made.setup_parser(commands)
    takes = {None: "value", 0: "nothing", "+": "values", "*": "values", "?": "maybe"}
    for action in commands.choices[tool]._actions:
        for name in action.option_strings:
            flag = POLYGRAPHY.get(SHORT.get(name, name))
            assert flag is not None, f"{name} is missing in terms.py"
            assert flag.takes == takes[action.nargs], name


def test_every_term_says_what_becomes_of_it():
    assert set(OUTCOMES) == set(Term)
    assert all(bool(one.becomes) is (one.why is None) for one in OUTCOMES.values())
    assert all(re.fullmatch(r"--[A-Za-z0-9-]+", name) for name in (*TRTEXEC, *POLYGRAPHY))
