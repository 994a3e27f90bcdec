"""The tensorrt backend as far as it goes without a GPU: choices by version, the network's precisions, calibration."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import said
from tests.toolkit.backends.backend_models import mnist_profiles
from tests.toolkit.backends.recorded_models import DATA, mnist
from toolkit.backends import tensorrt
from toolkit.backends.attribution.nodes import attribute
from toolkit.backends.backend import EngineSettings, Extras
from toolkit.backends.building import calibrators
from toolkit.backends.building.build_config import with_timing
from toolkit.backends.building.calibrators import Calibration
from toolkit.backends.building.weak_network import set_precisions, set_ranges
from toolkit.backends.codes import EngineCode
from toolkit.backends.jobs.build_tensorrt import constraints
from toolkit.backends.processes.process import ProcessDiedError
from toolkit.backends.tensorrt import TensorRTBackend
from toolkit.base.errors import BackendError
from toolkit.contract.findings import Code
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Range, Ranges

OLD = {"version": "8.6.0", "strong": False, "weak": True, "implicit": True}
MIDDLE = {"version": "10.3.0", "strong": True, "weak": True, "implicit": True}
NEW = {"version": "11.0.0.1", "strong": True, "weak": False, "implicit": False}


@pytest.mark.parametrize(
    ("features", "settings", "typing"),
    [
        (OLD, {}, "weak"), (MIDDLE, {}, "strong"), (NEW, {}, "strong"), (MIDDLE, {"typing": "weak"}, "weak"),
        (MIDDLE, {"quantization": "implicit"}, "weak"), (OLD, {"quantization": "implicit"}, "weak"),
    ],
)  # fmt: skip
def test_typing_by_what_the_version_offers(features, settings, typing):
    assert TensorRTBackend(features).typing_for(EngineSettings(**settings)) == typing


@pytest.mark.parametrize(
    ("features", "settings", "match"),
    [
        (OLD, {"typing": "strong"}, "8.6.0 has no strong typing"),
        (NEW, {"typing": "weak"}, "11.0.0.1 has no weak typing"),
        (NEW, {"quantization": "implicit"}, "quantizes with Q/DQ pairs only.*8.6 to 10"),
        (MIDDLE, {"quantization": "implicit", "typing": "strong"}, "implicit quantization needs weak typing"),
    ],
)
def test_what_a_version_cannot_do(features, settings, match):
    with pytest.raises(BackendError, match=match):
        TensorRTBackend(features).typing_for(EngineSettings(**settings))


@pytest.mark.parametrize(("version", "opset"), [("8.6.0", 17), ("10.0.1", 20), ("10.3", 21), ("11.2", 25), ("7", 17)])
def test_each_release_reads_models_up_to_its_opset(version, opset):
    assert TensorRTBackend({**OLD, "version": version}).max_opset() == opset


def children(asked, failures):
    """A ``run_job`` whose child builds, and fails to examine as often as said, each time with another message."""

    def run_job(job, request, log, progress):
        folder = Path(request["folder"])
        if job == "build_tensorrt":
            asked.update(request)
            (folder / "model.engine").write_bytes(b"plan")
            return {
                "version": "8.6.0", "log": ["WARNING: w"], "seconds": 2.0, "unmarked": [], "constraints": "obey",
            }  # fmt: skip
        if failures:
            raise ProcessDiedError(failures.pop(0))
        files = [f"inspector{index}.json" for index in (0, 1)] if request["inspect"] else []
        for index, file in enumerate(files):
            (folder / file).write_bytes((DATA / f"mnist_mixed_profile{index}.json").read_bytes())
        return {
            "inspected": files, "log": ["WARNING: w", "WARNING: v"], "time_ms": {"pool1": {"a": 0.1}},
            "latency": {"a": {"opt": 0.5}, "b": {"opt": 0.7}}, "lacks": {},
        }  # fmt: skip

    return run_job


@pytest.mark.parametrize(
    ("failures", "source", "latency", "warned"),
    [
        (["first"], "inspector", {"a": {"opt": 0.5}, "b": {"opt": 0.7}}, ["first", "v"]),
        (["first", "second"], "none", {"a": {"opt": 0.5}, "b": {"opt": 0.7}}, ["first", "second", "v"]),
        (["first", "second", "third"], "none", {}, ["first", "second", "third"]),
    ],
)
def test_an_engine_outlives_a_crash_while_it_is_examined(failures, source, latency, warned, tmp_path, monkeypatch):
    count, logged = len(failures), []
    monkeypatch.setattr(tensorrt, "run_job", children({}, failures))
    made = TensorRTBackend(OLD).build(tmp_path / "m.onnx", mnist_profiles(), EngineSettings(), logged.append)
    assert made.engine == b"plan" and (made.source, made.latency) == (source, latency)
    assert made.log[0] == "WARNING: w" and len(logged) == count and len(made.log) == 1 + len(warned)
    assert all(line.endswith(word) for line, word in zip(made.log[1:], warned))
    assert made.lacks.keys() == (set() if latency else {"a", "b"})
    codes = {actual.reason.code for actual in attribute(mnist(), made, PrecisionPlan()).values() if actual.reason}
    assert (EngineCode.LAYERS_NOT_KNOWN in codes) == (source == "none")


def test_an_engine_that_cannot_be_opened_is_an_error(tmp_path, monkeypatch):
    def run_job(job, request, log, progress):
        if job == "examine_tensorrt":
            raise BackendError("TensorRT could not open the engine")
        return children({}, [])(job, request, log, progress)

    monkeypatch.setattr(tensorrt, "run_job", run_job)
    with pytest.raises(BackendError, match="could not open"):
        TensorRTBackend(OLD).build(tmp_path / "m.onnx", mnist_profiles(), EngineSettings())


def test_a_build_from_what_the_children_answer(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(tensorrt, "run_job", children(asked, []))
    plan = PrecisionPlan()
    plan.ask("conv2", "int8", "test")
    ranges = Ranges({"p1": Range(2.0, "minmax")}, observed={"r1": (-3.0, 1.0), "p1": (0.0, 9.0)})
    made = TensorRTBackend(OLD).build(
        tmp_path / "m.onnx",
        mnist_profiles(),
        EngineSettings(quantization="implicit", tactic_sources=()),
        extras=Extras(plan=plan, ranges=ranges),
    )
    assert made.engine == b"plan" and made.source == "inspector" and len(made.layers) == 26
    assert asked["plan"] == {"conv2": "int8"} and asked["settings"]["tactic_sources"] == []
    assert asked["amax"] == {"p1": 2.0, "r1": 3.0}
    found = attribute(mnist(), made, plan)
    differ = found["conv2"].reason.values
    assert (differ["runs"], differ["profiles"]) == (("int8", "fp16"), ("a", "b"))
    assert set(made.raw["profiles"][0]) == {"Layers", "Bindings"} and json.dumps(made.raw)


def batches(*shapes):
    return [{"x": np.zeros(shape, np.float32)} for shape in shapes]


def test_batches_of_different_shapes_are_refused(tmp_path):
    settings = EngineSettings(quantization="implicit", calibrator="entropy2")
    extras = Extras(batches=batches((4, 1), (4, 2)))
    with pytest.raises(BackendError, match=r"batch 1 has shapes .*\(4, 2\).*calibrator = \"ranges\""):
        TensorRTBackend(OLD).build(tmp_path / "m.onnx", mnist_profiles(), settings, extras=extras)


def test_no_batches_are_refused(tmp_path):
    settings = EngineSettings(quantization="implicit", calibrator="legacy")
    with pytest.raises(BackendError, match="legacy calibrator got no batch"):
        TensorRTBackend(OLD).build(tmp_path / "m.onnx", mnist_profiles(), settings)


def test_kernels_are_timed_as_often_as_asked():
    def create(builder, network):
        return config

    config = SimpleNamespace(avg_timing_iterations=1)
    assert with_timing(TRT, create, {"avg_timing_iterations": None}) is create
    with_timing(TRT, create, {"avg_timing_iterations": 8})(None, object())
    assert config.avg_timing_iterations == 8
    config = SimpleNamespace()
    with pytest.raises(
        BackendError, match=r"avg_timing_iterations: TensorRT 8.6.0 cannot do this.*[Ll]eave the setting out"
    ):
        with_timing(TRT, create, {"avg_timing_iterations": 8})(None, object())


# ---------------------------------------------------------------- a network made of stand-ins


def name(text):
    return SimpleNamespace(name=text)


@dataclass
class Tensor:
    name: str
    dtype: object = field(default_factory=lambda: name("FLOAT"))
    is_shape_tensor: bool = False
    range: tuple | None = None

    def set_dynamic_range(self, low, high):
        self.range = (low, high)


class ILayer:
    def __init__(self, kind, title, inputs, outputs, metadata=None, detail=None, weights=()):
        self.kind, self.name, self.detail, self.weights = kind, title, detail, weights
        self.ins, self.outs = inputs, outputs
        self.metadata = f"[ONNX Layer: {title}]" if metadata is None else metadata
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision, self.output_types = None, {}

    @property
    def type(self):
        return name(self.kind)

    def get_input(self, index):
        return self.ins[index]

    def get_output(self, index):
        return self.outs[index]

    def set_output_type(self, index, kind):
        self.output_types[index] = kind


class Detailed(ILayer):
    @property
    def type(self):
        return self.detail


class Constant(ILayer):
    pass


TRT = SimpleNamespace(
    __version__="8.6.0",
    DataType=SimpleNamespace(FLOAT="FLOAT", HALF="HALF"),
    IPoolingLayer=Detailed, IActivationLayer=Detailed, IConstantLayer=Constant,
    PoolingType=SimpleNamespace(MAX="max", AVERAGE="average"),
    ActivationType=SimpleNamespace(RELU="relu", CLIP="clip", SIGMOID="sigmoid"),
    IInt8MinMaxCalibrator=object,
)  # fmt: skip


class Network:
    """x -> conv -> relu -> pool -> gemm (product, bias) -> sigmoid -> y."""

    def __init__(self):
        t = self.tensors = {n: Tensor(n) for n in ("x", "c", "r", "p", "g0", "bias", "g", "y")}
        t["s"] = Tensor("s", name("INT32"))
        self.layers = [
            ILayer("CONVOLUTION", "conv", [t["x"]], [t["c"]]),
            ILayer("ACTIVATION", "relu", [t["c"]], [t["r"]], detail="relu"),
            ILayer("POOLING", "pool", [t["r"]], [t["p"]], detail="max"),
            ILayer("SHAPE", "shape", [t["p"]], [t["s"]]),
            ILayer("MATRIX_MULTIPLY", "gemm", [t["p"]], [t["g0"]]),
            ILayer("CONSTANT", "bias", [], [t["bias"]], metadata="", weights=[-0.5, 0.25]),
            ILayer("ELEMENTWISE", "gemm_2", [t["g0"], t["bias"]], [t["g"]], metadata="[ONNX Layer: gemm]"),
            ILayer("ACTIVATION", "sigmoid", [t["g"]], [t["y"]], detail="sigmoid"),
        ]
        self.num_layers, self.num_inputs, self.num_outputs = len(self.layers), 1, 1

    def get_layer(self, index):
        return self.layers[index]

    def get_input(self, index):
        return self.tensors["x"]

    def get_output(self, index):
        return self.tensors["y"]

    def set(self):
        return {layer.name: layer.precision for layer in self.layers if layer.precision}


def test_precisions_go_to_the_layers_of_their_nodes():
    network = Network()
    asked = {"conv": "int8", "gemm": "fp16", "sigmoid": "fp32", "shape": "fp16"}
    assert set_precisions(TRT, network, asked, "fp16", implicit=False) == 3
    assert network.set() == {"gemm": "HALF", "gemm_2": "HALF", "sigmoid": "FLOAT"}
    by_name = {layer.name: layer for layer in network.layers}
    assert by_name["gemm"].output_types == {0: "HALF"}
    assert by_name["sigmoid"].output_types == {}, "a network output keeps its type"


@pytest.mark.parametrize(
    ("typing", "asked", "kind", "held"),
    [
        ("weak", "auto", "QUANTIZE", "prefer"),
        ("weak", "auto", "DEQUANTIZE", "prefer"),
        ("weak", "auto", "CONVOLUTION", "obey"),
        ("weak", "obey", "QUANTIZE", "obey"),
        ("weak", "prefer", "CONVOLUTION", "prefer"),
        ("strong", "auto", "QUANTIZE", None),
    ],
)
def test_how_strictly_precisions_hold(typing, asked, kind, held):
    network = Network()
    network.layers[0] = ILayer(kind, "first", [], [network.tensors["c"]])
    assert EngineSettings(constraints=asked).constraints == asked
    assert constraints(network, {"typing": typing, "constraints": asked}) == held


def test_the_rest_is_held_in_fp32_where_some_are_fp16():
    network = Network()
    set_precisions(TRT, network, {"gemm": "fp16"}, "fp32", implicit=False)
    assert network.set() == {"conv": "FLOAT", "relu": "FLOAT", "pool": "FLOAT", "gemm": "HALF", "gemm_2": "HALF",
                             "sigmoid": "FLOAT"}  # fmt: skip


def test_implicit_quantization_keeps_its_hands_off_what_nobody_asked():
    network = Network()
    set_precisions(TRT, network, {"conv": "int8"}, "fp16", implicit=True)
    assert network.set() == {"gemm": "HALF"}


def test_ranges_reach_the_tensors_inside_kernels():
    network = Network()
    assert set_ranges(TRT, network, {"x": 1.0, "r": 4.0, "g": 8.0, "y": 0.0}) == ["y"]
    found = {name: tensor.range for name, tensor in network.tensors.items() if tensor.range}
    assert found == {"x": (-1, 1), "r": (-4, 4), "c": (-4, 4), "p": (-4, 4), "g": (-8, 8), "g0": (-8, 8),
                     "bias": (-0.5, 0.5)}  # fmt: skip


# ---------------------------------------------------------------- calibration


@pytest.fixture
def calibration(tmp_path, monkeypatch):
    import polygraphy.backend.trt

    monkeypatch.setattr(polygraphy.backend.trt, "Calibrator", lambda **given: SimpleNamespace(**given), raising=False)
    (tmp_path / "m.onnx").write_bytes(b"model")

    def make(shapes=((8, 3), (8, 3)), calibrator="minmax", profile="b", seed=0):
        files = []
        for number, shape in enumerate(shapes):
            files.append(str(tmp_path / f"{number}.npz"))
            np.savez(files[-1], x=np.full(shape, seed, np.float32))
        extents = {"a": [4, 3], "b": [8, 3]}
        request = {
            "settings": {"calibrator": calibrator}, "batches": files, "calibration_profile": profile,
            "model": str(tmp_path / "m.onnx"), "calibration_cache": str(tmp_path / "cache"),
            "profiles": [{"name": n, "shapes": {"x": {"min": e, "opt": e, "max": e}}} for n, e in extents.items()],
        }  # fmt: skip
        return Calibration(TRT, request, {"x": [-1, 3]})

    return make


def silent():
    said = []
    return SimpleNamespace(log=said.append, said=said)


def test_all_batches_used_leaves_a_fingerprint_and_the_cache_is_used_again(calibration, tmp_path):
    first = calibration()
    assert [batch["x"].shape for batch in first.calibrator.data_loader] == [(8, 3), (8, 3)]
    (tmp_path / "cache").write_text("TRT-8600-MinMaxCalibration\nx: 3c010204\n")
    first.finish(silent())
    assert json.loads((tmp_path / "cache.json").read_text())["batches"] == 2
    talk = silent()
    calibration().finish(talk)
    assert (tmp_path / "cache").exists() and "made from the same model and data" in talk.said[0]


@pytest.mark.parametrize("change", ["data", "sidecar"])
def test_a_cache_made_from_something_else_is_not_used(calibration, tmp_path, change):
    first = calibration()
    list(first.calibrator.data_loader)
    (tmp_path / "cache").write_text("old")
    first.finish(silent())
    if change == "sidecar":
        (tmp_path / "cache.json").write_text("{")
    calibration(seed=1 if change == "data" else 0)
    assert not (tmp_path / "cache").exists()


def test_calibration_that_ended_early_is_an_error_and_leaves_no_cache(calibration, tmp_path):
    made = calibration()
    next(iter(made.calibrator.data_loader))
    (tmp_path / "cache").write_text("partial")
    with pytest.raises(BackendError, match="took 1 of 2 calibration batches"):
        made.finish(silent())
    assert not (tmp_path / "cache").exists()


def test_batches_must_have_the_profiles_opt_shape(calibration):
    with pytest.raises(BackendError, match=r"batch 1 has .*\(7, 3\).*opt shapes are .*\(8, 3\)"):
        calibration(shapes=((8, 3), (7, 3)))
    calibration(shapes=((4, 3),), profile="a")


def test_a_version_without_the_calibrator(calibration):
    with pytest.raises(BackendError, match=r"8.6.0 has no IInt8LegacyCalibrator"):
        calibration(calibrator="legacy")


@pytest.mark.parametrize("calibrator", sorted(calibrators.CLASSES))
def test_every_calibrator_can_be_asked_for(calibrator):
    assert EngineSettings(calibrator=calibrator).calibrator == calibrator


class _Inspector:
    def __init__(self, whole):
        self.whole, self.execution_context = whole, None

    def get_engine_information(self, form):
        return self.whole

    def get_layer_information(self, index, form):
        return "" if index == 1 else json.dumps({"Name": f"layer{index}"})


@pytest.mark.parametrize(("whole", "names"), [('{"Layers": [{"Name": "a"}]}', ["a"]), ("", ["layer0", "layer2"])])
def test_an_inspector_that_says_no_json_is_asked_layer_by_layer(tmp_path, whole, names):
    from toolkit.backends.execution.inspection import inspect_engine

    lines = []
    context = SimpleNamespace(set_input_shape=lambda name, shape: True)
    engine = SimpleNamespace(
        num_optimization_profiles=1, num_layers=3, create_execution_context=lambda: context,
        create_engine_inspector=lambda: _Inspector(whole),
    )  # fmt: skip
    fake = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON=0))
    (name,) = inspect_engine(fake, engine, [], tmp_path, SimpleNamespace(log=lines.append))
    assert [layer["Name"] for layer in json.loads((tmp_path / name).read_text())["Layers"]] == names
    assert len(lines) == (0 if whole else 2) and all(line.startswith("WARNING") for line in lines)


@pytest.mark.parametrize("works", ["infer_shapes", "warm", "nothing"])
def test_formats_show_once_the_shapes_are_worked_out(tmp_path, works):
    from toolkit.backends.execution.inspection import inspect_engine

    done, lines = [], []

    class Inspector:
        execution_context = None

        def get_engine_information(self, form):
            shown = "Int8" if works in done else "N/A due to dynamic shapes"
            return json.dumps({"Layers": [{"Name": "a", "Inputs": [{"Name": "x", "Format/Datatype": shown}]}]})

    context = SimpleNamespace(
        set_input_shape=lambda name, shape: True, infer_shapes=lambda: done.append("infer_shapes")
    )
    engine = SimpleNamespace(
        num_optimization_profiles=1, create_execution_context=lambda: context, create_engine_inspector=Inspector
    )
    fake = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON=0))
    (name,) = inspect_engine(
        fake, engine, [], tmp_path, SimpleNamespace(log=lines.append), lambda context, shapes: done.append("warm")
    )
    assert ("Int8" in (tmp_path / name).read_text()) == (works != "nothing")
    assert len(lines) == (works == "nothing")


def test_a_context_is_gone_before_the_next_profiles_is_made(tmp_path):
    """8.6 has room for one context of a profile at a time."""
    from toolkit.backends.execution.inspection import inspect_engine

    alive: list[int] = []

    class Context:
        def __init__(self):
            alive.append(id(self))

        def __del__(self):
            alive.remove(id(self))

        def set_optimization_profile_async(self, index, stream):
            return True

        def infer_shapes(self):
            pass

    def create():
        assert not alive
        return Context()

    engine = SimpleNamespace(
        num_optimization_profiles=3, create_execution_context=create,
        create_engine_inspector=lambda: _Inspector('{"Layers": ["N/A due to dynamic shapes"]}'),
    )  # fmt: skip
    fake = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON=0))
    names = inspect_engine(
        fake, engine, [], tmp_path, SimpleNamespace(log=lambda text: None), lambda context, shapes: None
    )
    assert len(names) == 3 and not alive


def test_transposed_convolutions_stay_float_on_8():
    from passes.insert_qdq import InsertQDQ
    from tests.conftest import placeholder_context
    from tests.toolkit.backends.backend_models import FLOAT, make, node, tensor
    from toolkit.backends.lowering.weak import lower_weak
    from toolkit.base.precision import Precision
    from toolkit.contract.journal import Journal
    from toolkit.run.steps.engine import explain

    model = make(
        [node("ConvTranspose", ["x", "w"], ["u"], "up", strides=[2, 2]), node("Conv", ["u", "v"], ["y"], "conv")],
        {"x": (FLOAT, [1, 8, 8, 8])}, {"y": (FLOAT, [1, 8, 14, 14])},
        [tensor("w", np.ones((8, 8, 2, 2))), tensor("v", np.ones((8, 8, 3, 3)))], opset=17, ir=8,
    )  # fmt: skip
    context = placeholder_context()
    InsertQDQ()(model, context)
    for features, pairs in ((OLD, 2), (MIDDLE, 4)):
        journal = Journal()
        made = lower_weak(model, context.plan, EngineSettings(typing="weak"), TensorRTBackend(features), journal)
        lowered, plan = made.model, made.plan
        assert sum(n.op == "QuantizeLinear" for n in lowered.nodes) == pairs
        refused = [e for e in journal.of("declined") if e.node == "up"]
        assert bool(refused) == (features is OLD)
        if refused:
            assert plan.get("up").precision is Precision.INT8
            found = explain({"up": float_actual(Precision.FP16)}, plan, Precision.FP16, {"up": refused[0].why})
            assert refused[0].why == Code.NO_KERNEL(op="ConvTranspose", version=8)
            assert found["up"].status == "overridden" and found["up"].reason == refused[0].why


@pytest.mark.parametrize(
    ("pairs", "rest", "kept", "asked"),
    [(True, "fp16", None, {"s", "ss", "p", "c"}), (True, "fp16", "fp16", {"s", "ss", "p", "c"}), (True, "fp16", "fp32", set()),
     (True, "fp32", None, set()), (False, "fp16", None, set())],
)  # fmt: skip
def test_float_attention_beside_pairs_is_asked_for_in_the_type_of_the_rest(attention, pairs, rest, kept, asked):
    from passes.insert_qdq import InsertQDQ
    from tests.conftest import placeholder_context
    from toolkit.backends.lowering.weak import lower_weak
    from toolkit.base.precision import Precision
    from toolkit.contract.journal import Journal

    context = placeholder_context()
    if kept:
        context.plan.ask("p", kept, "chosen")
    if pairs:
        InsertQDQ()(attention, context)
    backend, settings = TensorRTBackend(OLD), EngineSettings(typing="weak")
    plan = lower_weak(attention, context.plan, settings, backend, Journal(), rest=Precision.named(rest)).plan
    assert {name for name, ask in plan.items() if ask.reason.code is Code.FLOAT_ATTENTION} == asked
    assert all(plan.get(name).precision is Precision.FP16 for name in asked)


@pytest.mark.parametrize(("rest", "released"), [("fp16", {"p"}), ("fp32", set())])
def test_beside_quantized_attention_alone_requests_of_the_rests_type_set_no_constraint(attention, rest, released):
    from passes.insert_qdq import InsertQDQ
    from tests.conftest import placeholder_context
    from toolkit.backends.lowering.weak import lower_weak
    from toolkit.base.precision import Precision
    from toolkit.contract.journal import Journal

    context, journal = placeholder_context(), Journal()
    for name in ("p", "h"):
        context.plan.ask(name, "fp16", "chosen")
    InsertQDQ(activation_matmul=True)(attention, context)
    backend, settings = TensorRTBackend(OLD), EngineSettings(typing="weak")
    plan = lower_weak(attention, context.plan, settings, backend, journal, rest=Precision.named(rest)).plan
    assert {name for name, ask in plan.items() if ask.free} == released
    told = [
        set(event.why.values["nodes"]) for event in journal.of("noted") if event.why.code is Code.QUANTIZED_ATTENTION
    ]
    assert told == ([released] if released else [])


def float_actual(precision):
    from toolkit.backends.layers.layer import Actual

    return Actual(precision, source="inspector", status="overridden", reason=EngineCode.NO_INPUT_QUANTIZED())


def test_types_of_inputs_that_weak_typing_cannot_change_are_noted():
    from tests.toolkit.backends.backend_models import FLOAT, make, node
    from toolkit import Journal, Precision
    from toolkit.backends.lowering.prepare import lower_for

    graph = make([node("Relu", ["x"], ["y"], "relu")], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])}, opset=17, ir=8)
    backend = TensorRTBackend({"version": "8.6.0", "strong": False, "weak": True, "implicit": True})
    for io, count in (({"x": Precision.FP16}, 1), ({}, 0)):
        journal = Journal()
        lower_for(backend, EngineSettings(), graph, PrecisionPlan(), rest=Precision.FP16, io=io, journal=journal)
        assert said(journal, Code.IO_NOT_USED) == [{"tensors": ("x",)}] * count


@pytest.mark.parametrize("short", [True, False])
def test_an_opset_that_the_parser_lacks_is_refused_with_the_remedy_that_helps(short):
    from tests.toolkit.backends.backend_models import FLOAT, make, node, tensor
    from toolkit.backends.lowering.weak import lower_weak
    from toolkit.contract.journal import Journal

    kind = 10 if short else FLOAT
    weights = tensor("w", np.ones((8, 4), np.float16 if short else np.float32))
    model = make(
        [node("MatMul", ["x", "w"], ["y"], "m")],
        {"x": (kind, [1, 8])},
        {"y": (kind, [1, 4])},
        [weights],
        opset=19,
        ir=9,
    )
    with pytest.raises(BackendError) as caught:
        lower_weak(model, PrecisionPlan(), EngineSettings(typing="weak"), TensorRTBackend(OLD), Journal())
    assert ("float16" in caught.value.remedy, "opset 17" in caught.value.remedy) == (short, not short)
