"""Engines with measured layers, and runs on a GPU, made up for the tests of what the report says of them."""

from __future__ import annotations

from toolkit.backends.layers.layer import Build, Layer, Port
from toolkit.base.precision import Precision
from toolkit.report.schema.report import Accuracy, ActualInfo, Asked, DeviceInfo, LayerInfo, OutputError, PayoffInfo
from toolkit.report.sections.payoff import Timed, payoff_of


def node(name, op="Conv", asked="int8", actual="int8", engine_layers=(), role="compute", macs=100, **more):
    return LayerInfo(
        node=name, op=op, role=role, macs=macs, engine_layers=list(engine_layers),
        asked=Asked(precision=Precision(asked) if asked else None), status=more.pop("status", "honoured"),
        actual=ActualInfo(precision=Precision(actual) if actual else None, source="inspector"), **more,
    )  # fmt: skip


def layer(name, reads=(), writes=(), kind="Conv", origin="", nodes=(), types=("fp16", "fp16"), tactic=""):
    return Layer(
        name, kind, tuple(Port(n, types[0]) for n in reads), tuple(Port(n, types[1]) for n in writes), "", tactic,
        tuple(nodes), origin,
    )  # fmt: skip


def engine(layers, times, latency=None, profiles=("p",)):
    """``times``: by layer, of one profile or of each."""
    by_profile = {n: t if isinstance(t, dict) else dict.fromkeys(profiles, t) for n, t in times.items()}
    return Build("tensorrt", "8.6.0", layers=list(layers), source="inspector", settings={"profiles": list(profiles)},
                 time_ms=by_profile, latency=latency or {})  # fmt: skip


def network():
    """Two convolutions and a softmax in both engines: the second convolution loses more to conversions than it gains.

    Quantized: Q kernel, conv1 with relu1, conv2, DQ kernel, reformat, softmax; in FP16 conv1 + relu1, conv2, softmax.
    """
    ours = [
        layer("q1", ["x"], ["x_q"], "Reformat", "QDQ", ["q1"], ("fp32", "int8")),
        layer("conv1 + relu1", ["x_q"], ["r1"], nodes=["conv1", "relu1"], types=("int8", "int8"), tactic="i8816cuda"),
        layer("conv2", ["r1"], ["c2_q"], nodes=["conv2"], types=("int8", "int8")),
        layer("dq2", ["c2_q"], ["c2"], "Reformat", "QDQ", ["dq2"], ("int8", "fp16")),
        layer("copy", ["c2"], ["c2_r"], "Reformat", "REFORMAT"),
        layer("softmax", ["c2_r"], ["y"], "SoftMax", nodes=["softmax"]),
    ]
    times = {"q1": 0.01, "conv1 + relu1": 0.1, "conv2": 0.02, "dq2": 0.03, "copy": 0.005, "softmax": 0.02}
    nodes = [
        node("q1", "QuantizeLinear", None, None, ["q1"], "convert", 0),
        node("conv1", engine_layers=["conv1 + relu1"], macs=900),
        node("relu1", "Relu", "fp16", "int8", ["conv1 + relu1"], macs=0),
        node("conv2", engine_layers=["conv2"], macs=300),
        node("dq2", "DequantizeLinear", None, None, ["dq2"], "convert", 0),
        node("softmax", "Softmax", "fp16", "fp16", ["softmax"], macs=0),
    ]
    other = Timed(
        engine(
            [
                layer("conv1 + relu1", ["x"], ["r1"], nodes=["conv1", "relu1"]), layer("conv2", ["r1"], ["c2"], nodes=["conv2"]),
                layer("softmax", ["c2"], ["y"], "SoftMax", nodes=["softmax"]),
            ],
            {"conv1 + relu1": 0.2, "conv2": 0.03, "softmax": 0.02}, {"p": {"opt": 0.26}},
        ),
        {"conv1": ["conv1 + relu1"], "relu1": ["conv1 + relu1"], "conv2": ["conv2"], "softmax": ["softmax"]},
    )  # fmt: skip
    return nodes, engine(ours, times, {"p": {"opt": 0.2}}), other


def payoff(ours_ms=0.2, other_ms=0.26) -> PayoffInfo:
    """The network's payoff with these latencies."""
    nodes, build, other = network()
    build.latency, other.build.latency = {"p": {"opt": ours_ms}}, {"p": {"opt": other_ms}}
    found = payoff_of(nodes, build, {"fp16": other})
    assert found is not None
    return found


def measured(after=0.98, met=True, before=0.985, samples=100, **output) -> Accuracy:
    figures = {"sqnr_db": 30.0, "cosine": 0.999, "agreement": 0.99, "max_abs": 0.2, **output}
    return Accuracy(metric="top1", before=before, quantized=after, drop=before - after, budget=0.01, met=met,
                    samples=samples, outputs={"logits": OutputError(**figures)}, source="onnxruntime",
                    misses=[] if met else [f"the metric drops by {before - after}, more than 0.01"])  # fmt: skip


def device(whole=None, **profiles) -> DeviceInfo:
    """A run on the GPU; the profiles' accuracies are those of the whole where none are given."""
    whole = whole if whole is not None else measured()
    return DeviceInfo(status="ran", gpu="NVIDIA H200", samples=100, accuracy=whole,
                      profiles=profiles or {"single": whole, "batch": whole}, notes=["a note on the samples"])  # fmt: skip
