"""The accuracy of the model's outputs.

A signal-to-quantization-noise ratio (SQNR) that is not finite is stored as null; ``max_abs`` distinguishes the cases.
If it is 0, the tensors are identical (SQNR infinite); if it is null, NaN or infinity occurred and nothing can be
compared; otherwise the float tensor is all zeros.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolkit.report.schema.part import Finite as Finite
from toolkit.report.schema.part import Part as Part
from toolkit.report.schema.part import SquashedBy as SquashedBy
from toolkit.report.schema.task import FewAnswers, PartFigures, TaskInfo

ROUNDING = 1e-12
"""Relative tolerance of a drop against its budget: the rounding of a difference of two values."""


class Measured(Part):
    """A tensor compared with the float model's.

    Attributes:
        sqnr_db: SQNR in dB; None if the tensors are identical or not comparable, or the float one is all zeros.
        max_abs: largest absolute difference; None if NaN or infinity occurred.
    """

    sqnr_db: Finite = None
    max_abs: Finite = None

    @property
    def identical(self) -> bool:
        """Whether the tensor equals the float model's bit for bit."""
        return self.sqnr_db is None and self.max_abs == 0

    @property
    def incomparable(self) -> bool:
        """Whether the tensors could not be compared because of NaN or infinity."""
        return self.sqnr_db is None and self.max_abs is None


class OutputError(Measured):
    """One output of the model compared with the float model's."""

    cosine: Finite = None
    agreement: Finite = Field(
        default=None,
        description="top-1 agreement, the share of positions with the float model's argmax, of outputs with classes; "
        "of integers and the like the share of equal elements",
    )
    variation_db: Finite = Field(
        default=None, description="power of the variation between samples over that of the noise, in dB"
    )
    squashed_by: SquashedBy = ""
    positions: int = Field(default=0, description="number of positions or elements that ``agreement`` is a share of")
    masks_lost: int = Field(
        default=0, description="number of values, such as padded positions, that only the float model masks"
    )
    ranked: bool = Field(
        default=False,
        description="rows are ordered by score, so their order can change: only detections "
        "that both models have are compared, if any",
    )

    @property
    def unknown(self) -> bool:
        """Whether no figure could be computed."""
        return super().incomparable

    @property
    def incomparable(self) -> bool:
        """Whether the tensors could not be compared because of NaN or infinity."""
        return self.unknown and not self.ranked

    @property
    def discrete(self) -> bool:
        """Whether the output is not float, so that only ``agreement`` is known."""
        return self.sqnr_db is None and self.cosine is None and self.agreement is not None


