"""Models in which it is known which layers quantization harms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from tests.conftest import MODELS, build, node, normal
from toolkit import Context, Model
from toolkit.base.types import Array
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.budget import Budget
from toolkit.graph.surgery.tensors import make_constant, make_node
from toolkit.search.budget.spending import Spending
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.plans.search import Search
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.simulation.simulation import Settings, Simulation
from toolkit.simulation.switches import wanted_tensors


def trained(name: str) -> Model:
    """A model of models/ with its normalizations folded."""
    from passes.fold_batchnorm import FoldBatchNorm
    from passes.fold_constants import FoldConstants

    model = Model.load(MODELS / f"{name}.onnx")
    FoldConstants()(model)
    FoldBatchNorm()(model)
    return model


def damage(model: Model, layer: str, channel: int = 0, factor: float = 300.0) -> None:
    """Scale one input channel of a layer up and its weights down: the same function, and a ruined activation range."""
    made = model.node(layer)
    source = made.inputs[0]
    weight = np.array(model.constant(made.inputs[1]))
    axis = {"Conv": 1, "Gemm": 1 if made.attrs.get("transB", 0) else 0, "MatMul": 0}[made.op]
    rank = model.facts().rank(source.name)
    assert rank is not None
    scale = np.ones(weight.shape[axis], np.float32)
    scale[channel % len(scale)] = factor
    shape = [1] * weight.ndim
    shape[axis] = -1
    spread = [1] * rank
    spread[1 if made.op in ("Conv", "Gemm") else -1] = -1
    out = gs.Variable(f"{layer} damaged", dtype=source.dtype, shape=source.shape)
    constant = make_constant(f"{layer} damage", scale.reshape(spread))
    model.graph.nodes.append(make_node("Mul", f"{layer} mul", [source, constant], [out]))
    made.inputs[0] = out
    made.inputs[1] = make_constant(f"{layer} weight", (weight / scale.reshape(shape)).astype(np.float32))
    model.tidy()


def simulation(model: Model, source: Any, method: str = "minmax", **settings: Any) -> Simulation:
    """A simulation calibrated on the samples that it runs."""
    data = CalibrationData.open(source, model, labels=settings.get("metric") is not None)
    context = Context(provider=Calibrator(data, method=method))
    ranges = context.ranges(model, wanted_tensors(model, model.facts()))
    return Simulation(model, ranges, data, settings=Settings(**settings))


def chain(layers: int = 6, width: int = 16) -> Model:
    """MatMul and Relu, over and over, on [n, width]."""
    nodes, weights, tensor = [], {}, "x"
    for i in range(layers):
        weights[f"w{i}"] = normal(width, width, seed=i, scale=1.4 / width**0.5)
        out = "y" if i == layers - 1 else f"m{i}"
        nodes.append(node("MatMul", [tensor, f"w{i}"], [out], name=f"layer{i}"))
        if out != "y":
            nodes.append(node("Relu", [out], [f"r{i}"]))
        tensor = f"r{i}"
    return Model.from_proto(build(nodes, {"x": ["n", width]}, {"y": ["n", width]}, weights))


def heads(count: int, layers: int = 3, width: int = 16) -> Model:
    """So many chains of MatMul and Relu side by side on one input [n, width], each with an output of its own."""
    nodes, weights, outputs = [], {}, {}
    for head in range(count):
        tensor = "x"
        for i in range(layers):
            name, out = f"head{head}_layer{i}", f"y{head}" if i == layers - 1 else f"m{head}_{i}"
            weights[f"{name} w"] = normal(width, width, seed=100 * head + i, scale=1.4 / width**0.5)
            nodes.append(node("MatMul", [tensor, f"{name} w"], [out], name=name))
            if i < layers - 1:
                nodes.append(node("Relu", [out], [f"r{head}_{i}"]))
            tensor = f"r{head}_{i}"
        outputs[f"y{head}"] = ["n", width]
    return Model.from_proto(build(nodes, {"x": ["n", width]}, outputs, weights))


def feeds(count: int = 24, width: int = 16) -> list[dict[str, Array]]:
    """Seeded samples of [1, width]."""
    values = normal(count, width, seed=99)
    return [{"x": row[None]} for row in values]


def racing_search(budget: Budget, narrower: float) -> tuple[Search, SearchedPlan]:
    """A search that knows no plan yet, in which entropy's ranges are so many times narrower than those in use; and the
    plan with every layer quantized on the first of its eight batches.
    """
    sim = simulation(chain(), feeds(64), batch=8)
    for known in sim.ranges.tensors.values():
        known.diagnosis["amax"] = {"minmax": known.amax, "entropy": known.amax / narrower}
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
    racing = Search(sim, budget, cost, spending=Spending(50.0))
    racing._begin()
    seen = racing._evaluate((), until=1)
    racing._known.clear()
    racing.plans.clear()
    return racing, seen
