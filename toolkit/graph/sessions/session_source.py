"""The source of a session: a model without its large weights, rewritten so that onnxruntime can run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from toolkit.base.errors import ModelError, did_you_mean
from toolkit.graph.files.onnx_file import read
from toolkit.graph.model import Model
from toolkit.graph.ort_forms.float32_twin import has_other_types, store_otherwise, widen
from toolkit.graph.ort_forms.kernels import written_out
from toolkit.graph.ort_forms.masks import spread_masks
from toolkit.graph.ort_forms.named_outputs import name_outputs
from toolkit.graph.ort_forms.random_seeds import fix_random_seeds
from toolkit.graph.proto.light import LightModel
from toolkit.graph.proto.survey import Survey
from toolkit.graph.sessions.foreign import similar_ops
from toolkit.graph.sessions.runnable import NotRun, cut, not_run_in
from toolkit.graph.surgery.opset import is_foreign


def light_source(source: Model | LightModel | onnx.ModelProto | bytes | str | Path) -> LightModel:
    """The source of a ``session`` as a model without its large weights.

    Raises:
        ModelError: the source is not an ONNX model.
    """
    if isinstance(source, LightModel):
        return source
    if isinstance(source, Model):
        return source.to_light(metadata=False)
    if isinstance(source, onnx.ModelProto):
        return LightModel(source).copy().lighten()
    if isinstance(source, bytes):
        try:
            return LightModel.of(onnx.load_model_from_string(source))
        except Exception as error:
            raise ModelError("these bytes are not an ONNX model", remedy="give a serialized ModelProto") from error
    return read(Path(source))


def make_runnable(model: LightModel, outputs: Sequence[str] | None, steady: bool) -> tuple[Survey, NotRun]:
    """Rewrite a model in place so that onnxruntime can run it: types with kernels, no nodes without a kernel.

    Args:
        outputs: the requested tensors.
        steady: whether random numbers are the same in every run.

    Returns:
        The survey of the rewritten model, and the nodes that were removed.

    Raises:
        ModelError: a tensor of ``outputs`` depends on a removed node.
    """
    survey = Survey.of(model.proto)
    others = has_other_types(survey)
    if others:
        widen(model)
    left = not_run_in(model.proto, survey.operators)
    if left:
        unknown = next((name for name in outputs or () if name in left.tensors), None)
        if unknown is not None:
            raise not_computed(unknown, left, model.where)
        cut(model.proto, left)
    if others:
        store_otherwise(model)
    name_outputs(model.proto, survey.operators)
    changed = spread_masks(model.proto, survey.operators)
    changed |= steady and fix_random_seeds(model.proto, survey.operators)
    written = written_out(model.proto)
    if left or others or changed or written is not model.proto:
        model.proto = written
        survey = Survey.of(written)
    return survey, left


def expose(proto: onnx.ModelProto, outputs: Sequence[str], where: str) -> list[str]:
    """Make ``outputs`` the graph's outputs; onnxruntime infers their types.

    Returns:
        The outputs that are graph inputs, which ONNX does not allow to be outputs.

    Raises:
        ModelError: the main graph has no tensor of a requested name.
    """
    graph = proto.graph
    initializers = {t.name for t in graph.initializer}
    inputs = {value.name for value in graph.input} - initializers
    made = {name for node in graph.node for name in node.output if name}
    declared = {value.name: value for value in graph.output}
    new = []
    for name in dict.fromkeys(outputs):
        if name in inputs:
            continue
        if name not in made and name not in declared:
            raise ModelError(
                f"no tensor of the main graph is named '{name}'", where=where, remedy=did_you_mean(name, made | inputs)
            )
        value = onnx.ValueInfoProto(name=name)
        if name in declared:
            value.CopyFrom(declared[name])
        new.append(value)
    # a graph needs an output: if only inputs are requested, its own outputs stay
    if new:
        del graph.output[:]
        graph.output.extend(new)
    return [name for name in dict.fromkeys(outputs) if name in inputs]


def not_computed(name: str, left: NotRun, where: str) -> ModelError:
    """The error for a tensor that depends on a node without a kernel."""
    plugin = left.tensors[name]
    domain, _, op = left.plugins[plugin].rpartition("::")
    near = similar_ops(domain, op) if is_foreign(domain, op) else []
    return ModelError(
        f"tensor '{name}' comes from node '{plugin}' ({left.plugins[plugin]}), for which onnxruntime has no kernel",
        where=where,
        remedy=f"did you mean {' or '.join(near)}?" if near else "request tensors upstream of it",
    )
