"""The tensorrt backend on a GPU. One command: ``pytest -m gpu tests/toolkit/backends/test_tensorrt_gpu.py``."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.benchmarks.bench_residual import READERS, SHAPE, form
from tests.conftest import MODELS
from tests.toolkit.backends.backend_models import FLOAT, make, node, pair, profile, profiles, save, tensor, weights
from toolkit import Context, Model
from toolkit.backends.attribution.nodes import attribute
from toolkit.backends.backend import EngineSettings, Extras
from toolkit.backends.building.calibrators import CLASSES
from toolkit.backends.choose import choose, usable
from toolkit.backends.execution.measure import cuda_runtime
from toolkit.backends.execution.runner import EngineRunner
from toolkit.backends.layers.inspector import read_layers
from toolkit.backends.lowering.parser_forms import state_kernel_shapes
from toolkit.backends.lowering.weak import lower_weak
from toolkit.base.errors import BackendError
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.calibration.provider import Calibrator
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.data.dataset import CalibrationData

pytestmark = pytest.mark.gpu

SMALL = profile("small", x=((1, 4, 16, 16), (2, 4, 16, 16), (4, 4, 16, 16)))
LARGE = profile("large", x=((4, 4, 16, 16), (16, 4, 16, 16), (32, 4, 16, 16)))
BATCHES = [{"x": np.random.default_rng(i).standard_normal((16, 4, 16, 16)).astype(np.float32)} for i in range(4)]


@pytest.fixture(scope="module")
def backend():
    features, refusal = usable("tensorrt")
    if features is None:
        pytest.skip(str(refusal))
    return choose("tensorrt")[0]


def settings(**more):
    # The test host has no cuBLAS and cuDNN: only TensorRT's own kernels. Level 1 tries fewer of them: on Hopper the
    # default takes minutes an engine, and these tests are about what an engine is, not how fast.
    return EngineSettings(typing="weak", tactic_sources=(), **{"optimization_level": 1, **more})


def network(quantized=True):
    """conv - relu - pool - conv - global pool - softmax in float32, with or without Q/DQ pairs on the convolutions."""
    nodes, inits = [], []

    def conv(x, w, out, shape):
        nonlocal nodes, inits
        if quantized:
            q, qi = pair(x, scale=FLOAT)
            d, di = weights(w, shape, scale=FLOAT)
            nodes, inits = [*nodes, *q, *d], [*inits, *qi, *di]
            inputs = [f"{x}_dq", f"{w}_dq"]
        else:
            inits = [*inits, tensor(w, np.random.default_rng(7).standard_normal(shape) * 0.1)]
            inputs = [x, w]
        nodes = [*nodes, node("Conv", inputs, [out], out, pads=[1, 1, 1, 1])]

    conv("x", "w1", "conv1", (32, 4, 3, 3))
    nodes = [*nodes, node("Relu", ["conv1"], ["r"], "relu"),
             node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2])]  # fmt: skip
    conv("p", "w2", "conv2", (64, 32, 3, 3))
    nodes = [*nodes, node("GlobalAveragePool", ["conv2"], ["g"], "gap"), node("Flatten", ["g"], ["f"], "flatten"),
             node("Softmax", ["f"], ["y"], "softmax")]  # fmt: skip
    return make(nodes, {"x": (FLOAT, ["n", 4, 16, 16])}, {"y": (FLOAT, ["n", 64])}, inits, opset=17, ir=8)


def plan(**asked):
    made = PrecisionPlan()
    for name, precision in asked.items():
        made.ask(name, precision, "the test asks")
    return made


def build(backend, model, folder, some=None, given=None, **extras):
    state_kernel_shapes(model, Journal())
    path = save(model, folder)
    chosen = profiles(SMALL, LARGE) if some is None else some
    return backend.build(path, chosen, given or settings(), extras=Extras(**extras))


def check(model, made, asked):
    found = attribute(model, made, asked)
    assert set(found) == set(model.node_names())
    unknown = {name: actual for name, actual in found.items() if actual.status == "unknown"}
    assert not unknown, [(layer.name, layer.kind, layer.nodes) for layer in made.layers]
    return found


def test_pairs_make_int8_and_the_plan_is_obeyed_in_every_profile(backend, tmp_path):
    model, asked = network(), plan(conv1="int8", conv2="int8", softmax="fp32", gap="fp16")
    made = build(backend, model, tmp_path, plan=asked)
    assert made.engine and made.source == "inspector" and len(made.raw["profiles"]) == 2
    assert {layer.profile for layer in made.layers} == {0, 1}
    found = check(model, made, asked)
    assert {n: found[n].precision for n in ("conv1", "conv2", "softmax")} == {
        "conv1": Precision.INT8, "conv2": Precision.INT8, "softmax": Precision.FP32,
    }  # fmt: skip
    assert found["softmax"].status == "honoured"


def test_measured_where_cuda_python_is(backend, tmp_path):
    made = build(backend, network(), tmp_path)
    if cuda_runtime() is None:
        assert any("cuda-python" in line for line in made.log) or not made.latency
        pytest.skip("cuda-python is not installed")
    assert set(made.latency) == {"small", "large"}
    assert all(times["opt p05"] <= times["opt"] <= times["opt p95"] for times in made.latency.values())
    known = {layer.name for layer in made.layers}
    assert set(made.time_ms) <= known and all(set(t) <= {"small", "large"} for t in made.time_ms.values())


def test_the_engine_computes_what_onnxruntime_computes(backend, tmp_path):
    from tests.conftest import run

    model = network(quantized=False)
    made = build(backend, model, tmp_path, rest="fp32")
    with EngineRunner(made.engine, made.backend, profiles(SMALL, LARGE)) as runner:
        for count in (1, 4, 32):
            feeds = {"x": np.random.default_rng(count).standard_normal((count, 4, 16, 16)).astype(np.float32)}
            assert np.allclose(runner.run(feeds)["y"], run(model, feeds)[0], atol=2e-3)
        with pytest.raises(BackendError, match="no profile holds"):
            runner.run({"x": np.zeros((64, 4, 16, 16), np.float32)})


@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_ranges_make_int8_without_pairs(backend, tmp_path, rest):
    from toolkit.contract.ranges import Range, Ranges

    model, asked = network(quantized=False), plan(conv2="int8", conv1="fp32")
    ranges = Ranges({name: Range(4.0, "minmax") for name in ("x", "conv1", "r", "p", "conv2", "g", "f", "y")})
    made = build(
        backend, model, tmp_path, given=settings(quantization="implicit"), plan=asked, ranges=ranges, rest=rest
    )
    found = check(model, made, asked)
    assert found["conv1"].precision is Precision.FP32 and found["conv1"].status == "honoured"
    assert found["conv2"].precision is Precision.INT8 or found["conv2"].reason


@pytest.mark.parametrize("calibrator", list(CLASSES))
def test_every_calibrator_at_the_profile_chosen(backend, tmp_path, calibrator):
    given = settings(quantization="implicit", calibrator=calibrator, measure=False)
    cache = tmp_path / "calibration.cache"
    more = {"batches": BATCHES, "calibration_profile": "large", "calibration_cache": cache}
    asked = plan(conv1="int8", conv2="int8")
    made = build(backend, network(quantized=False), tmp_path, given=given, plan=asked, **more)
    assert made.engine and cache.stat().st_size and cache.with_name("calibration.cache.json").exists()
    written = cache.stat().st_mtime_ns
    again = build(backend, network(quantized=False), tmp_path, given=given, plan=asked, **more)
    assert again.engine and cache.stat().st_mtime_ns == written


def test_batches_of_the_wrong_profile_are_refused(backend, tmp_path):
    given = settings(quantization="implicit", calibrator="minmax", measure=False)
    with pytest.raises(BackendError, match="calibration profile's opt shapes"):
        build(backend, network(False), tmp_path, given=given, batches=BATCHES, calibration_profile="small")


def test_the_timing_cache_is_kept(backend, tmp_path):
    cache = tmp_path / "timing" / "cache"
    first = build(backend, network(), tmp_path, given=settings(timing_cache=cache, measure=False))
    size = cache.stat().st_size
    assert first.engine and size > 100
    # whatever the second build would time is in it already
    second = build(backend, network(), tmp_path, given=settings(timing_cache=cache, measure=False))
    assert second.engine and cache.stat().st_size == size


def test_settings_reach_the_builder(backend, tmp_path):
    given = settings(refit=True, sparse_weights=True, workspace=1 << 28, optimization_level=2, measure=False)
    assert build(backend, network(), tmp_path, given=given).engine
    given = settings(hardware_compatible=True, avg_timing_iterations=4, measure=False)
    assert build(backend, network(), tmp_path, given=given).engine


def test_what_goes_wrong_is_named(backend, tmp_path):
    with pytest.raises(BackendError, match="input 'x' has the dynamic shape"):
        build(backend, network(), tmp_path, Profiles())
    with pytest.raises(BackendError, match="no tactic source 'NONSENSE'"):
        build(backend, network(), tmp_path, given=EngineSettings(typing="weak", tactic_sources=("NONSENSE",)))
    odd = make([node("Relu", ["x"], ["y"], "odd")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, opset=17, ir=8)
    path = save(odd, tmp_path)
    import onnx

    proto = onnx.load(path)
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Frobnicate", "com.example"
    proto.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(proto, str(path))
    with pytest.raises(BackendError, match=r"Frobnicate|odd"):
        backend.build(path, Profiles(), settings())


def prepared(name, quantize=True):
    """A model of models/ with its pairs, its plan, its calibration data's ranges, and its profiles."""
    from passes.fold_batchnorm import FoldBatchNorm
    from passes.fold_constants import FoldConstants
    from passes.insert_qdq import InsertQDQ
    from passes.keep_precision import KeepPrecision

    if name == "digits":
        shapes = {"single": ((1, 8), (1, 8), (4, 8)), "batch": ((4, 8), (32, 8), (64, 8)), "huge": ((64, 8),) * 3}
    else:
        shapes = {"short": ((1, 16), (8, 32), (32, 40)), "middle": ((1, 48), (8, 64), (32, 80)),
                  "long": ((1, 88), (8, 112), (32, 128))}  # fmt: skip
    some = profiles(*(profile(n, image=[(b, 1, 8, w) for b, w in s]) for n, s in shapes.items()))
    model = Model.load(MODELS / ("digits_cnn.onnx" if name == "digits" else "strip_reader.onnx"))
    data = CalibrationData.open(MODELS / f"{name}_calibration.npz", model, some)
    context = Context(profiles=some, provider=Calibrator(data))
    for step in (FoldConstants(), FoldBatchNorm(), KeepPrecision(ops=["Softmax"], precision=Precision.FP32)):
        if name == "strip" or not isinstance(step, KeepPrecision):
            step(model, context)
    InsertQDQ()(model, context)
    return model, context, some


