"""Showing what is in a file, and how two of a kind differ."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.base.errors import QtoolError, RangesError
from toolkit.base.text import plain


@dataclass
class Shown:
    """One thing in two forms: for machines and for people."""

    content: Any
    text: str


def inspect(path: Path) -> Shown:
    """Say what a file or run folder holds.

    Raises:
        QtoolError: nothing is there, or qtool does not know its kind.
    """
    if not path.exists():
        raise QtoolError("no such file", where=str(path), remedy="check the path")
    if path.is_dir():
        report = path / "report.json"
        if report.exists():
            return _report(report)
        raise QtoolError(
            "the folder is no run folder: it has no report.json", where=str(path), remedy="name a file in it"
        )
    if path.suffix == ".onnx":
        return _model(path)
    if path.suffix in (".engine", ".plan"):
        beside = path.with_name("layers.json")
        if beside.exists():
            return _layers(beside)
        raise QtoolError(
            "an engine says nothing without the GPU and the TensorRT that built it",
            where=str(path),
            remedy="inspect the layers.json of its run folder",
        )
    if path.suffix == ".json":
        return _json(path)
    if path.suffix == ".jsonl":
        return _journal(path)
    if path.suffix == ".npz":
        return _collection(path)
    return _ranges(path)


def _json(path: Path) -> Shown:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), strict=False)
    except (ValueError, OSError) as error:
        raise QtoolError(f"not JSON: {error}", where=str(path), remedy="check the file") from error
    if isinstance(content, dict) and str(content.get("schema", "")).startswith("qtool-report"):
        return _report(path)
    if isinstance(content, dict) and str(content.get("schema", "")).startswith(("qtool-search", "qtool-sensitivity")):
        return Shown(content, json.dumps(content, indent=1) + "\n")
    engine = {"Layers", "layers", "source"}
    if isinstance(content, list) or (isinstance(content, dict) and engine & set(content)):
        return _layers(path)
    return _ranges(path)


def _report(path: Path) -> Shown:
    from toolkit.report.schema import Report
    from toolkit.report.terminal import to_text

    report = Report.load(path)
    return Shown(report.to_json(), to_text(report))


def _journal(path: Path) -> Shown:
    from toolkit.contract.journal import Journal
    from toolkit.report.findings import sentence

    try:
        journal = Journal.from_jsonl(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise QtoolError(
            f"not a journal: {error}", where=str(path), remedy="name a journal.jsonl of qtool's"
        ) from error
    lines = [f"{path}: {len(journal)} events"]
    lines += [f"{by}: {count} {kind}" for (by, kind), count in sorted(journal.counts().items())]
    lines += [f"{e.kind} {plain(e.node)}: {plain(sentence(e.why))}" for e in journal if e.kind != "changed"]
    return Shown([event.to_json(sentence) for event in journal], "\n".join(lines) + "\n")


def _collection(path: Path) -> Shown:
    from toolkit.calibration.collection import Collection

    try:
        found = Collection.load(path)
    except RangesError as error:
        takes = "qtool inspect takes collections, models, ranges, layers.json, journals, reports and run folders"
        remedy = f"{error.remedy}; {takes}"
        raise QtoolError(error.what, where=error.where, remedy=remedy) from error
    samples = {" + ".join(group): count for group, count in found.samples.items()}
    content = {"tensors": found.tensors, "samples": samples, "missing_parts": found.missing_parts}
    lines = [f"{path}: histograms of {len(found.tensors)} tensors"]
    lines += [f"{count} samples of {group}" for group, count in samples.items()]
    lines += [f"missing part {part}" for part in found.missing_parts]
    for name in found.tensors:
        histogram = found.total(name)
        lines.append(f"{plain(name)}: {histogram.low:.5g} .. {histogram.high:.5g}, {histogram.count} values")
    return Shown(content, "\n".join(lines) + "\n")


def _model(path: Path) -> Shown:
    from toolkit.graph.model import Model
    from toolkit.placement.existing import pairs_of

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
        "pairs": sum(1 for _ in pairs_of(model)),
        "asked": dict(marks),
        "fingerprint": model.fingerprint(),
    }
    lines = [f"{path}: opset {model.opset}, {content['nodes']} nodes, {model.weight_bytes() / 1e6:.2f} MB of weights"]
    lines += [f"input {name} {shape}" for name, shape in model.input_shapes().items()]
    lines += [f"output {t.name}" for t in model.graph.outputs]
    lines.append("operators: " + ", ".join(f"{op} {count}" for op, count in ops.most_common()))
    lines.append(f"Q/DQ pairs: {content['pairs']}")
    if marks:
        lines.append("asked: " + ", ".join(f"{p} {count}" for p, count in sorted(marks.items())))
    return Shown(content, "\n".join(lines) + "\n")


def _layers(path: Path) -> Shown:
    from dataclasses import asdict

    from toolkit.backends.inspector import read_layers
    from toolkit.backends.network import network_layers

    content = json.loads(path.read_text(encoding="utf-8"), strict=False)
    if isinstance(content, dict) and content.get("source") == "network":
        layers = network_layers(content)
    elif isinstance(content, dict) and content.get("source") == "inspector":
        layers = [layer for index, said in enumerate(content["profiles"]) for layer in read_layers(said, index)]
    else:
        layers = read_layers(content, 0)
    lines = [f"{path}: {len(layers)} layers"]
    for layer in layers:
        types = "/".join(dict.fromkeys(port.precision or "?" for port in layer.outputs))
        lines.append(f"{types:>10}  {layer.kind:<24} {plain(layer.name)}")
    return Shown([asdict(layer) for layer in layers], "\n".join(lines) + "\n")


def _ranges(path: Path) -> Shown:
    from toolkit.calibration.interchange import read_ranges

    ranges = read_ranges(path)
    lines = [f"{path}: ranges of {len(ranges.tensors)} tensors"]
    width = min(60, max((len(name) for name in ranges.tensors), default=6))
    for name, value in ranges.tensors.items():
        unlike = ", ".join(f"{p} {a:.4g}" for p, a in value.per_profile.items())
        lines.append(f"{name:<{width}}  amax {value.amax:<10.5g} {value.method}" + (f"  ({unlike})" if unlike else ""))
    return Shown(ranges.to_json(), "\n".join(lines) + "\n")


def compare_files(first: Path, second: Path, html: Path | None = None) -> Shown:
    """How two runs, or two files of ranges, differ.

    Raises:
        QtoolError: they are not of one kind, or cannot be read.
    """
    for path in (first, second):
        if not path.exists():
            raise QtoolError("no such file or folder", where=str(path), remedy="check the path")
    reports = [_report_path(path) for path in (first, second)]
    if all(reports):
        return _compare_reports([p for p in reports if p is not None], html)
    if any(reports):
        raise QtoolError("one is a run, the other is not", where=f"{first}, {second}", remedy="compare two of a kind")
    from toolkit.calibration.interchange import read_ranges
    from toolkit.report.compare_ranges import compare_ranges, write_ranges_html

    found = compare_ranges(read_ranges(first), read_ranges(second), (str(first), str(second)))
    if html is not None:
        write_ranges_html(found, html)
    return Shown(found.to_json(), found.to_text())


def _report_path(path: Path) -> Path | None:
    if path.is_dir():
        if not (path / "report.json").exists():
            raise QtoolError(
                "the folder is no run folder: it has no report.json", where=str(path), remedy="run its recipe"
            )
        return path / "report.json"
    if path.suffix != ".json":
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return path if isinstance(content, dict) and str(content.get("schema", "")).startswith("qtool-report") else None


def _compare_reports(paths: list[Path], html: Path | None) -> Shown:
    from toolkit.report.compare import compare, comparison_text, write_comparison_html
    from toolkit.report.schema import Report

    first, second = paths
    labels = (first.parent.name or str(first), second.parent.name or str(second))
    found = compare(Report.load(first), Report.load(second), labels=labels)
    if html is not None:
        write_comparison_html(found, html)
    return Shown(found.to_json(), comparison_text(found))
