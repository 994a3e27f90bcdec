"""What a float16 model hands from stretch to stretch: in float32, as onnxruntime hands it on between two nodes.

It has float16 kernels for few operators on the CPU: the others it computes in float32, and leaves out the Casts between
two of them, so that what lies in between is never rounded. A cut there must not round either, or a model that is
measured as it is would have other values by where it is cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from toolkit.base.types import Array
from toolkit.graph.cutting import Stretch
from toolkit.graph.light import LightModel
from toolkit.graph.shapes import Inferred
from toolkit.graph.survey import Survey

HALF = "tensor(float16)"
"""Onnxruntime's name of the type."""
_LEFT_OUT = "InsertedPrecisionFreeCast_"
"""How the names of onnxruntime's own Casts begin, which it leaves out where a Cast of the model undoes them
(core/optimizer/insert_cast_transformer.cc)."""


def handed_on_wide(model: LightModel, stretches: Sequence[Stretch]) -> dict[str, str]:
    """The float16 tensors that stretches hand to later ones, and what they are called in float32 in between."""
    graph = model.proto.graph
    read = {name for one in stretches for name in one.reads}
    handed = {name for one in stretches for name in one.gives if name in read}
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    if any(not kinds.get(name) for name in handed) and TensorProto.FLOAT16 in Survey.of(model.proto).types:
        kinds = Inferred().facts(model.proto.SerializeToString(), None).types
    return {name: f"{name} in float32" for name in sorted(handed) if kinds.get(name) == TensorProto.FLOAT16}


def widened(name: str, wide: str) -> list[onnx.NodeProto]:
    """Nodes that give a float16 tensor in float32, not rounded.

    Whether what makes it has a float16 kernel or not, the Sum of it alone has none: it is computed as in front of any
    other node that is computed in float32.
    """
    half = f"{name} handed on"
    return [
        helper.make_node("Sum", [name], [half], half),
        helper.make_node("Cast", [half], [wide], wide, to=TensorProto.FLOAT),
    ]


def narrowed(wide: str, name: str) -> list[onnx.NodeProto]:
    """Nodes that make the float16 tensor of it for those that read it; see ``widened``."""
    half = f"{name} handed on"
    return [
        helper.make_node("Cast", [wide], [half], f"{_LEFT_OUT}{wide}", to=TensorProto.FLOAT16),
        helper.make_node("Sum", [half], [name], half),
    ]


def rounded(values: Array) -> Array:
    """A tensor that was handed on in float32 as the model gives it: what is too large for float16 is infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16)
