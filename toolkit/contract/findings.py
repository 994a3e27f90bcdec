"""What a pass or a backend reports: a code with typed values. Sentences for people are written in report/findings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

Value: TypeAlias = "str | int | float | bool | Finding | tuple[Value, ...] | None"
"""What a finding can hold: names, numbers, lists of them, and the finding that it follows from.
JSON has no infinity and no NaN: such numbers are the words ``inf`` and ``nan``."""


class BaseCode(str, Enum):
    """Base of the codes. Each layer of the library has its own enumeration of codes, with distinct values."""

    def __call__(self, **values: Any) -> Finding:
        """The finding with these values; enumerations, NumPy scalars and lists become plain values."""
        return Finding(self, values)

    def __str__(self) -> str:
        return str(self.value)

    @staticmethod
    def of(value: str) -> BaseCode:
        """The code with that value, whichever enumeration has it.

        Raises:
            ValueError: no imported enumeration has it.
        """
        for kind in BaseCode.__subclasses__():
            if value in kind._value2member_map_:
                return kind(value)
        raise ValueError(f"'{value}' is not a code")


class Code(BaseCode):
    """What passes, lowering, calibration and search can report. The value is the code in JSON; for what a pass declined
    it is the rule in report.json.

    Example:
        >>> Code.OWN_WORDS(text="its input is a constant").code.value
        'own-words'
    """

    OWN_WORDS = "own-words"
    """The text of a third-party pass: ``text``, and ``rule`` if it has a short name for it."""

    # ---- pairs and layers: why a node is quantized, or is not
    EXCLUDED = "excluded"
    NOT_INCLUDED = "not-included"
    KEPT = "kept"
    NOT_FASTER = "not-faster"
    WEIGHTS_STORED = "weights-stored"
    NO_BLOCKS_IN = "no-blocks-in"
    NO_WEIGHT_MATRIX = "no-weight-matrix"
    BLOCK_DOES_NOT_DIVIDE = "block-does-not-divide"
    IN_BLOCKS = "in-blocks"
    NO_BLOCKS_OF_RANK = "no-blocks-of-rank"
    NO_BLOCKS_ACROSS = "no-blocks-across"
    ONE_BLOCK = "one-block"
    BLOCKS_SCALED_ON_GPU = "blocks-scaled-on-gpu"
    BLOCK_FORMS = "block-forms"
    SCALES_OF_BLOCKS = "scales-of-blocks"
    SCALES_QUERIES = "scales-queries"
    FUSED_ATTENTION = "fused-attention"
    NO_RANGE = "no-range"
    RANGE_OF_OTHER_TYPE = "range-of-other-type"
    SUBGRAPH = "subgraph"
    MALFORMED = "malformed"
    FOREIGN_PAIR = "foreign-pair"
    NOT_FLOAT = "type"
    BOTH_CONSTANT = "constant"
    COMPUTED_WEIGHTS = "computed-weights"
    ACTIVATION_MATMUL = "activation-matmul"
    VECTOR = "vector"
    EMPTY = "empty"
    NOT_FINITE = "not-finite"
    SUM_OF_MANY = "sum-of-many"
    BROADCAST = "broadcast"
    UNLIKE_BRANCHES = "unlike-branches"
    ONE_SIDED = "one-sided"
    HAS_KERNELS = "has-kernels"
    OPERAND = "operand"
    RESIDUAL_BRANCH = "residual-branch"
    SUM_OPERAND = "sum-operand"
    SUM_STAYS_FLOAT = "sum-stays-float"
    STREAM_BRANCH = "stream-branch"
    PATCHES = "patches"
    CONCAT_INPUT = "concat-input"
    POOL_INPUT = "pool-input"
    SHARED_POOL_INPUT = "shared-pool-input"
    READS_PAIR = "reads-pair"
    COMPLETE = "complete"
    UNLIKE_SCALES = "unlike-scales"
    DEAD = "dead"
    DEAD_NODES = "dead-nodes"
    OPSET = "opset"
    BFLOAT16_OPSET = "bfloat16-opset"
    QUANTIZED_SOURCE = "quantized-source"
    RANDOM_SOURCE = "random-source"
    BIAS_AS_ROW = "bias-as-row"
    BIAS_REQUANTIZED = "bias-requantized"
    FLOAT_BIAS = "float-bias"
    NO_QUANTIZED_BIAS = "no-quantized-bias"
    FLOAT_READS_PAIRS = "float-reads-pairs"
    FOREIGN_OPERATOR = "foreign-operator"
    # ---- passes
    DRY_RUN = "dry-run"
    DRY_RUN_ENDED = "dry-run-ended"
    REQUESTED = "requested"
    CHOSEN = "chosen"
    NO_FLOATS = "no-floats"
    EFFECT = "effect"
    NO_QUANTIZED_WEIGHTS = "no-quantized-weights"
    NOT_SUPPORTED = "not-supported"
    NO_BIAS = "no-bias"
    BIAS_SETTLED = "bias-settled"
    BIAS_CORRECTED = "bias-corrected"
    MEAN_SHIFT = "mean-shift"
    ROUNDED_WITHOUT_SAMPLES = "rounded-without-samples"
    ROUNDED_FOR_OUTPUT = "rounded-for-output"
    ROUNDED_TO_NEAREST = "rounded-to-nearest"
    ROUNDING_NOISE = "rounding-noise"
    COMPENSATED = "compensated"
    OUTPUT_ERROR = "output-error"
    NO_GAIN = "no-gain"
    GAIN_UNKNOWN = "gain-unknown"
    HELPER_UNMEASURED = "helper-unmeasured"
    NOTHING_TO_EQUALIZE = "nothing-to-equalize"
    EQUALIZED = "equalized"
    CHANNEL_SPREAD = "channel-spread"
    SHARED = "shared"
    NOT_HOMOGENEOUS = "not-homogeneous"
    WEIGHTS = "weights"
    CHANNELS = "channels"
    NO_LAYER = "no-layer"
    SHARED_OUTPUT = "shared-output"
    OUTPUT = "output"
    COMPUTED_BIAS = "computed-bias"
    BIAS_SHAPE = "bias-shape"
    BETA = "beta"
    FOLDED_IN = "folded-in"
    SCALES_CHANNELS = "scales-channels"
    FOLDED = "folded"
    CONSTANT_INPUTS = "constant-inputs"
    INLINED = "inlined"
    CONSTANT_CONDITION = "constant-condition"
    FIXED_BY_PROFILES = "fixed-by-profiles"
    NOT_FIXED_BY_PROFILES = "not-fixed-by-profiles"
    INPUT_FIXED = "input-fixed"
    REMOVED = "removed"
    UNUSED = "unused"
    NOT_COMPUTED = "not-computed"
    MADE_BY_FOLDING = "made-by-folding"
    LARGE = "large"
    GUARDED = "guard"
    OVERFLOW = "overflow"
    INNER_OVERFLOW = "inner-overflow"
    SUBNORMAL = "subnormal"
    VANISHING_CONSTANT = "vanishing-constant"
    RESOLUTION = "resolution"
    NOTHING_TO_SMOOTH = "nothing-to-smooth"
    EVEN = "even"
    NO_NORM = "no-norm"
    NO_STRENGTH = "no-strength"
    SMOOTHED = "smoothed"
    OUTLIER_CHANNEL = "outlier-channel"
    NOTHING_TO_SHIFT = "nothing-to-shift"
    PADS_INPUT = "pads-input"
    OTHER_READER = "other-reader"
    NO_FREE_SHIFT = "no-free-shift"
    CENTRED = "centred"
    SHIFTED = "shifted"
    LIMITS_SHIFTED = "limits-shifted"
    SKEWED = "skewed"
    # ---- pairs that are removed
    NO_PAIR = "no-pair"
    KEPT_RANGES = "kept-ranges"
    READS_FLOAT = "reads-float"
    STRIPPED = "stripped"
    INSERTED = "inserted"
    CLAMP_RESTORED = "clamp-restored"
    CLAMPS_UNSURE = "clamps-unsure"
    CAST_RESTORED = "cast-restored"
    COMPUTED_SCALE = "computed-scale"
    OUTPUT_NAME_KEPT = "output-name-kept"
    STRIP_MEASURED = "strip-measured"
    STRIP_FAR = "strip-far"
    STRIP_NOT_MEASURED = "strip-not-measured"
    # ---- lowering
    NOT_REQUESTED = "not-requested"
    STAYS_FP32 = "stays-fp32"
    FLOAT_RANGE = "float-range"
    HOLDS_SUBGRAPH = "holds-subgraph"
    FEEDS_SUBGRAPH = "feeds-subgraph"
    NOT_ONNX = "not-onnx"
    TYPE_UNKNOWN = "type-unknown"
    BECOMES_INTEGER = "becomes-integer"
    NOT_IN_OPSET = "not-in-opset"
    NO_SUCH_FORM = "no-such-form"
    BEYOND_TYPE = "beyond-type"
    VANISHING_VALUES = "vanishing-values"
    INEXACT_INTEGERS = "inexact-integers"
    EPSILON_LOST = "epsilon-lost"
    FOLLOWS_EPSILON = "follows-epsilon"
    SCALE_LOST = "scale-lost"
    UNCHECKED = "unchecked"
    CAST_INSERTED = "cast-inserted"
    CAST_REMOVED = "cast-removed"
    IDLE_CAST = "idle-cast"
    BETWEEN_TYPES = "between-types"
    OUTPUT_TYPE = "output-type"
    UNSQUEEZE_RESHAPED = "unsqueeze-reshaped"
    PARSED_WITHOUT_GPU = "parsed-without-gpu"
    QUANTIZES = "quantizes"
    DEQUANTIZES = "dequantizes"
    BLOCKS = "blocks"
    COMPUTED_ZERO_POINT = "zero-point"
    KERNEL_SHAPE = "kernel-shape"
    KERNEL_SHAPE_UNKNOWN = "kernel-shape-unknown"
    FLOAT_WEIGHTS = "float-weights"
    CONVOLVED = "convolved"
    WRITES_OUTPUT = "writes-output"
    FLOAT_ATTENTION = "float-attention"
    QUANTIZED_ATTENTION = "quantized-attention"
    IO_NOT_USED = "io"
    IMPLICIT = "implicit"
    NO_KERNEL = "no-kernel"
    # ---- model, samples and ranges
    LOADED = "load"
    IN_STRETCHES = "stretches"
    NOT_RUN = "not-run"
    UNRANGED = "unranged"
    NOT_CALIBRATED = "not-calibrated"
    BEHIND_PLUGIN = "behind-plugin"
    NO_VALUES = "no-values"
    RANDOM_DATA = "random data"
    SKIPPED = "skipped"
    PADDED = "padded"
    CROPPED = "cropped"
    CUT = "cut"
    LIMITED = "limited"
    EMPTY_PROFILE = "empty profile"
    FEW_SAMPLES = "few samples"
    UNVARIED_SAMPLES = "unvaried samples"
    UNLIKE_PROFILES = "unlike profiles"
    OTHER_COLLECTION = "collection"
    OTHER_CPUS = "other-cpus"
    READS_UNKNOWN = "reads-unknown"
    MEASURED_AGAIN = "measured-again"
    RANGES_OF_NO_TENSOR = "ranges-of-no-tensor"
    CACHE_WITHOUT_RANGE = "cache-without-range"
    RANGES_OF_OTHER_TYPE = "ranges-of-other-type"
    RANGES_MISSING = "ranges-missing"
    VALUES_NOT_OBSERVED = "values-not-observed"
    # ---- the search for a plan
    SENSITIVITY_ESTIMATED = "sensitivity-estimated"
    SENSITIVITY_UNTRUSTED = "sensitivity-untrusted"
    LATER_FLOATS = "later-floats"
    LATER_FLOATS_UNKNOWN = "later-floats-unknown"
    SEARCH_PAIRED = "search-paired"
    SEARCH_DATA = "search-data"
    SEARCH_ON_EVALUATION = "search-on-evaluation"
    SEARCH_WITHOUT_LABELS = "search-without-labels"
    SEARCH_BUDGET = "search-budget"
    SEARCH_FOR_TIME = "search-for-time"
    SEARCH_IN_TYPES = "search-in-types"
    BISECT_IN_TYPES = "bisect-in-types"
    SEARCH_TYPE_ALONE = "search-type-alone"
    SEARCH_TYPE_UNCHECKED = "search-type-unchecked"
    TYPE_MISSES = "type-misses"
    SEARCH_RANGE = "search-range"
    SEARCH_UNPROVEN = "search-unproven"
    SEARCH_ORDERING = "search-ordering"
    SEARCH_SUMMARY = "search"
    SEARCH_BEST = "search-best"
    SEARCH_GOES_ON = "search-goes-on"
    SEARCH_MINUTES_OVER = "search-minutes-over"
    SEARCH_MISSED = "search-missed"
    SEARCH_SLOWER = "search-slower"
    SEARCH_ALL_FLOAT = "search-all-float"
    SEARCH_NEAREST = "search-nearest"
    SEARCH_HELPER = "search-helper"
    SEARCH_HELPER_UNLIKE = "search-helper-unlike"
    SEARCH_SECOND_TYPE = "search-second-type"
    STAYS = "stays"
    KEPT_FOR_TIME = "kept-for-time"
    KEPT_MISSES = "kept-misses"
    KEPT_ALONE_MISSES = "kept-alone-misses"
    KEPT_TOGETHER_MISSES = "kept-together-misses"
    # ---- engines that are timed for a decision
    TIMES_FROM_REPORT = "times-from-report"
    TIMES_PREDICTED = "times-predicted"
    TIMES_MEASURED = "times-measured"
    TIMES_SHARE = "times-share"
    GPU_UNKNOWN = "gpu-unknown"
    LATER_PASSES = "later-passes"
    PLAN_NOT_TIMED = "plan-not-timed"
    PLAN_TIMED = "plan-timed"
    TRIAL = "trial"
    KEPT_LATER = "kept-later"
    TRIAL_FAILED = "trial-failed"
    NOT_IN_TURN = "not-in-turn"
    TRIAL_BUILT_ANEW = "trial-built-anew"
    SPEED_UNKNOWN = "speed-unknown"
    ONLY_IF_FASTER = "only-if-faster"
    LAYERS_SLOWER = "layers-slower"
    ROLE_SLOWER = "role-slower"
    ROLE_NOT_BUILT = "role-not-built"
    NO_ENGINE_BUILT = "no-engine-built"
    NO_ENGINE_FASTER = "no-engine-faster"
    EVERY_ENGINE_SLOWER = "every-engine-slower"
    # ---- opaque blocks
    NOTHING_OPAQUE = "open-nothing-opaque"
    NOTHING_BUILT = "open-nothing-built"
    NOTHING_TO_CUT = "open-nothing-to-cut"
    OPENING_FAILED = "opening-failed"
    OPENED_AT = "opened-at"
    OPENED_LEFT_OUT = "opened-left-out"
    TENSORS_NOT_FOUND = "tensors-not-found"
    OPENED_NOT_RUN = "opened-not-run"
    OPENED_RUN_FAILED = "open failed"
    OPENED_RAN = "opened-ran"
    OPENED_NONE_COMPARABLE = "opened-none-comparable"
    OPENED_NOT_COMPARED = "opened-not-compared"
    OPENED_WITHOUT_ERROR = "opened-without-error"


@dataclass(frozen=True)
class Finding:
    """One finding: a code, and the values that distinguish it from others with that code.

    Attributes:
        code: what it is.
        values: names, numbers, tuples of them, and findings that explain this one; not to be changed.
    """

    code: BaseCode
    values: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", {name: _value(value) for name, value in self.values.items()})

    def __hash__(self) -> int:
        return hash((self.code, frozenset(self.values.items())))

    def to_json(self) -> dict[str, Any]:
        """``{code, values}``; ``from_json`` reads it."""
        return {"code": self.code.value, "values": {name: _json(value) for name, value in self.values.items()}}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """In a pydantic model: itself, or read from its JSON; written as its JSON."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda given: given if isinstance(given, Finding) else cls.from_json(given),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_json),
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Finding:
        """Read what ``to_json`` returned.

        Raises:
            ValueError: it is not a finding, or there is no such code.
        """
        if not (isinstance(content, Mapping) and isinstance(content.get("code"), str)):
            raise ValueError("not a finding: it has no code")
        if not isinstance(content.get("values"), Mapping):
            raise ValueError(f"not a finding: {content['code']} has no values")
        return cls(BaseCode.of(content["code"]), content["values"])


def finding(said: Finding | str) -> Finding:
    """The argument as a finding: plain text becomes one with code ``OWN_WORDS``."""
    return said if isinstance(said, Finding) else Code.OWN_WORDS(text=said)


def _value(given: Any) -> Value:
    if isinstance(given, (str, Enum)):
        return str(given.value if isinstance(given, Enum) else given)
    if isinstance(given, float) and not math.isfinite(given):
        return str(float(given))
    if given is None or isinstance(given, (bool, int, float, Finding)):
        return given
    if isinstance(given, Mapping):
        return Finding.from_json(given)
    if hasattr(given, "item") and getattr(given, "ndim", None) == 0:
        return _value(given.item())
    return tuple(_value(one) for one in given)


def _json(value: Value) -> Any:
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    return value.to_json() if isinstance(value, Finding) else value
