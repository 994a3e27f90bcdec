"""The types of a weakly typed network, derived from the ONNX graph; ``weak_network`` sets them in the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from toolkit.backends.building.weak_network import allowed_types, spreads
from toolkit.placement.ops import PAIR_OPERATORS

if TYPE_CHECKING:
    from toolkit.graph.model import Model

_FLOATS = ("fp32", "fp16", "bf16")
_QUANTIZABLE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_NO_KERNEL = ("Shape", "Constant", "Size", "Cast", *PAIR_OPERATORS)


def float_types(model: Model, plan: Mapping[str, str], rest: str, implicit: bool) -> dict[str, str]:
    """Per node, the float type that its layers are set to.

    Args:
        model: the lowered graph.
        plan: per node, the requested precision.
        rest: the type of nodes without a request.
        implicit: whether quantization is defined by ranges instead of Q/DQ pairs.
    """
    spread = spreads(plan, rest)
    found = {}
    for node, _ in model.walk():
        if node.op in _NO_KERNEL:
            continue
        word = plan.get(node.name)
        if word is None and (spread or (implicit and node.op in _QUANTIZABLE)):
            word = rest
        if word in _FLOATS:
            found[node.name] = word
    return found


def weak_flags(model: Model, plan: Mapping[str, str], rest: str, implicit: bool) -> Sequence[str]:
    """The types that a weakly typed builder may use besides float32; see ``allowed_types``."""
    pairs = any(node.op in PAIR_OPERATORS for node, _ in model.walk())
    return allowed_types(plan, rest, implicit or pairs)
