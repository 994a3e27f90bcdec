"""Codes of the search's findings: causes of accuracy loss and remedies, trial engines, kept layers."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class AttentionCode(BaseCode):
    """Whether engines are faster with Q/DQ pairs on the matrix products of attention."""

    TIMED = "attention-timed"
    NOT_TIMED = "attention-not-timed"


class TrialCode(BaseCode):
    """How the engines of a search are built."""

    COMPARED = "trials-compared"
    AHEAD = "engine-ahead"
    PLAN_NOT_BUILT = "plan-not-built"


class DemandCode(BaseCode):
    """Limits that a search has besides the budget, or in place of the metric."""

    ON_CHANCE = "search-on-chance"
    UNLABELLED = "search-unlabelled"


class SearchEndCode(BaseCode):
    """How a search ends if no plan that it tried meets the budget, or if plans or layers worth trying are left."""

    NO_PLAN = "search-no-plan"
    LEFT_OUT = "search-left-out"
    UNMEASURED = "search-unmeasured"


class KeptCode(BaseCode):
    """Why a search keeps a layer float."""

    NO_PLAN = "kept-no-plan"
    NO_FASTER = "kept-no-faster"
    NONE_FASTER = "kept-none-faster"
    WIDE = "kept-wide"
    WIDE_REFUSED = "kept-wide-refused"


class CauseCode(BaseCode):
    """Why a layer loses accuracy in a quantized type, and what would help."""

    CLIPPED_ON_UNLIKE_DATA = "cause-clipped-on-unlike-data"
    UNEVEN_CHANNELS = "cause-uneven-channels"
    OUTLIERS = "cause-outliers"
    SHARED_SCALE = "cause-shared-scale"
    PROFILES_UNLIKE = "cause-profiles-unlike"
    FEW_LEVELS = "cause-few-levels"
    UNEVEN_WEIGHTS = "cause-uneven-weights"
    CHEAP_TO_KEEP = "cause-cheap-to-keep"
    ROUNDING = "cause-rounding"
    ROUNDING_OF_SMALL = "cause-rounding-of-small"
    HARM_TOGETHER = "cause-harm-together"
    HARM_HIDDEN = "cause-harm-hidden"
    TIES_AT_OUTPUT = "cause-ties-at-output"
    TIES_AT_DECISION = "cause-ties-at-decision"
    KEEP_FLOAT = "cause-keep-float"
    KEEP_FLOAT_CHEAPLY = "cause-keep-float-cheaply"
    KEEP_FLOAT_SHARE = "cause-keep-float-share"
    KEEP_OR_USE_METRIC = "cause-keep-or-use-metric"
    KEEP_IT_OR_OTHERS = "cause-keep-it-or-others"
    KEEP_WITH_OTHERS = "cause-keep-with-others"
    APPLY_PASS = "cause-apply-pass"
    APPLY_PASS_OR_KEEP = "cause-apply-pass-or-keep"
    SET_METHOD = "cause-set-method"
    EXCLUDE_CONCAT = "cause-exclude-concat"
    WEIGH_PROFILES = "cause-weigh-profiles"
    EXCLUDE_UP_TO = "cause-exclude-up-to"
