"""Messages of `qtool new`: choices made for the recipe, oddities of samples, and what to check."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count, toml_key
from toolkit.contract.roles import Role
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import float_metric, joined, pass_for, quoted

_MOST = 4
"""The most dimensions or settings to name."""


def _sizes_fixed(dimensions: Sequence[str], sizes: Sequence[int], inputs: Sequence[str]) -> str:
    told = joined([f"'{name}' ({size})" for name, size in zip(dimensions[:_MOST], sizes)])
    more = f" and {len(dimensions) - _MOST} more" if len(dimensions) > _MOST else ""
    settings = [f"shapes.{toml_key(name)}" for name in inputs[:_MOST]]
    settings += [f"{len(inputs) - _MOST} more"] * (len(inputs) > _MOST)
    return (
        f"All samples have one size along {told}{more}, dynamic in the model: an engine of this profile takes no other."
        f" If other sizes occur, give samples of them too, or widen min and max of {joined(settings)}."
    )


def _sizes_apart(
    dimensions: Sequence[str],
    small: Sequence[tuple[int, int]],
    large: Sequence[tuple[int, int]],
    profiles: Sequence[str],
) -> str:
    def extent(sizes: tuple[int, int]) -> str:
        return f"{sizes[0]} to {sizes[1]}" if sizes[0] != sizes[1] else str(sizes[0])

    each = zip(dimensions[:_MOST], small, large)
    told = joined([f"'{name}' ({extent(low)}, or {extent(high)})" for name, low, high in each])
    more = f" and {len(dimensions) - _MOST} more" if len(dimensions) > _MOST else ""
    return (
        f"Samples come in two groups of sizes along {told}{more}: each has a profile, with an opt shape of its own. An "
        f"engine takes no size between them. If such sizes occur, give samples of them too, or raise max of "
        f"'{profiles[0]}' to min of '{profiles[1]}'."
    )


def _unsure(metric: str, outputs: tuple[str, ...], values: tuple[float, ...], samples: int) -> str:
    told = ", ".join(f"{value:.4g} at '{output}'" for output, value in zip(outputs, values))
    return (
        f"The labels may belong to any of {len(outputs)} outputs: the float model's own {metric} is {told} on "
        f"{count(samples, 'sample')}. '{outputs[0]}' is judged; if they are of another, name it as [evaluation] output."
    )


def _rough_limit(metric: str, samples: int, factor: float | None) -> str:
    tell = (
        "one labelled sample does not tell"
        if factor is None
        else f"{samples} of them tell only to within a factor of {factor:.1f}"
    )
    return (
        f"No limit is written: it follows from how the labels vary, which {tell}. Each run takes it from its own "
        "labels, and proves no more than they tell."
    )


NEW: Table = {
    ReportCode.NEW_METHOD: "Ranges by {method}.",
    ReportCode.NEW_PASSES: lambda passes: f"Passes: {', '.join(passes)}.",
    ReportCode.NEW_INPUT_DECIDES: lambda input, value, nodes: (
        f"Input '{input}' is {value} in every sample and decides which branch of {quoted(nodes)} runs; nothing in a "
        f"branch is quantized. If it is always {value}, set fixed_inputs of {pass_for(Role.FOLD)}: only that branch is "
        "built then, whatever value is given."
    ),
    ReportCode.NEW_PAIRS: lambda pairs, kept, usable: (
        f"The model has {count(pairs, 'Q/DQ pair')}: "
        + (
            f"{'it stays as it is' if pairs == 1 else 'they stay as they are'}, and nothing else is quantized."
            if kept
            else f"INT8 is chosen afresh without {'it' if pairs == 1 else 'them'}"
            + ("; --keep-pairs builds the model as it is." if usable else ", since TensorRT refuses such pairs.")
        )
    ),
    ReportCode.NEW_BATCH_REFUSED: "Batch 1: {why}.",
    ReportCode.NEW_SIZES_FIXED: _sizes_fixed,
    ReportCode.NEW_SIZES_APART: _sizes_apart,
    ReportCode.NEW_METRIC: lambda metric, output: (
        f"The labels fit {metric}" + (f" of output '{output}'." if output is not None else ".")
    ),
    ReportCode.NEW_METRIC_ASKED: "The metric is {metric}, as --metric says.",
    ReportCode.NEW_OUTPUT_UNSURE: _unsure,
    ReportCode.NEW_THRESHOLD: (
        "A score of '{output}' above {threshold:g} counts as class 1; [evaluation] threshold sets another."
    ),
    ReportCode.NEW_BLANK: "CTC's blank is class {blank}: labels name class {named}.",
    ReportCode.NEW_LIMIT: "Budget: {limit} = {value}.",
    ReportCode.NEW_FLOAT_VALUE: lambda metric, value, samples: f"{float_metric(metric, value, samples)}.",
    ReportCode.NEW_NO_ERROR: lambda metric, spread, written=True: (
        f"That is next to none beside what varies in the labels, an {metric} of {spread:.3g}, as where the labels are "
        f"the float model's own outputs{', so the limit is in keeping with what varies' if written else ''}. If the "
        "error itself counts, set max_drop."
    ),
    ReportCode.NEW_LIMIT_ROUGH: _rough_limit,
    ReportCode.ARRAY_NOT_FINITE: (
        "'{array}' holds {nan} NaN and {infinite} infinite values, with which nothing can be calibrated or compared."
    ),
    ReportCode.ARRAY_UNVARIED: "All {samples} samples of '{array}' are the same.",
    ReportCode.NEW_WITHOUT_DATA: (
        "Nothing can be calibrated yet: name real inputs as [calibration] data in the recipe, or write it again with "
        "--data."
    ),
    ReportCode.NEW_WITHOUT_SAMPLES: (
        "No samples: neither the task nor its limit can be inferred. Give --data, or set [evaluation] task and budget."
    ),
    ReportCode.NEW_TASK_IN_RUN: (
        "The task and its limit are inferred by `qtool check` and by the run, from what the model makes of the images."
    ),
    ReportCode.NEW_IMAGES: (
        "Images are read as {colour}, from 0 to 1, with mean 0 and std 1: the model does not say how it was trained. "
        "Set [calibration] images as in training; where they are wrong both models read the same wrong values, and no "
        "figure shows it."
    ),
    ReportCode.NEW_NOT_RUN: "Neither the task nor the labels could be checked: {why}.",
    ReportCode.NEW_METRIC_NEEDS_EXTRA: (
        "The labels fit {metric}, which needs a missing package: pip install 'qtool[{extra}]', and write the "
        "recipe again."
    ),
}
