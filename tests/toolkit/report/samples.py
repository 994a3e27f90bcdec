"""Sample reports that look like real ones, built from parts or joined from a real graph."""

from __future__ import annotations

import math
import random

from toolkit.base.precision import Precision
from toolkit.contract.roles import Role
from toolkit.report.conclusions.advice import advice
from toolkit.report.conclusions.headline import headline
from toolkit.report.conclusions.verdict import verdict, warnings_of
from toolkit.report.findings import sentence
from toolkit.report.schema.report import (
    Accuracy,
    ActualInfo,
    Asked,
    BackendInfo,
    Declined,
    LayerError,
    LayerInfo,
    ModelInfo,
    OutputError,
    PassInfo,
    ProfileInfo,
    RangeInfo,
    RecipeInfo,
    Report,
    ShapeRange,
    StepInfo,
    Suggestion,
    Summary,
    TensorInfo,
    Tool,
    counts,
)

QUANTIZING = PassInfo(use="insert_qdq", title="insert_qdq", role=Role.QUANTIZE, options={"only_if_faster"})
SEARCHING = PassInfo(use="search_precision", title="search_precision", role=Role.SEARCH, options={"only_if_faster"})
"""Passes as a run describes them to the report."""

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "[red]not red[/red] [link=http://example.invalid]x[/link]",
    "quotes \" ' ` and & and <b>",
    "line\u2028separator\u2029paragraph",
    "escape \x1b[2J\x1b[31mwiped",
    "{{ 7 * 7 }}{% raw %}",
    "<!--<script>",
]


MODEL = ModelInfo(
    path="models/digits_cnn.onnx",
    name="digits_cnn",
    fingerprint="9f2c" * 16,
    opset=17,
    nodes=24,
    parameters=213_450,
    bytes=853_800,
    macs=1_234_567,
    inputs=[TensorInfo(name="image", dtype="float32", shape=["batch", 1, 8, 8])],
    outputs=[TensorInfo(name="logits", dtype="float32", shape=["batch", 10])],
)


def accuracy(kind: str = "usable") -> Accuracy | None:
    if kind == "unmeasured":
        return None
    after = {"usable": 0.986, "missed": 0.941, "broken": 0.04}[kind]
    output = OutputError(sqnr_db=31.4 if kind != "broken" else -3.2, cosine=0.9991, agreement=after, max_abs=0.41)
    return Accuracy(
        metric="top1", before=0.988, quantized=after, drop=0.988 - after, budget=0.005, met=kind == "usable",
        samples=359, outputs={"logits": output}, source="onnxruntime with Q/DQ simulated", notes=["seed 0"],
    )  # fmt: skip


def _layer(name: str, op: str, rng: random.Random, level: float, previous: float) -> LayerInfo:
    heavy = op in ("Conv", "MatMul", "Gemm")
    asked = Precision.INT8 if heavy else Precision.FP32 if op == "Softmax" else Precision.FP16
    status, actual, reason = "honoured", asked, ""
    if op == "Relu":
        status, actual, reason = "fused", Precision.INT8, "fused into the convolution before it"
    elif heavy and rng.random() < 0.12:
        status, actual, reason = "overridden", Precision.FP16, "no INT8 kernel for 3 input channels at this alignment"
    return LayerInfo(
        node=name, op=op, role="compute",
        asked=Asked(precision=asked, reason="weights and input have Q/DQ pairs" if heavy
                    else f"nobody asked; the rest runs in {asked}", by="insert_qdq" if heavy else "rest"),
        actual=ActualInfo(precision=actual, input_types=[str(actual)], output_types=[str(actual)], source="network"),
        status=status, reason=reason, engine_layers=[f"{name} + fused"],
        error=LayerError(sqnr_db=level, max_abs=10 ** (-level / 20), drop_db=previous - level),
        time_ms={"single": 0.01 * rng.random(), "batch": 0.2 * rng.random()}, macs=rng.randrange(10**6) if heavy else 0,
    )  # fmt: skip


