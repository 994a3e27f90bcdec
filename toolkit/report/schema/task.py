"""The task in the report, and how many answers are unchanged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolkit.report.schema.part import Finite, Part


class PartFigures(Part):
    """The answers of one part of the outputs compared with the float model's."""

    task: str
    outputs: list[str]
    channels: list[int] | None = Field(default=None, description="first and last channel, if the part is a slice")
    unchanged: float = Field(description="share of answers equal to the float model's, 0 to 1")
    answers: int
    least: float = Field(description="the least share that must be unchanged")
    level: Finite = Field(default=None, description="the most telling figure")
    figure: str = Field(
        default="", description="its name: positions, cosine_p5, iou, psnr_db, snr_db, detections, points or labels"
    )
    low: float = Field(description="lower end of the 95 % interval of unchanged (Wilson)")
    high: float = Field(description="its upper end")
    standing: Literal["met", "unproven", "missed"]
    lacks: Literal["", "answers", "objects", "other answer", "varied samples"] = Field(
        default="", description="what the samples lack to prove the share; empty if it is met or missed"
    )
    counts: bool = Field(
        default=True, description="whether the share is a limit; false if the recipe's budget has only other limits"
    )
    rule: str = Field(default="", description="when an answer counts as unchanged, if it need not be equal")


class FewAnswers(Part):
    """A limit that is not missed, but on too few answers, too varied samples, or a single sample to be proven."""

    limit: str = Field(description="the budget's name for it")
    answers: int = Field(description="number of answers; of samples, if the metric is not a share of answers")
    samples: bool = Field(description="whether every sample has exactly one answer")
    share: float = Field(description="the largest share of answers, or drop of the metric, that may be lost")
    enough: int = Field(description="number of answers needed to judge this; for a single sample, the least number")
    lost: float = Field(description="the share that is lost; negative if more answers were gained")
    low: Finite = Field(
        default=None,
        description="lower end of its 95 % interval (Wilson; for other metrics, jackknife); null if not known",
    )
    high: Finite = Field(default=None, description="its upper end")
    by: Literal["count", "variation", "one", "spread"] = Field(
        default="count",
        description="what limits the proof: the number of answers, how samples vary, a single sample, or labels that "
        "show only roughly how they vary, from which the limit follows",
    )
    largest: Finite = Field(
        default=None, description="for spread, the largest value that share may have; null otherwise"
    )


class TaskInfo(Part):
    """The task that the model was judged by."""

    name: str
    sure: bool = Field(description="whether the recipe names it, or several kinds of evidence agree")
    why: str
