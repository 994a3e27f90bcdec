"""Ifs that TensorRT is known to fail on only during the build, found before calibration."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx_graphsurgeon as gs

from toolkit.base.errors import BackendError
from toolkit.base.profiles import Profiles
from toolkit.graph.files.onnx_file import parse
from toolkit.graph.folding import fix_dimensions, fold
from toolkit.graph.layers.constants import is_random
from toolkit.graph.model import Model
from toolkit.graph.proto.nodes import all_nodes
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.surgery.assemble import subgraphs
from toolkit.graph.surgery.inlining import nodes_of
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

_LIMIT = 1 << 26
_LOOP_INPUTS = 2
_REMEDY = 'export the model for the one case that is needed, without the If, or set backend = "none"'


def refuse_conditionals(model_path: Path, profiles: Profiles, who: str, recurrent: bool) -> None:
    """Refuse Ifs, among those decided at run time, that the builder fails on.

    An If that the profiles decide is not an If for TensorRT either. Both branches must return tensors of equal rank,
    which TensorRT's IIfConditional requires.

    Args:
        model_path: the ONNX file.
        who: the backend and its version, for messages.
        recurrent: whether LSTM and GRU fail inside an If, and Loop and Scan with a scan output that nothing reads.

    Raises:
        BackendError: there is such an If; the message names it.
    """
    if not any(operator_of(node) == "If" for node in all_nodes(parse(model_path).graph.node)):
        return
    model = Model.load(model_path)
    fix_dimensions(model, profiles)
    fold(model, lambda node: node.op in (QUANTIZE, DEQUANTIZE) or is_random(node), _LIMIT)
    facts = model.facts()
    returned = {id(tensor) for graph in (model.graph, *subgraphs(model.graph)) for tensor in graph.outputs}
    for node in nodes_of(model.graph):
        if node.op != "If":
            continue
        branches: list[gs.Graph] = [node.attrs["then_branch"], node.attrs["else_branch"]]
        inner = next((one for sub in branches for one in nodes_of(sub) if one.op in ("LSTM", "GRU")), None)
        if recurrent and inner is not None:
            raise BackendError(
                f"{who} cannot build an {inner.op} inside an If, such as '{inner.name}' in '{node.name}'",
                remedy=_REMEDY,
            )
        unread = next((one for sub in branches for loop in nodes_of(sub) for one in _unread(loop, returned)), None)
        if recurrent and unread is not None:
            loop = unread.inputs[0]
            raise BackendError(
                f"{who} cannot build a {loop.op} inside an If with a scan output that nothing reads, such as "
                f"'{unread.name}' of '{loop.name}' in '{node.name}'",
                remedy=f"remove that output; or {_REMEDY}",
            )
        for first, second in zip(branches[0].outputs, branches[1].outputs):
            ranks = [facts.rank(tensor.name) for tensor in (first, second)]
            if None not in ranks and ranks[0] != ranks[1]:
                raise BackendError(
                    f"{who} cannot build an If whose branches differ in rank: '{node.name}' gives '{first.name}' with "
                    f"{ranks[0]} dimensions or '{second.name}' with {ranks[1]}",
                    remedy=_REMEDY,
                )


def _unread(node: gs.Node, returned: Collection[int]) -> list[gs.Tensor]:
    """The scan outputs of a Loop or Scan that no node reads; ``returned``: the ids of all graphs' outputs."""
    if node.op not in ("Loop", "Scan"):
        return []
    # a Loop's first inputs are its trip count and condition
    states = len(node.inputs) - (_LOOP_INPUTS if node.op == "Loop" else int(node.attrs["num_scan_inputs"]))
    return [one for one in node.outputs[states:] if one.name and not one.outputs and id(one) not in returned]
