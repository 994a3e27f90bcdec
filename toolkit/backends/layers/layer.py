"""Records of an engine's layer, for any TensorRT version, and of a build."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.contract.findings import Finding


@dataclass(frozen=True)
class Port:
    """An input or output tensor of a layer.

    Attributes:
        name: name of the tensor in the engine.
        precision: fp32, fp16, bf16, fp8, int8, int4, fp4, or the name of another type (int32, int64, bool).
        format: TensorRT's description of the memory layout; empty if unknown.
        shape: the dimensions; -1 if dynamic.
    """

    name: str
    precision: str = ""
    format: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layer:
    """A layer of an engine, or of the typed network if no GPU can open the engine.

    Attributes:
        name: name of the layer, without the profile suffix.
        kind: TensorRT's layer type: CaskConvolution, Reformat, Myelin, CONVOLUTION, ...
        inputs: its input tensors.
        outputs: its output tensors.
        weights: type of its weights; empty if it has none.
        tactic: name of the tactic (kernel).
        nodes: the ONNX nodes named in its metadata.
        origin: for reformats: QDQ, REFORMAT or empty.
        profile: index of the optimization profile.
        stream: index of the stream, if the version reports it.
    """

    name: str
    kind: str = ""
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    weights: str = ""
    tactic: str = ""
    nodes: tuple[str, ...] = ()
    origin: str = ""
    profile: int = 0
    stream: int = 0


@dataclass
class Build:
    """The result of a backend's build.

    Attributes:
        backend: name of the backend: tensorrt, tensorrt_rtx or none.
        version: the version of the TensorRT module.
        engine: the serialized engine, or None.
        layers: what is known about its layers.
        source: where the layers come from: inspector, network or none.
        raw: output of the inspector, or the record of the network, for layers.json.
        log: TensorRT's own warnings and errors.
        seconds: duration of the build.
        settings: the builder's settings, resolved.
        time_ms: layer name to {profile: milliseconds}, if measured.
        latency: {profile: {min|opt|max: milliseconds}}, if measured.
        lacks: per profile whose latency could not be measured, the error.
        unmarked: inner tensors that were to be marked but are not in the network.
    """

    backend: str
    version: str = ""
    engine: bytes | None = None
    layers: list[Layer] = field(default_factory=list)
    source: str = "none"
    raw: Any = None
    log: list[str] = field(default_factory=list)
    seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    time_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)
    unmarked: list[str] = field(default_factory=list)

    def unmeasured(self, profiles: Profiles) -> dict[str, str]:
        """The profiles without a measured latency at their opt shapes, each with the error if known.

        Args:
            profiles: the profiles that it was built with.
        """
        return {
            name: self.lacks.get(name, "")
            for name in profiles.names or ["default"]
            if "opt" not in self.latency.get(name, {})
        }


@dataclass(frozen=True)
class Actual:
    """The precision that one ONNX node runs in.

    Attributes:
        precision: the precision that it computes in; None if unknown or not a float computation.
        input_types: types of its inputs in the engine.
        output_types: types of its outputs in the engine.
        source: how this is known: inspector, tactic, weights, values, network or none.
        status: honoured, fused, removed, overridden, opaque or unknown.
        reason: why requested and actual precision differ, or where the node went; None if there is nothing to say.
        engine_layers: names of the engine layers that run the node.
        opened: for an opaque node, the evidence from an engine with marked inner tensors: precision, status, source,
            input_types, output_types, engine_layers, tactics, time_ms (profile to milliseconds) and, if that engine was
            run, values (see ``opaque_blocks.with_values``).
    """

    precision: Precision | None
    input_types: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()
    source: str = "none"
    status: str = "unknown"
    reason: Finding | None = None
    engine_layers: tuple[str, ...] = ()
    opened: dict[str, Any] | None = None


def build_to_json(build: Build) -> dict[str, Any]:
    """A build as JSON, without the bytes of its engine."""
    content = asdict(build)
    content.pop("engine")
    content.pop("raw")
    return content


def build_from_json(content: dict[str, Any]) -> Build:
    """The build that ``build_to_json`` converted."""

    def port(entry: dict[str, Any]) -> Port:
        return Port(**{**entry, "shape": tuple(entry["shape"])})

    def layer(entry: dict[str, Any]) -> Layer:
        ports = {side: tuple(port(p) for p in entry[side]) for side in ("inputs", "outputs")}
        return Layer(**{**entry, **ports, "nodes": tuple(entry["nodes"])})

    return Build(**{**content, "layers": [layer(entry) for entry in content["layers"]]})
