"""One record of an engine's layer, whatever the TensorRT version, and what a build leaves."""

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
        name: the tensor's name in the engine.
        precision: fp32, fp16, bf16, fp8, int8, int4, fp4 or, for the rest, the type's own word (int32, int64, bool).
        format: TensorRT's words for the memory layout, empty where unknown.
        shape: the dimensions; -1 where dynamic.
    """

    name: str
    precision: str = ""
    format: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layer:
    """A layer of an engine, or of the typed network where no GPU can open the engine.

    Attributes:
        name: the layer's name, without the profile suffix.
        kind: TensorRT's layer type: CaskConvolution, Reformat, Myelin, CONVOLUTION, ...
        inputs: its input tensors.
        outputs: its output tensors.
        weights: the type of its weights, empty where it has none.
        tactic: the tactic's (kernel's) name.
        nodes: the ONNX nodes its metadata names.
        origin: for reformats: QDQ, REFORMAT or empty.
        profile: index of the optimization profile.
        stream: index of the stream, where the version reports it.
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
    """What a backend made.

    Attributes:
        backend: its name: tensorrt, tensorrt_rtx or none.
        version: the version of the TensorRT module.
        engine: the serialized engine, or None.
        layers: what is known of its layers.
        source: how they are known: inspector, network or none.
        raw: what the inspector (or the network walk) said, for layers.json.
        log: TensorRT's own warnings and errors.
        seconds: how long the build took.
        settings: what was asked of the builder, resolved.
        time_ms: layer name to {profile: milliseconds}, where measured.
        latency: {profile: {min|opt|max: milliseconds}}, where measured.
        lacks: profile to the error that kept its latency from being measured.
        unmarked: inner tensors that were to be marked, and that the network does not have.
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
        """The profiles whose latency at their opt shapes is not known, each with the error, if it is known.

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
    """What one ONNX node runs in.

    Attributes:
        precision: what it computes in, or None where unknown or not a float computation.
        input_types: types of its inputs in the engine.
        output_types: types of its outputs in the engine.
        source: how we know: inspector, tactic, weights, network or none.
        status: honoured, fused, removed, overridden, opaque or unknown.
        reason: why asked and actual differ, or where the node went; None where there is nothing to say.
        engine_layers: names of the engine layers that run it.
        opened: for an opaque node what an engine with marked inner tensors showed: precision, status, source,
            input_types, output_types, engine_layers, tactics, time_ms (profile to milliseconds) and, where that engine
            was run, values (see ``opaque_blocks.with_values``).
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
    """A build without its engine's bytes, as JSON."""
    content = asdict(build)
    content.pop("engine")
    content.pop("raw")
    return content


def build_from_json(content: dict[str, Any]) -> Build:
    """Read what ``build_to_json`` returned."""

    def port(entry: dict[str, Any]) -> Port:
        return Port(**{**entry, "shape": tuple(entry["shape"])})

    def layer(entry: dict[str, Any]) -> Layer:
        ports = {side: tuple(port(p) for p in entry[side]) for side in ("inputs", "outputs")}
        return Layer(**{**entry, **ports, "nodes": tuple(entry["nodes"])})

    return Build(**{**content, "layers": [layer(entry) for entry in content["layers"]]})
