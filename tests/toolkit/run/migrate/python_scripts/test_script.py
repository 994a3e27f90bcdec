"""Python scripts in the ways that people write them, read without running them."""

from __future__ import annotations

import pytest

from toolkit.base.errors import QtoolError
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.terms import Term
from toolkit.run.migrate.python_scripts.script import orders_of_script

BUILDER = """
import argparse
import tensorrt as trt

class yoloxEntropyCalibrator(trt.IInt8EntropyCalibrator2):
    def __init__(self, imgpath, batch_size):
        self.cache_file = 'yolox.cache'

    def read_calibration_cache(self):
        with open(self.cache_file, "rb") as f:
            return f.read()

def get_engine(onnx_file_path, batch_size, mode='FP32', workspace_size=4096):
    def build_engine():
        with trt.Builder(LOGGER) as builder, builder.create_network(
                1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)) as network, \\
                builder.create_builder_config() as config, trt.OnnxParser(network, LOGGER) as parser:
            with open(onnx_file_path, "rb") as model:
                parser.parse(model.read())
            config.max_workspace_size = workspace_size * (1024 * 1024)
            if mode.lower() == 'fp16':
                config.flags |= 1 << int(trt.BuilderFlag.FP16)
            if mode.lower() == 'int8':
                config.flags |= 1 << int(trt.BuilderFlag.INT8)
                calibrator = yoloxEntropyCalibrator("images", batch_size)
                config.int8_calibrator = calibrator
            profile = builder.create_optimization_profile()
            profile.set_shape(network.get_input(0).name, max=(batch_size, 3, 640, 640), min=(1, 3, 640, 640),
                              opt=(1, 3, 640, 640))
            config.add_optimization_profile(profile)
            network.get_output(0).dtype = trt.float16
            return builder.build_engine(network, config)
    return build_engine()

def main(onnx_file_path, batch_size, mode='FP32'):
    get_engine(onnx_file_path, batch_size, mode)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument('--onnx_file_path', type=str, required=True)
    parser.add_argument('--batch_size', type=int, default=4)
    parser.add_argument('--mode', type=str, default='int8')
    args = parser.parse_args()
    main(args.onnx_file_path, args.batch_size, args.mode)
"""


def taken(text, *arguments):
    return [(one.term, one.value) for one in orders_of_script(text, "build.py", arguments) if one.why is None]


def left(text, *arguments):
    return {one.line: one.why.code for one in orders_of_script(text, "build.py", arguments) if one.why is not None}


def test_a_detector_script_with_a_mode():
    found = taken(BUILDER, "--onnx_file_path", "yolox.onnx")
    shapes = {term: value for term, value in found if term in (Term.MIN, Term.OPT, Term.MAX)}
    assert shapes == {
        Term.MIN: (0, {("input", 0): [1, 3, 640, 640]}),
        Term.OPT: (0, {("input", 0): [1, 3, 640, 640]}),
        Term.MAX: (0, {("input", 0): [4, 3, 640, 640]}),
    }
    assert [one for one in found if one[0] not in shapes] == [
        (Term.MODEL, "yolox.onnx"), (Term.WORKSPACE, 4096 << 20), (Term.INT8, None),
        (Term.CALIBRATOR, "IInt8EntropyCalibrator2"), (Term.CACHE, "yolox.cache"),
        (Term.TENSOR_IO, [(("output", 0), "fp16")]),
    ]  # fmt: skip
    assert list(left(BUILDER, "--onnx_file_path", "yolox.onnx").values()) == [MigrateCode.NOT_TAKEN]
    half = dict(taken(BUILDER, "--onnx_file_path=yolox.onnx", "--mode", "fp16"))
    assert Term.FP16 in half and Term.INT8 not in half


def test_a_condition_that_nobody_knows_is_taken_and_named():
    found = {one.line: one for one in orders_of_script(BUILDER.replace("args.mode)", "ask())"), "b.py")}
    (both,) = [{one.term for one in found.values() if one.why and one.why.code is MigrateCode.ONLY_WHERE}]
    assert both == {Term.FP16, Term.INT8, Term.CACHE}


