"""The effect of a helper pass on a search's model: with all layers quantized, and with only its changed layers."""

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
    """Quantization without a helper and with it, on the same samples.

    Attributes:
        before: the standing of full quantization without the helper.
        after: the standing of full quantization with the helper.
        alone: how many layers the helper changed, and the outcomes with only these quantized, without and with it: the
            layers that a plan would keep float first hide the gain of the others. None if not measured.
        in_types: the outcomes of the float layers' type alone, without and with the helper, if they speak against it.
    """

    before: Standing
    after: Standing
    alone: tuple[int, Outcome, Outcome] | None = None
    in_types: tuple[Outcome, Outcome] | None = None

    @classmethod
    def of(
        cls, before: Standing, after: Standing, changed: Collection[str], pay: Callable[[float], None]
    ) -> HelperEffect:
        """Measure the effect of a helper.

        The changed layers are measured alone if all layers together gain little, and get neither further from the
        budget nor 1 dB noisier.

        Args:
            before: the standing without the helper.
            after: the standing with it.
            changed: the nodes that it changed; nodes quantized on one side only are not compared.
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
        """Whether the helper is worth a changed graph.

        Full quantization must be clearly better, or the changed layers alone have 1 dB less noise, and the layers that
        stay float must not lose accuracy beyond what is allowed in their type.
        """
        if self.in_types is not None:
            return False
        if self.alone is not None:
            return self.alone[2].noise < NEARER * self.alone[1].noise
        # the reported SQNR must be better as well
        better = self.after.outcome.sqnr_db > self.before.outcome.sqnr_db
        return better and self.after.clearly_better(self.before)

    def finding(self, helper: str, dtype: str, metric: str | None, squashed_by: str, rest: Precision) -> Finding:
        """The finding with the effect in dB, and in the task's metric or share of answers if known."""
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
