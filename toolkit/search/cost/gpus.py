"""Peak rates of GPUs, from NVIDIA's public datasheets and architecture white papers; dense, without sparsity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.base.errors import RecipeError, did_you_mean
from toolkit.base.precision import Precision


@dataclass(frozen=True)
class GpuSpec:
    """The peak rates of a GPU.

    Attributes:
        name: NVIDIA's name without ``NVIDIA``.
        bandwidth: memory bandwidth in bytes per second.
        rates: for each precision the operations per second (one multiply-add counts as two). FP32 is TF32 if the GPU
            supports it, since TensorRT uses it; FP16 and BF16 accumulate in FP32.
    """

    name: str
    bandwidth: float
    rates: Mapping[Precision, float]

    def rate(self, precision: Precision) -> float:
        """Operations per second in a precision; if the GPU does not support it, those of the next wider type."""
        wider = {Precision.INT4: Precision.INT8, Precision.NVFP4: Precision.FP8, Precision.MXFP8: Precision.FP8,
                 Precision.FP8: Precision.FP16, Precision.BF16: Precision.FP32,
                 Precision.INT8: Precision.FP16, Precision.FP16: Precision.FP32}  # fmt: skip
        while precision not in self.rates:
            precision = wider[precision]
        return self.rates[precision]


def _gpu(
    name: str, bandwidth: float, fp32: float, fp16: float, int8: float, bf16: float = 0, fp8: float = 0
) -> GpuSpec:
    rates = {Precision.FP32: fp32, Precision.FP16: fp16, Precision.INT8: int8, Precision.BF16: bf16, Precision.FP8: fp8}
    return GpuSpec(name, bandwidth * 1e9, {precision: rate * 1e12 for precision, rate in rates.items() if rate})


GPUS: dict[str, GpuSpec] = {
    gpu.name: gpu
    for gpu in (
        _gpu("T4", 320, 8.1, 65, 130),
        _gpu("A10", 600, 62.5, 125, 250, 125),
        _gpu("A100", 2039, 156, 312, 624, 312),
        _gpu("L4", 300, 60, 121, 242, 121, 242),
        _gpu("L40S", 864, 183, 362, 733, 362, 733),
        _gpu("RTX 4090", 1008, 82.6, 165.2, 660.6, 165.2, 330.3),
        _gpu("H100", 3350, 494, 989, 1979, 989, 1979),
        _gpu("H200", 4800, 494, 989, 1979, 989, 1979),
        _gpu("RTX 5090", 1792, 104.8, 209.5, 838, 209.5, 419),
    )
}


def gpu_spec(name: str) -> GpuSpec:
    """A GPU by name; case, ``NVIDIA`` and anything after the name are ignored.

    Laptop GPUs and MIG slices of a GPU are not found, although they bear its name.

    Raises:
        RecipeError: the GPU is not in the table.
    """
    found = known_as(name)
    if found is None:
        raise RecipeError(
            f"no datasheet figures are known for the GPU '{name}'", remedy=did_you_mean(name, GPUS), value=name
        )
    return found


def known_as(name: str) -> GpuSpec | None:
    """The table's GPU for a name from a driver or a user, see ``gpu_spec``; None if it is not in the table."""
    plain = re.sub(r"\b(nvidia|geforce|tesla)\b", "", name.lower()).strip()
    if re.search(r"\b(laptop|mobile|max-q|mig)\b", plain):
        return None
    for known in sorted(GPUS, key=len, reverse=True):
        if plain == known.lower() or plain.startswith((f"{known.lower()} ", f"{known.lower()}-")):
            return GPUS[known]
    return None
