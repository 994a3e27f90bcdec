"""Whether onnxruntime's default optimizations change what a quantized model computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper

from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.counterparts import run_on
from toolkit.evaluation.comparison.outcome import BatchOutcome, compare, summed
from toolkit.evaluation.numerics.difference import Difference
from toolkit.graph.model import Model
from toolkit.graph.sessions.ort_session import cause_of
from toolkit.graph.sessions.session import session
from toolkit.graph.surgery.tensors import reroute
from toolkit.placement.ops import DEQUANTIZE, PAIR_OPERATORS, QUANTIZE, TARGETS

_FAIR_DB, _WORSE_DB = 20.0, 6.0
"""Integer kernels round differently; an SQNR below the first, and worse by the second, means a wrong rewrite."""
_SAME_DB = 40.0
"""From the same inputs, an integer kernel gives a layer's result but for the last bits: less means a wrong one."""
_SHOWN = 3
"""Samples that must show a fault, if there are as many."""
TOLD_BY = 2 * _SHOWN - 1
"""Fewest samples to look at, if there are as many: ``_SHOWN`` are most of them."""


def defaults_fault(
    subject: Model,
    outputs: Sequence[tuple[Mapping[str, Array], Sequence[Mapping[str, Array]]]],
    named: Mapping[str, str],
    nodes: Sequence[str] = (),
) -> Finding | None:
    """A finding that onnxruntime rejects the model with its default optimizations, or computes different results.

    Args:
        subject: the model.
        outputs: for each sample, its inputs and the outputs of the float model and of ``subject`` with pairs computed
            as written. Whole layers go wrong, so most samples show it, and those after the third that does are not run;
            a few may differ by a decision that rounding reverses.
        named: see ``counterparts``.
        nodes: names of the nodes for which this is known to happen.
    """
    try:
        default = session(subject, outputs=list(named.values()), packed=True, as_written=False)
        pairs, shown = list[tuple[BatchOutcome, BatchOutcome]](), 0
        for inputs, (wanted, written) in outputs:
            pairs.append((compare(wanted, written, ()), compare(wanted, run_on(default, inputs, named), ())))
            shown += _is_worse(*_levels(pairs[-1:]))
            if shown >= _SHOWN and 2 * shown > len(pairs):
                break
    except ModelError as error:
        return EvaluationCode.DEFAULTS_REFUSE(nodes=nodes, why=cause_of(error))
    before, after = _levels(pairs)
    if 2 * shown > len(pairs) and _is_worse(before, after):
        return EvaluationCode.DEFAULTS_CHANGE(nodes=nodes, sqnr_db=after, written_db=before)
    return None


def changed_layers(subject: Model, samples: Iterable[Mapping[str, Array]]) -> list[str]:
    """The layers at which onnxruntime's default optimizations change what a model computes, in graph order.

    Values are compared where pairs and float outputs end, since an integer kernel has no values in between. A stretch
    between these is named by its layers, or by its other nodes if it has none, if its result differs and what it reads
    does not. Where none is found, layers whose results stay in float are compared, each computed from what the model as
    written reads there: a pair whose result is an output of the model keeps onnxruntime from rewriting its readers.
    Empty if no single stretch or layer changes its result by much.

    Args:
        subject: the model.
        samples: the inputs of each sample.
    """
    given = list(samples)
    return _changed_stretches(subject, given) or _changed_float_layers(subject, given)


def _changed_stretches(subject: Model, samples: Sequence[Mapping[str, Array]]) -> list[str]:
    ends = [t for node in subject.nodes if node.op == DEQUANTIZE for t in node.outputs if t.outputs]
    ends = [t for t in ends if subject.constant(t.inputs[0].inputs[0]) is None]
    facts = subject.facts()
    ends += [t for t in subject.graph.outputs if facts.is_float(t.name) and t.inputs]
    names = list(dict.fromkeys(t.name for t in ends))
    written, default = (session(subject, outputs=names, as_written=way) for way in (True, False))
    found = {name: Difference() for name in names}
    for inputs in samples:
        a, b = written.run(inputs, names), default.run(inputs, names)
        for name in names:
            found[name].add(a[name], b[name])
    levels = {name: one.error.sqnr_db for name, one in found.items()}
    changed = {name for name, level in levels.items() if level is not None and level < _FAIR_DB}
    layers = dict[str, None]()
    for tensor in ends:
        nodes, read = _stretch(tensor, set(names))
        if tensor.name in changed and not changed & read:
            heavy = [node for node in nodes if node.op in TARGETS]
            layers |= dict.fromkeys(node.name for node in heavy or nodes)
    return list(layers)