def accuracy(name, runner):
    stored = np.load(MODELS / f"{name}_test.npz")
    if name == "digits":
        right = [runner.run({"image": stored["image"][i : i + 50]})["logits"].argmax(-1) for i in range(0, 500, 50)]
        return float((np.concatenate(right) == stored["label"]).mean())
    keys = [key.removeprefix("image/") for key in stored.files if key.startswith("image/")]
    right = [runner.run({"image": stored[f"image/{k}"]})["logits"].argmax(-1) == stored[f"label/{k}"] for k in keys]
    return float(np.concatenate([one.ravel() for one in right]).mean())


@pytest.mark.parametrize("quantization", ["explicit", "implicit"])
@pytest.mark.parametrize(("name", "floor"), [("digits", 0.991), ("strip", 0.987)])
def test_the_trained_models_with_three_profiles(backend, tmp_path, name, floor, quantization):
    model, context, some = prepared(name)
    given = settings(quantization=quantization)
    made = lower_weak(model, context.plan, given, backend, Journal())
    lowered, asked = made.model, made.plan
    made = build(backend, lowered, tmp_path, some, given, plan=asked, ranges=context.known_ranges)
    found = check(lowered, made, asked)
    int8 = [n for n in lowered.nodes if n.op == "Conv" and found[n.name].precision is Precision.INT8]
    assert int8 or quantization == "implicit"
    print(name, quantization, Counter((a.status, str(a.precision)) for a in found.values()), made.latency)
    with EngineRunner(made.engine, made.backend, some) as runner:
        assert accuracy(name, runner) >= floor


