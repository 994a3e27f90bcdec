"""The state of a model before a pass: what the pass must keep, and existing faults that it is not blamed for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from toolkit.base.errors import PassError
from toolkit.base.profiles import Profiles
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.contract.order import OrderCode
from toolkit.graph.layers.scale_check import wrong_scales
from toolkit.graph.model import Model, Signature
from toolkit.graph.sessions.foreign import foreign_operators, similar_ops


@dataclass(frozen=True)
class ModelBefore:
    """The state of a model before a pass.

    Attributes:
        signature: its inputs and outputs, by names and types.
        thorough: whether types, scales and operators are checked. qtool's own passes are tested to keep them, and on a
            large graph this takes as long as all other checks together.
        typed: whether its types were consistent, if that was checked.
        scales: faults of scales of Q/DQ nodes, by tensor.
        foreign: the first node of each operator that is in none of the model's opsets, by domain and operator.
        asked: names of the nodes with a request in the plan.
        batched: by input, the dynamic axis along which samples are batched, if they are and the pass is not one of
            qtool's own.
        rows: likewise, the tensors whose first dimension is dynamic.
    """

    signature: Signature
    thorough: bool
    typed: bool = False
    scales: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[tuple[str, str], str] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    batched: Mapping[str, int] = field(default_factory=dict)
    rows: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: Model, thorough: bool, context: Context) -> ModelBefore:
        """The state of a model that is about to be changed."""
        signature = model.changing().signature()
        asked = frozenset(context.plan) & frozenset(model.node_names() if len(context.plan) else ())
        if not thorough:
            return cls(signature, thorough, asked=asked)
        typed = model.types_fault() is None
        data = getattr(context.provider, "data", None) if context.source is not None else None
        axes = data.axes if data is not None and data.can_batch else {}
        batched = {name: axis for name, axis in axes.items() if not isinstance(model.input_shapes()[name][axis], int)}
        shapes = model.facts().shapes if batched else {}
        rows = frozenset(name for name in shapes if _first(shapes, name) < 0)
        return cls(signature, thorough, typed, wrong_scales(model), foreign_operators(model), asked, batched, rows)

    def refuse_new_scales(self, model: Model) -> None:
        """Refuse scales that the pass made invalid.

        Raises:
            PassError: there is one; the message says which and why.
        """
        for tensor, what in wrong_scales(model).items() if self.thorough else ():
            if tensor not in self.scales:
                raise PassError(what)

    def refuse_new_signature(self, title: str, model: Model) -> None:
        """Refuse changed inputs or outputs.

        Raises:
            PassError: their names or types changed.
        """
        now = model.signature()
        for kind, old, new in (
            ("input", self.signature.inputs, now.inputs),
            ("output", self.signature.outputs, now.outputs),
        ):
            if old != new:
                raise PassError(
                    f"pass '{title}' {_difference(kind, old, new)}",
                    remedy="a pass must keep the names, types and order of the model's inputs and outputs",
                )

    def refuse_new_shapes(self, title: str, model: Model, context: Context) -> None:
        """Refuse inputs that no longer accept every shape of the profiles, or batches of samples.

        Raises:
            PassError: a dimension was fixed that varies or has another size in a profile, or that is the batch axis of
                samples that are run one by one and in batches.
        """
        declared = model.input_shapes() if self.thorough else {}
        fixed = self._fixed_batch(declared, model) if self.batched else None
        if fixed is not None and not (fixed[1] == 1 and self._one_by_one(context.profiles)):
            what, batch = fixed
            raise PassError(
                f"pass '{title}' left {what}, along which samples are run one by one and in batches",
                remedy="keep the dimension dynamic: an engine of that batch alone comes from a [[profile]] with "
                f"{batch} there as min, opt and max",
            )
        for profile in context.profiles:
            for name, extent in profile.shapes.items():
                for axis, (size, least, most) in enumerate(zip(declared.get(name, ()), extent.min, extent.max)):
                    if isinstance(size, int) and not least == size == most:
                        raise PassError(
                            f"pass '{title}' left input '{name}' with {size} in dimension {axis}, where profile "
                            f"'{profile.name}' has {least} to {most}",
                            remedy="keep the dimension dynamic, or give profiles of that size alone",
                        )

    def _one_by_one(self, profiles: Profiles) -> bool:
        """Whether the profiles allow only batches of one sample."""
        extents = [(profile.shapes.get(name), axis) for profile in profiles for name, axis in self.batched.items()]
        return bool(extents) and all(one is not None and one.max[axis] == 1 for one, axis in extents)

    def _fixed_batch(self, declared: Mapping[str, Sequence[int | str | None]], model: Model) -> tuple[str, int] | None:
        """Where the pass fixed the batch axis, in words, and the size; None if it did not."""
        for name, axis in self.batched.items():
            declares = declared[name][axis]
            if isinstance(declares, int):
                return f"input '{name}' with {declares} in dimension {axis}", declares
        shapes = model.facts().shapes
        if all(_first(shapes, output.name) < 0 for output in model.graph.outputs if output.name in self.rows):
            return None
        for node in model.nodes:
            for name in (output.name for output in node.outputs):
                if name in self.rows and (size := _first(shapes, name)) >= 0:
                    return f"tensor '{name}' of node '{node.name}' with {size} in dimension 0", size
        return None

    def note_unknown_operators(self, title: str, model: Model, context: Context) -> None:
        """Note new operators that are in none of the model's opsets."""
        for (domain, op), node in foreign_operators(model).items() if self.thorough else ():
            if (domain, op) not in self.foreign:
                context.journal.noted(
                    Code.FOREIGN_OPERATOR(by=title, node=node, op=op, domain=domain, meant=similar_ops(domain, op)),
                    node=node,
                )

    def note_lost_requests(self, title: str, model: Model, context: Context) -> None:
        """Note requests of earlier passes that lost their effect because this pass removed the node."""
        names = set(model.node_names()) if self.asked else set()
        gone = self.asked - names
        lost = [(name, ask) for name, ask in context.plan.items() if name in gone and not ask.free]
        if lost:
            node, ask = lost[0]
            context.journal.noted(
                OrderCode.REQUESTS_LOST(by=title, node=node, asked_by=ask.by, precision=ask.precision, nodes=len(lost)),
                node=node,
            )


def _first(shapes: Mapping[str, Sequence[Sequence[int]]], tensor: str) -> int:
    """The first dimension of a tensor; -1 if it is not known."""
    (shape,) = shapes.get(tensor, [()])
    return shape[0] if len(shape) else -1


def _difference(kind: str, old: Sequence[tuple[str, int]], new: Sequence[tuple[str, int]]) -> str:
    """In words, how inputs or outputs changed; they are pairs of name and ONNX type."""
    before, now = dict(old), dict(new)
    lost, more = [name for name in before if name not in now], [name for name in now if name not in before]
    if lost and more:
        return f"put the {kind} '{more[0]}' in place of '{lost[0]}'"
    if lost or more:
        return f"removed the {kind} '{lost[0]}'" if lost else f"added the {kind} '{more[0]}'"
    other = next((name for name in before if before[name] != now[name]), None)
    if other is None:
        return f"changed the {kind}s from {_listed(old)} to {_listed(new)}"
    return f"changed the type of the {kind} '{other}' from {_type(before[other])} to {_type(now[other])}"


def _listed(pairs: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"'{name}'" for name, _ in pairs)


def _type(number: int) -> str:
    return str(onnx.TensorProto.DataType.Name(number)).lower()