def _nodes(count: int, seed: int) -> list[LayerInfo]:
    rng, level, layers, block, before = random.Random(seed), 52.0, [], 0, "image"
    while len(layers) < count:
        prefix, entry = f"/encoder/stage{block // 6}/block{block}", before
        for op in ("QuantizeLinear", "DequantizeLinear", "Conv", "Relu", "MatMul", "Softmax", "Add"):
            name = f"{prefix}/{op.lower()}/{op}"
            reads, before = [before] if op != "Add" else [before, entry], f"{name}_out"
            if op in ("Conv", "MatMul"):
                reads.append(f"{prefix}.{op.lower()}.weight")
            ends = {"inputs": reads, "outputs": [before]}
            if op.endswith("Linear"):
                layers.append(
                    LayerInfo(node=name, op=op, role="convert", status="fused", reason=f"folded into {name}",
                              asked=Asked(precision=None, reason="converts between types", by="qtool"), macs=0,
                              actual=ActualInfo(precision=None, source="network"), **ends)
                )  # fmt: skip
                continue
            step = rng.expovariate(1 / 1.4) if op in ("Conv", "MatMul") else -rng.random() * 1.4
            new = min(60.0, max(4.0, level - step - (9 if rng.random() < 0.03 else 0)))
            layers.append(_layer(name, op, rng, new, level).model_copy(update=ends))
            level = new + (9 if new < 20 else 0)
        block += 1
    return layers[:count]


def _tensors(layers: list[LayerInfo]) -> list[TensorInfo]:
    names = dict.fromkeys(name for layer in layers for name in (*layer.inputs, *layer.outputs))
    return [
        TensorInfo(name=name, dtype="int8" if "QuantizeLinear" in name and "De" not in name else "float16",
                   shape=[64, 64] if name.endswith("weight") else [None, 64, 14, 14])
        for name in names
    ]  # fmt: skip


def _range(index: int, tensor: str, rng: random.Random) -> RangeInfo:
    bins = [1000 * math.exp(-((i / 12) ** 2)) * (1 + 0.3 * rng.random()) for i in range(48)]
    amax = 2 + rng.random() * 6
    wide = 2.7 if index % 9 == 4 else 1.1
    return RangeInfo(
        tensor=tensor, amax=amax, method="entropy", observed=(-amax, amax * 1.2), samples=240,
        per_profile={"single": amax / wide, "batch": amax}, clipped=4e-4 * rng.random(), sqnr_db=35 + 8 * rng.random(),
        outlier_ratio=1 + rng.random() * 3, histogram=bins,
    )  # fmt: skip


def build(
    layers: list[LayerInfo], measured: Accuracy | None, declined: list[Declined] | None = None,
    ranges: list[RangeInfo] | None = None, **changes: object,
) -> Report:  # fmt: skip
    backend = BackendInfo(
        name="tensorrt_rtx", version="1.1.1.26", reason="auto: tensorrt is not installed, tensorrt_rtx is",
        typing="strong", engine_bytes=1_204_331, build_seconds=21.4,
        log=["[W] Requested amount of memory (65536 MB) is larger than what is available <host>"],
    )  # fmt: skip
    profiles = [
        ProfileInfo(name=name, samples=n, shapes={"image": ShapeRange(min=[low, 1, 8, 8], opt=[mid, 1, 8, 8],
                                                                      max=[high, 1, 8, 8])})
        for name, low, mid, high, n in (("single", 1, 1, 4, 120), ("batch", 4, 32, 64, 120))
    ]  # fmt: skip
    declined, ranges = declined or [], ranges or []
    parts: dict[str, object] = {
        "tool": Tool(version="0.1.0"),
        "recipe": RecipeInfo(
            name="digits_int8", path="recipes/digits_int8.toml",
            passes=[PassInfo(use="fold_constants"), PassInfo(use="insert_qdq", settings={"dtype": "int8"})],
            calibration={"method": "entropy", "data": "../models/digits_calibration.npz"},
        ),
        "model": MODEL,
        "profiles": profiles,
        "backend": backend,
        "summary": Summary(
            headline=headline(layers, measured), verdict=verdict(measured), nodes=len(layers),
            computing=sum(layer.role == "compute" for layer in layers), quantized_share=0.93, share_of="macs",
            warnings=[sentence(one) for one in warnings_of(layers, measured, backend, profiles, ranges)],
            next=[Suggestion(text=sentence(one.finding), fragment=one.fragment)
                  for one in advice(layers, measured, backend, declined, ranges)],
            **counts(layers),
        ),
        "accuracy": measured,
        "latency": {"single": {"min": 0.21, "opt": 0.21, "max": 0.3}, "batch": {"min": 0.4, "opt": 1.1, "max": 2.2}},
        "layers": layers,
        "declined": declined,
        "ranges": ranges,
        "steps": [
            StepInfo(name="load", seconds=0.2, status="done", why="first run"),
            StepInfo(name="calibrate", seconds=4.1, status="reused", why="model, data and settings are the same"),
            StepInfo(name="build", seconds=21.4, status="done", why="the plan changed"),
        ],
    }  # fmt: skip
    return Report(**{**parts, **changes})


