"""The build instructions behind names in TensorRT's and Polygraphy's Python API."""

from __future__ import annotations

from toolkit.run.migrate.orders.terms import Flag, Term

BUILDER_FLAGS: dict[str, Flag] = {
    "FP16": Flag(Term.FP16),
    "BF16": Flag(Term.BF16),
    "INT8": Flag(Term.INT8),
    "FP8": Flag(Term.FP8),
    "INT4": Flag(Term.INT4),
    "FP4": Flag(Term.INT4),
    "TF32": Flag(Term.TF32),
    "OBEY_PRECISION_CONSTRAINTS": Flag(Term.OBEY, means="obey"),
    "PREFER_PRECISION_CONSTRAINTS": Flag(Term.OBEY, means="prefer"),
    "STRICT_TYPES": Flag(Term.OBEY, means="obey"),
    "SPARSE_WEIGHTS": Flag(Term.SPARSE, means="enable"),
    "REFIT": Flag(Term.REFIT),
    "VERSION_COMPATIBLE": Flag(Term.VERSIONS),
    "GPU_FALLBACK": Flag(Term.DLA),
    "DEBUG": Flag(Term.PRINTING),
}
"""Members of ``trt.BuilderFlag``; others have no equivalent in a recipe."""

ASSIGNED: dict[str, Flag] = {
    "max_workspace_size": Flag(Term.WORKSPACE),
    "builder_optimization_level": Flag(Term.LEVEL),
    "avg_timing_iterations": Flag(Term.TIMES),
    "min_timing_iterations": Flag(Term.REMOVED),
    "max_batch_size": Flag(Term.REMOVED),
    "int8_mode": Flag(Term.INT8),
    "fp16_mode": Flag(Term.FP16),
    "strict_type_constraints": Flag(Term.OBEY, means="obey"),
    "profiling_verbosity": Flag(Term.PRINTING),
    "DLA_core": Flag(Term.DLA),
    "default_device_type": Flag(Term.DLA),
    "max_aux_streams": Flag(Term.UNSET),
    "tiling_optimization_level": Flag(Term.UNSET),
    "engine_capability": Flag(Term.UNSET),
    "runtime_platform": Flag(Term.UNSET),
    "hardware_compatibility_level": Flag(Term.HARDWARE),
    "progress_monitor": Flag(Term.PRINTING),
    "max_threads": Flag(Term.MEASURING),
    "error_recorder": Flag(Term.PRINTING),
}
"""Attributes of a builder and its configuration that a script may set."""

CALLED: dict[str, Flag] = {
    "set_calibration_profile": Flag(Term.REMOVED),
    "set_quantization_flag": Flag(Term.REMOVED),
    "set_device_type": Flag(Term.DLA),
    "set_preview_feature": Flag(Term.UNSET),
}
"""Methods of a configuration whose arguments do not matter."""

CREATE_CONFIG: dict[str, Flag] = {
    "fp16": Flag(Term.FP16),
    "bf16": Flag(Term.BF16),
    "int8": Flag(Term.INT8),
    "fp8": Flag(Term.FP8),
    "tf32": Flag(Term.TF32),
    "precision_constraints": Flag(Term.OBEY),
    "obey_precision_constraints": Flag(Term.OBEY, means="obey"),
    "prefer_precision_constraints": Flag(Term.OBEY, means="prefer"),
    "strict_types": Flag(Term.OBEY, means="obey"),
    "sparse_weights": Flag(Term.SPARSE, means="enable"),
    "refittable": Flag(Term.REFIT),
    "version_compatible": Flag(Term.VERSIONS),
    "builder_optimization_level": Flag(Term.LEVEL),
    "max_workspace_size": Flag(Term.WORKSPACE),
    "load_timing_cache": Flag(Term.TIMING_CACHE),
    "hardware_compatibility_level": Flag(Term.HARDWARE),
    "use_dla": Flag(Term.DLA),
    "allow_gpu_fallback": Flag(Term.DLA),
    "profiling_verbosity": Flag(Term.PRINTING),
    "progress_monitor": Flag(Term.PRINTING),
    "tactic_sources": Flag(Term.TACTICS),
    "calibrator": Flag(Term.CALIBRATOR),
    "profiles": Flag(Term.PROFILE),
    "memory_pool_limits": Flag(Term.WORKSPACE),
}
"""The arguments of ``CreateConfig``; others have no equivalent in a recipe."""
