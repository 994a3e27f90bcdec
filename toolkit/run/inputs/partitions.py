"""The note about a model that is run in partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.contract.findings import Code, Finding

if TYPE_CHECKING:
    from toolkit.graph.model import Model


def partitions_note(model: Model) -> Finding | None:
    """A note on the number of partitions a model is run in under ``[run] memory``; None if it is run as a whole.

    Raises:
        ModelError: the weights of a single node exceed the memory limit.
    """
    from toolkit.graph.large_models.memory import memory_limited
    from toolkit.graph.large_models.partitions import partitions_of

    limit = memory_limited()
    if limit is None:
        return None
    light = model.to_light()
    found = len(partitions_of(light, packed=not light.shares))
    return Code.IN_STRETCHES(stretches=found, weights=light.weight_bytes, memory=limit) if found > 1 else None