def sample(count: int = 58, kind: str = "usable", seed: int = 3) -> Report:
    """A report of ``count`` nodes, about five in seven of which compute."""
    rng = random.Random(seed)
    layers = _nodes(count, seed)
    declined = [
        Declined(node=layer.node, op=layer.op, rule=rule, reason=reason, by="insert_qdq")
        for layer, rule, reason in (
            (one, *rng.choice([("both_inputs_computed", "neither input of the MatMul is a constant"),
                               ("excluded", "excluded by '/head/*'")]))
            for one in layers if one.op == "Softmax" or (one.op == "MatMul" and rng.random() < 0.3)
        )
    ]  # fmt: skip
    quantized = [layer.inputs[0] for layer in layers if layer.op == "QuantizeLinear"]
    ranges = [_range(i, name, rng) for i, name in enumerate([*quantized, *(f"/head/act_{i}" for i in range(6))])]
    last = TensorInfo(name=layers[-1].outputs[0], dtype="float32", shape=["batch", 10])
    model = MODEL.model_copy(update={"outputs": [last]})
    return build(layers, accuracy(kind), declined, ranges, tensors=_tensors(layers), model=model)


def hostile() -> Report:
    """A report whose every name and reason tries to break out of its page."""
    layers = [
        LayerInfo(node=name, op=name, asked=Asked(precision=Precision.INT8, reason=name, by=name), reason=name,
                  actual=ActualInfo(precision=Precision.FP16, input_types=[name], source="inspector"),
                  status="overridden", engine_layers=[name], error=LayerError(sqnr_db=5.0 + i, max_abs=0.1),
                  time_ms={name: 1.0})
        for i, name in enumerate(HOSTILE)
    ]  # fmt: skip
    output = {name: OutputError(sqnr_db=3.0, max_abs=0.1, agreement=0.9) for name in HOSTILE}
    measured = Accuracy(metric=HOSTILE[0], before=0.9, quantized=0.8, drop=0.1, budget=0.01, met=False, outputs=output,
                        source=HOSTILE[0], notes=HOSTILE)  # fmt: skip
    declined = [Declined(node=name, op=name, rule=name, reason=name, by=name) for name in HOSTILE]
    ranges = [RangeInfo(tensor=name, amax=1.0, method=name, per_profile={name: 1.0, "b": 9.0}, histogram=[3, 2, 1])
              for name in HOSTILE]  # fmt: skip
    return build(
        layers, measured, declined, ranges,
        recipe=RecipeInfo(name=HOSTILE[0], path=HOSTILE[2], passes=[PassInfo(use=n, settings={n: n}) for n in HOSTILE]),
        model=ModelInfo(path=HOSTILE[0], name=HOSTILE[1], opset=17, nodes=1, parameters=1,
                        inputs=[TensorInfo(name=n, dtype=n, shape=[n, 1]) for n in HOSTILE]),
        profiles=[ProfileInfo(name=n, shapes={n: ShapeRange(min=[1], opt=[1], max=[2])}) for n in HOSTILE],
        steps=[StepInfo(name=n, why=n) for n in HOSTILE],
    )  # fmt: skip
