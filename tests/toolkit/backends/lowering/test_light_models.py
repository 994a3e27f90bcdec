"""How the light models of the onnx package begin goes through insertion, lowering and a real TensorRT-RTX build."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import onnx
import pytest

from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from tests.conftest import LIGHT, placeholder_context
from toolkit import Model, Precision, Profiles
from toolkit.backends.lowering.strong import lower


def beginning(path: Path, convolutions: int = 24) -> onnx.ModelProto:
    """A model up to the first tensor after so many convolutions that all of the rest hangs on."""
    proto = onnx.load(path)
    graph = proto.graph
    # of what depends on the model's input, how many readers are still to come
    readers = Counter(name for node in graph.node for name in node.input)
    weights = {tensor.name for tensor in graph.initializer}
    waiting = {value.name: readers[value.name] for value in graph.input if value.name not in weights}
    kept = seen = 0
    for node in graph.node:
        kept += 1
        seen += node.op_type == "Conv"
        if not waiting.keys() & set(node.input):
            continue
        for name in waiting.keys() & set(node.input):
            waiting[name] -= list(node.input).count(name)
        waiting.update({name: readers[name] for name in node.output})
        left = [name for name, times in waiting.items() if times > 0]
        if seen >= convolutions and len(left) == 1:
            break
    del graph.node[kept:]
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(left[0], onnx.TensorProto.FLOAT, None))
    return proto


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("name", ["resnet50", "densenet121", "inception_v2", "squeezenet", "shufflenet"])
def test_builds_on_rtx_with_every_convolution_in_int8(name, tmp_path):
    from toolkit.backends.attribution.nodes import attribute
    from toolkit.backends.backend import EngineSettings
    from toolkit.backends.choose import choose

    model = Model.from_proto(beginning(LIGHT / f"light_{name}.onnx"))
    context = placeholder_context()
    FoldConstants()(model, context)
    FoldBatchNorm()(model, context)
    InsertQDQ()(model, context)
    lowered = lower(model, context.plan)
    path = tmp_path / "model.onnx"
    lowered.model.save(path, ir_version=10)
    build = choose("tensorrt_rtx")[0].build(path, Profiles(), EngineSettings())
    assert build.engine is not None and len(build.engine) > 100_000
    actuals = attribute(lowered.model, build, lowered.plan)
    assert set(actuals) == set(lowered.model.node_names())
    convs = [n.name for n in lowered.model.nodes if n.op == "Conv"]
    assert len(convs) >= 24
    assert {actuals[n].precision for n in convs} == {Precision.INT8}
    assert not [n for n, a in actuals.items() if a.status == "unknown"]
