"""Contents of a file or run folder, and differences between files or runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.collection import collector_paused
from toolkit.base.errors import BackendError, ModelError, QtoolError
from toolkit.base.reading import FileKind, read_json, read_utf8, reading
from toolkit.base.text import count as counted
from toolkit.base.text import plain, text_of
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.folder.guard import (
    files_of_run,
    refuse_anothers,
    refuse_missing,
    refuse_writing_over,
    require_run_folder,
)
from toolkit.run.folder.state import unfinished_note
from toolkit.run.folder.timing_cache import is_timing_cache
from toolkit.run.results.inspect_build import engine_tag, render_engine, render_log, render_recipe, render_timing
from toolkit.run.results.rendered import Rendered

if TYPE_CHECKING:
    from toolkit.graph.model import Model

_JSON = FileKind("it cannot be read as JSON", QtoolError, "check the file")
_JOURNAL = FileKind("not a journal", QtoolError, "name a journal.jsonl written by qtool")
_SHAPES = 4
_NOT_SHOWN = {
    ".html": "open a page with `qtool view`",
    ".py": "`qtool migrate` reads scripts",
    ".sh": "`qtool migrate` reads scripts",
}
_LAYERS = FileKind(
    "it cannot be read as an engine's layers", QtoolError, "name a layers.json, or a file that trtexec wrote"
)


def inspect(path: Path) -> Rendered:
    """Show the contents of a file or run folder, and whether it is out of date.

    Raises:
        QtoolError: the path does not exist, or qtool does not know the kind of file.
    """
    refuse_missing(path, "no such file")
    note = unfinished_note(path)
    try:
        found = _shown(path)
    except QtoolError as error:
        if note is None:
            raise
        raise type(error)(error.what, where=error.where, remedy=sentence(note)) from error
    says_so = _is_report(found.content) and found.content["summary"]["verdict"] == "outdated"
    found.warnings += [sentence(note)] if note is not None and not says_so else []
    return found


def explain_node(folder: Path, name: str) -> Rendered:
    """Explain one node of a run.

    Args:
        folder: the run folder.
        name: the name of a node, or of a tensor that it produces; empty for an overview of the run.

    Raises:
        QtoolError: the folder is not a run folder, has no report, or there is no such node.
    """
    from toolkit.report.conclusions.overview import overview
    from toolkit.report.explain import explain, explanation_text
    from toolkit.report.schema.report import Report

    require_run_folder(folder)
    report = folder / "report.json"
    if not report.is_file():
        raise QtoolError(
            f"the folder has no {report.name}", where=str(folder), remedy="name the folder of a run that has ended"
        )
    note = unfinished_note(folder)
    if not name:
        whole = overview(Report.load(report))
        return Rendered(whole.model_dump(mode="json"), whole.text, [sentence(note)] if note is not None else [])
    found = explain(Report.load(report), name)
    warnings = [sentence(note)] if note is not None else []
    return Rendered(found.model_dump(mode="json"), explanation_text(found), warnings)


def _shown(path: Path) -> Rendered:
    if path.is_dir():
        report = path / "report.json"
        if report.exists():
            return _report(report)
        raise QtoolError(
            "the folder is not a run folder: it has no report.json", where=str(path), remedy="name a file in it"
        )
    kinds: dict[str, Callable[[Path], Rendered]] = {
        ".onnx": _model, ".toml": render_recipe, ".timing": render_timing, ".log": render_log, ".json": _json,
        ".jsonl": _journal, ".npz": _archive, ".npy": _data,
    }  # fmt: skip
    kind = path.suffix.lower()
    if kind in _NOT_SHOWN:
        raise QtoolError("qtool inspect cannot show a file of this kind", where=str(path), remedy=_NOT_SHOWN[kind])
    if kind in (".engine", ".plan") or (kind not in kinds and engine_tag(path)):
        return render_engine(path, _json)
    if kind not in kinds and is_timing_cache(path):
        return render_timing(path)
    return kinds.get(kind, _ranges)(path)


def _json(path: Path) -> Rendered:
    content = read_json(path, _JSON, strict=False)
    fields = content if isinstance(content, dict) else {}
    if _is_report(content):
        return _report(path)
    if str(fields.get("schema", "")).startswith(("qtool-search", "qtool-sensitivity")):
        old = [sentence(ReportCode.MEASUREMENT_UNFINISHED())] if fields.get("outdated") is True else []
        return Rendered(content, json.dumps(content, indent=1) + "\n", old)
    if isinstance(content, list) or {"Layers", "layers", "source"} & set(fields):
        return _layers(path, content)
    return _ranges(path)


def _is_report(content: Any) -> bool:
    return isinstance(content, dict) and str(content.get("schema", "")).startswith("qtool-report")


def _archive(path: Path) -> Rendered:
    from toolkit.calibration.collection_file import holds_collection

    return _collection(path) if holds_collection(path) else _data(path)


def _report(path: Path) -> Rendered:
    from toolkit.report.schema.report import Report
    from toolkit.report.terminal.report import to_text

    report = Report.load(path)
    return Rendered(report.to_json(), to_text(report))


def _journal(path: Path) -> Rendered:
    from toolkit.contract.journal import Journal

    with reading(path, _JOURNAL):
        journal = Journal.from_jsonl(read_utf8(path, _JOURNAL))
        lines = [f"{path}: {len(journal)} events"]
        lines += [f"{by}: {count} {kind}" for (by, kind), count in sorted(journal.counts().items())]
        lines += [f"{f'{e.kind} {e.node}'.strip()}: {sentence(e.why)}" for e in journal if e.kind != "changed"]
        return Rendered([event.to_json(sentence) for event in journal], text_of(lines))


def _collection(path: Path) -> Rendered:
    from toolkit.calibration.collection import Collection

    found = Collection.load(path)
    samples = {" + ".join(group): count for group, count in found.samples.items()}
    content = {"tensors": found.tensors, "samples": samples, "missing_parts": found.missing_parts}
    lines = [f"{path}: histograms of {len(found.tensors)} tensors"]
    lines += [f"{count} samples of {group}" for group, count in samples.items()]
    lines += [f"missing part {part}" for part in found.missing_parts]
    for name in found.tensors:
        histogram = found.total(name)
        lines.append(f"{name}: {histogram.low:.5g} .. {histogram.high:.5g}, {histogram.count} values")
    return Rendered(content, text_of(lines))


def _data(path: Path) -> Rendered:
    from toolkit.data.summary import summarized

    arrays = summarized(path)
    lines, warnings = [f"{path}: {counted(len(arrays), 'array')}"], []
    for one in arrays:
        shapes = [
            f"{list(shape)}" + (f" ({many})" if len(one.shapes) > 1 else "") for shape, many in one.shapes.items()
        ]
        more = f" and {counted(len(shapes) - _SHAPES, 'more shape')}" if len(shapes) > _SHAPES else ""
        stored = f"{'/'.join(one.dtype)} {', '.join(shapes[:_SHAPES])}{more}"
        reach = "no range" if one.low is None else f"{one.low:.5g} .. {one.high:.5g}"
        odd = f"{one.nan} NaN, {one.infinite} infinite"
        lines.append(f"{one.name}: {counted(one.samples, 'sample')}, {stored}, {reach}, {odd}")
        if one.nan or one.infinite:
            warnings.append(sentence(ReportCode.ARRAY_NOT_FINITE(array=one.name, nan=one.nan, infinite=one.infinite)))
        if one.alike:
            warnings.append(sentence(ReportCode.ARRAY_UNVARIED(array=one.name, samples=one.samples)))
    return Rendered({"path": str(path), "arrays": [one.to_json() for one in arrays]}, text_of(lines), warnings)


def _model(path: Path) -> Rendered:
    from toolkit.graph.files.onnx_file import ONNX

    with reading(path, ONNX):
        return _render_model(path)


def _render_model(path: Path) -> Rendered:
    from toolkit.graph.model import Model
    from toolkit.report.findings.commands.explanation import tensor_words
    from toolkit.report.schema.report import TensorInfo
    from toolkit.report.sections.describe import tensor_infos
    from toolkit.report.terminal.report import size

    model = Model.load(path)
    ops = Counter(node.op for node, _ in model.walk())
    marks = Counter(props["qtool.precision"] for props in model.metadata.values() if "qtool.precision" in props)
    content = {
        "path": str(path),
        "opset": model.opset,
        "nodes": sum(ops.values()),
        "weight_bytes": model.weight_bytes(),
        "inputs": dict(model.input_shapes().items()),
        "outputs": [t.name for t in model.graph.outputs],
        "ops": dict(ops.most_common()),
        "pairs": _pairs(model),
        "asked": dict(marks),
        "fingerprint": model.fingerprint(),
    }
    known = {info.name: info for info in tensor_infos(model, model.facts())}
    nodes = counted(sum(ops.values()), "node")
    lines = [f"{path}: opset {model.opset}, {nodes}, {size(model.weight_bytes())} of weights"]
    for side, tensors in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for tensor in tensors:
            info = known.get(tensor.name, TensorInfo(name=tensor.name))
            lines.append(f"{side} {tensor.name}: {tensor_words(info.dtype, tensor.shape or info.shape)}")
    lines.append("operators: " + ", ".join(f"{op} {count}" for op, count in ops.most_common()))
    lines.append(f"Q/DQ pairs: {content['pairs']}")
    if marks:
        lines.append("requested: " + ", ".join(f"{p} {count}" for p, count in sorted(marks.items())))
    return Rendered(content, text_of(lines))


def _pairs(model: Model) -> int:
    """The number of Q/DQ pairs in a model, in any notation (ONNX, com.microsoft or ModelOpt operators)."""
    from toolkit.placement.quantized import pair_count
    from toolkit.placement.spellings import write_as_onnx

    twin = model.copy()
    with suppress(ModelError):
        write_as_onnx(twin)
    return pair_count(twin)


def _layers(path: Path, content: Any) -> Rendered:
    from dataclasses import asdict

    from toolkit.backends.layers.inspector import layers_of_file

    with reading(path, _LAYERS):
        try:
            layers = layers_of_file(content, str(path))
        except BackendError as error:
            # the cause is the file, not the backend
            raise QtoolError(error.what, where=error.where, remedy=error.remedy) from error
        fields = content if isinstance(content, dict) else {}
        kernels = fields.get("kernels") or {}
        typed = ", of the typed network, with the kernels that are known: no GPU opened the engine"
        lines = [f"{path}: {len(layers)} layers{typed if fields.get('source') == 'network' else ''}"]
        for layer in layers:
            types = "/".join(dict.fromkeys(port.precision or "?" for port in layer.outputs))
            lines.append(f"{types:>10}  {layer.kind:<24} {layer.name}  {kernels.get(layer.name, '')}".rstrip())
        return Rendered([asdict(layer) for layer in layers], text_of(lines))


def _ranges(path: Path) -> Rendered:
    from toolkit.calibration.interchange import read_ranges

    ranges = read_ranges(path)
    lines = [f"{path}: ranges of {len(ranges.tensors)} tensors"]
    shown = [plain(name) for name in ranges.tensors]
    width = min(60, max(map(len, shown), default=6))
    for name, value in zip(shown, ranges.tensors.values()):
        unlike = ", ".join(f"{p} {a:.4g}" for p, a in value.per_profile.items())
        lines.append(f"{name:<{width}}  amax {value.amax:<10.5g} {value.method}" + (f"  ({unlike})" if unlike else ""))
    return Rendered(ranges.to_json(), text_of(lines))


def compare_files(paths: Sequence[Path], html: Path | None = None) -> Rendered:
    """Compare runs, or two files of ranges.

    Raises:
        QtoolError: there are fewer than two, they are not of the same kind, or cannot be read.
    """
    if len(paths) < 2:
        raise QtoolError("there is only one run to compare", where=str(paths[0]), remedy="name another")
    for path in paths:
        refuse_missing(path, "no such file or folder")
    if html is not None:
        refuse_writing_over({f"one of the files compared ({path})": path for path in _files(*paths)}, html,
                            "give --html another file")  # fmt: skip
        from toolkit.report.page.html import is_page

        refuse_anothers(html, is_page, "move it away, or give --html another file")
    reports = [_report_path(path) for path in paths]
    if all(reports):
        return _compare_reports([p for p in reports if p is not None], html)
    if any(reports):
        named = ", ".join(map(str, paths))
        raise QtoolError("some are runs, others are not", where=named, remedy="compare files of one kind")
    if len(paths) > 2:
        named = ", ".join(map(str, paths))
        raise QtoolError("ranges are compared two at a time", where=named, remedy="name two files")
    from toolkit.calibration.interchange import read_ranges
    from toolkit.report.comparison.ranges import compare_ranges, write_ranges_html

    first, second = paths
    notes = {path: sentence(note) for path in paths if (note := unfinished_note(path)) is not None}
    labels = [f"{path} (out of date)" if path in notes else str(path) for path in paths]
    found = compare_ranges(read_ranges(first), read_ranges(second), (labels[0], labels[1]))
    if html is not None:
        write_ranges_html(found, html)
    return Rendered(found.to_json(), found.to_text(), [f"{path}: {note}" for path, note in notes.items()])


def _files(*paths: Path) -> list[Path]:
    """The files themselves; for a run folder all files of its run."""
    return [file for path in paths for file in (files_of_run(path) if path.is_dir() else [path])]


def _report_path(path: Path) -> Path | None:
    if path.is_dir():
        if not (path / "report.json").exists():
            raise QtoolError(
                "the folder is not a run folder: it has no report.json", where=str(path), remedy="run its recipe"
            )
        return path / "report.json"
    if path.suffix != ".json":
        return None
    return path if _is_report(read_json(path, _JSON, strict=False)) else None


@collector_paused()
def _compare_reports(paths: list[Path], html: Path | None) -> Rendered:
    from toolkit.report.comparison.compare import compare, comparison_text, write_comparison_html
    from toolkit.report.schema.report import Report

    reports = [Report.load(path) for path in paths]
    found = compare(reports, _labels(paths))
    if html is not None:
        write_comparison_html(found, html, reports)
    return Rendered(found.to_json(), comparison_text(found))


def _labels(paths: Sequence[Path]) -> list[str]:
    """Labels for runs: the names of their folders, with as many parent folders as needed to tell them apart."""
    places = [path.resolve().parent.parts for path in paths]
    for length in range(1, max(map(len, places)) + 1):
        labels = ["/".join(parts[-length:]) for parts in places]
        if len(set(labels)) == len(set(places)):
            break
    return labels
