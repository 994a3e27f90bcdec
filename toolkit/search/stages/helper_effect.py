"""What a helper pass does to a search's model: with all layers quantized, and to the layers that it changed alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.plans.range_methods import NEARER, Standing


@dataclass(frozen=True)
class HelperEffect:
    """The model without a helper and with it, on the same samples.

    Attributes:
        before: all layers quantized without it.
        after: all layers quantized with it.
        alone: how many layers it changed, and the effect of these alone without and with it, all others float: the
            layers that a plan keeps float first hide what the others gain. None where that was not looked at.
        in_types: the effect of the float layers' type alone without and with it, where that speaks against the helper.
    """

    before: Standing
    after: Standing
    alone: tuple[int, Outcome, Outcome] | None = None
    in_types: tuple[Outcome, Outcome] | None = None

    @classmethod
    def of(
        cls, before: Standing, after: Standing, changed: Collection[str], pay: Callable[[float], None]
    ) -> HelperEffect:
        """The effect; changed layers are looked at alone where all together gain little, and get neither further from
        the budget nor 1 dB noisier.

        Args:
            before: without the helper.
            after: with it.
            changed: the nodes that it changed; a node that is quantized on one side only is not compared.
            pay: as in ``standing``.
        """
        effect = cls(before, after)
        both = set(changed).intersection(before.simulation.names)
        groups = [name for name in after.simulation.names if name in both]
        worse = after.is_further(before) or before.outcome.noise < NEARER * after.outcome.noise
        if effect.helps or worse or not 0 < len(groups) < len(after.simulation.names):
            return effect
        return cls(before, after, (len(groups), before.only(groups, pay), after.only(groups, pay)))

    @property
    def helps(self) -> bool:
        """Whether it is worth a changed graph: all layers do clearly better, or the changed ones lose 1 dB of noise;
        and the layers that stay float pay no more for it than they can.
        """
        if self.in_types is not None:
            return False
        if self.alone is not None:
            return self.alone[2].noise < NEARER * self.alone[1].noise
        # by the number that is shown, too
        better = self.after.outcome.sqnr_db > self.before.outcome.sqnr_db
        return better and self.after.clearly_better(self.before)

    def finding(self, helper: str, dtype: str, metric: str | None, squashed_by: str, rest: Precision) -> Finding:
        """The effect in dB, and in the task's measure where there is one."""
        before, after = self.before, self.after
        values: dict[str, Any] = {
            "before_db": before.outcome.sqnr_db, "after_db": after.outcome.sqnr_db, "samples": after.samples,
            "output": after.outcome.output, "squashed_by": squashed_by,
        }  # fmt: skip
        if before.share is not None and after.share is not None:
            values |= {"before_share": before.share, "after_share": after.share, "metric": metric or ""}
        if self.alone is not None:
            count, was, now = self.alone
            values |= {"layers": count, "alone_before_db": was.sqnr_db, "alone_db": now.sqnr_db}
        if self.in_types is not None:
            was, now = self.in_types
            values |= {"rest": rest, "rest_before_db": was.sqnr_db, "rest_db": now.sqnr_db}
        return Code.SEARCH_HELPER(helper=helper, applied=self.helps, dtype=dtype, **values)