LAYERS = """
import tensorrt as trt
FP32 = ["Conv_0", "Conv_5"]
RANGES = {"a": 2.5, "b": [-1.0, 3.0]}
def mend(network, config):
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for layer in network:
        if layer.name in FP32:
            layer.precision = trt.float32
            for i in range(layer.num_outputs):
                layer.set_output_type(i, trt.float32)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        layer_name = (layer.name or "").lower()
        if layer.type in (trt.LayerType.SHAPE, trt.LayerType.CONSTANT):
            continue
        if layer.type == trt.LayerType.SOFTMAX:
            layer.precision = trt.DataType.FLOAT
        if any(token in layer_name for token in ("norm", "ln2")):
            layer.precision = trt.DataType.HALF
        if "head" in layer.name and layer.type == trt.LayerType.ELEMENTWISE:
            layer.precision = trt.float32
        if is_sensitive(layer):
            layer.precision = trt.float32
    total = network.num_layers
    for i in range(max(0, total - 10), total):
        network.get_layer(i).precision = trt.float16
    network.get_layer(7).precision = trt.float16
    for layer in network:
        for i in range(layer.num_outputs):
            tensor = layer.get_output(i)
            if tensor.name in RANGES:
                tensor.dynamic_range = (-RANGES[tensor.name], RANGES[tensor.name])
    network.get_input(1).set_dynamic_range(-4.0, 3.0)
    for layer in network:
        layer.get_output(0).set_dynamic_range(-127, 127)
    network.add_identity(network.get_input(0))
    config.set_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.something_new = 3
"""


def test_layers_by_name_and_kind_and_ranges():
    found = taken(LAYERS)
    assert found == [
        (Term.OBEY, "obey"), (Term.LAYERS, [("Conv_0", "fp32"), ("Conv_5", "fp32")]),
        (Term.TYPES, [("Conv_0", "fp32"), ("Conv_5", "fp32")]), (Term.OPS, [("Softmax", "fp32")]),
        (Term.LAYERS, [("*[nN][oO][rR][mM]*", "fp16"), ("*[lL][nN]2*", "fp16")]),
        (Term.RANGE, [("a", 2.5), ("b", 3.0)]), (Term.RANGE, [(1, 4.0)]), (Term.UNSET, None), (Term.NO_TF32, None),
    ]  # fmt: skip
    looked = {line for line, code in left(LAYERS).items() if code is MigrateCode.LOOK_AT}
    lines = LAYERS.splitlines()
    assert {lines[line - 1].strip() for line in looked} == {
        "layer.precision = trt.float32", "network.get_layer(i).precision = trt.float16",
        "network.get_layer(7).precision = trt.float16", "layer.get_output(0).set_dynamic_range(-127, 127)",
        "network.add_identity(network.get_input(0))", "config.something_new = 3",
    }  # fmt: skip


def test_old_builders_and_commands_in_scripts():
    text = """
import os, subprocess
builder.fp16_mode = True
builder.int8_mode = False
builder.strict_type_constraints = True
ONNX = "m.onnx"
os.system(f"trtexec --onnx={ONNX} --int8 --calib=c.cache")
subprocess.run(["/opt/trtexec", "--onnx=" + ONNX, "--best"], check=True)
os.system("trtexec --onnx=%s" % name)
"""
    assert taken(text) == [
        (Term.FP16, None), (Term.OBEY, "obey"), (Term.MODEL, "m.onnx"), (Term.INT8, ""), (Term.CACHE, "c.cache"),
    ]  # fmt: skip
    # flags of another build are no flags of this one
    assert left(text) == {8: MigrateCode.OTHER_COMMAND, 9: MigrateCode.LOOK_AT}


def test_numbers_in_a_command_are_written_as_its_f_string_says():
    text = """
import os, sys
gib, known = 4.0, "b"
os.system(f"trtexec --onnx={sys.argv[1]} --workspace={gib:.0f} --shapes={known!s}:{8:d}x3")
"""
    known = [(one.term, one.said) for one in orders_of_script(text, "b.py", ["m.onnx"])]
    assert known == [
        (Term.MODEL, "--onnx=m.onnx"), (Term.WORKSPACE, "--workspace=4"), (Term.SHAPES, "--shapes=b:8x3"),
    ]  # fmt: skip
    unknown = orders_of_script(text, "b.py")
    assert [one.said for one in unknown] == ["--onnx={sys.argv[1]}", "--workspace=4", "--shapes=b:8x3"]


