"""The model in the report: its size, its tensors, and its shape profiles."""

from __future__ import annotations

from pydantic import Field

from toolkit.report.schema.part import Part


class TensorInfo(Part):
    """A tensor; dynamic dimensions are given as their name or null."""

    name: str
    dtype: str = ""
    shape: list[int | str | None] | None = None


class ModelInfo(Part):
    """The float model that the recipe started from."""

    path: str = ""
    name: str = ""
    fingerprint: str = Field(default="", description="SHA-256 over graph and weights")
    opset: int
    nodes: int
    parameters: int = Field(description="elements of all constants")
    bytes: int | None = Field(default=None, description="bytes of all constants")
    macs: int | None = Field(default=None, description="multiply-accumulates at the first profile's opt shapes")
    inputs: list[TensorInfo] = Field(default_factory=list)
    outputs: list[TensorInfo] = Field(default_factory=list)


class ShapeRange(Part):
    """The shapes of one input within one profile."""

    min: list[int]
    opt: list[int]
    max: list[int]


class ProfileInfo(Part):
    """A shape profile and its number of calibration samples (null if nothing was calibrated)."""

    name: str
    shapes: dict[str, ShapeRange] = Field(default_factory=dict)
    samples: int | None = None
