"""The helper passes that can reduce a layer's error: each pass declares what it mends, and in which layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from toolkit.contract.registry import passes_with_role
from toolkit.contract.roles import Harm, Role
from toolkit.graph.model import Model


class Helpers:
    """The installed passes of role ``HELP``, and the layers of one model that they can work on.

    Args:
        model: the float model; it is not changed.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def passes(self, layer: str) -> dict[Harm, str]:
        """The passes that can work on a layer, by the harm that they mend."""
        return {harm: name for harm, name, layers in self._known if layer in layers}

    def evening(self, layer: str) -> list[str]:
        """The passes that even out the channels of a layer's input or weights."""
        return [name for harm, name in self.passes(layer).items() if harm is not Harm.ONE_SIDED]

    def able(self) -> list[str]:
        """The passes that find a layer to work on."""
        return [name for _, name, layers in self._known if layers]

    def with_others(self, tried: Sequence[str]) -> tuple[str, ...]:
        """These passes and all others that find a layer to work on; empty if there are no others."""
        others = [name for name in self.able() if name not in tried]
        return (*tried, *others) if others else ()

    @cached_property
    def _known(self) -> list[tuple[Harm, str, set[str]]]:
        found = []
        for name, kind in passes_with_role(Role.HELP):
            # a pass with required settings cannot be created here, so it is not advised
            if kind.mends is not None and not any(field.is_required() for field in kind.model_fields.values()):
                found.append((kind.mends, name, kind().applicable_layers(self.model)))
        return found
