"""Where onnxruntime's default optimizations change what Q/DQ pairs compute.

These are meant for integer kernels with float32 scales, but are applied to float16 too (seen with 1.32):

- ``WeightBiasQuantization`` (onnxruntime's weight_bias_quantization.cc): a float bias of one dimension, of a Conv,
  ConvTranspose or Gemm (MatMul and Add are merged into one) that reads pairs and whose result is quantized, also
  after Relu or Clip, becomes ``round(bias / (input scale * weight scale))`` in the scales' type, then an int32. In
  float16 that overflows beyond 65504.
- Operators with an integer form between pairs are replaced by it for any type of scale; onnxruntime then refuses its
  own node, whose scales must be float32 (seen on Concat).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.types import Array
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import make_constant, make_node, onnx_type
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

_INTEGER_FORMS = frozenset(
    ["Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid", "Softmax", "Where"]
)
_LARGEST = {TensorProto.FLOAT16: 65504.0, TensorProto.FLOAT: 2.0**31 - 1}


def rewritten(model: Model) -> list[str]:
    """Nodes that are known to be computed differently, or refused, after onnxruntime's default optimizations."""
    found = [node.name for node, bias in _biases(model) if not _fits(model, node, bias)]
    for node in model.nodes:
        if node.op not in _INTEGER_FORMS:
            continue
        pairs = [t.inputs[0] for t in node.inputs if t.inputs and t.inputs[0].op == DEQUANTIZE]
        constants = sum(model.constant(t) is not None for t in node.inputs)
        half = any(onnx_type(pair.inputs[1].dtype) == TensorProto.FLOAT16 for pair in pairs)
        if half and len(pairs) + constants >= len(node.inputs) and _quantized(model, node.outputs[0]):
            found.append(node.name)
    return found


def biases_as_rows(model: Model, facts: Facts) -> list[str]:
    """Reshape float16 biases to [1, channels], which the optimizations skip, where that is equivalent.

    It is in a Gemm, and in an Add after a MatMul whose result has at least two dimensions: TensorRT-RTX's parser
    reshapes a flat bias this way itself (seen). A convolution's bias must have one dimension.

    Returns:
        The nodes whose bias was rewritten.
    """
    biases = list(_biases(model))
    if not biases:
        return []
    names, found = model.tensor_names(), []
    for _, (reader, tensor) in biases:
        wide = reader.op == "Gemm" or (reader.op == "Add" and (facts.rank(reader.outputs[0].name) or 0) > 1)
        if wide and onnx_type(tensor.dtype) == TensorProto.FLOAT16:
            row = np.asarray(model.constant(tensor)).reshape(1, -1)
            position = [one is tensor for one in reader.inputs].index(True)
            reader.inputs[position] = make_constant(names.take(f"{tensor.name}_row"), row, TensorProto.FLOAT16)
            found.append(reader.name)
    return found


def split_large_biases(model: Model) -> list[str]:
    """Move biases that are too large for the layer's bias scale into Adds after their convolutions.

    ``WeightBiasQuantization`` only considers a convolution's own bias, so a bias in an Add stays float.

    Returns:
        The nodes whose bias was moved.
    """
    nodes, names, found = Names(model.node_names()), model.tensor_names(), []
    large = [pair for pair in _biases(model) if not _fits(model, *pair)]
    if not large:
        return []
    # the ranks of the convolutions' results do not change here
    facts = model.facts()
    for node, (reader, tensor) in large:
        result, rank = node.outputs[0], facts.rank(node.outputs[0].name)
        if reader is not node or node.op not in ("Conv", "ConvTranspose") or rank is None:
            continue
        values = np.asarray(model.constant(tensor)).reshape(-1, *[1] * (rank - 2))
        shaped = make_constant(names.take(f"{tensor.name}_apart"), values, onnx_type(tensor.dtype))
        inner = assemble.variable(names.take(f"{result.name}_no_bias"), dtype=result.dtype, shape=result.shape)
        del node.inputs[2]
        node.outputs[0] = inner
        added = make_node("Add", nodes.take(f"{node.name}_bias"), [inner, shaped], [result])
        model.graph.nodes.insert(model.graph.nodes.index(node) + 1, added)
        found.append(node.name)
    return found


Bias = tuple[gs.Node, gs.Tensor]


def _biases(model: Model) -> Iterator[tuple[gs.Node, Bias]]:
    """Layers whose inputs and result are quantized, each with the node that adds its bias, and the bias."""
    for node in model.nodes:
        if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        if any(not t.inputs or t.inputs[0].op != DEQUANTIZE for t in node.inputs[:2]):
            continue
        adder = node
        if node.op == "MatMul":
            readers = node.outputs[0].outputs
            if len(readers) != 1 or readers[0].op != "Add" or model.is_output(node.outputs[0]):
                continue
            adder = readers[0]
            added = list(adder.inputs)
        else:
            added = node.inputs[2:3]
        flat = [t for t in added if (values := model.constant(t)) is not None and values.ndim == 1]
        if flat and _quantized(model, adder.outputs[0]):
            yield node, (adder, flat[0])


def _quantized(model: Model, tensor: gs.Tensor) -> bool:
    """Whether the tensor's only reader quantizes it, possibly after Relu or Clip."""
    while len(tensor.outputs) == 1 and not model.is_output(tensor):
        reader = tensor.outputs[0]
        if reader.op == QUANTIZE:
            return True
        if reader.op not in ("Relu", "Clip"):
            return False
        tensor = reader.outputs[0]
    return False


def _fits(model: Model, node: gs.Node, bias: Bias) -> bool:
    """Whether the scales' type can represent the bias divided by input scale times weight scale, and that product."""
    scales = [model.constant(t.inputs[0].inputs[1]) for t in node.inputs[:2]]
    values = model.constant(bias[1])
    largest = _LARGEST.get(onnx_type(node.inputs[1].inputs[0].inputs[1].dtype))
    if largest is None or values is None or any(scale is None for scale in scales):
        return True
    step: Array = np.asarray(scales[0], np.float64).reshape(-1) * np.asarray(scales[1], np.float64).reshape(-1)
    if values.size != step.size and 1 not in (values.size, step.size):
        return True
    with np.errstate(divide="ignore"):
        steps = np.abs(values.astype(np.float64)) / step
    return bool((steps <= largest).all())
