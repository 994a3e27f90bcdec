"""The task in the report, and how many answers are unchanged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolkit.report.schema.part import Finite, Part


class PartFigures(Part):
    """The answers of one part of the outputs compared with the float model's."""

    task: str
    outputs: list[str]
    channels: list[int] | None = Field(default=None, description="first and last channel, where it is a slice")
    unchanged: float = Field(description="share of answers that stay the float model's, 0 to 1")
    answers: int
    least: float = Field(description="the share that must stay")
    level: Finite = Field(default=None, description="the figure that shows it best")
    figure: str = Field(
        default="", description="what that is: positions, cosine_p5, iou, psnr_db, snr_db, detections, points, labels"
    )
    low: float = Field(description="lower end of the 95 % interval of unchanged (Wilson)")
    high: float = Field(description="its upper end")
    standing: Literal["met", "unproven", "missed"]
    lacks: Literal["", "answers", "objects", "other answer", "varied samples"] = Field(
        default="", description="what the samples lack to show that the share stays; empty where it is met or missed"
    )
    counts: bool = Field(
        default=True, description="whether that share is a limit here: not where the recipe's budget has others alone"
    )
    rule: str = Field(default="", description="when an answer counts as unchanged, where it need not be the same")


class FewAnswers(Part):
    """A limit that is not missed, but on too few answers, too varied samples, or a single sample to be proven."""

    limit: str = Field(description="the budget's name for it")
    answers: int = Field(description="how many there are; samples, of a metric that is no share of answers")
    samples: bool = Field(description="whether every sample has one answer")
    share: float = Field(description="the largest share, or drop of the metric, that may be lost")
    enough: int = Field(description="how many answers it takes to judge that; of one sample alone, the least that tell")
    lost: float = Field(description="the share that is lost; below 0 where more were won against labels")
    low: Finite = Field(
        default=None,
        description="lower end of its 95 % interval (Wilson's; of other metrics by the jackknife); null on one sample",
    )
    high: Finite = Field(default=None, description="its upper end")


class TaskInfo(Part):
    """The task that the model was judged by."""

    name: str
    sure: bool = Field(description="whether the recipe says it, or several kinds of clue do")
    why: str