class Accuracy(Part):
    """The quantized model compared with the float model; ``drop`` is positive if it is worse, in the metric's unit."""

    metric: str | None = None
    before: Finite = Field(default=None, alias="float")
    quantized: Finite = None
    drop: Finite = None
    higher_is_better: bool | None = Field(
        default=None, description="whether a higher metric is better; null without a metric, and in older reports"
    )
    drop_low: Finite = Field(
        default=None,
        description="lower end of its 95 % interval over samples (jackknife); null for a share of right answers",
    )
    drop_high: Finite = Field(default=None, description="upper end of this interval")
    budget: float | None = Field(default=None, description="the largest drop allowed")
    met: bool | None = Field(default=None, description="whether the budget was met; null without a budget")
    samples: int = 0
    layer_samples: int = Field(
        default=0, description="how many of them, evenly spread, were used for the layers' errors"
    )
    outputs: dict[str, OutputError] = Field(default_factory=dict)
    source: str = Field(default="", description="where the quantized model ran: onnxruntime or the engine")
    held_out: bool = Field(default=True, description="whether none of the samples was used for calibration")
    misses: list[str] = Field(default_factory=list, description="each missed limit, as a clause")
    not_compared: list[str] = Field(
        default_factory=list, description="outputs that could not be compared, since onnxruntime cannot compute them"
    )
    in_place: list[str] = Field(
        default_factory=list, description="the tensors among ``outputs`` that were compared instead of these"
    )
    refused: bool = Field(default=False, description="whether onnxruntime cannot run model.onnx as it is written")
    notes: list[str] = Field(default_factory=list)
    task: TaskInfo | None = Field(default=None, description="the assumed task of the model")
    parts: list[PartFigures] = Field(default_factory=list, description="answers by part, the worst part first")
    relative_budget: float | None = Field(default=None, description="the largest drop allowed, as a share of ``float``")
    standing: Literal["met", "unproven", "missed"] | None = Field(
        default=None, description="whether the budget was met, as far as the samples show; null without a budget"
    )
    by_default: bool = Field(
        default=False, description="whether the recipe has no budget, so that the task's default applies"
    )
    doubts: list[str] = Field(
        default_factory=list, description="why the result is not usable although no limit was missed, as clauses"
    )

    float_wrong: bool = Field(
        default=False, description="whether the float model is clearly wrong by the labels: the first of ``doubts``"
    )
    few: FewAnswers | None = Field(
        default=None, description="the limit that needs most answers, if there are too few to judge it"
    )
    quantized_source: bool = Field(
        default=False, description="whether the source model, the reference of all comparisons, has Q/DQ pairs itself"
    )
    shows_nothing: bool = Field(
        default=False, description="whether no budget can be judged: one sample, or the same result for all"
    )

    drawing: list[str] = Field(
        default_factory=list,
        description="nodes that draw different random numbers in the two runs compared, so that nothing is judged",
    )

    unrounded: Finite = Field(
        default=None,
        description="``quantized``, or without a metric ``unchanged`` of the first part, as onnxruntime "
        "computes model.onnx, without rounding to 16-bit floats; an estimate if there are "
        "``unrounded_samples``; null if it is the same, was not measured, or there are too few samples to estimate it",
    )
    unrounded_samples: int | None = Field(
        default=None, description="number of samples that ``unrounded`` is estimated from; null if measured on all"
    )

    @property
    def output_compared(self) -> bool:
        """Whether any output of the model was compared, and not only tensors before nodes that cannot be run."""
        return self.quantized is not None or bool(self.outputs.keys() - set(self.in_place))

    @property
    def on_fewer(self) -> bool:
        """Whether fewer samples were used for the layers' errors than for the outputs'."""
        return 0 < self.layer_samples < self.samples

    @property
    def most_drop(self) -> float | None:
        """The largest drop allowed by the tighter limit of the budget, in the metric's unit; None without one."""
        relative = self.relative_budget is not None and self.before is not None
        limits = [self.budget, (self.relative_budget or 0.0) * abs(self.before or 0.0) if relative else None]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def drop_over(self) -> bool | None:
        """Whether the metric's drop exceeds its budget, proven or not; None if there is no such budget or no drop."""
        most = self.most_drop
        if most is None or self.drop is None:
            return None
        return not self.drop <= most + ROUNDING * (1.0 if self.before is None else abs(self.before))

    @property
    def drop_kept(self) -> bool | None:
        """Whether the metric's drop does not miss its budget; None if there is no such budget or no drop."""
        if self.drop_over is None:
            return None
        # losing one answer does not miss a limit smaller than one answer
        few = self.few is not None and self.few.limit in ("max_drop", "max_relative_drop")
        unproven = self.standing == "unproven" or few
        return not self.drop_over or unproven

    @property
    def rising(self) -> bool:
        """Whether a larger value of the metric is better; if the report does not say, according to the drop's sign."""
        if self.higher_is_better is not None:
            return self.higher_is_better
        if self.before is None or self.quantized is None or self.drop is None:
            return True
        return self.drop * (self.before - self.quantized) >= 0

    @property
    def in_points(self) -> bool:
        """Whether the metric is a share, so that changes are in percentage points."""
        return self.rising and all(value is not None and abs(value) <= 1 for value in (self.before, self.quantized))
