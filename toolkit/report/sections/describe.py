"""Builds the report's parts on the model, the profiles and the ranges."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from toolkit.graph.layers import work
from toolkit.report.schema.report import ModelInfo, ProfileInfo, RangeInfo, ShapeRange, TensorInfo

if TYPE_CHECKING:
    from toolkit.base.profiles import Profiles
    from toolkit.contract.ranges import Range, Ranges
    from toolkit.graph.model import Model
    from toolkit.graph.shape_inference.facts import Facts


def tensor_infos(model: Model, facts: Facts) -> list[TensorInfo]:
    """Every tensor of the graph with its type and shape from ``facts``; of several shapes, the first."""
    from toolkit.graph.surgery.tensors import onnx_type

    found: dict[str, TensorInfo] = {}
    for tensor in (one for node, _ in model.walk() for one in (*node.inputs, *node.outputs)):
        if not tensor.name or tensor.name in found:
            continue
        known = facts.shapes.get(tensor.name)
        shape = known[0] if known else tensor.shape
        number = facts.types.get(tensor.name) or onnx_type(tensor.dtype)
        found[tensor.name] = TensorInfo(name=tensor.name, dtype=_type_word(number), shape=_sizes(shape))
    return list(found.values())


@lru_cache
def _type_word(number: int) -> str:
    from onnx.helper import tensor_dtype_to_np_dtype

    return str(tensor_dtype_to_np_dtype(number)) if number else ""


def _sizes(shape: Iterable[Any] | None) -> list[int | str | None] | None:
    """A shape with None for unknown sizes."""
    if shape is None:
        return None
    return [s if isinstance(s, str) or (isinstance(s, int) and s >= 0) else None for s in shape]


def model_info(model: Model, profiles: Profiles, path: str = "") -> ModelInfo:
    """The report's part on the float model, before any pass.

    Args:
        model: the model as loaded.
        profiles: the recipe's profiles; multiply-accumulates are counted at the first one's opt shapes.
        path: the model's path to show.
    """
    from toolkit.graph.surgery.tensors import onnx_type

    facts = work.facts_at_opt(model, profiles)

    def tensor(one: Any) -> TensorInfo:
        return TensorInfo(name=one.name, dtype=_type_word(onnx_type(one.dtype)), shape=_sizes(one.shape))

    per_node = work.node_macs(model, facts).values()
    constants = [t for t in model.graph.tensors().values() if type(t).__name__ == "Constant"]
    return ModelInfo(
        path=path,
        name=model.graph.name or "",
        fingerprint=model.fingerprint(),
        opset=model.opset,
        nodes=len(per_node),
        parameters=sum(math.prod(int(size) for size in t.shape or ()) for t in constants),
        bytes=model.weight_bytes(),
        macs=None if None in per_node else sum(count or 0 for count in per_node),
        inputs=[tensor(t) for t in model.graph.inputs],
        outputs=[tensor(t) for t in model.graph.outputs],
    )


def profile_infos(profiles: Profiles, samples: Mapping[str, int] | None) -> list[ProfileInfo]:
    """The profiles, each with its number of calibration samples (null if nothing was calibrated)."""
    return [
        ProfileInfo(
            name=profile.name,
            shapes={
                name: ShapeRange(min=list(extent.min), opt=list(extent.opt), max=list(extent.max))
                for name, extent in profile.shapes.items()
            },
            samples=None if samples is None else int(samples.get(profile.name, 0)),
        )
        for profile in profiles
    ]


def range_infos(ranges: Ranges, quantized: Collection[str] | None = None) -> list[RangeInfo]:
    """The ranges; ``clipped``, ``sqnr_db``, ``outlier_ratio`` and ``histogram`` come from a range's diagnosis.

    ``quantized`` names the tensors that are quantized; None means all.
    """
    return [_range_info(name, one, quantized is None or name in quantized) for name, one in ranges.tensors.items()]


def _range_info(tensor: str, one: Range, quantized: bool) -> RangeInfo:
    def number(key: str) -> float | None:
        value = one.diagnosis.get(key)
        return float(value) if isinstance(value, (int, float)) else None

    counted = one.diagnosis.get("histogram")
    return RangeInfo(
        tensor=tensor,
        amax=float(one.amax),
        method=one.method,
        observed=one.observed,
        per_profile={name: float(amax) for name, amax in one.per_profile.items()},
        samples=int(one.samples),
        clipped=number("clipped"),
        sqnr_db=number("sqnr_db"),
        outlier_ratio=number("outlier_ratio"),
        histogram=[float(value) for value in counted] if isinstance(counted, (list, tuple)) else None,
        quantized=quantized,
    )


def unlike_profiles(info: RangeInfo, factor: float = 2.0) -> tuple[str, str, float] | None:
    """The profiles with the smallest and the largest amax, and their ratio, if that is at least ``factor``; else None.

    None also for a tensor that is not quantized, since no scale is shared by the profiles.
    """
    seen = {name: amax for name, amax in info.per_profile.items() if amax > 0 and info.quantized}
    if len(seen) < 2:
        return None
    low, high = min(seen, key=seen.__getitem__), max(seen, key=seen.__getitem__)
    ratio = seen[high] / seen[low]
    return (low, high, ratio) if ratio >= factor else None
