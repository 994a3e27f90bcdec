"""Engine layers counted for quantized layers: on recorded 8.6 engines and on small ones written here."""

from __future__ import annotations

import pytest

from tests.toolkit.backends.backend_models import FLOAT, make, node, pair, tensor, weights
from tests.toolkit.backends.recorded_models import recorded, resnet50
from toolkit.backends.attribution.unit_times import unit_times
from toolkit.backends.layers.layer import Build, Layer, Port


def timed(build):
    build.time_ms = {layer.name: {"default": 1.0} for layer in build.layers}
    return build


@pytest.mark.parametrize(("file", "quantized"), [("rn50_fp16", False), ("rn50_good", True)])
def test_every_layer_of_resnet50_counts_once(file, quantized):
    model, build = resnet50(quantized), timed(recorded(file))
    units = [n.name for n in model.nodes if n.op in ("Conv", "Gemm")]
    found = unit_times(model, build, units)
    assert set(found.ms) == set(units) and found.ties == {}
    first = sum(next(iter(times.values())) for times in found.ms.values())
    # what comes before the first convolution (the input's own Q and reformat) reads into it
    assert first == pytest.approx(len({layer.name for layer in build.layers}))


def two_convs(quantized):
    nodes, inits = [], []
    for i, before in enumerate(("x", "r0")):
        if quantized:
            q, qi = pair(before, scale=FLOAT)
            w, wi = weights(f"w{i}", (4, 4, 1, 1), scale=FLOAT)
            nodes, inits = [*nodes, *q, *w], [*inits, *qi, *wi]
        else:
            inits.append(tensor(f"w{i}", [[[[1.0]] * 1] * 4] * 4))
        reads = [f"{before}_dq", f"w{i}_dq"] if quantized else [before, f"w{i}"]
        nodes += [node("Conv", reads, [f"c{i}"], f"conv{i}"), node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}")]
    return make(nodes, {"x": (FLOAT, [1, 4, 4, 4])}, {"r1": (FLOAT, [1, 4, 4, 4])}, inits, opset=17, ir=8)


def layer(name, reads, writes, kind="CaskConvolution", nodes=()):
    return Layer(name, kind, (Port(reads, "fp16"),), (Port(writes, "fp16"),), nodes=tuple(nodes))


def test_reformats_pairs_and_activations_count_for_the_layer_they_serve():
    layers = [
        layer("x/Q", "x", "x_q", "Scale", ["x/Q"]),
        layer("conv0", "x_q", "c0", nodes=["conv0"]),
        layer("relu0", "c0", "r0", "PointWise", ["relu0"]),
        layer("r0/Q", "r0", "r0_q", "Scale", ["r0/Q"]),
        layer("Reformatting CopyNode for Input Tensor 0 to conv1", "r0_q", "r0_q copy", "Reformat"),
        layer("conv1 + relu1", "r0_q copy", "r1", nodes=["conv1", "relu1"]),
    ]
    build = Build("tensorrt", "8.6", b"", layers, "inspector",
                  time_ms={one.name: {"default": 10.0**i} for i, one in enumerate(layers)})  # fmt: skip
    found = unit_times(two_convs(True), build, ["conv0", "conv1"])
    assert found.ms == {"conv0": {"default": 111.0}, "conv1": {"default": 111000.0}} and found.ties == {}


def test_layers_that_one_block_runs_are_tied():
    block = layer("{ForeignNode[conv0...relu1]}", "x", "r1", "Myelin")
    build = Build("tensorrt", "8.6", b"", [block], "inspector", time_ms={block.name: {"default": 3.0}})
    found = unit_times(two_convs(False), build, ["conv0", "conv1"])
    assert found.ties == {"default": [["conv0", "conv1"]]}
    assert found.ms == {"conv0": {"default": 1.5}, "conv1": {"default": 1.5}}


def test_profiles_are_told_apart():
    layers = [layer("conv0", "x", "c0", nodes=["conv0"]), layer("conv1", "r0", "c1", nodes=["conv1"])]
    layers += [Layer(**{**one.__dict__, "profile": 1}) for one in layers]
    times = {"conv0": {"a": 1.0, "b": 2.0}, "conv1": {"a": 4.0}}
    build = Build("tensorrt", "8.6", b"", layers, "inspector", settings={"profiles": ["a", "b"]}, time_ms=times)
    found = unit_times(two_convs(False), build, ["conv0", "conv1"])
    assert found.ms == {"conv0": {"a": 1.0, "b": 2.0}, "conv1": {"a": 4.0}}


def test_nothing_is_told_without_layer_times():
    build = Build(
        "tensorrt_rtx", "1.7", b"", [layer("conv0", "x", "c0")], "network", time_ms={"conv0": {"default": 1.0}}
    )
    assert unit_times(two_convs(False), build, ["conv0"]).ms == {}
    assert unit_times(two_convs(False), Build("tensorrt", source="inspector"), ["conv0"]).ms == {}