def test_commands_of_which_a_part_is_not_known():
    """What can be read is read, and the flag that cannot is named."""
    text = """
import os, subprocess
subprocess.check_output(["polygraphy", "inspect", "model", "m.onnx"])
command = f"trtexec --onnx=m.onnx --int8 --memPoolSize=workspace:{size}M " + extra
if not os.path.exists("m.plan"):
    subprocess.run(command, shell=True)
"""
    assert (Term.INT8, "") in [(one.term, one.value) for one in orders_of_script(text, "b.py")]
    found = {one.said: one.why.code for one in orders_of_script(text, "b.py") if one.why is not None}
    assert found == {
        "polygraphy inspect model m.onnx": MigrateCode.OTHER_COMMAND, "--onnx=m.onnx": MigrateCode.ONLY_WHERE,
        "--int8": MigrateCode.ONLY_WHERE, "--memPoolSize=workspace:{size}M": MigrateCode.VALUE_UNREADABLE,
        "{extra}": MigrateCode.STRAY_WORD,
    }  # fmt: skip
    text = "import subprocess\nargs = ['--fp16', flag]\nsubprocess.run(['docker', 'exec', 'trt', 'trtexec', '--onnx=m.onnx'] + args)"
    assert taken(text) == [(Term.MODEL, "m.onnx"), (Term.FP16, "")]


def test_what_polygraphy_generates(tmp_path):
    """The script is Polygraphy's own, made with the release that is installed."""
    from polygraphy.tools._main import main

    script = tmp_path / "gen.py"
    words = (
        "run m.onnx --trt --int8 --fp16 --calibration-cache c.cache --calib-base-cls IInt8MinMaxCalibrator "
        "--trt-min-shapes x:[1,3] --trt-opt-shapes x:[4,3] --trt-max-shapes x:[8,3] --trt-min-shapes x:[1,3] "
        "--trt-opt-shapes x:[1,3] --trt-max-shapes x:[1,3] --precision-constraints obey --layer-precisions /a:float32 "
        f"--pool-limit workspace:2G --sparse-weights --builder-optimization-level 4 --gen {script}"
    )
    (tmp_path / "m.onnx").write_bytes(b"")
    assert main(["polygraphy", *words.split()][1:]) == 0
    found = taken(script.read_text())
    profiles = {value[0] for term, value in found if term is Term.MAX}
    assert len(profiles) == 2 and len([1 for term, _ in found if term in (Term.MIN, Term.OPT, Term.MAX)]) == 6
    others = {term: value for term, value in found if term not in (Term.MIN, Term.OPT, Term.MAX)}
    assert others == {
        Term.MODEL: "m.onnx", Term.INT8: None, Term.FP16: None, Term.CACHE: "c.cache", Term.OBEY: "obey",
        Term.CALIBRATOR: "IInt8MinMaxCalibrator", Term.LAYERS: [("/a", "fp32")], Term.WORKSPACE: 2 << 30,
        Term.SPARSE: "enable", Term.LEVEL: 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "print 'python 2'\n",
        "config" + ".a" * 900 + " = 1\n",
        "config.set_flag(\n",
        "x = '\0'\n",
        "(" * 5000 + ")" * 5000,
        "x = " + "-" * 20_000 + "1\n",
    ],
)
def test_what_does_not_parse_is_named_with_its_place(text):
    with pytest.raises(QtoolError, match=r"build\.py"):
        orders_of_script(text, "build.py")


def test_numbers_that_would_take_for_ever_are_not_computed():
    text = "import tensorrt as trt\nn = 9 ** 9 ** 9 ** 9\nconfig.max_workspace_size = n\ns = 'a' * 10 ** 12\nconfig.max_workspace_size = s\n"
    assert taken(text) == [] and set(left(text).values()) == {MigrateCode.LOOK_AT}


