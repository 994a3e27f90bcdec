"""The tables of a recipe, each a class whose fields are its keys."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolkit.backends.base import EngineChoices
from toolkit.base.given import nameless
from toolkit.run.objects import Named

FloatName = Literal["fp32", "fp16", "bf16"]
SHARES = ("top1", "top5", "exact")
"""The metrics whose values lie between 0 and 1."""


class Section(BaseModel):
    """A table of the recipe; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")

    def as_key(self, **which: Any) -> dict[str, Any]:
        """The settings as a part of a step's key; ``which`` as in pydantic's ``model_dump``."""
        settings: dict[str, Any] = nameless(self.model_dump(mode="json", **which))
        return settings


class ModelSection(Section):
    """``[model]``."""

    path: Named = Field(description="the ONNX file, relative to the recipe")


class ProfileSection(Section):
    """``[[profile]]``."""

    name: str = Field(description="the profile's name")
    shapes: dict[str, dict[Literal["min", "opt", "max"], list[int]]] = Field(
        description="for each dynamic input its min, opt and max shape"
    )


class RandomSection(Section):
    """``[calibration] random``: made-up data, which the report marks in red."""

    seed: int
    samples: int = Field(32, gt=0)


class ImagesSection(Section):
    """``[calibration] images``: how a folder of images becomes samples."""

    size: list[int] | None = Field(None, description="height and width")
    resize: int | None = Field(None, gt=0, description="scale the shorter side to this before a center crop")
    crop: Literal["center", "none", "pad"] = Field(
        "center", description="center: cut to size; none: stretch to size; pad: fit inside and fill up"
    )
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: list[float] = []
    std: list[float] = []
    colour: Literal["rgb", "bgr", "gray"] = "rgb"
    scale: float | None = Field(
        None, description="multiplies pixel values (0 to 255) before mean and std; default 1/255, 1 for integer inputs"
    )


class CalibrationSection(Section):
    """``[calibration]``."""

    data: Named | None = Field(None, description="a .npz, a folder, a Polygraphy JSON, or module:Name")
    method: Literal["minmax", "entropy", "percentile", "mse"] = Field("entropy", description="how amax is chosen")
    percentile: float = Field(99.99, gt=50, le=100, description="for method percentile")
    methods: dict[str, Literal["minmax", "entropy", "percentile", "mse"]] = Field(
        {}, description="method by glob over tensor names"
    )
    outside: Literal["error", "skip", "pad", "crop"] = Field(
        "error", description="what to do with a sample that fits no profile"
    )
    batch: int = Field(8, gt=0, description="samples to run at once")
    samples: int | None = Field(None, gt=0, description="use at most this many samples, spread over the data")
    device: Literal["cpu", "gpu"] = Field(
        "cpu", description="where statistics are made: onnxruntime on the CPU, or a TensorRT engine on the first GPU"
    )
    memory: str | None = Field(None, description="bound for tapped tensors, such as 2GB")
    mask: str | None = Field(None, description="the mask input, where unlike lengths are to be padded together")
    random: RandomSection | None = Field(None, description="random data instead of real data")
    images: ImagesSection | None = Field(None, description="how images become samples")
    collection: str | None = Field(
        None, description="statistics that `qtool calibrate` and `qtool merge` wrote, instead of running the model"
    )
    ranges: str | None = Field(None, description="a file of ranges to take: ranges.json, a TensorRT cache, a table")
    ranges_use: Literal["override", "fill"] = Field("override", description="whether given ranges win over calibration")
    manual: dict[str, float] = Field({}, description="amax by tensor name, set by hand; wins over everything")
    weights: dict[str, float] = Field({}, description="weight of each profile's samples")
    unlike: float = Field(2.0, gt=1, description="ratio of ranges between profiles from which a tensor is named")


class BudgetSection(Section):
    """``[evaluation] budget``: what must hold, else the exit status is 1."""

    max_drop: float | None = Field(None, ge=0, description="largest drop of the metric; of top1, 0.02 is 2 points")
    min_value: float | None = Field(None, description="smallest value of the metric")
    min_sqnr_db: float | None = Field(None, description="smallest SQNR of every output, in dB")
    min_agreement: float | None = Field(None, ge=0, le=1, description="smallest top-1 agreement, 0 to 1")


class EvaluationSection(Section):
    """``[evaluation]``."""

    data: Named | None = Field(None, description="test data with labels; without it calibration samples are held back")
    metric: Named | None = Field(None, description="top1, top5, exact, mse, or module:Name")
    output: str | None = Field(None, description="the output the metric looks at; the first by default")
    budget: BudgetSection = Field(default_factory=BudgetSection)
    hold_out: float = Field(
        0.2, gt=0, lt=1, description="share of calibration samples held back where there is no data"
    )
    batch: int = Field(32, gt=0, description="samples to run at once")
    samples: int | None = Field(None, gt=0, description="use at most this many samples")
    layer_samples: int = Field(64, gt=0, description="samples for the error of every layer")


class EngineSection(EngineChoices, Section):
    """``[engine]``."""

    backend: Literal["auto", "tensorrt", "tensorrt_rtx", "none"] = "auto"
    rest: FloatName = Field("fp16", description="precision of all that nobody asked about")
    io: dict[str, FloatName] = Field({}, description="inputs and outputs whose type shall change")
    calibration_profile: str | None = Field(
        None, description="the profile that TensorRT's own calibrators run at; the first where not given"
    )
    workspace_mb: int | None = Field(None, gt=0, description="workspace limit in megabytes")
    timing_cache: str | None = Field(None, description="file kept between builds")
    open: bool = Field(
        False, description="build opaque blocks once more with their inner tensors marked, to see what they can run in"
    )
    compare: list[FloatName] = Field([], description="also build the model in these precisions, to compare")


class ReportSection(Section):
    """``[report]``."""

    formats: list[Literal["html", "json"]] = ["html", "json"]