def _changed_float_layers(subject: Model, samples: Sequence[Mapping[str, Array]]) -> list[str]:
    facts, ends = subject.facts(), {tensor.name for tensor in subject.graph.outputs}
    layers = {
        made.name: node.name
        for node in subject.nodes
        if node.op in TARGETS and (made := node.outputs[0]).name in facts.types
        and (made.name in ends or any(reader.op != QUANTIZE for reader in made.outputs))
    }  # fmt: skip
    cut, given = subject.copy(), dict[str, str]()
    for tensor in [node.outputs[0] for node in cut.nodes if node.outputs and node.outputs[0].name in layers]:
        given[tensor.name] = cut.unique_tensor(f"{tensor.name}_given")
        kind, rank = helper.tensor_dtype_to_np_dtype(facts.types[tensor.name]), facts.rank(tensor.name)
        # a file may declare the sizes at a single input size
        sizes = [f"{given[tensor.name]} {axis}" for axis in range(rank)] if rank is not None else None
        start = gs.Variable(given[tensor.name], dtype=kind, shape=sizes)
        reroute(tensor, start)
        cut.graph.inputs.append(start)
    written, default = session(subject, outputs=list(layers)), session(cut, outputs=list(layers), as_written=False)
    found = {name: Difference() for name in layers}
    for inputs in samples:
        wanted = written.run(inputs, list(layers))
        computed = default.run({**inputs, **{given[name]: wanted[name] for name in layers}}, list(layers))
        for name in layers:
            found[name].add(wanted[name], computed[name])
    levels = {name: one.error.sqnr_db for name, one in found.items()}
    return [layers[name] for name, level in levels.items() if level is not None and level < _SAME_DB]


def _stretch(end: gs.Tensor, ends: set[str]) -> tuple[list[gs.Node], set[str]]:
    """The nodes that compute a tensor from others of ``ends``, without pairs, and which of these they read."""
    nodes, read, seen, left = list[gs.Node](), set[str](), set[int](), list(end.inputs)
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        nodes += [node] if node.op not in PAIR_OPERATORS else []
        for tensor in node.inputs:
            if tensor.name in ends:
                read.add(tensor.name)
            else:
                left += tensor.inputs
    return nodes[::-1], read


@cache
def sums_saturate() -> bool:
    """Whether onnxruntime's integer kernels saturate sums of two products of uint8 and int8 on this processor.

    Those for x86 without VNNI do: a sum of PMADDUBSW ends at 32,767, and two products may reach 64,770. Default
    optimizations turn int8 activations into uint8, so large weights then give other outputs than on a newer processor.
    """
    weight = numpy_helper.from_array(np.full((64, 32), 127, np.int8), "w")
    ends = [
        helper.make_tensor_value_info(*one)
        for one in (("x", TensorProto.UINT8, [4, 64]), ("y", TensorProto.INT32, [4, 32]))
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "sums", ends[:1], ends[1:], [weight]
    )
    model = Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    found = session(model).run({"x": np.full((4, 64), 255, np.uint8)})["y"]
    return bool((found != 64 * 255 * 127).any())


def _levels(pairs: Sequence[tuple[BatchOutcome, BatchOutcome]]) -> tuple[float, float]:
    """The SQNR in dB of the model as written and with default optimizations, over all samples of ``pairs``."""
    before, after = (summed([pair[place] for pair in pairs]).sqnr_db for place in (0, 1))
    return before, after


def _is_worse(before: float, after: float) -> bool:
    """Whether default optimizations, at ``after`` dB, change a model that has ``before`` dB as written."""
    return after < min(_FAIR_DB, before - _WORSE_DB)
