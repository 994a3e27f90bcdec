"""Small sound files of every kind that qtool reads, made on the spot: what the fuzzer breaks, and the commands that read them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import build, node, normal

RECIPE = """\
[model]
path = "m.onnx"

[[profile]]
name = "p"
shapes.x = { min = [1, 3, 4, 4], opt = [2, 3, 4, 4], max = [8, 3, 4, 4] }

[calibration]
data = "c.npz"
method = "minmax"

[[pass]]
use = "insert_qdq"

[engine]
backend = "none"
rest = "fp16"

[evaluation]
data = "t.npz"
metric = "top1"
budget = { max_drop = 1.0 }
"""
SHAPE = ["n", 3, 4, 4]
WEIGHTS = {"w0": normal(4, 3, 3, 3, seed=1, scale=0.3), "w1": normal(6, 4, seed=2)}


def network(
    middle: list[onnx.NodeProto] | None = None, weights: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    """conv, whatever stands between 'c' and 'm', pooled, flattened, into a Gemm."""
    between = middle if middle is not None else [node("Relu", ["c"], ["m"])]
    return build(
        [
            node("Conv", ["x", "w0"], ["c"], pads=[1, 1, 1, 1]),
            *between,
            node("GlobalAveragePool", ["m"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "w1"], ["y"], transB=1),
        ],
        {"x": SHAPE},
        {"y": ["n", 6]},
        {**WEIGHTS, **(weights or {})},
    )


def with_pair() -> onnx.ModelProto:
    """A Q/DQ pair after the conv."""
    weights = {"s": np.float32(0.05).reshape(()), "z": np.int8(0).reshape(())}
    pair = [node("QuantizeLinear", ["c", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["m"])]
    return network(pair, weights)


def with_loop(cond: bool = True, trips: int | None = 3) -> onnx.ModelProto:
    """A Loop of Relus between; without ``trips`` only its condition could end it."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["ci"], ["co"]), helper.make_node("Relu", ["vi"], ["vo"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("ci", TensorProto.BOOL, []),
            helper.make_tensor_value_info("vi", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("co", TensorProto.BOOL, []),
            helper.make_tensor_value_info("vo", TensorProto.FLOAT, None),
        ],
    )
    weights = {"cond": np.array(cond)} | ({"trips": np.array(trips, np.int64)} if trips is not None else {})
    loop = node("Loop", ["trips" if trips is not None else "", "cond", "c"], ["m"], name="loop", body=body)
    return network([loop], weights)


def with_branches() -> onnx.ModelProto:
    """An If whose branches are a Relu and a Neg."""
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        branches[name] = helper.make_graph([helper.make_node(op, ["c"], [out.name])], name, [], [out])
    return network([node("If", ["cond"], ["m"], name="if", **branches)], {"cond": np.array(True)})


def with_function() -> onnx.ModelProto:
    """A function of the model's own, which adds a constant that it stores."""
    proto = network([node("Relu", ["c"], ["m"])])
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32([0.5]), "k"))
    function = helper.make_function(
        "own", "Shift", ["a"], ["b"], [constant, helper.make_node("Add", ["a", "k"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Shift", "own"
    return proto


def with_sparse() -> onnx.ModelProto:
    """The Gemm's weight as a sparse initializer."""
    proto = network()
    dense = next(tensor for tensor in proto.graph.initializer if tensor.name == "w1")
    values = numpy_helper.to_array(dense).reshape(-1)[:3]
    proto.graph.initializer.remove(dense)
    sparse = proto.graph.sparse_initializer.add(dims=[6, 4])
    sparse.values.CopyFrom(numpy_helper.from_array(values, "w1"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 7, 23], np.int64), "w1_indices"))
    return proto


def with_external(folder: Path | None = None) -> onnx.ModelProto:
    """The conv's weight in 'w.bin' beside the model, which is written into ``folder`` where one is given."""
    proto = network()
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "w0")
    if folder is not None:
        (folder / "w.bin").write_bytes(bytes(16) + tensor.raw_data)
    for key, value in (("location", "w.bin"), ("offset", "16"), ("length", str(len(tensor.raw_data)))):
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return proto


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "plain": network, "pair": with_pair, "loop": with_loop, "branches": with_branches, "function": with_function,
    "sparse": with_sparse, "external": with_external,
}  # fmt: skip


