"""Measurements of the engine on the GPU: accuracy, latency, and the time of layers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolkit.base.precision import Precision
from toolkit.report.schema.accuracy import Accuracy, Part

Paid = Literal["faster", "even", "slower"]


class DeviceInfo(Part):
    """The engine, run on this machine's GPU, compared with the source model in float in onnxruntime.

    ``accuracy`` is over all profiles, with a sample counted once per profile that it ran in; ``profiles`` has the
    figures of each profile. Both are empty if nothing ran; ``why`` is the reason, or what failed.
    """

    status: Literal["ran", "failed", "skipped"]
    why: str = ""
    gpu: str = ""
    samples: int = Field(default=0, description="samples that ran, each counted once")
    left_out: int = Field(default=0, description="how often a sample did not fit the shapes of a profile")
    accuracy: Accuracy | None = None
    profiles: dict[str, Accuracy] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class Overhead(Part):
    """The time in one profile spent in conversions, in milliseconds summed over its layers.

    Q/DQ kernels are pairs that did not fuse; reformats change layout or type between two layers.
    """

    layers_ms: float
    reformat_ms: float = 0.0
    qdq_ms: float = 0.0
    reformats: int = 0
    qdq_kernels: int = 0

    @property
    def share(self) -> float:
        """The share of the layers' time that reformats and Q/DQ kernels take."""
        return (self.reformat_ms + self.qdq_ms) / self.layers_ms if self.layers_ms > 0 else 0.0


class Latencies(Part):
    """Median milliseconds of one inference at a profile's opt shapes, of this engine and of the other.

    If both were measured in turn, the median of all turns.
    """

    ours_ms: float
    other_ms: float
    ratio: float = Field(description="this engine's latency divided by the other's; above 1 is slower")
    noise: float = Field(0.02, description="largest difference, as a share of the other's latency, that counts as none")
    turns: int = Field(0, description="number of turns; 0 if each engine was measured once, after its build")
    paid: Paid


class GroupTime(Part):
    """One group's time in one profile in milliseconds, including the reformats and Q/DQ kernels around it."""

    ours_ms: float
    other_ms: float
    reformat_ms: float = 0.0
    qdq_ms: float = 0.0

    @property
    def gain_ms(self) -> float:
        """What the group saves; negative if it costs time."""
        return self.other_ms - self.ours_ms


class PayoffGroup(Part):
    """Nodes whose times cannot be separated, since kernels of either engine run several of them at once."""

    name: str = Field(description="the node with the most work")
    nodes: list[str]
    quantized: list[str] = Field(default_factory=list, description="nodes that are requested to run quantized, or do")
    precision: Precision | None = Field(default=None, description="actual precision of this node")
    times: dict[str, GroupTime] = Field(default_factory=dict, description="by profile")
    paid: Paid | None = Field(default=None, description="null if it has no quantized node")
    why: str = Field(default="", description="why it is not faster, in profile ``worst``")
    worst: str = Field(default="", description="the profile in which it costs most or gains least")


class Payoff(Part):
    """This engine compared with one of the unquantized model.

    ``groups`` are those with a time in either engine, the largest cost first. ``rest`` is the time of layers that
    belong to no node; groups and rest add up to the time of all layers of each engine.
    """

    alike: bool = Field(False, description="whether both are builds of one network: no layer is in another precision")
    profiles: dict[str, Latencies] = Field(default_factory=dict)
    groups: list[PayoffGroup] = Field(default_factory=list)
    rest: dict[str, GroupTime] = Field(default_factory=dict)


class PayoffInfo(Part):
    """How the engine spends its time, and whether quantizing paid off."""

    overhead: dict[str, Overhead] = Field(default_factory=dict, description="by profile")
    against: dict[str, Payoff] = Field(default_factory=dict, description="by the other engine's precision")
