"""Measured layer times from the reports of earlier runs, which replace predictions in the cost model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.base.errors import RecipeError
from toolkit.base.precision import Precision
from toolkit.base.profiles import Shapes
from toolkit.base.reading import FileKind, read_json, reading
from toolkit.base.text import count
from toolkit.contract.findings import Code, Finding

_KIND = FileKind(
    "times cannot be read from it", RecipeError, "give the report.json, or the run folder, of an earlier run"
)


@dataclass
class LayerTimes:
    """Measured seconds of layers.

    Attributes:
        seconds: by (layer, whether it ran quantized).
        rest: seconds of all other computing nodes, from the first report that has any; 0 if unknown.
        borders: whether a quantized layer's time includes the conversions next to it in the engine with every layer
            quantized.
        gpu: the GPU of the measurement, if it was made on this machine.
        notes: findings for the user.
    """

    seconds: dict[tuple[str, bool], float] = field(default_factory=dict)
    rest: float = 0.0
    borders: bool = False
    gpu: str = ""
    notes: list[Finding] = field(default_factory=list)


def read_times(
    paths: Iterable[Path],
    layers: Iterable[str],
    quantized: Precision,
    rest: Precision,
    profile: str = "",
    shapes: Shapes | None = None,
    fingerprint: str = "",
    gpu: str = "",
) -> LayerTimes:
    """Read the measured layer times of earlier runs; if several reports time a layer, the first one is used.

    Args:
        paths: report.json files, or run folders that hold one.
        layers: names of the layers that can be quantized.
        quantized: the quantized precision; times of layers that ran in another precision are left out.
        rest: the precision of float layers, likewise; FP32 is used too if TensorRT chose it for such a layer.
        profile: the profile whose times are used; the report's first if empty.
        shapes: the opt shapes, by input, at which the times must be measured; any if None.
        fingerprint: of the model as it was read; reports of other models are used by layer name, with a note.
        gpu: the GPU that missing times are predicted for; a note says if a report was measured on another one.

    Raises:
        RecipeError: a file is not a report, was measured at other shapes, or has no time of any of the layers; this
            includes layers that all ran inside blocks.
    """
    wanted = set(layers)
    found = LayerTimes()
    for path in paths:
        _take(found, path, wanted, (quantized, rest), profile, shapes, (fingerprint, gpu))
    return found


@dataclass
class _ReportTimes:
    """The layers of one report, sorted by how their times can be used.

    Attributes:
        seconds: by (layer, whether it ran quantized).
        rest: seconds of all computing nodes that are not quantizable layers.
        hidden: how many quantizable layers ran inside blocks that are timed only as a whole.
        others: by precision, how many layers ran in a precision that no plan uses.
    """

    seconds: dict[tuple[str, bool], float] = field(default_factory=dict)
    rest: float = 0.0
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, layers: Iterable[Mapping[str, Any]], profile: str, wanted: set[str], quantized: Precision, rest: Precision
    ) -> _ReportTimes:
        """Sort a report's layers; see ``read_times``."""
        found = cls()
        for layer in layers:
            milliseconds = layer["time_ms"].get(profile)
            if layer["node"] in wanted and layer.get("status") == "opaque":
                # a block's time is reported at one of its nodes
                found.hidden += 1
                continue
            if milliseconds is None:
                continue
            if layer["node"] not in wanted:
                # conversions depend on the plan
                found.rest += milliseconds / 1e3 if layer["role"] == "compute" else 0.0
                continue
            ran = layer["actual"]["precision"]
            # TensorRT may run a layer requested in the float type in a wider one if that is faster
            wider = ran == str(Precision.FP32) and (layer.get("asked") or {}).get("precision") == str(rest)
            if ran in (str(quantized), str(rest)) or wider:
                found.seconds[layer["node"], ran == str(quantized)] = milliseconds / 1e3
            else:
                found.others[str(ran)] += 1
        return found

    def require_any(self, path: Path, quantized: Precision, rest: Precision) -> None:
        """Raise a RecipeError for a report without the time of any quantizable layer in either precision."""
        if not self.seconds and self.hidden:
            raise RecipeError(
                f"the engine ran its {count(self.hidden, 'quantizable layer')} inside blocks that are timed only as a "
                "whole", where=str(path), remedy="leave this report out: the cost model predicts what was not measured",
            )  # fmt: skip
        if not self.seconds:
            raise RecipeError(
                f"this report has no measured time of any quantizable layer in {quantized} or {rest}"
                + (f"; {_counted(self.others)}" if self.others else ""),
                where=str(path), remedy="give the report of a run of this model in these precisions",
            )  # fmt: skip


