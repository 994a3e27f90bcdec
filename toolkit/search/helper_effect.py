"""What a helper pass does for quantization: for all layers, and for those that it changes by themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.outcome import Outcome
from toolkit.search.range_methods import NEARER, Standing
from toolkit.simulation.simulation import Simulation


@dataclass(frozen=True)
class ChangedLayers:
    """What the layers that a helper changed do by themselves, all others float: these may hide it.

    Attributes:
        groups: their names.
        before: what they do without the helper.
        after: and with it.
    """

    groups: tuple[str, ...]
    before: Outcome
    after: Outcome

    @property
    def clearly_better(self) -> bool:
        """Whether their noise falls by 1 dB."""
        return self.after.noise < NEARER * self.before.noise


@dataclass(frozen=True)
class HelperEffect:
    """What a helper does.

    Attributes:
        before: how all layers quantized do without it.
        after: and with it.
        alone: the layers that it changed, where that was looked at.
    """

    before: Standing
    after: Standing
    alone: ChangedLayers | None = None

    @classmethod
    def of(
        cls, before: Standing, after: Standing, changed: Collection[str], pay: Callable[[float], None]
    ) -> HelperEffect:
        """Looks at the changed layers alone where all layers quantized are neither better nor worse.

        What the layers do that a plan leaves out first hides what the others gain.

        Args:
            before: how all layers quantized do without the helper.
            after: and with it.
            changed: names of the nodes that it changed.
            pay: told what a run costs, in runs of the float model over the standings' samples.
        """
        own = cls(before, after)
        groups = tuple(name for name in after.simulation.names if name in changed)
        if own.helps or before.clearly_better(after) or not 0 < len(groups) < len(after.simulation.names):
            return own
        return cls(before, after, ChangedLayers(groups, *(one.only(groups, pay) for one in (before, after))))

    @property
    def helps(self) -> bool:
        """Whether it is clearly better, by the number that is shown too; of all layers, or of those that it changed."""
        if self.alone is not None:
            return self.alone.clearly_better
        return self.after.clearly_better(self.before) and self.after.outcome.sqnr_db > self.before.outcome.sqnr_db

    def finding(self, name: str, dtype: str, simulation: Simulation) -> Finding:
        """In dB, and in the task's measure where there is one; ``simulation`` is of all samples."""
        before, after = self.before, self.after
        values: dict[str, Any] = {
            "before_db": before.outcome.sqnr_db,
            "after_db": after.outcome.sqnr_db,
            "samples": after.samples,
            "output": after.outcome.output,
            "behind": simulation.behind(after.outcome.output),
        }
        if before.share is not None and after.share is not None:
            values |= {"before_share": before.share, "after_share": after.share}
            values |= {"metric": simulation.settings.metric or ""}
        if self.alone is not None:
            values["layers"] = len(self.alone.groups)
            values |= {"alone_before_db": self.alone.before.sqnr_db, "alone_db": self.alone.after.sqnr_db}
        return Code.SEARCH_HELPER(helper=name, applied=self.helps, dtype=dtype, **values)
