"""Compute what depends on constants alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_graphsurgeon as gs
from pydantic import Field

from toolkit import DEQUANTIZE, QUANTIZE, RANDOM, Code, Context, Model, Pass, Role


class FoldConstants(Pass):
    """Replace nodes whose inputs are all constants by their result; Q and DQ nodes stay."""

    name = "fold_constants"
    role = Role.FOLD
    limit_mb: float = Field(64.0, gt=0, le=1e6, description="a result larger than this many megabytes is not stored")

    def reads_evaluation(self) -> bool:
        """It looks at the graph alone."""
        return False

    def measures_engines(self) -> bool:
        """It builds none."""
        return False

    def apply(self, model: Model, context: Context) -> None:
        """Fold with onnx-graphsurgeon, which evaluates by onnxruntime; subgraphs are folded too."""
        before = {node.name: node.op for node, _ in model.walk()}

        def keep(node: gs.Node) -> bool:
            return (
                node.op in (QUANTIZE, DEQUANTIZE, "Loop")
                or node.op in RANDOM
                or any(t.inputs and t.inputs[0].op == DEQUANTIZE for t in node.inputs)
            )

        _cut_large(model, int(self.limit_mb * 1e6), context)
        model.tidy()
        with quiet():
            try:
                model.graph.fold_constants(
                    error_ok=False, size_threshold=int(self.limit_mb * 1e6), should_exclude_node=keep
                )
            except Exception:
                # One node that onnxruntime cannot run spoils the whole evaluation; in parts it spoils only its own,
                # but each part is evaluated apart, which is slow on large graphs.
                context.journal.noted(Code.IN_PARTS())
                model.graph.fold_constants(
                    error_ok=True,
                    size_threshold=int(self.limit_mb * 1e6),
                    should_exclude_node=keep,
                    partitioning="recursive",
                )
        model.tidy()
        after = set(model.node_names())
        for name, op in before.items():
            if name not in after:
                context.journal.changed(name, Code.FOLDED(op=op), Code.CONSTANT_INPUTS())
        for name in sorted(after - set(before)):
            context.journal.noted(Code.MADE_BY_FOLDING(), node=name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep onnxruntime's own warnings about the graph pieces being folded off the terminal."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def _cut_large(model: Model, limit: int, context: Context) -> None:
    """Say which nodes keep their constant inputs because the result would be too large."""
    for node in model.nodes:
        shape = node.outputs[0].shape if node.outputs else None
        constant = bool(node.inputs) and all(isinstance(t, gs.Constant) for t in node.inputs)
        if not constant or shape is None or not all(isinstance(s, int) for s in shape):
            continue
        size = 4
        for dim in shape:
            size *= dim
        if size > limit:
            context.journal.declined(node.name, Code.LARGE(megabytes=size / 1e6))