def _take(
    found: LayerTimes,
    path: Path,
    wanted: set[str],
    precisions: tuple[Precision, Precision],
    profile: str,
    shapes: Shapes | None,
    origin: tuple[str, str],
) -> None:
    """Add the times of one report, and a note about them; see ``read_times``."""
    report = _load(path)
    held = next((name for layer in report["layers"] for name in layer["time_ms"]), "")
    if not held:
        raise RecipeError("no layer of this report has a measured time", where=str(path),
                          remedy="run that recipe on a machine with a GPU, with [engine] measure = true")  # fmt: skip
    name = profile if any(profile in layer["time_ms"] for layer in report["layers"]) else held
    if shapes is not None:
        _same_shapes(report, name, shapes, path)
    times = _ReportTimes.of(report["layers"], name, wanted, *precisions)
    times.require_any(path, *precisions)
    for layer, seconds in times.seconds.items():
        found.seconds.setdefault(layer, seconds)
    found.rest = found.rest or times.rest
    fingerprint, gpu = origin
    own, ran_on = report.get("model", {}).get("fingerprint", ""), (report.get("device") or {}).get("gpu", "")
    unlike_gpu = bool(gpu and ran_on and gpu.lower() not in ran_on.lower())
    found.notes.append(
        Code.TIMES_FROM_REPORT(
            file=str(path), profile=name, layers=len(times.seconds), in_blocks=times.hidden,
            others=sum(times.others.values()), precisions=precisions,
            other_model=bool(fingerprint and own != fingerprint),
            outdated=(report.get("summary") or {}).get("verdict") == "outdated",
            gpu=ran_on if unlike_gpu else "", predicted_for=gpu if unlike_gpu else "",
        )
    )  # fmt: skip


def _counted(others: Counter[str]) -> str:
    return ", ".join(f"{count(number, 'layer')} ran in {name}" for name, number in others.items())


def _load(path: Path) -> dict[str, Any]:
    file = path / "report.json" if path.is_dir() else path
    with reading(file, _KIND):
        report = read_json(file, _KIND)
        for layer in report["layers"]:
            if not isinstance(layer["node"], str) or not isinstance(layer["role"], str):
                raise TypeError("a layer's name or role is not text")
            if any(not isinstance(ms, (int, float)) or not ms >= 0 for ms in layer["time_ms"].values()):
                raise TypeError(f"a time of layer '{layer['node']}' is not a number of milliseconds")
            if "precision" not in layer["actual"]:
                raise TypeError(f"layer '{layer['node']}' does not say what it ran in")
        return dict(report)


def _same_shapes(report: Mapping[str, Any], profile: str, shapes: Shapes, path: Path) -> None:
    """Raise a RecipeError for times of other shapes, which would be wrong by a factor."""
    for one in report.get("profiles", ()):
        if one["name"] != profile:
            continue
        for tensor, extent in one["shapes"].items():
            if tensor in shapes and list(extent["opt"]) != list(shapes[tensor]):
                raise RecipeError(
                    f"its times were measured with '{tensor}' of shape {list(extent['opt'])}; this recipe's first "
                    f"profile has {list(shapes[tensor])}", where=str(path), remedy="measure at the same opt shapes",
                )  # fmt: skip
