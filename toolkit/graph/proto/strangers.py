"""Operators of other domains that have the name of a known one, such as ``com.me::Conv``, and what they are called.

Rules tell operators by name alone. An operator of an unknown domain is therefore called by its domain and name, so that
it is taken for the known one nowhere, be it a node of a graph or of a message.
"""

from __future__ import annotations

from functools import cache

import onnx
import onnx.defs

from toolkit.base.block_operators import QTOOL, TENSORRT
from toolkit.graph.proto.nodes import ONNX_DOMAINS

_KNOWN = ONNX_DOMAINS | {TENSORRT, "com.microsoft"}
"""Domains whose operators the rules know; onnxruntime's and TensorRT's have ONNX's operators too, for other types."""
_FAMILIES = ("com.microsoft.", "com.ms.", f"{QTOOL}.")
"""First words of domains that are known, with all within them."""
APART = "::"
ONNXRUNTIMES = frozenset(
    {"BiasAdd", "BiasGelu", "BiasSoftmax", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "FastGelu", "FusedConv",
     "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "GatherBlockQuantized", "GemmFloat8", "GroupNorm",
     "GroupQueryAttention", "MatMulBnb4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MoE",
     "MultiHeadAttention", "NhwcConv", "NhwcFusedConv", "QAttention", "QEmbedLayerNormalization", "QGemm", "QMoE",
     "QuickGelu", "ReorderInput", "ReorderOutput", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
     "TransposeMatMul"}
)  # fmt: skip
"""onnxruntime's operators that rules know and ONNX has not (ContribOperators.md)."""


def called(domain: str | None, op: str) -> str:
    """What rules call an operator: its name, with the domain if that is unknown and a known one has the same name.

    Args:
        domain: the operator's domain; empty or None for ONNX's own.
        op: the operator's name in a message.
    """
    if not domain or domain in _KNOWN or f"{domain}.".startswith(_FAMILIES):
        return op
    # a message may have the domain in the name too
    domains = _domains_of().get(op.rpartition(APART)[2], ())
    return f"{domain}{APART}{op}" if domains and domain not in domains else op


def operator_of(node: onnx.NodeProto) -> str:
    """What rules call the operator of a message's node; see ``called``."""
    domain = node.domain
    return called(domain, node.op_type) if domain else node.op_type


@cache
def _domains_of() -> dict[str, set[str]]:
    """For the name of each known operator, of any version, the domains that have it."""
    found: dict[str, set[str]] = {name: {"com.microsoft"} for name in ONNXRUNTIMES}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault(schema.name, set()).add(schema.domain)
    return found