def samples(count: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": normal(count, 3, 4, 4, seed=seed), "label": np.arange(count) % 6}


def recipe_folder(folder: Path) -> None:
    """m.onnx, c.npz, t.npz, r.toml, and w.bin for a model with external data, all sound."""
    with_external(folder)
    (folder / "m.onnx").write_bytes(network().SerializeToString())
    np.savez(folder / "c.npz", x=samples()["x"])
    np.savez(folder / "t.npz", **samples(seed=1))
    (folder / "cache.bin").write_bytes(TABLES["cache.bin"])
    (folder / "r.toml").write_text(RECIPE)


def saved_inputs() -> bytes:
    """Two feeds as Polygraphy saves them."""
    feeds = []
    for number in range(2):
        stream = io.BytesIO()
        np.save(stream, normal(1, 3, 4, 4, seed=number))
        array = {"array": base64.b64encode(stream.getvalue()).decode(), "polygraphy_class": "ndarray"}
        feeds.append({"x": array})
    return json.dumps(feeds).encode()


def picture(ending: str) -> bytes:
    """An image of 6 x 5 pixels."""
    from PIL import Image

    pixels = (np.abs(normal(5, 6, 3)) * 80).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()))
    return stream.getvalue()


INSPECTED = {
    "Layers": [
        {
            "Name": "conv + relu", "LayerType": "CaskConvolution", "Metadata": "[ONNX Layer: conv]",
            "Inputs": [{"Name": "x", "Dimensions": [1, 3, 4, 4], "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "m", "Dimensions": [1, 4, 4, 4], "Format/Datatype": "Channel major FP16 format"}],
            "Weights": {"Type": "Half", "Count": 108}, "TacticName": "sm80_xmma_fprop_f16f16",
        },
        "a plain name [profile 1]",
    ],
    "Bindings": ["x", "y"],
}  # fmt: skip
NETWORK = {
    "source": "network",
    "layers": [
        {
            "name": "conv", "type": "CONVOLUTION", "metadata": "[ONNX Layer: conv]",
            "inputs": [{"name": "x", "type": "FLOAT", "shape": [1, 3, 4, 4]}],
            "outputs": [{"name": "m", "type": "HALF", "shape": [1, 4, 4, 4]}],
        }
    ],
}  # fmt: skip
TABLES: dict[str, bytes] = {
    "ort.json": json.dumps({"c": {"lowest": {"data": -1.0}, "highest": {"data": 2.0}}, "m": [0.0, 3.5]}).encode(),
    "cache.bin": b"TRT-8600-EntropyCalibration2\nx: 3c010a14\nc: 3c4d5e6f\nm: 3b9c8d7e\n",
    "legacy.bin": b"0 3ff0000000000000 3feff7ced916872b\nx: 3c010a14\n",
    "table.txt": b"# ranges\nx: 3.5\nc: 1.25\nm: 0.5\n",
}

SCRIPTS: dict[str, bytes] = {
    "build.py": b"""import argparse
import tensorrt as trt
parser = argparse.ArgumentParser()
parser.add_argument("--batch", type=int, default=8)
args = parser.parse_args()
SIZE = 1 << 30
RANGES = {"x": 3.5, "c": [-1.25, 1.25], "m": 0.5}
builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
config = builder.create_builder_config()
config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 4 * SIZE)
config.builder_optimization_level = 4
config.set_flag(trt.BuilderFlag.INT8)
config.flags |= 1 << int(trt.BuilderFlag.FP16)
trt.OnnxParser(network, builder.logger).parse_from_file("m.onnx")
profile = builder.create_optimization_profile()
profile.set_shape("x", (1, 3, 4, 4), (args.batch, 3, 4, 4), (2 * args.batch, 3, 4, 4))
for i in range(network.num_layers):
    layer = network.get_layer(i)
    if layer.type == trt.LayerType.CONVOLUTION and "head" not in layer.name:
        layer.precision = trt.float16
for tensor in network:
    tensor.dynamic_range = RANGES[tensor.name]
network.get_input(0).dynamic_range = (-3.5, 3.5)
""",
    "polygraphy.py": b"""from polygraphy.backend.trt import Calibrator, CreateConfig, NetworkFromOnnxPath, Profile
shapes = Profile().add("x", min=(1, 3, 4, 4), opt=(2, 3, 4, 4), max=(8, 3, 4, 4))
config = CreateConfig(fp16=True, int8=True, max_workspace_size=1 << 30, builder_optimization_level=3, profiles=[shapes],
                      calibrator=Calibrator(data_loader=load(), cache="cache.bin", quantile=0.99))
network = NetworkFromOnnxPath("m.onnx")
""",
    "build.sh": b"""MODEL=m.onnx
trtexec --onnx=$MODEL --int8 --fp16 --calib=cache.bin --minShapes=x:1x3x4x4 --optShapes=x:2x3x4x4 --maxShapes=x:8x3x4x4 \\
  --layerPrecisions=Conv_0:fp16,*:int8 --memPoolSize=workspace:512M --avgTiming=4 --inputIOFormats=fp16:chw > log.txt 2>&1
polygraphy convert m.onnx --int8 --calibration-cache cache.bin --trt-opt-shapes x:[2,3,4,4] --pool-limit workspace:1G -o m.engine
""",
}


@dataclass(frozen=True)
class Sound:
    """A sound input.

    Attributes:
        kind: how the fuzzer breaks it: onnx, json, npz, toml, script or text.
        name: the file's name.
        content: the file.
        recipe: a change of the recipe so that it is read: (old, new).
        commands: the command lines that read it; 'r.toml' is the recipe.
    """

    kind: str
    name: str
    content: bytes
    recipe: tuple[str, str] = ("", "")
    commands: tuple[tuple[str, ...], ...] = ()


_CHECK = ("check", "r.toml")
_RUN = ("run", "r.toml", "--out", "o")
_DATA = ('data = "c.npz"', 'data = "FILE"')


@lru_cache
def run_files() -> dict[str, bytes]:
    """What a run of the recipe leaves, and the statistics that `qtool calibrate` keeps."""
    import tempfile

    from toolkit.cli.main import invoke

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe_folder(folder)
        assert invoke(["run", str(folder / "r.toml"), "--out", str(folder / "o")]) == 0
        assert invoke(["calibrate", str(folder / "r.toml"), "--out", str(folder / "col.npz")]) == 0
        assert invoke(["calibrate", str(folder / "r.toml"), "--shard", "1/2", "--out", str(folder / "p.npz")]) == 0
        kept = {"ranges.json", "report.json", "journal.jsonl"}
        found = {file: (folder / "o" / file).read_bytes() for file in kept}
        return found | {file: (folder / file).read_bytes() for file in ("col.npz", "p.npz")}


def sound_inputs() -> Iterator[Sound]:
    """Every kind of input that there is."""
    made = run_files()
    for name, make in MODELS.items():
        commands = (("inspect", "m.onnx"), _CHECK, ("new", "m.onnx", "--out", "n.toml", "--force"))
        yield Sound(
            "onnx", "m.onnx", make().SerializeToString(), commands=commands + ((_RUN,) if name == "plain" else ())
        )
    yield Sound("toml", "r.toml", RECIPE.encode(), commands=(_CHECK,))
    for packed in (np.savez, np.savez_compressed):
        for arrays in (samples(), {f"x/{i:05d}": normal(1, 3, 4, 4, seed=i) for i in range(3)}):
            stream = io.BytesIO()
            packed(stream, **{name: value for name, value in arrays.items() if name != "label"})
            yield Sound("npz", "d.npz", stream.getvalue(), _DATA, (_CHECK,))
    stream = io.BytesIO()
    np.save(stream, samples()["x"])
    yield Sound("npy", "d.npy", stream.getvalue(), _DATA, (_CHECK,))
    yield Sound("json", "d.json", saved_inputs(), _DATA, (_CHECK,))
    for ending in ("png", "jpg", "bmp", "tif", "ppm", "webp"):
        yield Sound("image", f"images/a.{ending}", picture(ending), ('data = "c.npz"', 'data = "images"'), (_CHECK,))
    ranges = ('method = "minmax"', 'method = "minmax"\nranges = "FILE"')
    yield Sound(
        "json", "a.json", made["ranges.json"], ranges, (("inspect", "a.json"), ("compare", "a.json", "a.json"), _CHECK)
    )
    for name, content in TABLES.items():
        kind = "json" if name.endswith(".json") else "text"
        yield Sound(kind, name, content, ranges, (("inspect", name), ("compare", name, name, "--html", "p.html")))
    for name, content in SCRIPTS.items():
        yield Sound("script", name, content, commands=(("migrate", name),))
    collection = ('method = "minmax"', 'method = "minmax"\ncollection = "FILE"')
    yield Sound("npz", "col.npz", made["col.npz"], collection, (("inspect", "col.npz"), _CHECK))
    yield Sound("npz", "part.npz", made["p.npz"], commands=(("merge", "part.npz", "part.npz", "--out", "both.npz"),))
    yield Sound(
        "json",
        "rep.json",
        made["report.json"],
        commands=(("inspect", "rep.json"), ("compare", "rep.json", "rep.json", "--html", "p.html")),
    )
    yield Sound("jsonl", "j.jsonl", made["journal.jsonl"], commands=(("inspect", "j.jsonl"),))
    for name, content in (
        ("layers.json", INSPECTED),
        ("net.json", NETWORK),
        ("all.json", {"source": "inspector", "profiles": [INSPECTED]}),
    ):
        yield Sound("json", name, json.dumps(content).encode(), commands=(("inspect", name),))
