"""The tables of a recipe, each as a class whose fields are its keys."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from toolkit.backends.backend import EngineChoices
from toolkit.base.cluster import ADDRESS
from toolkit.base.settings import ByteSize, Count, Decibels, PathText, byte_size, path_text
from toolkit.calibration.amax import DEFAULT
from toolkit.contract.ranges import LARGEST, SMALLEST
from toolkit.evaluation.metrics.table import METRICS, is_share
from toolkit.run.recipe.objects import Named

TaskName = Literal[
    "classification", "sequence", "ctc", "detection", "segmentation", "embedding", "regression", "generation"
]  # fmt: skip
FloatName = Literal["fp32", "fp16", "bf16"]
SHARES = tuple(name for name in METRICS if is_share(name))
"""The metrics with values between 0 and 1."""


def _within_float32(amax: float) -> float:
    if not SMALLEST <= amax <= LARGEST:
        raise ValueError(f"amax is the largest magnitude kept: between {SMALLEST:g} and {LARGEST:.2g}")
    return amax


_PLACES = rf"here|ray|{ADDRESS}"


def _where_work_is_done(on: str) -> str:
    if not re.fullmatch(_PLACES, on):
        raise ValueError("expected here, ray or ray://host:port")
    return on


_Side = Annotated[int, Field(gt=0, le=1 << 16)]
_Pixel = Annotated[float, Field(ge=-1e6, le=1e6)]
_Size = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Amax = Annotated[float, AfterValidator(_within_float32)]
_Source = Annotated[Named, AfterValidator(path_text)]


class Section(BaseModel):
    """A table of the recipe; unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    def as_key(self, **which: Any) -> dict[str, Any]:
        """The settings as part of a step's key; ``which`` are arguments of pydantic's ``model_dump``."""
        return self.model_dump(mode="json", **which)


class ModelSection(Section):
    """``[model]``."""

    path: _Source = Field(description="the ONNX file, relative to the recipe")


class ProfileSection(Section):
    """``[[profile]]``."""

    name: str = Field(min_length=1, description="the profile's name")
    shapes: dict[str, dict[Literal["min", "opt", "max"], list[_Size]]] = Field(
        description="min, opt and max shape of each dynamic input"
    )


class RandomSection(Section):
    """``[calibration] random``: random samples, which the report marks in red."""

    seed: int = Field(ge=0, le=2**63 - 1)
    samples: int = Field(32, gt=0, le=1_000_000)


class ImagesSection(Section):
    """``[calibration] images``: how a folder of images becomes samples."""

    size: list[_Side] | None = Field(None, description="height and width")
    resize: _Side | None = Field(None, description="scale the shorter side to this before a center crop")
    crop: Literal["center", "none", "pad"] = Field(
        "center", description="center: crop to size; none: stretch to size; pad: scale to fit, and pad"
    )
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: list[_Pixel] = []
    std: list[Annotated[float, Field(gt=0, le=1e6)]] = []
    colour: Literal["rgb", "bgr", "gray"] = "rgb"
    scale: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="factor for pixel values (0 to 255) before mean and std; default 1/255, for integer inputs 1",
    )


class CalibrationSection(Section):
    """``[calibration]``."""

    data: _Source | None = Field(None, description="a .npz, a folder, a Polygraphy JSON, or module:Name")
    method: Literal["minmax", "entropy", "percentile", "mse"] = Field(DEFAULT, description="how amax is chosen")
    percentile: float = Field(99.99, gt=50, le=100, description="for method percentile, which a search tries too")
    methods: dict[str, Literal["minmax", "entropy", "percentile", "mse"]] = Field(
        {}, description="methods for single tensors, by glob over their names"
    )
    outside: Literal["error", "skip", "pad", "crop"] = Field(
        "error", description="what to do with a sample that fits no profile"
    )
    batch: Count = Field(8, description="samples to run at once")
    samples: Count | None = Field(None, description="use at most this many samples, evenly spread over the data")
    device: Literal["cpu", "gpu"] = Field(
        "cpu", description="what computes the statistics: onnxruntime on the CPU, or a TensorRT engine on the first GPU"
    )
    memory: ByteSize | None = Field(None, description="memory limit for observed tensors, such as 2GB")
    mask: str | None = Field(None, description="the mask input, to batch samples of different lengths by padding")
    random: RandomSection | None = Field(None, description="random data instead of real data")
    images: ImagesSection | None = Field(None, description="how images become samples")
    collection: PathText | None = Field(
        None, description="statistics written by `qtool calibrate` or `qtool merge`, used instead of running the model"
    )
    ranges: PathText | None = Field(None, description="a file of ranges to use: ranges.json, a TensorRT cache, a table")
    ranges_use: Literal["override", "fill"] = Field("override", description="override calibration, or fill its gaps")
    manual: dict[str, _Amax] = Field({}, description="amax by tensor name; overrides everything")
    weights: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(
        {}, description="weight of each profile's samples"
    )
    unlike: float = Field(
        2.0, gt=1, le=1e6, description="report tensors whose range differs between profiles by this factor or more"
    )


