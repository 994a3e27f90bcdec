"""Build instructions in flags of trtexec and Polygraphy and in Python scripts, with their equivalents in a recipe.

The flags are those of TensorRT 8.6 to 11.1 (samples/common/sampleOptions.cpp) and Polygraphy 0.49 to 0.53 (tools/args).
A test compares Polygraphy's flags with its own parsers, and the README's table with this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role
from toolkit.report.migrate_codes import MigrateCode

Takes = Literal["nothing", "value", "values", "maybe"]
"""The arguments of a flag: none, one value, one or more, or an optional one."""


class Term(str, Enum):
    """The subject of a build instruction, independent of the tool."""

    MODEL = "model"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"
    INT4 = "int4"
    BEST = "best"
    CACHE = "cache"
    CALIBRATOR = "calibrator"
    QUANTILE = "quantile"
    INPUTS = "inputs"
    LOADER = "loader"
    RANGE = "range"
    LAYERS = "layers"
    OPS = "ops"
    TYPES = "types"
    OBEY = "obey"
    INPUT_IO = "input-io"
    OUTPUT_IO = "output-io"
    TENSOR_IO = "tensor-io"
    PROFILE = "profile"
    MIN = "min"
    OPT = "opt"
    MAX = "max"
    SHAPES = "shapes"
    WORKSPACE = "workspace"
    TIMES = "times"
    LEVEL = "level"
    TIMING_CACHE = "timing-cache"
    TACTICS = "tactics"
    SPARSE = "sparse"
    REFIT = "refit"
    VERSIONS = "versions"
    HARDWARE = "hardware"
    BACKEND = "backend"
    GPUS = "gpus"
    STRONG = "strong"
    BATCH = "batch"
    ENGINE_OUT = "engine-out"
    MEASURING = "measuring"
    PRINTING = "printing"
    ENGINE_IN = "engine-in"
    NO_TF32 = "no-tf32"
    TF32 = "tf32"
    DECOMPOSED = "decomposed"
    DLA = "dla"
    PLUGINS = "plugins"
    OUTPUTS = "outputs"
    REMOVED = "removed"
    OLD_FORMATS = "old-formats"
    UNSET = "unset"
    OTHER_FRAMEWORK = "other-framework"


@dataclass(frozen=True)
class TermOutcome:
    """The outcome of instructions with a term.

    Attributes:
        becomes: the equivalent in the recipe, with passes by role; empty if there is none.
        why: why there is none.
        lost: whether the engine differs without the instruction.
    """

    becomes: str = ""
    why: MigrateCode | None = None
    lost: bool = False

    @property
    def words(self) -> str:
        """``becomes`` with the names of the installed passes."""
        roles = {"quantize": Role.QUANTIZE, "keep": Role.KEEP, "guard": Role.GUARD}
        return self.becomes.format(**{name: pass_name(role) for name, role in roles.items()})


OUTCOMES: dict[Term, TermOutcome] = {
    Term.MODEL: TermOutcome("[model] path"),
    Term.FP16: TermOutcome('[engine] rest = "fp16", and {guard} if ranges are known'),
    Term.BF16: TermOutcome('[engine] rest = "bf16"'),
    Term.INT8: TermOutcome("{quantize}"),
    Term.FP8: TermOutcome('{quantize} dtype = "fp8"'),
    Term.INT4: TermOutcome(why=MigrateCode.INT4_BY_PAIRS, lost=True),
    Term.BEST: TermOutcome('[engine] rest = "fp16", {quantize}'),
    Term.CACHE: TermOutcome("[calibration] ranges"),
    Term.CALIBRATOR: TermOutcome("[calibration] method"),
    Term.QUANTILE: TermOutcome("[calibration] percentile"),
    Term.INPUTS: TermOutcome("[calibration] data"),
    Term.LOADER: TermOutcome('[calibration] data = "module:Name"'),
    Term.RANGE: TermOutcome("[calibration] ranges"),
    Term.LAYERS: TermOutcome("{keep}; {quantize} for int8"),
    Term.OPS: TermOutcome("{keep} ops"),
    Term.TYPES: TermOutcome("{keep}, unless the layer's precision is set"),
    Term.OBEY: TermOutcome("[engine] constraints, if nothing is quantized; types in the graph always hold"),
    Term.INPUT_IO: TermOutcome("[engine] io"),
    Term.OUTPUT_IO: TermOutcome("[engine] io"),
    Term.TENSOR_IO: TermOutcome("[engine] io"),
    Term.PROFILE: TermOutcome("[[profile]]"),
    Term.MIN: TermOutcome("[[profile]] shapes.INPUT.min"),
    Term.OPT: TermOutcome("[[profile]] shapes.INPUT.opt"),
    Term.MAX: TermOutcome("[[profile]] shapes.INPUT.max"),
    Term.SHAPES: TermOutcome("[[profile]] shapes, if no others are given"),
    Term.WORKSPACE: TermOutcome("[engine] workspace_mb"),
    Term.TIMES: TermOutcome("[engine] avg_timing_iterations"),
    Term.LEVEL: TermOutcome("[engine] optimization_level"),
    Term.TIMING_CACHE: TermOutcome("[engine] timing_cache"),
    Term.TACTICS: TermOutcome("[engine] tactic_sources"),
    Term.SPARSE: TermOutcome("[engine] sparse_weights"),
    Term.REFIT: TermOutcome("[engine] refit"),
    Term.VERSIONS: TermOutcome("[engine] version_compatible"),
    Term.HARDWARE: TermOutcome("[engine] hardware_compatible"),
    Term.BACKEND: TermOutcome('[engine] backend = "tensorrt_rtx"'),
    Term.GPUS: TermOutcome("[engine] compute_capabilities"),
    Term.STRONG: TermOutcome('[engine] rest = "fp32"'),
    Term.BATCH: TermOutcome(why=MigrateCode.ALWAYS_EXPLICIT_BATCH),
    Term.ENGINE_OUT: TermOutcome(why=MigrateCode.ENGINE_IN_FOLDER),
    Term.TF32: TermOutcome(why=MigrateCode.TF32_IS_ON),
    Term.DECOMPOSED: TermOutcome(why=MigrateCode.ATTENTION_DECOMPOSES),
    Term.MEASURING: TermOutcome(why=MigrateCode.ABOUT_RUNNING),
    Term.PRINTING: TermOutcome(why=MigrateCode.ABOUT_PRINTING),
    Term.ENGINE_IN: TermOutcome(why=MigrateCode.ENGINE_CANNOT_MIGRATE, lost=True),
    Term.NO_TF32: TermOutcome(why=MigrateCode.TF32_STAYS, lost=True),
    Term.DLA: TermOutcome(why=MigrateCode.NO_DLA, lost=True),
    Term.PLUGINS: TermOutcome(why=MigrateCode.NO_PLUGIN_LIBRARIES, lost=True),
    Term.OUTPUTS: TermOutcome(why=MigrateCode.OUTPUTS_OF_MODEL, lost=True),
    Term.REMOVED: TermOutcome(why=MigrateCode.REMOVED_IN_11),
    Term.OLD_FORMATS: TermOutcome(why=MigrateCode.NOT_ONNX_MODEL, lost=True),
    Term.UNSET: TermOutcome(why=MigrateCode.NO_SETTING, lost=True),
    Term.OTHER_FRAMEWORK: TermOutcome(why=MigrateCode.ABOUT_OTHER_FRAMEWORK),
}


@dataclass(frozen=True)
class Flag:
    """A flag of a tool: its term, its arguments, and the value that it implies without any."""

    term: Term
    takes: Takes = "value"
    means: str = ""


def _flags(term: Term, takes: Takes, names: str, means: str = "") -> Iterator[tuple[str, Flag]]:
    for name in names.split():
        yield f"--{name}", Flag(term, takes, means)


TRTEXEC: dict[str, Flag] = dict(
    [
        *_flags(Term.MODEL, "value", "onnx"),
        *_flags(Term.FP16, "nothing", "fp16"),
        *_flags(Term.BF16, "nothing", "bf16"),
        *_flags(Term.INT8, "nothing", "int8"),
        *_flags(Term.FP8, "nothing", "fp8"),
        *_flags(Term.INT4, "nothing", "int4"),
        *_flags(Term.BEST, "nothing", "best"),
        *_flags(Term.CACHE, "value", "calib"),
        *_flags(Term.LAYERS, "value", "layerPrecisions"),
        *_flags(Term.TYPES, "value", "layerOutputTypes"),
        *_flags(Term.OBEY, "value", "precisionConstraints"),
        *_flags(Term.OBEY, "nothing", "strictTypes", "obey"),
        *_flags(Term.INPUT_IO, "value", "inputIOFormats"),
        *_flags(Term.OUTPUT_IO, "value", "outputIOFormats"),
        *_flags(Term.PROFILE, "value", "profile"),
        *_flags(Term.MIN, "value", "minShapes"),
        *_flags(Term.OPT, "value", "optShapes"),
        *_flags(Term.MAX, "value", "maxShapes"),
        *_flags(Term.SHAPES, "value", "shapes"),
        *_flags(Term.WORKSPACE, "value", "memPoolSize workspace"),
        *_flags(Term.TIMES, "value", "avgTiming"),
        *_flags(Term.LEVEL, "value", "builderOptimizationLevel"),
        *_flags(Term.TIMING_CACHE, "value", "timingCacheFile"),
        *_flags(Term.TACTICS, "value", "tacticSources"),
        *_flags(Term.SPARSE, "value", "sparsity"),
        *_flags(Term.REFIT, "nothing", "refit"),
        *_flags(Term.VERSIONS, "nothing", "versionCompatible vc"),
        *_flags(Term.HARDWARE, "value", "hardwareCompatibilityLevel"),
        *_flags(Term.STRONG, "nothing", "stronglyTyped"),
        *_flags(Term.BATCH, "nothing", "explicitBatch explicitPrecision"),
        *_flags(Term.ENGINE_OUT, "value", "saveEngine"),
        *_flags(Term.ENGINE_IN, "value", "loadEngine"),
        *_flags(Term.NO_TF32, "nothing", "noTF32"),
        *_flags(Term.DECOMPOSED, "value", "decomposableAttentions"),
        *_flags(Term.DLA, "value", "useDLACore layerDeviceTypes"),
        *_flags(
            Term.DLA,
            "nothing",
            "allowGPUFallback buildDLAStandalone adjustForDLA reportCapabilityDLA uint8AsymmetricQuantizationDLA",
        ),
        *_flags(Term.PLUGINS, "value", "plugins staticPlugins dynamicPlugins setPluginsToSerialize safetyPlugins"),
        *_flags(Term.PLUGINS, "nothing", "ignoreParsedPluginLibs enablePluginOverride"),
        *_flags(
            Term.REMOVED,
            "value",
            "minTiming minShapesCalib optShapesCalib maxShapesCalib calibProfile batch maxBatch minBatch optBatch",
        ),
        *_flags(Term.REMOVED, "nothing", "heuristic"),
        *_flags(Term.OLD_FORMATS, "value", "model deploy output uff uffInput"),
        *_flags(Term.OLD_FORMATS, "nothing", "uffNHWC"),
        *_flags(
            Term.UNSET,
            "value",
            "maxAuxStreams maxTactics preview tilingOptimizationLevel l2LimitForTiling runtimePlatform "
            "remoteAutoTuningConfig tuneBuildRoutes tuneBuildRouteFile tuningSearch tuningCacheFile tuningResultFile "
            "tuningTimeOut setBuildRoute markDebug",
        ),
        *_flags(
            Term.UNSET,
            "nothing",
            "excludeLeanRuntime stripWeights weightless stripAllWeights allowWeightStreaming errorOnTimingCacheMiss "
            "distributiveIndependence directIO pluginInstanceNorm pi markUnfusedTensorsAsDebugTensors safe restricted "
            "consistency std cpuOnly saveAllEngines continue dryRun serialized noBuilderCache noCompilationCache "
            "disableCompilationCache",
        ),
        *_flags(
            Term.MEASURING,
            "value",
            "avgRuns percentile iterations duration warmUp sleepTime idleTime infStreams streams device nvtxMode "
            "persistentCacheRatio useProfile allocationStrategy weightStreamingBudget loadInputs loadRefOutputs "
            "refPair accuracyAlgorithm accuracyThreshold atol rtol useRuntime leanDLLPath tempdir tempfileControls "
            "saveDebugTensors saveAllDebugTensors refitFromOnnx",
        ),
        *_flags(
            Term.MEASURING,
            "nothing",
            "exposeDMA includeDataTransfers noDataTransfers useManagedMemory noSpinWait useSpinWait threads "
            "noCudaGraph useCudaGraph timeDeserialize timeRefit separateProfileRun skipInference buildOnly "
            "asyncFileReader monitorMemory getPlanVersionOnly",
        ),
        *_flags(
            Term.PRINTING,
            "value",
            "exportTimes exportOutput exportProfile exportLayerInfo profilingVerbosity",
        ),
        *_flags(Term.PRINTING, "maybe", "helpBuildRoute"),
        *_flags(
            Term.PRINTING,
            "nothing",
            "verbose dumpRefit dumpOutput dumpProfile dumpLayerInfo dumpOptimizationProfile dumpRawBindingsToFile "
            "dumpKernelText help",
        ),
    ]
)
"""trtexec's flags; values follow after ``=``."""

