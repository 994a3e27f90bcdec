"""Whether onnxruntime's default optimizations change what a quantized model computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from toolkit.base.errors import ModelError
from toolkit.base.text import on_one_line
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.counterparts import run_on
from toolkit.evaluation.comparison.outcome import BatchOutcome, compare, summed
from toolkit.graph.model import Model
from toolkit.graph.sessions.session import session

_FAIR_DB, _WORSE_DB = 20.0, 6.0
"""Integer kernels round differently; an SQNR below the first, and worse by the second, means a wrong rewrite."""
_SHOWN = 3
"""Samples that must show a fault, if there are as many."""


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
        return EvaluationCode.DEFAULTS_REFUSE(nodes=nodes, why=on_one_line(error.what.split(": ", 1)[-1], 200))
    before, after = _levels(pairs)
    if 2 * shown > len(pairs) and _is_worse(before, after):
        return EvaluationCode.DEFAULTS_CHANGE(nodes=nodes, sqnr_db=after, written_db=before)
    return None


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
