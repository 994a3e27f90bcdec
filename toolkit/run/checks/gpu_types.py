"""Whether the target GPUs of an engine support the requested types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from toolkit.backends.codes import EngineCode
from toolkit.backends.rtx import target_capabilities
from toolkit.base.errors import RecipeError
from toolkit.base.gpu import capability_for, computes_in, find_gpu
from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.graph.model import Model
from toolkit.placement.existing import pairs_of
from toolkit.placement.ops import BLOCK_OPERATORS
from toolkit.report.findings import sentence
from toolkit.run.inputs.engine_settings import engine_settings
from toolkit.run.recipe.recipe import Recipe


def types_lacking(recipe: Recipe, asked: Iterable[Precision], backend: str) -> Iterator[Finding]:
    """Findings about types that a target GPU lacks, one per type.

    Args:
        recipe: may name the target GPUs; otherwise the local GPU or the backend's default counts.
        asked: the types in the plan.
        backend: the backend's name.
    """
    capabilities = _capabilities(recipe, backend)
    for precision in sorted({*asked, recipe.rest}):
        lacking = [one for one in capabilities if not computes_in(one, precision)]
        if lacking:
            yield EngineCode.TYPE_NOT_ON_GPU(precision=precision, capabilities=lacking, since=capability_for(precision))


def refuse_types_lacking(recipe: Recipe, asked: Iterable[Precision], backend: str) -> None:
    """Check before calibration that the target GPUs of an engine support the quantized types.

    Args:
        recipe: see ``types_lacking``.
        asked: the types in the plan and of the passes.
        backend: the name of the backend that builds; with ``none`` nothing is refused.

    Raises:
        RecipeError: a target GPU lacks one of them.
    """
    wanted = {precision for precision in asked if precision.quantized} if backend != "none" else set()
    for found in types_lacking(recipe, wanted, backend):
        if not Precision(found.values["precision"]).quantized:
            continue
        every = _capabilities(recipe, backend)
        others = [f"'{one}'" for one in Precision if one.quantized and all(computes_in(c, one) for c in every)]
        named = backend == "tensorrt_rtx" and bool(recipe.engine.compute_capabilities)
        how = (
            "for GPUs of {} or higher by [engine] compute_capabilities"
            if backend == "tensorrt_rtx"
            else "on one of {} or higher"
        )
        raise RecipeError(
            sentence(found).rstrip("."),
            where=recipe.locate("engine", "compute_capabilities") if named else f"the GPU of the backend {backend}",
            remedy=(f"quantize to {' or '.join(others)}" if others else "quantize nothing")
            + f", or build {how.format(found.values['since'])}",
        )


def _capabilities(recipe: Recipe, backend: str) -> list[str]:
    """The compute capabilities of an engine's target GPUs; empty if unknown."""
    # TensorRT builds only for the local GPU
    if recipe.engine.compute_capabilities and backend != "tensorrt":
        return list(recipe.engine.compute_capabilities)
    if backend == "tensorrt_rtx":
        return target_capabilities(engine_settings(recipe))[0]
    gpu = find_gpu()
    return [gpu.compute_capability] if gpu is not None else []


def types_of_pairs(model: Model) -> set[Precision]:
    """The quantized types of the Q/DQ pairs already in a model."""
    kinds = {pair.grid.precision for pair in pairs_of(model)}
    kinds |= {BLOCK_OPERATORS[node.op] for node, _ in model.walk() if node.op in BLOCK_OPERATORS}
    return {kind for kind in kinds if kind is not None and kind.quantized}
