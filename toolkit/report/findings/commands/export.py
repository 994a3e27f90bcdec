"""Messages of `qtool export`."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import db, quoted


def _refused(why: str | None, sqnr_db: float | None, written_db: float | None, layers: Sequence[str]) -> str:
    if why is not None:
        return f"onnxruntime refuses the float32 model with its default optimizations: {why}"
    return (
        "onnxruntime computes other outputs from the float32 model with its default optimizations: "
        f"{db(sqnr_db)} SQNR instead of {db(written_db)}"
        + (f". They first differ at {quoted(layers, len(layers))}" if layers else "")
    )


EXPORT: Table = {
    ReportCode.EXPORT_NAMES_UNSAID: lambda nodes: (
        f"trtexec cannot set the type of {quoted(nodes)}, whose names contain characters that it splits at; "
        "export to polygraphy sets all types."
    ),
    ReportCode.EXPORT_RANGES_BY_CACHE: (
        "trtexec takes ranges from a calibration cache, tensor by tensor; the run also gave them to tensors within "
        "nodes. Export to polygraphy sets them as the run did."
    ),
    ReportCode.EXPORT_PLUGINS: lambda nodes: (
        f"The model has {count(len(nodes), 'plugin node')} ({quoted(nodes)}): load your library too, with trtexec's "
        "--staticPlugins or Polygraphy's --plugins, unless it is one of TensorRT's own."
    ),
    ReportCode.EXPORT_WITHOUT_VERSION: (
        "The run built no engine: the command is for TensorRT 10 and later, with the types that model.onnx has."
    ),
    ReportCode.EXPORT_CHECKED: lambda samples, made_up: (
        f"onnxruntime with its default optimizations computes what the pairs specify, on {count(samples, 'sample')}"
        + (", made up since the recipe has none." if made_up else ".")
    ),
    ReportCode.EXPORT_BIASES_APART: lambda nodes: (
        f"The biases of {quoted(nodes)} were moved into an Add: onnxruntime would round them to the scales' steps."
    ),
    ReportCode.EXPORT_WIDENED: (
        "What is bfloat16 in the model is float32 in this one, inputs and outputs too: onnxruntime has few kernels for "
        "bfloat16."
    ),
    ReportCode.EXPORT_REFUSED: _refused,
}