@pytest.mark.parametrize("quantization", ["explicit", "implicit"])
def test_a_unet_with_transposed_convolutions_builds(backend, tmp_path, quantization):
    from passes.insert_qdq import InsertQDQ

    rng = np.random.default_rng(0)
    inits = [tensor(n, rng.standard_normal(s) * 0.2) for n, s in
             {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "u": (32, 16, 2, 2), "w3": (16, 32, 3, 3)}.items()]  # fmt: skip
    model = make(
        [
            node("Conv", ["x", "w1"], ["a"], "down", pads=[1] * 4), node("Relu", ["a"], ["ar"], "relu1"),
            node("MaxPool", ["ar"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p", "w2"], ["b"], "deep", pads=[1] * 4), node("Relu", ["b"], ["br"], "relu2"),
            node("ConvTranspose", ["br", "u"], ["t"], "up", strides=[2, 2]),
            node("Concat", ["ar", "t"], ["c"], "join", axis=1), node("Conv", ["c", "w3"], ["y"], "head", pads=[1] * 4),
        ],
        {"x": (FLOAT, ["n", 3, 32, 32])}, {"y": (FLOAT, ["n", 16, 32, 32])}, inits, opset=17, ir=8,
    )  # fmt: skip
    some = profiles(profile("only", x=((1, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))))
    data = CalibrationData.open([{"x": rng.standard_normal((4, 3, 32, 32)).astype(np.float32)}], model, some)
    context = Context(profiles=some, provider=Calibrator(data))
    InsertQDQ()(model, context)
    given = settings(quantization=quantization, measure=False)
    journal = Journal()
    made = lower_weak(model, context.plan, given, backend, journal)
    lowered, asked = made.model, made.plan
    made = build(backend, lowered, tmp_path, some, given, plan=asked, ranges=context.known_ranges, rest="fp16")
    found = check(lowered, made, asked)
    # ordered to be float with ranges; without its pairs it may be either, as TensorRT finds faster
    assert found["up"].precision is Precision.FP16 or quantization == "explicit"
    assert found["up"].precision in (Precision.FP16, Precision.FP32)
    assert [event.rule for event in journal.of("declined") if event.node == "up"] == ["no-kernel"]
    # pairs order INT8; ranges only allow it, and the reason then says what ran
    deep = found["deep"]
    assert deep.precision is Precision.INT8 or (quantization == "implicit" and deep.reason is not None), deep


def test_the_inspectors_words_are_kept_untouched(backend, tmp_path):
    made = build(backend, network(), tmp_path, given=settings(measure=False))
    again = [layer for index, said in enumerate(made.raw["profiles"]) for layer in read_layers(said, index)]
    assert again == made.layers


def test_a_loop_that_leaves_out_its_condition_computes_what_onnxruntime_computes(backend, tmp_path):
    from tests.conftest import normal, run
    from tests.control_flow import conv_in_loop

    model = Model.from_proto(conv_in_loop(condition=False))

    def made(*sizes):
        lowered = lower_weak(model, PrecisionPlan(), settings(), backend, Journal()).model
        return build(
            backend, lowered, tmp_path, profiles(profile("one", x=tuple((size, 4, 8) for size in sizes))), rest="fp32"
        )

    built, sizes = made(2, 2, 2), profiles(profile("one", x=((2, 4, 8),) * 3))
    with EngineRunner(built.engine, built.backend, sizes) as runner:
        feeds = {"x": normal(2, 4, 8)}
        assert np.allclose(runner.run(feeds)["y"], run(model, feeds)[0], atol=2e-3)
    if backend.version().startswith("8.6."):
        with pytest.raises(BackendError, match="give every profile one size"):
            made(1, 2, 4)


@pytest.mark.parametrize("reader", READERS)
def test_a_sum_after_an_int8_convolution_builds_whoever_reads_it(backend, reader, tmp_path):
    """8.6.0 refuses these where layer precisions are obeyed, but for quantized readers of a skip with a pair."""
    only = Profiles((profile("only", x=(SHAPE, SHAPE, SHAPE)),))
    for paired in (True, False):
        made = lower_weak(form(reader, "input", paired), PrecisionPlan(), settings(), backend, Journal())
        target = tmp_path / f"{paired}.onnx"
        made.model.save(target, ir_version=8)
        build = backend.build(target, only, settings(measure=False), extras=Extras(plan=made.plan, rest="fp16"))
        assert build.settings["constraints"] == "prefer"
        found = attribute(made.model, build, made.plan)
        assert found["c1"].precision is Precision.INT8
