"""Command lines of trtexec and Polygraphy that reproduce a run's build.

trtexec options are those of NVIDIA's samples/common/sampleOptions.cpp, 8.6.1, 10.0 and 11.1; Polygraphy options are
those listed by ``polygraphy convert --help`` of 0.53.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.backends.building import weak_network
from toolkit.backends.layers import network
from toolkit.base.errors import QtoolError
from toolkit.base.profiles import Extent, Profiles
from toolkit.base.text import literal_glob
from toolkit.base.versions import major

MODEL, ENGINE, CACHE, TIMING = "model.onnx", "model.engine", "calibration.cache", "engines.timing"
_PRECISIONS, _CONFIG = "precisions.py", "config.py"
_CALIBRATORS = {
    "entropy2": "IInt8EntropyCalibrator2", "entropy": "IInt8EntropyCalibrator", "minmax": "IInt8MinMaxCalibrator",
    "legacy": "IInt8LegacyCalibrator",
}  # fmt: skip


@dataclass(frozen=True)
class BuildOrder:
    """The build to reproduce.

    Attributes:
        backend: tensorrt or tensorrt_rtx.
        version: version of the backend; empty if nothing was built yet.
        settings: as used in the build: ``EngineSettings`` with ``typing``, ``rest`` and ``constraints``.
        profiles: the shape profiles.
        plan: per node, the type requested in a weakly typed network; see ``weak_network``.
        types: per node, the float type that this sets.
        kept: nodes whose output types are not set, since their outputs are outputs of the network.
        flags: the types allowed to a weakly typed builder: fp16, bf16, int8, fp8.
        amax: per tensor, for implicit quantization with ranges.
        calibrated: whether there is a calibration cache.
        timed: whether there is a timing cache.
        fixed: shapes of the inputs that are not dynamic, which no profile needs to name.
        attention: whether the model has Attention nodes, for each of which the parser creates an ``IAttention``.
    """

    backend: str
    version: str
    settings: Mapping[str, Any]
    profiles: Profiles
    plan: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()
    flags: Sequence[str] = ()
    amax: Mapping[str, float] = field(default_factory=dict)
    calibrated: bool = False
    timed: bool = False
    fixed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    attention: bool = False

    @property
    def weak(self) -> bool:
        """Whether the network is weakly typed."""
        return str(self.settings.get("typing")) == "weak"

    @property
    def implicit(self) -> bool:
        """Whether quantization is defined by ranges instead of Q/DQ pairs."""
        return str(self.settings.get("quantization")) == "implicit"

    @property
    def major(self) -> int:
        """The major version; 0 if unknown."""
        return major(self.version)


@dataclass(frozen=True)
class CommandLine:
    """A command and the scripts that it uses.

    Attributes:
        words: arguments of the command.
        environment: environment variables that it needs.
        scripts: Python scripts by file name.
        unsaid: nodes whose type the command cannot express.
    """

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    unsaid: list[str] = field(default_factory=list)


def trtexec(order: BuildOrder) -> CommandLine:
    """The trtexec command line.

    Raises:
        QtoolError: this version of trtexec cannot build the engine.
    """
    if order.backend == "tensorrt_rtx":
        raise QtoolError(
            "trtexec builds TensorRT's engines, and this run's backend is tensorrt_rtx",
            remedy="use --to polygraphy, or run the recipe with --backend tensorrt",
        )
    if len(order.profiles) > 1 and 0 < order.major < 9:
        raise QtoolError(
            f"trtexec of TensorRT {order.version} builds one profile, and this run has {len(order.profiles)}",
            remedy="use --to polygraphy, which takes several",
        )
    words = ["trtexec", f"--onnx={MODEL}", f"--saveEngine={ENGINE}", "--skipInference", *_trtexec_shapes(order)]
    unsaid: list[str] = []
    if order.weak:
        words += [f"--{word}" for word in order.flags]
        said, unsaid = _layer_types(order)
        words += said
        words += [f"--calib={CACHE}"] if order.calibrated else []
    elif order.major < 11:
        words.append("--stronglyTyped")
    words += _trtexec_settings(order.settings)
    words += [f"--timingCacheFile={TIMING}"] if order.timed else []
    words += ["--decomposableAttentions=*"] if order.attention else []
    return CommandLine(words, unsaid=unsaid)


def _trtexec_shapes(order: BuildOrder) -> Iterator[str]:
    for number, profile in enumerate(order.profiles):
        if len(order.profiles) > 1:
            yield f"--profile={number}"
        for which in ("min", "opt", "max"):
            shapes = (f"{_quoted(name)}:{_by_x(getattr(e, which))}" for name, e in profile.shapes.items())
            yield f"--{which}Shapes={','.join(shapes)}"


def _trtexec_settings(settings: Mapping[str, Any]) -> list[str]:
    """The options for the settings of ``[engine]`` that differ from TensorRT's defaults."""
    words = [] if settings.get("tf32", True) else ["--noTF32"]
    if settings.get("workspace"):
        words.append(f"--memPoolSize=workspace:{settings['workspace'] / (1 << 20):g}M")
    for key, option in (("optimization_level", "builderOptimizationLevel"), ("avg_timing_iterations", "avgTiming")):
        words += [f"--{option}={settings[key]}"] if settings.get(key) is not None else []
    if settings.get("tactic_sources") is not None:
        asked = {name.upper() for name in settings["tactic_sources"]}
        known = ("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
        words.append("--tacticSources=" + ",".join(f"{'+' if name in asked else '-'}{name}" for name in known))
    words += ["--refit"] if settings.get("refit") else []
    words += ["--sparsity=enable"] if settings.get("sparse_weights") else []
    words += ["--versionCompatible"] if settings.get("version_compatible") else []
    words += ["--hardwareCompatibilityLevel=ampere+"] if settings.get("hardware_compatible") else []
    return words


def polygraphy(order: BuildOrder) -> CommandLine:
    """The ``polygraphy convert`` command line, with scripts for settings that have no option."""
    rtx = order.backend == "tensorrt_rtx"
    words = ["polygraphy", "convert", MODEL, "--convert-to", "trt", "-o", ENGINE, *_polygraphy_shapes(order)]
    scripts: dict[str, str] = {}
    config: list[str] = []
    if order.weak:
        calibrates = order.calibrated and not order.amax
        # --int8 would calibrate with synthetic data
        words += [f"--{word}" for word in order.flags if word != "int8"]
        config += ["config.set_flag(trt.BuilderFlag.INT8)"] if "int8" in order.flags and not calibrates else []
        if order.settings.get("constraints"):
            words += ["--precision-constraints", str(order.settings["constraints"])]
        if order.plan or order.amax:
            scripts[_PRECISIONS] = _precisions(order)
            words += ["--trt-network-postprocess-script", _PRECISIONS]
        if calibrates:
            name = _CALIBRATORS.get(str(order.settings.get("calibrator")), _CALIBRATORS["entropy2"])
            words += ["--int8", "--calibration-cache", CACHE, "--calib-base-cls", name]
    else:
        words.append("--strongly-typed")
    words += _polygraphy_settings(order, rtx)
    if order.settings.get("avg_timing_iterations") is not None:
        config.append(f"config.avg_timing_iterations = {order.settings['avg_timing_iterations']}")
    if config:
        scripts[_CONFIG] = _config_script("tensorrt_rtx" if rtx else "tensorrt", config)
        words += ["--trt-config-postprocess-script", _CONFIG]
    return CommandLine(words, {"POLYGRAPHY_USE_TENSORRT_RTX": "1"} if rtx else {}, scripts)


def _polygraphy_shapes(order: BuildOrder) -> list[str]:
    words = []
    # Polygraphy adds fixed inputs itself, under their plain names, which as patterns may not match them
    fixed = {name: Extent(*[tuple(s)] * 3) for name, s in order.fixed.items() if literal_glob(name) != name}
    for profile in [one.shapes for one in order.profiles] or [{}]:
        named = {**profile, **{name: one for name, one in fixed.items() if name not in profile}}
        for which in ("min", "opt", "max"):
            shapes = [f"{literal_glob(name)}:[{','.join(map(str, getattr(e, which)))}]" for name, e in named.items()]
            words += [f"--trt-{which}-shapes", *shapes] if shapes else []
    return words


def _polygraphy_settings(order: BuildOrder, rtx: bool) -> list[str]:
    """Options for settings that do not depend on the typing."""
    settings = order.settings
    words = ["--tf32"] if settings.get("tf32", True) and not rtx else []
    words += ["--decomposable-attentions"] if order.attention else []
    words += ["--pool-limit", f"workspace:{settings['workspace']}"] if settings.get("workspace") else []
    if settings.get("optimization_level") is not None:
        words += ["--builder-optimization-level", str(settings["optimization_level"])]
    if settings.get("tactic_sources") is not None:
        words += ["--tactic-sources", *settings["tactic_sources"]]
    for key, option in (
        ("refit", "refittable"), ("sparse_weights", "sparse-weights"), ("version_compatible", "version-compatible")
    ):  # fmt: skip
        words += [f"--{option}"] if settings.get(key) else []
    if settings.get("hardware_compatible") and not rtx:
        words += ["--hardware-compatibility-level", "ampere_plus"]
    if rtx and settings.get("compute_capabilities"):
        words += ["--compute-capabilities", *settings["compute_capabilities"]]
    return words + (["--load-timing-cache", TIMING, "--save-timing-cache", TIMING] if order.timed else [])


def _by_x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _quoted(name: str) -> str:
    """A tensor's name for trtexec: quoted if it contains a colon."""
    return f"'{name}'" if ":" in name else name


def _layer_types(order: BuildOrder) -> tuple[list[str], list[str]]:
    """The options for layer types, and the nodes whose names trtexec would misparse."""
    # trtexec splits at commas, and treats quotation marks and asterisks specially
    unsaid = [name for name in order.types if re.search(r"[,'*]", name)]
    types = {name: word for name, word in order.types.items() if name not in unsaid}
    if not types:
        return [], unsaid
    words = [f"--precisionConstraints={order.settings.get('constraints') or 'obey'}"]
    for option, nodes in (
        ("layerPrecisions", types),
        ("layerOutputTypes", {name: word for name, word in types.items() if name not in order.kept}),
    ):
        words += [f"--{option}=" + ",".join(f"{name}:{word}" for name, word in nodes.items())] if nodes else []
    return words, unsaid


def _precisions(order: BuildOrder) -> str:
    """A script that configures a network like the run does, with the run's own functions."""
    own = inspect.getsource(weak_network)
    needed = (
        f"BRANCH = re.compile({network.BRANCH.pattern!r})\n"
        f"ONNX_LAYER = re.compile({network.ONNX_LAYER.pattern!r}, re.DOTALL)\n\n\n"
        + inspect.getsource(network.metadata_nodes)
    )
    # replaces the module's only import from qtool
    own = own.replace("from toolkit.backends.layers.network import metadata_nodes\n", f"import re\n\n{needed}")
    ranges = "    set_ranges(trt, network, AMAX)\n" if order.amax else ""
    return (
        f"{own}\n\nPLAN = {json.dumps(dict(order.plan), indent=1)}\n"
        f"AMAX = {json.dumps(dict(order.amax), indent=1)}\n\n\n"
        "def postprocess(network):\n"
        '    """Called by polygraphy convert."""\n'
        "    import tensorrt as trt\n\n"
        f"    set_precisions(trt, network, PLAN, {order.settings.get('rest', 'fp16')!r}, {order.implicit!r})\n{ranges}"
    )


def _config_script(module: str, lines: Sequence[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return (
        '"""Builder settings that polygraphy convert has no options for."""\n\n'
        f"import {module} as trt\n\n\ndef postprocess_config(builder, network, config):\n{body}"
    )
