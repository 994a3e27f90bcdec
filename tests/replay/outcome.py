"""What is recorded of a run: digests and numbers of the files that it leaves, without what may differ between runs."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from tests.replay.running import Ran

DIGITS = 9
"""Significant digits of recorded floats; digests under names that begin with ``exact`` cover all of them."""
SENTENCES = {"headline", "reason", "text", "remedy", "why", "fragment"}
COUNTED = {"warnings", "notes", "misses", "doubts", "helpers", "next"}
"""Lists of sentences, of which the length is kept."""
CHANGING = {"path", "data", "version", "fingerprint", "log", "build_seconds", "seconds", "time_ms"}
APART = {"schema", "tool", "recipe", "steps", "layers", "declined", "ranges", "device", "latency", "payoff"}
"""Parts of the report that are recorded otherwise, or not at all."""
ASKED, WHY = "qtool.precision", "qtool.reason"


def outcome(ran: Ran) -> dict[str, Any]:
    """What is recorded of a run: of one that failed its exit status and the first line of its complaint."""
    found: dict[str, Any] = {"exit": ran.status}
    if not (ran.out / "report.json").is_file():
        return found | {"stderr": _complaint(ran)}
    try:
        return found | _files(ran)
    except (OSError, LookupError, TypeError, AttributeError, ValueError) as error:
        return found | {"unreadable": f"{type(error).__name__}: {error}"}


def _files(ran: Ran) -> dict[str, Any]:
    found: dict[str, Any] = {"files": sorted(path.name for path in ran.out.iterdir() if not path.name.startswith("."))}
    report = json.loads((ran.out / "report.json").read_text(encoding="utf-8"))
    layers = {layer["node"]: layer for layer in report["layers"]}
    model = onnx.load(str(ran.out / "model.onnx"), load_external_data=False)
    asked = {node.name: _metadata(node).get(ASKED, "nothing") for node in model.graph.node}
    found["model"] = _model(model, ran.out)
    askers = {node: (layer.get("asked") or {}).get("by") for node, layer in layers.items()}
    found["plan"] = {
        node: f"{asked.get(node, 'not in the model')} by {askers.get(node)}" for node in {**asked, **layers}
    }
    if (ran.out / "ranges.json").is_file():
        found["ranges"] = _ranges(json.loads((ran.out / "ranges.json").read_text(encoding="utf-8")))
    return found | _report(report)


def _complaint(ran: Ran) -> str:
    lines = [line for line in ran.stderr.splitlines() if line.strip()]
    line = lines[-1 if lines[0].startswith("Traceback") else 0] if lines else ""
    for folder, word in ran.where.items():
        line = line.replace(folder, word)
    return line


def _model(model: onnx.ModelProto, out: Path) -> dict[str, Any]:
    """Digests of the whole, and of its parts: a changed sentence in the metadata changes the first only."""
    graph = model.graph
    stored = {ExternalDataInfo(tensor).location for tensor in graph.initializer if uses_external_data(tensor)}
    found: dict[str, Any] = {
        "sha256": _sha(out / "model.onnx"),
        "external": {name: _sha(out / name) for name in sorted(stored)},
        "opsets": {one.domain: one.version for one in model.opset_import},
        "ops": dict(sorted(Counter(node.op_type for node in graph.node).items())),
    }
    for node in graph.node:
        kept = [(entry.key, entry.value) for entry in node.metadata_props if entry.key != WHY]
        del node.metadata_props[:]
        for key, value in kept:
            node.metadata_props.add(key=key, value=value)
    found["without_reasons"] = _digest_bytes(model)
    for node in graph.node:
        del node.metadata_props[:]
    found["nodes"] = _digest_bytes(*graph.node)
    found["weights"] = _digest_bytes(*sorted(graph.initializer, key=lambda one: str(one.name)))
    return found


def _ranges(content: dict[str, Any]) -> dict[str, Any]:
    content.pop("made_from", None)
    tensors = content.pop("tensors")
    for one in tensors.values():
        (one.get("diagnosis") or {}).pop("notes", None)
    rows = {name: [one[key] for key in ("amax", "method", "per_profile", "samples")] for name, one in tensors.items()}
    return {
        "samples": content.get("samples"),
        "exact_tensors": _digest(tensors),
        "exact_rest": _digest(content),
        "tensors": _rounded(rows),
    }


def _report(report: dict[str, Any]) -> dict[str, Any]:
    layers = {layer["node"]: layer for layer in report["layers"]}
    errors = {node: list(layer["error"].values()) for node, layer in layers.items() if layer.get("error")}
    ranges = {one["tensor"]: one for one in report["ranges"] or []}
    rest = _plain({key: value for key, value in report.items() if key not in APART})
    device = report.get("device") or {}
    return {
        "layers": {node: _layer(layer) for node, layer in layers.items()},
        "macs": {node: str(layer["macs"]) for node, layer in layers.items() if layer.get("macs")},
        "engine_layers": {node: "; ".join(one["engine_layers"]) for node, one in layers.items() if _elsewhere(one)},
        "errors": {"exact": _digest(errors), "sqnr_db, max_abs, drop_db": _rounded(errors)},
        "declined": sorted(f"{one['node']}: {one['rule']} ({one['op']}, {one['by']})" for one in report["declined"]),
        "report": {
            "passes": [one["use"] for one in report["recipe"]["passes"]],
            "rest": report["recipe"]["rest"],
            "device": {key: device.get(key) for key in ("status", "samples", "left_out")},
            "measured": [key for key in ("latency", "payoff") if report.get(key) is not None],
            "exact": _digest(rest),
            "exact_ranges": _digest(_plain(ranges)),
            "ranges": {
                name: _rounded([one["quantized"], one["clipped"], one["sqnr_db"], one["outlier_ratio"]])
                for name, one in ranges.items()
            },
            **_rounded(rest),
        },
    }


def _layer(layer: Mapping[str, Any]) -> str:
    asked, actual = layer.get("asked") or {}, layer["actual"]
    types = f"{','.join(actual['input_types'])}>{','.join(actual['output_types'])}"
    said = (
        f"{layer['op']} {layer['role']}: asked {asked.get('precision')} by {asked.get('by')}, "
        f"runs {actual['precision']} {types} by {actual['source']}, {layer['status']}"
    )
    opened = actual.get("opened")
    return f"{said}, opened {opened['precision']} {opened['status']} by {opened['source']}" if opened else said


def _elsewhere(layer: Mapping[str, Any]) -> bool:
    """Whether the node is not simply the engine layer of its own name; without an engine no node is anywhere."""
    return bool(layer["engine_layers"]) and layer["engine_layers"] != [layer["node"]]


def _metadata(node: onnx.NodeProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in node.metadata_props}


def _plain(value: Any) -> Any:
    """The value without sentences and what changes from run to run; lists of sentences become their length."""
    if isinstance(value, dict):
        dropped = {key for key in value if key in SENTENCES | CHANGING and not isinstance(value[key], dict)}
        kept = {key: one for key, one in value.items() if key not in dropped}
        return {key: len(one) if key in COUNTED and isinstance(one, list) else _plain(one) for key, one in kept.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _digest_bytes(*messages: Any) -> str:
    digest = hashlib.sha256()
    for message in messages:
        digest.update(message.SerializeToString(deterministic=True))
    return digest.hexdigest()[:32]


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
