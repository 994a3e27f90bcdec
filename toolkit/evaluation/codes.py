"""What the evaluation has to say of outputs, tensors and samples."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class EvaluationCode(BaseCode):
    """What the evaluation has to say of outputs, tensors and samples."""

    VALUES_NOT_COMPARABLE = "evaluation-values-not-comparable"
    NO_PAIR_BETWEEN = "evaluation-no-pair-between"
    NEITHER_FORM_NEARER = "evaluation-neither-form-nearer"
    OUTPUT_STEADY = "evaluation-output-steady"
    OUTPUT_SHAPE_DIFFERS = "evaluation-output-shape-differs"
    METRIC_NOT_FINITE = "evaluation-metric-not-finite"
    PROFILE_NOT_EVALUATED = "evaluation-profile-not-evaluated"
    ROUNDING_PARTLY_MEASURED = "evaluation-rounding-partly-measured"
    MEASURED_IN_FLOAT32 = "evaluation-measured-in-float32"
    DEFAULTS_REFUSE = "evaluation-defaults-refuse"
    DEFAULTS_CHANGE = "evaluation-defaults-change"
    FLOAT_FORM_NOT_RUN = "evaluation-float-form-not-run"
    RESCALED_TENSORS_LEFT_OUT = "evaluation-rescaled-tensors-left-out"
    LEAVES_RANGE = "evaluation-leaves-range"
    EVALUATION_LEAVES_RANGES = "evaluation-evaluation-leaves-ranges"
    ANSWERS_CHANGED = "evaluation-answers-changed"
    EVALUATION_INPUT_SMALL = "evaluation-evaluation-input-small"
    CALIBRATE_ALIKE = "evaluation-calibrate-alike"
    CALIBRATE_THIS_RANGE = "evaluation-calibrate-this-range"
    TASK_GUESSED = "evaluation-task-guessed"
    TASK_NAMED = "evaluation-task-named"
    RULE_EMBEDDING = "evaluation-rule-embedding"
    RULE_DETECTION = "evaluation-rule-detection"
    RULE_MASK = "evaluation-rule-mask"
    RULE_LABELS = "evaluation-rule-labels"
    RULE_READING = "evaluation-rule-reading"
    RULE_SNR = "evaluation-rule-snr"
    RULE_PSNR = "evaluation-rule-psnr"
    WITHIN_ON_FEW = "evaluation-within-on-few"
    LABELS_SHIFTED = "evaluation-labels-shifted"
    LABELS_RENAMED = "evaluation-labels-renamed"
    FLOAT_MODEL_USELESS = "evaluation-float-model-useless"
    TASK_CLUE = "evaluation-task-clue"
    OUTPUT_SHAPE_UNLIKE_DECLARED = "evaluation-output-shape-unlike-declared"
