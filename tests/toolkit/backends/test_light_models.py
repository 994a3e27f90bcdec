"""The light models inside the onnx package go through insertion, lowering and a real TensorRT-RTX build."""

from __future__ import annotations

import importlib.util

import pytest

from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from tests.conftest import LIGHT, placeholder_context
from toolkit import Model, Precision, Profiles
from toolkit.backends.lowering import lower


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("name", ["resnet50", "densenet121", "inception_v2", "squeezenet", "shufflenet"])
def test_builds_on_rtx_with_every_convolution_in_int8(name, tmp_path):
    from toolkit.backends.attribution import attribute
    from toolkit.backends.base import EngineSettings
    from toolkit.backends.choose import choose

    model = Model.load(LIGHT / f"light_{name}.onnx")
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
    assert {actuals[n].precision for n in convs} == {Precision.INT8}
    assert not [n for n, a in actuals.items() if a.status == "unknown"]
