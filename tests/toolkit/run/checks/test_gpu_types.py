"""The GPU that lacks a type is the one that the backend builds for."""

from __future__ import annotations

import pytest

from toolkit import Precision, Recipe
from toolkit.base.errors import RecipeError
from toolkit.base.gpu import Gpu
from toolkit.run.checks import gpu_types as module


@pytest.mark.parametrize(("here", "there", "lacking"), [("8.0", "9.0", "8.0"), ("9.0", "8.0", None)])
def test_tensorrt_builds_for_the_gpu_that_is_here_whatever_rtx_builds_for(monkeypatch, here, there, lacking):
    recipe = Recipe.parse(f'[model]\npath = "m.onnx"\n[engine]\ncompute_capabilities = ["{there}"]\n')
    monkeypatch.setattr(module, "find_gpu", lambda: Gpu("test", here))
    found = [one.values["capabilities"] for one in module.types_lacking(recipe, [Precision.FP8], "tensorrt")]
    assert found == ([(lacking,)] if lacking else [])
    if lacking:
        with pytest.raises(RecipeError) as refused:
            module.refuse_types_lacking(recipe, [Precision.FP8], "tensorrt")
        # a setting of TensorRT-RTX alone mends nothing here
        assert "compute_capabilities" not in f"{refused.value.remedy}{refused.value.where}"
    assert len([*module.types_lacking(recipe, [Precision.FP8], "tensorrt_rtx")]) == (not lacking)