POLYGRAPHY: dict[str, Flag] = dict(
    [
        *_flags(Term.FP16, "nothing", "fp16"),
        *_flags(Term.FP16, "nothing", "fp-to-fp16"),
        *_flags(Term.BF16, "nothing", "bf16"),
        *_flags(Term.INT8, "nothing", "int8"),
        *_flags(Term.FP8, "nothing", "fp8"),
        *_flags(Term.CACHE, "value", "calibration-cache"),
        *_flags(Term.CALIBRATOR, "value", "calib-base-cls calibration-base-class"),
        *_flags(Term.QUANTILE, "value", "quantile"),
        *_flags(Term.INPUTS, "values", "load-inputs load-input-data"),
        *_flags(Term.LOADER, "value", "data-loader-script"),
        *_flags(Term.LAYERS, "values", "layer-precisions"),
        *_flags(Term.TENSOR_IO, "values", "tensor-dtypes tensor-datatypes"),
        *_flags(Term.OBEY, "value", "precision-constraints"),
        *_flags(Term.OBEY, "nothing", "obey-precision-constraints", "obey"),
        *_flags(Term.OBEY, "nothing", "prefer-precision-constraints", "prefer"),
        *_flags(Term.OBEY, "nothing", "strict-types", "obey"),
        *_flags(Term.MIN, "values", "trt-min-shapes"),
        *_flags(Term.OPT, "values", "trt-opt-shapes"),
        *_flags(Term.MAX, "values", "trt-max-shapes"),
        *_flags(Term.SHAPES, "values", "input-shapes inputs"),
        *_flags(Term.WORKSPACE, "values", "pool-limit memory-pool-limit"),
        *_flags(Term.WORKSPACE, "value", "workspace"),
        *_flags(Term.LEVEL, "value", "builder-optimization-level"),
        *_flags(Term.TIMING_CACHE, "value", "load-timing-cache save-timing-cache timing-cache"),
        *_flags(Term.TACTICS, "values", "tactic-sources"),
        *_flags(Term.SPARSE, "nothing", "sparse-weights", "enable"),
        *_flags(Term.REFIT, "nothing", "refittable"),
        *_flags(Term.VERSIONS, "nothing", "version-compatible"),
        *_flags(Term.HARDWARE, "value", "hardware-compatibility-level"),
        *_flags(Term.GPUS, "values", "compute-capabilities"),
        *_flags(Term.GPUS, "nothing", "use-gpu"),
        *_flags(Term.STRONG, "nothing", "strongly-typed"),
        *_flags(Term.TF32, "nothing", "tf32"),
        *_flags(Term.DECOMPOSED, "nothing", "decomposable-attentions"),
        *_flags(Term.ENGINE_OUT, "value", "output save-engine"),
        *_flags(Term.DLA, "nothing", "use-dla allow-gpu-fallback enable-uint8-asymmetric-quantization-dla"),
        *_flags(Term.DLA, "value", "dla-workspace-allocation-strategy"),
        *_flags(Term.PLUGINS, "values", "plugins"),
        *_flags(
            Term.OUTPUTS,
            "values",
            "trt-outputs trt-exclude-outputs trt-outputs-by-type onnx-outputs onnx-exclude-outputs "
            "onnx-outputs-by-type mark-debug",
        ),
        *_flags(Term.OUTPUTS, "nothing", "mark-unfused-tensors-as-debug-tensors"),
        *_flags(Term.REMOVED, "value", "regression-cutoff"),
        *_flags(Term.REMOVED, "values", "quantization-flags"),
        *_flags(
            Term.UNSET,
            "values",
            "tensor-formats all-tensor-formats preview-features onnx-flags trt-network-postprocess-script trt-npps",
        ),
        *_flags(
            Term.UNSET,
            "value",
            "all-tensor-dtypes all-tensor-datatypes trt-config-script trt-config-postprocess-script trt-cpps "
            "max-aux-streams tiling-optimization-level runtime-platform engine-capability load-tactics "
            "load-tactic-replay external-data-dir load-external-data ext",
        ),
        *_flags(
            Term.UNSET,
            "nothing",
            "exclude-lean-runtime error-on-timing-cache-miss disable-compilation-cache trt-safety-restricted "
            "strip-plan weight-streaming direct-io plugin-instancenorm ignore-external-data",
        ),
        *_flags(
            Term.OTHER_FRAMEWORK,
            "value",
            "ckpt opset minimum-segment-size save-pb save-tensorboard gpu-memory-fraction save-timeline save-onnx "
            "graph-optimization-level external-data-size-threshold convert-to model-type",
        ),
        *_flags(Term.OTHER_FRAMEWORK, "values", "tf-outputs providers execution-providers"),
        *_flags(Term.OTHER_FRAMEWORK, "maybe", "save-external-data external-data-path"),
        *_flags(
            Term.OTHER_FRAMEWORK,
            "nothing",
            "freeze-graph shape-inference do-shape-inference no-onnxruntime-shape-inference "
            "no-save-all-tensors-to-one-file tf onnxrt pluginref tftrt use-tftrt dynamic-op allow-growth xla",
        ),
        *_flags(
            Term.MEASURING,
            "value",
            "seed iterations iters data-loader-backend-module warm-up load-runtime optimization-profile "
            "allocation-strategy weight-streaming-budget postprocess-func-script compare-func-script",
        ),
        *_flags(
            Term.MEASURING,
            "values",
            "val-range postprocess postprocess-func compare compare-func load-outputs load-results rtol rel-tol atol "
            "abs-tol check-error-stat error-quantile index-tolerance l2-threshold l2-tolerance "
            "cosine-similarity-threshold psnr-threshold psnr-tolerance snr-threshold snr-tolerance lpips-threshold "
            "lpips-tolerance",
        ),
        *_flags(
            Term.MEASURING,
            "nothing",
            "trt use-subprocess no-shape-check validate fail-fast check-average sequential-runners "
            "infinities-compare-equal",
        ),
        *_flags(
            Term.PRINTING,
            "value",
            "log-file profiling-verbosity save-tactics save-tactic-replay save-inputs save-input-data save-outputs "
            "save-results save-accuracy-results save-heatmaps save-error-metrics-plot gen gen-script",
        ),
        *_flags(Term.PRINTING, "values", "verbosity log-format"),
        *_flags(Term.PRINTING, "maybe", "save-input-blob"),
        *_flags(Term.PRINTING, "nothing", "help verbose quiet silent show-heatmaps show-error-metrics-plot"),
    ]
)
"""Flags of ``polygraphy convert`` and ``polygraphy run``; values are separate words."""
SHORT = {"-o": "--output", "-v": "--verbose", "-q": "--quiet", "-h": "--help"}