class BudgetSection(Section):
    """``[evaluation] budget``: limits on the result; if one is missed, the exit status is 1."""

    max_drop: float | None = Field(
        None, ge=0, le=1e12, description="largest drop of the metric; of top1, 0.02 is 2 points"
    )
    min_value: float | None = Field(None, ge=-1e12, le=1e12, description="smallest value of the metric")
    min_sqnr_db: Decibels | None = Field(None, description="smallest SQNR of every output, in dB")
    min_agreement: float | None = Field(None, ge=0, le=1, description="smallest top-1 agreement, 0 to 1")
    max_relative_drop: float | None = Field(
        None, ge=0, le=1e6, description="largest drop of the metric as a share of the float model's value"
    )
    min_unchanged: float | None = Field(
        None, ge=0, le=1, description="smallest share of unchanged answers; default: the task's"
    )
    min_cosine: float | None = Field(
        None, ge=-1, le=1, description="smallest cosine at which an embedding counts as unchanged; default 0.99"
    )
    min_iou: float | None = Field(
        None, ge=0, le=1, description="smallest IoU at which a mask counts as unchanged; default 0.95"
    )
    min_matched: float | None = Field(
        None, ge=0, le=1, description="smallest share of matched detections, or key points, at which a sample "
        "counts as unchanged; default 0.98",
    )  # fmt: skip
    min_psnr_db: Decibels | None = Field(
        None, description="smallest PSNR at which an image counts as unchanged, in dB; default 30"
    )
    min_snr_db: Decibels | None = Field(
        None, description="smallest SNR at which a signal or map counts as unchanged, in dB; default 20"
    )

    @property
    def floors(self) -> dict[str, float]:
        """The given thresholds above which an answer counts as unchanged."""
        names = ("min_cosine", "min_iou", "min_matched", "min_psnr_db", "min_snr_db")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class EvaluationSection(Section):
    """``[evaluation]``."""

    data: _Source | None = Field(None, description="test data with labels; without it calibration samples are held out")
    task: TaskName | None = Field(None, description="what the model is for; if not given it is guessed, and reported")
    metric: Named | None = Field(None, description="a metric listed by `qtool metrics`, or module:Name")
    output: str | None = Field(None, description="the output that the metric reads; default: the first")
    blank: int | None = Field(None, ge=0, le=10_000_000, description="CTC's blank class; guessed if not given")
    space: int | None = Field(None, ge=0, le=10_000_000, description="the class that separates words, for metric wer")
    threshold: float | None = Field(
        None, ge=-1e9, le=1e9, description="smallest score at which a label, mask or detection counts; default: guessed"
    )
    budget: BudgetSection = Field(default_factory=BudgetSection)
    hold_out: float = Field(0.2, gt=0, lt=1, description="share of calibration samples held out if there is no data")
    batch: Count = Field(8, description="samples to run at once")
    samples: Count | None = Field(None, description="use at most this many samples, evenly spread over the data")
    layer_samples: Count | None = Field(
        None,
        description="samples for measuring each layer's error; default: up to 64, as time allows",
    )


class EngineSection(EngineChoices, Section):
    """``[engine]``."""

    backend: Literal["auto", "tensorrt", "tensorrt_rtx", "none"] = "auto"
    rest: FloatName = Field(
        "fp16",
        description="precision of all other nodes; in models with 16-bit layers, nodes keep their types",
    )
    io: dict[str, FloatName] = Field({}, description="inputs and outputs whose type is to change")
    calibration_profile: str | None = Field(
        None, description="the profile for TensorRT's own calibrators; default: the first"
    )
    workspace_mb: int | None = Field(None, gt=0, le=1 << 24, description="workspace limit in megabytes")
    timing_cache: PathText | None = Field(None, description="file kept between builds")
    open: bool = Field(
        False, description="rebuild opaque blocks with inner tensors marked, to see in which precisions they can run"
    )
    compare: list[FloatName] = Field([], description="also build the model in these precisions, for comparison")


class ReportSection(Section):
    """``[report]``."""

    formats: list[Literal["html", "json"]] = ["html", "json"]
    gpu: str = Field(
        "", description="predict the time on this GPU from its datasheet, such as L4; default: a search's own gpu"
    )


class RunSection(Section):
    """``[run]``: where the work is done; this changes no results, except last bits of models that run in parts."""

    on: Annotated[str, AfterValidator(_where_work_is_done)] = Field(
        "here",
        json_schema_extra={"pattern": f"^({_PLACES})$"},
        description="here; ray: the Ray cluster at RAY_ADDRESS, or one on this machine; or ray://host:port",
    )
    memory: ByteSize | None = Field(
        None, description="memory limit of each computing process, such as 4GB; larger models run in parts"
    )

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit of each computing process, in bytes."""
        return byte_size(self.memory) if self.memory is not None else None