@pytest.mark.parametrize(
    "line",
    [
        "config.max_workspace_size = float('inf')",
        "config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1e400)",
        "CreateConfig(max_workspace_size=1e400)",
        "network.get_input(0).dynamic_range = (-1e400, 1e400)",
        "for t in network:\n    t.dynamic_range = {'x': ['a', 'b']}[t.name]",
        "config.max_workspace_size = '%2000000000d' % 1",
    ],
)
def test_what_is_no_finite_number_is_to_be_looked_at(line):
    text = f"import tensorrt as trt\nfrom polygraphy.backend.trt import CreateConfig\n{line}\n"
    assert taken(text) == [] and set(left(text).values()) == {MigrateCode.LOOK_AT}


@pytest.mark.parametrize(("member", "word"), [("NONE", "none"), ("AMPERE_PLUS", "ampere+")])
def test_levels_of_hardware_compatibility_have_the_words_of_trtexec(member, word):
    level = f"trt.HardwareCompatibilityLevel.{member}"
    text = f"import tensorrt as trt\nconfig.hardware_compatibility_level = {level}\n"
    assert taken(text) == [(Term.HARDWARE, word)]


def test_names_of_names_are_worked_out_once():
    sums = "".join(f"x{i + 1} = x{i} + x{i}\n" for i in range(40))
    assert taken(f"x0 = 1\n{sums}config.max_workspace_size = x40\n") == [(Term.WORKSPACE, 1 << 40)]
    assert taken(f"x0 = 'a'\n{sums}config.max_workspace_size = x40\n") == []


def test_an_argument_of_another_type_is_refused():
    with pytest.raises(QtoolError, match="--batch"):
        orders_of_script("p.add_argument('--batch', type=int)\n", "build.py", ["--batch", "abc"])


def test_nothing_is_run(tmp_path):
    text = f"import pathlib\npathlib.Path({str(tmp_path / 'made')!r}).write_text('x')\nconfig.set_flag(trt.BuilderFlag.FP16)\n"
    assert taken(text) == [(Term.FP16, None)] and not (tmp_path / "made").exists()


CLASS = """
import argparse, os
import tensorrt as trt

class Maker:
    def __init__(self, gigabytes=8):
        self.builder = trt.Builder(LOGGER)
        self.config = self.builder.create_builder_config()
        self.config.max_workspace_size = gigabytes * 2**30

    def create_network(self, onnx_path, batch):
        self.network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
        onnx_path = os.path.realpath(onnx_path)
        with open(onnx_path, "rb") as file:
            trt.OnnxParser(self.network, LOGGER).parse(file.read())

    def obey(self):
        self.config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        self.pin()

    def pin(self):
        self.network.get_layer(0).precision = trt.DataType.HALF

def main(args):
    maker = Maker()
    maker.create_network(args.onnx, 8)
    if args.precision == "mixed":
        maker.obey()

parser = argparse.ArgumentParser()
parser.add_argument("-o", "--onnx", required=True)
parser.add_argument("-p", "--precision", default="fp16")
main(parser.parse_args())
"""


def test_methods_that_are_called_as_tensorrts_are_not_the_scripts_own():
    assert (Term.MODEL, "net.onnx") in taken(CLASS, "--onnx", "net.onnx")


def test_what_holds_where_a_function_is_called_holds_in_it():
    orders = orders_of_script(CLASS, "build.py", ["-p", "mixed"])
    assert any(one.term is Term.OBEY and one.why is None for one in orders)
    kept = [
        one for one in orders_of_script(CLASS, "build.py", ["-p", "int8"]) if one.term is Term.OBEY or one.line == 22
    ]
    assert len(kept) == 2 and all(one.why.code is MigrateCode.NOT_TAKEN for one in kept)
    unknown = orders_of_script(CLASS.replace('default="fp16"', "default=CHOSEN"), "build.py", [])
    (obeyed,) = [one for one in unknown if one.term is Term.OBEY]
    assert obeyed.why.code is MigrateCode.ONLY_WHERE


def test_a_condition_on_kinds_and_on_names_chooses_both():
    text = """import tensorrt as trt
for i in range(network.num_layers):
    layer = network.get_layer(i)
    if layer.type == trt.LayerType.SOFTMAX or "head" in layer.name:
        layer.precision = trt.float32
"""
    assert taken(text) == [(Term.OPS, [("Softmax", "fp32")]), (Term.LAYERS, [("*head*", "fp32")])]
