"""Whether the GPUs that an engine is for compute in the types that are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from toolkit.backends.codes import EngineCode
from toolkit.backends.rtx import target_capabilities
from toolkit.base.gpu import capability_for, computes_in, find_gpu
from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.graph.model import Model
from toolkit.placement.existing import pairs_of
from toolkit.run.engine_settings import engine_settings
from toolkit.run.recipe import Recipe


def types_lacking(recipe: Recipe, asked: Iterable[Precision], backend: str) -> Iterator[Finding]:
    """What there is to say of the types that a GPU lacks, by type.

    Args:
        recipe: names the GPUs, where it does; else the one here counts, or the backend's default.
        asked: the types of the plan.
        backend: the backend's name.
    """
    capabilities = recipe.engine.compute_capabilities
    if not capabilities and backend == "tensorrt_rtx":
        capabilities = target_capabilities(engine_settings(recipe))[0]
    gpu = find_gpu()
    if backend != "tensorrt_rtx" and gpu is not None and not capabilities:
        capabilities = [gpu.compute_capability]
    for precision in sorted({*asked, recipe.rest}):
        lacking = [one for one in capabilities if not computes_in(one, precision)]
        if lacking:
            yield EngineCode.TYPE_NOT_ON_GPU(precision=precision, capabilities=lacking, since=capability_for(precision))


def types_of_pairs(model: Model) -> set[Precision]:
    """The quantized types of the pairs that a model comes with."""
    kinds = {Precision.from_onnx(pair.grid.kind) for pair in pairs_of(model)}
    return {kind for kind in kinds if kind is not None and kind.quantized}
