"""SmoothQuant: move activation outliers into the weights of the MatMuls that read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field

from toolkit.graph_pass import Context, Pass
from toolkit.model import Model, make_constant, make_node

Array = np.ndarray[Any, Any]
_SMALL = 1e-5


class Smooth(Pass):
    """Divide each channel of a MatMul's input by s and multiply the weights' row by it, so that outliers fit one scale.

    s = amax(x)^strength / amax(w)^(1 - strength) by channel: Xiao et al., "SmoothQuant: accurate and efficient
    post-training quantization for large language models", ICML 2023, equation 4. The division goes into the
    normalization before the MatMuls where they are its only readers, else into a Mul.
    """

    name = "smooth"
    strength: float = Field(0.5, ge=0, le=1, description="how much of the difficulty the weights take (alpha)")
    least: float = Field(4.0, ge=1, description="leave inputs alone whose largest channel is below this many medians")
    insert: bool = Field(True, description="put a Mul in front where no normalization can take the factors")
    samples: int = Field(64, gt=0, description="calibration samples to look at")
    measure: bool = Field(True, description="measure what it changes for plain INT8 and note it in the journal")

    def apply(self, model: Model, context: Context) -> None:
        """Smooth the inputs that have outlier channels.

        Raises:
            RangesError: there is no calibration data.
        """
        from toolkit.analysis.channels import collect_channels, data_of, forget_ranges, note_effect, plain_outcome

        if context.services.get("dry_run"):
            context.journal.noted("a run would look for outlier channels", rule="dry-run")
            return
        readers = self._readers(model)
        if not readers:
            context.journal.noted("no MatMul with constant weights reads an activation", rule="smooth")
            return
        axes = {name: -1 for name in readers}
        found = collect_channels(model, axes, data_of(context), self.samples)
        worth = {name: nodes for name, nodes in readers.items() if self._uneven(found[name].amax) >= self.least}
        for name in readers.keys() - worth.keys():
            for node in readers[name]:
                why = f"the largest channel of '{name}' is {self._uneven(found[name].amax):.2g} medians"
                context.journal.declined(node.name, why, rule="even")
        if not worth:
            return
        before = plain_outcome(model, context) if self.measure else None
        for name, nodes in worth.items():
            self._smooth(model, name, nodes, found[name].amax, context)
        model.tidy()
        forget_ranges(context)
        note_effect(context, before, plain_outcome(model, context) if self.measure else None, "smooth")

    def _readers(self, model: Model) -> dict[str, list[gs.Node]]:
        """MatMuls and Gemms with weights of their own, by the activation that they read."""
        found: dict[str, list[gs.Node]] = {}
        for node in model.nodes:
            if node.op not in ("MatMul", "Gemm") or node.attrs.get("transA", 0):
                continue
            weight = model.constant(node.inputs[1])
            if weight is None or weight.ndim != 2 or model.constant(node.inputs[0]) is not None:
                continue
            found.setdefault(node.inputs[0].name, []).append(node)
        return found

    def _uneven(self, amax: Array) -> float:
        median = float(np.median(amax[amax > 0])) if (amax > 0).any() else 0.0
        return float(amax.max()) / median if median else 1.0

    def _smooth(self, model: Model, name: str, nodes: list[gs.Node], amax: Array, context: Context) -> None:
        weights = [np.asarray(model.constant(node.inputs[1])) for node in nodes]
        turned = [node.op == "Gemm" and bool(node.attrs.get("transB", 0)) for node in nodes]
        rows = [np.abs(w.T if t else w).max(axis=1).astype(np.float64) for w, t in zip(weights, turned)]
        largest = np.maximum(np.max(rows, axis=0), _SMALL)
        factor = np.maximum(amax, _SMALL) ** self.strength / largest ** (1 - self.strength)
        # a channel that never fires has no outlier to move
        factor = np.where(amax > _SMALL, factor, 1.0)
        factor = (factor / np.exp(np.mean(np.log(factor)))).astype(np.float32)
        tensor = nodes[0].inputs[0]
        where = self._fold(model, tensor, nodes, factor)
        if where is None and not self.insert:
            for node in nodes:
                context.journal.declined(node.name, f"'{name}' has other readers, and insert = false", rule="no-norm")
            return
        if where is None:
            out = gs.Variable(model.unique_tensor(f"{name}_smooth"), dtype=tensor.dtype, shape=tensor.shape)
            inverse = make_constant(model.unique_tensor(f"{name}_smooth_factor"), (1 / factor).astype(weights[0].dtype))
            where = model.unique_node(f"{nodes[0].name}_smooth")
            model.graph.nodes.append(make_node("Mul", where, [tensor, inverse], [out]))
            for node in nodes:
                node.inputs[0] = out
        for node, weight, turn in zip(nodes, weights, turned):
            scaled = weight * (factor[None, :] if turn else factor[:, None]).astype(weight.dtype)
            node.inputs[1] = make_constant(
                model.unique_tensor(f"{node.inputs[1].name}_smooth"), scaled.astype(weight.dtype)
            )
            why = f"the largest channel of '{name}' is {self._uneven(amax):.3g} medians, after it {self._uneven(amax / factor):.3g}"
            context.journal.changed(node.name, f"its weights take factors that {where} gives up", why)

    def _fold(self, model: Model, tensor: gs.Tensor, nodes: list[gs.Node], factor: Array) -> str | None:
        """Divide the gain and shift of the normalization that makes the tensor; its name, or None where it cannot."""
        maker = model.producer(tensor)
        mine = {id(node) for node in nodes}
        if maker is None or model.is_output(tensor) or tensor.name in model.subgraph_tensors():
            return None
        if any(id(reader) not in mine for reader in tensor.outputs):
            return None
        if maker.op == "LayerNormalization":
            places = [(maker, 1), (maker, 2)] if len(maker.inputs) > 2 else [(maker, 1)]
        elif maker.op in ("Add", "Mul"):
            places = self._affine(model, maker)
        else:
            return None
        values = [(node, index, model.constant(node.inputs[index])) for node, index in places]
        if not values or any(v is None or v.size not in (1, factor.size) or v.ndim > 1 for _, _, v in values):
            return None
        for node, index, value in values:
            assert value is not None
            divided = (np.broadcast_to(value, factor.shape) / factor).astype(value.dtype)
            node.inputs[index] = make_constant(model.unique_tensor(f"{node.inputs[index].name}_smooth"), divided)
        return str(maker.name)

    def _affine(self, model: Model, node: gs.Node) -> list[tuple[gs.Node, int]]:
        """The constants of a normalization's last Mul and Add, as exporters write it out."""
        constant = [i for i, t in enumerate(node.inputs) if model.constant(t) is not None]
        if len(constant) != 1:
            return []
        if node.op == "Mul":
            return [(node, constant[0])]
        other = model.producer(node.inputs[1 - constant[0]])
        if other is None or other.op != "Mul" or len(node.inputs[1 - constant[0]].outputs) != 1:
            return []
        inner = [i for i, t in enumerate(other.inputs) if model.constant(t) is not None]
        return [(node, constant[0]), (other, inner[0])] if len(inner) == 1 else []
