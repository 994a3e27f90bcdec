"""What `qtool new` decided for a recipe, and what the user should look into."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table


def _own(metric: str, value: float, samples: int) -> str:
    return f"The float model's own {metric} is {value:.4g} on {count(samples, 'sample')}"


NEW: Table = {
    ReportCode.NEW_METHOD: "Ranges by {method}.",
    ReportCode.NEW_PASSES: lambda passes: f"Passes: {', '.join(passes)}.",
    ReportCode.NEW_BATCH_REFUSED: "Batch 1: {why}.",
    ReportCode.NEW_METRIC: lambda metric, output: (
        f"The labels fit {metric}" + (f" of output '{output}'." if output is not None else ".")
    ),
    ReportCode.NEW_LIMIT: "Budget: {limit} = {value}.",
    ReportCode.NEW_FLOAT_VALUE: lambda metric, value, samples: f"{_own(metric, value, samples)}.",
    ReportCode.NEW_WITHOUT_SAMPLES: (
        "No samples: neither the task nor its limit can be told. Give --data, or set [evaluation] task and budget."
    ),
    ReportCode.NEW_METRIC_NEEDS_EXTRA: (
        "The labels fit {metric}, which needs what is not installed: pip install 'qtool[{extra}]', and write the "
        "recipe again."
    ),
}
