"""What a model was before a pass changed it: what must stay, and what the pass is not blamed for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolkit.base.errors import PassError
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.graph.foreign import foreign_operators, meant
from toolkit.graph.model import Model
from toolkit.graph.scale_check import wrong_scales


@dataclass(frozen=True)
class ModelBefore:
    """The state of a model before a pass.

    Attributes:
        signature: its inputs and outputs, by names and types.
        thorough: whether types, scales and operators are checked. qtool's own passes are tested to keep them; for a
            large graph that costs as much as all other checks together.
        typed: whether its types agreed, if that was checked.
        scales: what was wrong with scales of Q/DQ nodes, by tensor.
        foreign: the first node of each operator that is in none of the model's opsets, by domain and operator.
    """

    signature: object
    thorough: bool
    typed: bool = False
    scales: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, thorough: bool) -> ModelBefore:
        """Record a model that is about to be changed."""
        signature = model.changing().signature()
        if not thorough:
            return cls(signature, thorough)
        return cls(signature, thorough, model.types_fault() is None, wrong_scales(model), foreign_operators(model))

    def refuse_new_scales(self, model: Model) -> None:
        """Refuse scales that are wrong and were not before.

        Raises:
            PassError: there is one; the message says which and why.
        """
        for tensor, what in wrong_scales(model).items() if self.thorough else ():
            if tensor not in self.scales:
                raise PassError(what)

    def refuse_new_signature(self, title: str, model: Model) -> None:
        """Refuse other inputs or outputs.

        Raises:
            PassError: they differ by name or type.
        """
        now = model.signature()
        if now != self.signature:
            raise PassError(
                f"pass '{title}' changed the model's inputs or outputs from {self.signature} to {now}",
                remedy="a pass must keep their names and types",
            )

    def note_unknown_operators(self, title: str, model: Model, context: Context) -> None:
        """Note the operators that are in none of the model's opsets and were not there before."""
        for (domain, op), node in foreign_operators(model).items() if self.thorough else ():
            if (domain, op) not in self.foreign:
                context.journal.noted(
                    Code.FOREIGN_OPERATOR(by=title, node=node, op=op, domain=domain, meant=meant(domain, op)), node=node
                )
