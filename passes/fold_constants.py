"""Constant folding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from pydantic import Field

from toolkit import (
    DEQUANTIZE,
    QUANTIZE,
    Code,
    Context,
    Folded,
    Model,
    Pass,
    QtoolError,
    RecipeError,
    Role,
    did_you_mean,
    fix_dimensions,
    fixed_dimensions,
    fold,
    is_random,
    make_constant,
    onnx_type,
    reroute,
    session,
)


class FoldConstants(Pass):
    """Replace nodes whose inputs are all constants by their result; Q and DQ nodes stay.

    An If is replaced by the branch taken if its condition is constant, or determined by dimensions that every profile
    fixes or by ``fixed_inputs``. The bodies of If, Loop and Scan are folded too.
    """

    name = "fold_constants"
    role = Role.FOLD
    supports_dry_run = graph_only = True
    limit_mb: float = Field(
        64.0, gt=0, le=1e6, description="largest folded result in megabytes; larger ones stay computed"
    )
    fixed_inputs: dict[str, bool | int | float] = Field(
        {},
        description="inputs that always have the same value, each with that value: everything that depends on them "
        "alone is folded, including the If nodes they decide; the inputs stay, but their values are ignored",
    )

    def apply(self, model: Model, context: Context) -> None:
        """Fold constants; nodes that cannot be computed stay, and the journal says why.

        If every profile fixes a dynamic dimension, and it determines an If, the folded model accepts only that size.
        """
        self._fix_inputs(model, context)
        before = {node.name: node.op for node, _ in model.walk()}
        model.tidy()
        tidied = after = set(model.node_names())
        folded = self._fold_for_profiles(model, context) or self._fold(model)
        if folded.changed:
            model.tidy()
            after = set(model.node_names())
        for name, op in before.items():
            if name in after:
                continue
            if name in folded.branches:
                context.journal.changed(name, Code.INLINED(branch=folded.branches[name]), Code.CONSTANT_CONDITION())
            elif name in folded.values:
                context.journal.changed(name, Code.FOLDED(op=op), Code.CONSTANT_INPUTS())
            else:
                branch = name in tidied and bool(folded.branches)
                context.journal.changed(name, Code.REMOVED(op=op), Code.UNUSED(branch=branch))
        for name in sorted(after - set(before)):
            context.journal.noted(Code.MADE_BY_FOLDING(), node=name)
        for name, size in folded.large.items():
            context.journal.declined(name, Code.LARGE(megabytes=size / 1e6))
        for name, error in folded.failed.items():
            context.journal.declined(name, Code.NOT_COMPUTED(error=error))

    def _fix_inputs(self, model: Model, context: Context) -> None:
        """Let the readers of each input in ``fixed_inputs`` read its constant value instead.

        Raises:
            RecipeError: the model has no such input, its shape is dynamic, or its type cannot represent the value.
        """
        inputs = {tensor.name: tensor for tensor in model.graph.inputs}
        for name, value in self.fixed_inputs.items():
            if name not in inputs:
                raise RecipeError(f"fixed_inputs names '{name}', which is not an input of the model",
                                  remedy=did_you_mean(name, inputs), value="fixed_inputs")  # fmt: skip
            tensor = inputs[name]
            if tensor.shape is None or not all(isinstance(extent, int) for extent in tensor.shape):
                raise RecipeError(
                    f"the shape of input '{name}' is not fixed: {list(tensor.shape or ['?'])}",
                    remedy="remove it from fixed_inputs, or export the model with a fixed shape for it",
                    value="fixed_inputs",
                )
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx_type(tensor.dtype)))
            stored = _as_stored(value, dtype)
            if stored is None:
                raise RecipeError(f"input '{name}' holds {dtype.name}, not {value!r}",
                                  remedy="give a value that its type can represent", value="fixed_inputs")  # fmt: skip
            values = np.full(tensor.shape, stored, dtype)
            constant = make_constant(model.tensor_names().take(f"{name}_fixed"), values, onnx_type(tensor.dtype))
            readers = reroute(tensor, constant)
            context.journal.noted(Code.INPUT_FIXED(input=name, value=value, readers=len(readers)))

    def _fold(self, model: Model) -> Folded:
        def keep(node: gs.Node) -> bool:
            return node.op in (QUANTIZE, DEQUANTIZE) or is_random(node)

        return fold(model, keep, int(self.limit_mb * 1e6))

    def _fold_for_profiles(self, model: Model, context: Context) -> Folded | None:
        """Fold with the dimensions that every profile fixes; None, with nothing changed, if they determine no If.

        Nothing is changed either if onnxruntime then refuses the model: the branch taken may be for other sizes.
        """
        decides = fixed_dimensions(model, context.profiles) and any(node.op == "If" for node, _ in model.walk())
        if not decides:
            return None
        trial = model.copy()
        fixed = fix_dimensions(trial, context.profiles)
        alone, folded = self._fold(model.copy()), self._fold(trial)
        decided = folded.branches.keys() - alone.branches.keys()
        if not decided:
            return None
        trial.tidy()
        try:
            session(trial)
        except QtoolError as error:
            context.journal.noted(Code.NOT_FIXED_BY_PROFILES(nodes=sorted(decided), error=error.what))
            return None
        model.become(trial)
        context.journal.noted(Code.FIXED_BY_PROFILES(inputs=fixed, nodes=sorted(decided)))
        return folded


def _as_stored(value: float, dtype: np.dtype[Any]) -> Any:
    """A value converted to a type, rounded if that is a float type; None where the type cannot represent it."""
    if dtype.kind not in "biufV":
        return None
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            stored = np.asarray(value).astype(dtype)
    except OverflowError:
        return None
    fits = np.isfinite(stored.astype(np.float64)) if dtype.kind in "fV" else stored.item() == value
    return stored if fits else None
